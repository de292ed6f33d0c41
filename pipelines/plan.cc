#include "pipelines/plan.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/error.h"
#include "mamba/engine.h"

namespace chromamba::pipelines {
namespace {

std::string region_text(const io::Region& region) {
  return region.contig + ":" + std::to_string(region.start + 1) + "-" + std::to_string(region.end);
}

}  // namespace

const char* strand_name(StrandChoice choice) {
  switch (choice) {
    case StrandChoice::forward:
      return "forward";
    case StrandChoice::reverse:
      return "reverse";
    case StrandChoice::both:
      return "both";
    case StrandChoice::mean:
      return "mean";
  }
  throw InternalError("unknown strand choice");
}

int64_t zero_state_start(int64_t start, const LeftContext& context) {
  if (context.full) return 0;
  if (context.bases == 0) return start;
  if (start < context.bases) return 0;
  return (start - context.bases) / context.bases * context.bases;
}

std::vector<Pass> plan_passes(const std::string& contig, int64_t contig_length, Strand strand,
                              std::vector<Segment> segments, const LeftContext& context) {
  const auto zero_start = [&](const Segment& s) {
    return zero_state_start(strand == Strand::forward ? s.start : contig_length - s.end, context);
  };
  // Segments with one starting point become one pass. Sorting by it first keeps passes ascending on
  // the strand that is read; then the order is turned round for the reverse strand.
  std::stable_sort(segments.begin(), segments.end(), [&](const Segment& a, const Segment& b) {
    const int64_t za = zero_start(a);
    const int64_t zb = zero_start(b);
    return za != zb ? za < zb : a.start < b.start;
  });
  std::vector<Pass> passes;
  int64_t previous_zero = -1;
  for (const Segment& segment : segments) {
    const int64_t zero = zero_start(segment);
    if (passes.empty() || zero != previous_zero) {
      Pass pass;
      pass.contig = contig;
      pass.contig_length = contig_length;
      pass.strand = strand;
      if (strand == Strand::forward) {
        pass.start = zero;
        pass.end = segment.end;
      } else {
        pass.start = segment.start;
        pass.end = contig_length - zero;
      }
      passes.push_back(std::move(pass));
      previous_zero = zero;
    }
    Pass& pass = passes.back();
    pass.start = std::min(pass.start, segment.start);
    pass.end = std::max(pass.end, segment.end);
    pass.longest_segment = std::max(pass.longest_segment, segment.end - segment.start);
    pass.segments.push_back(segment);
  }
  if (strand == Strand::reverse) std::reverse(passes.begin(), passes.end());
  return passes;
}

namespace {

// Windows of a contig, counted from its first base.
class WindowGrid {
 public:
  WindowGrid(const Windows& windows, int64_t contig_length)
      : size_(windows.size),
        overlap_(windows.overlap),
        step_(windows.size - windows.overlap),
        length_(contig_length) {}

  int64_t last() const { return length_ <= size_ ? 0 : (length_ - size_ + step_ - 1) / step_; }
  int64_t start(int64_t k) const { return k * step_; }
  int64_t end(int64_t k) const { return k == last() ? length_ : start(k) + size_; }
  // The first base that comes from window k and not from the one before.
  int64_t cut(int64_t k) const { return k == 0 ? 0 : start(k) + overlap_ / 2; }
  // The window that a base's results come from.
  int64_t of_base(int64_t at) const {
    return std::clamp<int64_t>((at - overlap_ / 2) / step_, 0, last());
  }
  // The windows that start and end at a base.
  int64_t starting(int64_t at) const { return at / step_; }
  int64_t ending(int64_t at) const { return at == length_ ? last() : (at - size_) / step_; }

