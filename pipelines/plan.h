// Which bases a model has to read for the regions that are wanted. Pure functions, no files.
//
// A pass is one sequence for the model: it starts from a zero state and runs over consecutive bases
// of a contig, on one strand. Regions that start from the same zero state share a pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "io/region.h"
#include "mamba/pooling.h"

namespace chromamba::pipelines {

enum class Strand { forward, reverse };

// What the user asked for: one strand, or both and their mean.
enum class StrandChoice { forward, reverse, both };

const char* strand_name(StrandChoice choice);

// Bases before a region that the model reads first (DESIGN: left context).
struct LeftContext {
  int64_t bases = 131072;  // also the spacing of the grid of starting points
  bool full = false;       // from the contig's first base
};

// Where the model starts for a region at `start`, in the coordinates of the strand that is read:
// the last multiple of N that lies at least N bases before, or 0. N = 0 starts at the region.
int64_t zero_state_start(int64_t start, const LeftContext& context);

// A part of a pass whose results are wanted. Forward coordinates, 0-based half-open.
struct Segment {
  int64_t region = 0;  // index into the job's regions
  int64_t start = 0;
  int64_t end = 0;
};

struct Pass {
  std::string contig;
  int64_t contig_length = 0;
  Strand strand = Strand::forward;
  // The bases read, in forward coordinates; a reverse pass reads them from end-1 down to start.
  int64_t start = 0;
  int64_t end = 0;
  std::vector<Segment> segments;  // ascending by start
  int64_t longest_segment = 0;    // bases

  int64_t length() const { return end - start; }
};

// Calls visit(segment) for the segments of the pass that share a base with [start, end), ascending.
template <typename Visit>
void for_each_overlap(const Pass& pass, int64_t start, int64_t end, const Visit& visit) {
  // No segment that starts earlier than the longest one's length before the bases can reach them.
  auto segment =
      std::lower_bound(pass.segments.begin(), pass.segments.end(), start - pass.longest_segment,
                       [](const Segment& s, int64_t at) { return s.start < at; });
  for (; segment != pass.segments.end() && segment->start < end; ++segment) {
    if (segment->end > start) visit(*segment);
  }
}

// A bin as long as any segment: one group for each.
constexpr int64_t kWholeSegment = std::numeric_limits<int64_t>::max();

// Where the mean of a group goes.
struct GroupRow {
  int64_t segment = 0;  // index into the pass's
  int64_t row = 0;      // bins before it, counted from the segment's start in forward coordinates
  bool last = false;    // of its segment, as the strand is read
};

// Groups of a pass, numbered as an engine does: from the first base that is read on.
struct GroupPlan {
  std::vector<mamba::BaseGroup> bases;  // ascending by start and end
  std::vector<GroupRow> rows;           // one for each
};

// The bins of the pass's segments that share a base with [start, end), in forward coordinates. Bins have `bin`
// bases and are counted from the segment's start; the last one may be short, and is the first to be read
// on the reverse strand.
GroupPlan plan_groups(const Pass& pass, int64_t bin, int64_t start, int64_t end);
int64_t count_groups(const Pass& pass, int64_t bin, int64_t start, int64_t end);

// Passes over one contig for the given segments (any order), ascending by position.
std::vector<Pass> plan_passes(const std::string& contig, int64_t contig_length, Strand strand,
                              std::vector<Segment> segments, const LeftContext& context);

// DataError when two of the regions share a base: formats that hold one value per base (bigWig,
// bedGraph) cannot take both. `output` names the file in the message.
void require_disjoint(const std::vector<io::Region>& regions, const std::string& output);

}  // namespace chromamba::pipelines
