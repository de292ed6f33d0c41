// Which bases a model has to read for the regions that are wanted. Pure functions, no files.
//
// A pass is one sequence for the model: it starts from a zero state and runs over consecutive bases
// of a contig, on one strand. Regions that start from the same zero state share a pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/region.h"

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

// Passes over one contig for the given segments (any order), ascending by position.
std::vector<Pass> plan_passes(const std::string& contig, int64_t contig_length, Strand strand,
                              std::vector<Segment> segments, const LeftContext& context);

// DataError when two of the regions share a base: formats that hold one value per base (bigWig,
// bedGraph) cannot take both. `output` names the file in the message.
void require_disjoint(const std::vector<io::Region>& regions, const std::string& output);

}  // namespace chromamba::pipelines