 private:
  int64_t size_;
  int64_t overlap_;
  int64_t step_;
  int64_t length_;
};

struct Extent {
  int64_t start = 0;
  int64_t end = 0;
};

Extent read_extent(const Segment& segment, int64_t contig_length, const ReadPlan& plan) {
  if (plan.windows.size > 0) {
    const WindowGrid grid(plan.windows, contig_length);
    return {grid.start(grid.of_base(segment.start)),
            grid.end(grid.of_base(std::max(segment.start, segment.end - 1)))};
  }
  const int64_t context = plan.context.bases;
  Extent extent{zero_state_start(segment.start, plan.context), contig_length};
  if (!plan.context.full && context == 0) extent.end = segment.end;
  if (!plan.context.full && context > 0 && segment.end <= contig_length - context) {
    extent.end = std::min(contig_length, (segment.end + 2 * context - 1) / context * context);
  }
  return extent;
}

}  // namespace

std::vector<Pass> plan_reads(const std::string& contig, int64_t contig_length, Strand strand,
                             std::vector<Segment> segments, const ReadPlan& plan) {
  if (!plan.two_sided) {
    return plan_passes(contig, contig_length, strand, std::move(segments), plan.context);
  }
  struct Planned {
    Extent extent;
    Segment segment;
  };
  std::vector<Planned> planned;
  planned.reserve(segments.size());
  for (const Segment& segment : segments) {
    planned.push_back({read_extent(segment, contig_length, plan), segment});
  }
  std::stable_sort(planned.begin(), planned.end(), [](const Planned& a, const Planned& b) {
    if (a.extent.start != b.extent.start) return a.extent.start < b.extent.start;
    if (a.extent.end != b.extent.end) return a.extent.end < b.extent.end;
    return a.segment.start < b.segment.start;
  });
  std::vector<Pass> passes;
  for (const Planned& next : planned) {
    const auto shares = [&](const Pass& pass) {
      if (plan.windows.size == 0) {
        return pass.start == next.extent.start && pass.end == next.extent.end;
      }
      // Windows do not see each other, so a pass may be any run of them; a common one is read once.
      const WindowGrid grid(plan.windows, contig_length);
      return grid.starting(next.extent.start) <= grid.ending(pass.end);
    };
    if (passes.empty() || !shares(passes.back())) {
      Pass pass;
      pass.contig = contig;
      pass.contig_length = contig_length;
      pass.strand = strand;
      pass.start = next.extent.start;
      pass.end = next.extent.end;
      passes.push_back(std::move(pass));
    }
    Pass& pass = passes.back();
    pass.end = std::max(pass.end, next.extent.end);
    pass.longest_segment = std::max(pass.longest_segment, next.segment.end - next.segment.start);
    pass.segments.push_back(next.segment);
  }
  for (Pass& pass : passes) {
    std::stable_sort(pass.segments.begin(), pass.segments.end(),
                     [](const Segment& a, const Segment& b) { return a.start < b.start; });
  }
  if (strand == Strand::reverse) std::reverse(passes.begin(), passes.end());
  return passes;
}

int64_t window_count(const Pass& pass, const Windows& windows) {
  if (windows.size == 0) return 1;
  const WindowGrid grid(windows, pass.contig_length);
  return grid.ending(pass.end) - grid.starting(pass.start) + 1;
}

Window window_at(const Pass& pass, const Windows& windows, int64_t index) {
  if (windows.size == 0) return {pass.start, pass.end, pass.start, pass.end};
  const WindowGrid grid(windows, pass.contig_length);
  const int64_t first = grid.starting(pass.start);
  const int64_t last = grid.ending(pass.end);
  const int64_t k = pass.strand == Strand::forward ? first + index : last - index;
  return {grid.start(k), grid.end(k), k == first ? pass.start : grid.cut(k),
          k == last ? pass.end : grid.cut(k + 1)};
}

namespace {

// Calls visit(segment, first bin, bins) for the segments that have bins in [start, end).
template <typename Visit>
void for_each_bins(const Pass& pass, int64_t bin, int64_t start, int64_t end, const Visit& visit) {
  for_each_overlap(pass, start, end, [&](const Segment& segment) {
    const int64_t from = std::max(start, segment.start) - segment.start;
    const int64_t to = std::min(end, segment.end) - segment.start;
    if (from < to) visit(segment, from / bin, (to - 1) / bin - from / bin + 1);
  });
}

}  // namespace

int64_t count_groups(const Pass& pass, int64_t bin, int64_t start, int64_t end) {
  int64_t count = 0;
  for_each_bins(pass, bin, start, end,
                [&](const Segment&, int64_t, int64_t bins) { count += bins; });
  return count;
}

GroupPlan plan_groups(const Pass& pass, int64_t bin, int64_t start, int64_t end) {
  struct Planned {
    mamba::BaseGroup bases;
    GroupRow row;
  };
  std::vector<Planned> planned;
  for_each_bins(pass, bin, start, end, [&](const Segment& segment, int64_t first, int64_t bins) {
    for (int64_t i = 0; i < bins; ++i) {
      Planned group;
      group.row.segment = &segment - pass.segments.data();
      group.row.row = pass.strand == Strand::forward ? first + i : first + bins - 1 - i;
      const int64_t from = segment.start + group.row.row * bin;
      const int64_t to = from + std::min(bin, segment.end - from);  // bin may be kWholeSegment
      if (pass.strand == Strand::forward) {
        group.bases = {from - pass.start, to - pass.start};
        group.row.last = to == segment.end;
      } else {
        group.bases = {pass.end - to, pass.end - from};
        group.row.last = from == segment.start;
      }
      planned.push_back(group);
    }
  });
  const auto before = [](const Planned& a, const Planned& b) {
    return a.bases.start != b.bases.start ? a.bases.start < b.bases.start
                                          : a.bases.end < b.bases.end;
  };
  // In order already where segments do not overlap and are read forward.
  if (!std::is_sorted(planned.begin(), planned.end(), before)) {
    std::stable_sort(planned.begin(), planned.end(), before);
  }
  GroupPlan plan;
  plan.bases.reserve(planned.size());
  plan.rows.reserve(planned.size());
  for (const Planned& group : planned) {
    plan.bases.push_back(group.bases);
    plan.rows.push_back(group.row);
  }
  return plan;
}

int64_t fit_groups(const Pass& pass, int64_t bin, int64_t done, int64_t n, int64_t room) {
  while (n > mamba::kTileRows) {
    const int64_t start = pass.lowest(done, n);
    if (count_groups(pass, bin, start, start + n) <= room) break;
    n = std::max(n / 2, mamba::kTileRows);
  }
  return n;
}

void require_disjoint(const std::vector<io::Region>& regions, const std::string& output) {
  std::vector<size_t> order(regions.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const io::Region& ra = regions[a];
    const io::Region& rb = regions[b];
    return ra.contig != rb.contig ? ra.contig < rb.contig : ra.start < rb.start;
  });
  // Sorted by start, a region overlaps an earlier one only if it starts before their furthest end.
  size_t furthest = 0;
  for (size_t i = 1; i < order.size(); ++i) {
    const io::Region& before = regions[order[furthest]];
    const io::Region& here = regions[order[i]];
    if (here.contig == before.contig && here.start < before.end) {
      throw DataError(
          "regions " + region_text(before) + " and " + region_text(here) + " overlap, but " +
          output +
          " holds one value for each base: merge them (bedtools merge), or write .h5 or "
          ".tsv");
    }
    if (here.contig != before.contig || here.end > before.end) furthest = i;
  }
}

}  // namespace chromamba::pipelines
