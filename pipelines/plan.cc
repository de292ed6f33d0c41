#include "pipelines/plan.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/error.h"

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
