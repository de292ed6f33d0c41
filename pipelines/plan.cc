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
