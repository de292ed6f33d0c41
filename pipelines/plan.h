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

// What the user asked for: one strand, both and their mean, or that mean alone.
enum class StrandChoice { forward, reverse, both, mean };

const char* strand_name(StrandChoice choice);

inline bool reads_both(StrandChoice choice) {
  return choice == StrandChoice::both || choice == StrandChoice::mean;
}

// Bases before a region that the model reads first (DESIGN: left context).
struct LeftContext {
  int64_t bases = 131072;  // also the spacing of the grid of starting points
  bool full = false;       // from the contig's first base
};

// The explicit approximation for models that read in both directions: a contig is read in windows of `size` bases that
// begin every size - overlap bases from its first one on, whatever part of it is asked for and on whichever strand. A base's
// results come from the window in which it lies furthest from the ends: neighbours are cut in the middle of
// what they share.
struct Windows {
  int64_t size = 0;  // 0: none, sequences are read whole
  int64_t overlap = 0;
};

// How the bases around a region are read.
struct ReadPlan {
  LeftContext context;
  bool two_sided =
      false;        // for models that read in both directions: the same context on the other side
  Windows windows;  // in their place
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

  // The lowest of the `n` bases that are read after the first `done`.
  int64_t lowest(int64_t done, int64_t n) const {
    return strand == Strand::forward ? start + done : end - done - n;
  }
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

// As many of the `n` bases that are read after the first `done` as have at most `room` groups, but a tile at least.
int64_t fit_groups(const Pass& pass, int64_t bin, int64_t done, int64_t n, int64_t room);

// Passes over one contig for the given segments (any order), ascending by position.
std::vector<Pass> plan_passes(const std::string& contig, int64_t contig_length, Strand strand,
                              std::vector<Segment> segments, const LeftContext& context);

// The same by any plan. With a context on both sides a pass ends at the first multiple of N that lies at least N bases
// after a region (or at the contig's end), and regions with equal extents share it. With windows it
// is a run of those that regions need.
std::vector<Pass> plan_reads(const std::string& contig, int64_t contig_length, Strand strand,
                             std::vector<Segment> segments, const ReadPlan& plan);

// A sequence for the model, in forward coordinates: what it reads, and the bases whose results come from it.
struct Window {
  int64_t start = 0;
  int64_t end = 0;
  int64_t kept_start = 0;
  int64_t kept_end = 0;

  int64_t length() const { return end - start; }
};

// The windows of a pass that plan_reads made, by their number in the order that the strand is read. They are kept without
// gaps, to the pass's ends. Without windows the pass is the only one.
int64_t window_count(const Pass& pass, const Windows& windows);
Window window_at(const Pass& pass, const Windows& windows, int64_t index);

// DataError when two of the regions share a base: formats that hold one value per base (bigWig,
// bedGraph) cannot take both. `output` names the file in the message.
void require_disjoint(const std::vector<io::Region>& regions, const std::string& output);

}  // namespace chromamba::pipelines
