// The runner: read -> compute -> write, each on its own thread, with a fixed set of buffers going
// round between them. Memory is that of the buffers, whatever the length of a contig.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "mamba/engine.h"
#include "pipelines/base_source.h"
#include "pipelines/interrupt.h"
#include "pipelines/plan.h"

namespace chromamba::pipelines {

struct StreamOptions {
  bool log_likelihood = false;
  std::optional<int64_t> layer;  // hidden rows of this layer (mamba/engine.h numbers them)
  // Above 1: in place of the rows their means over bins of so many bases (plan.h), or kWholeSegment.
  int64_t bin = 1;
  int64_t chunk_size = 65536;  // bases in a buffer, at most
  StopSignal stop = nullptr;
  std::atomic<int64_t>* bases_done = nullptr;  // counts bases computed, for progress
};

// The mean of a layer's rows over one bin of a segment.
struct PooledRow {
  GroupRow at;
  const float* mean_D = nullptr;
};

// Results for consecutive bases of a pass, in forward coordinates and forward order whatever the
// strand: value i belongs to base start + i of the contig.
struct Part {
  std::shared_ptr<const Pass> pass;
  int64_t pass_index = 0;  // counts passes in the order they were given
  int64_t start = 0;
  int64_t length = 0;
  bool first = false;  // of its pass
  bool last = false;   // of its pass; a pass without bases has one part that is first and last
  const float* log_likelihood = nullptr;  // [length]
  const float* hidden_LD = nullptr;       // [length, D]
  // The bins whose last base, as the strand is read, is in this part. Segment after segment, each one's in the order
  // of the strand: descending rows on the reverse one.
  std::vector<PooledRow> pooled;
};

struct StreamStats {
  int64_t bases = 0;
  double seconds = 0;       // wall time
  double read_seconds = 0;  // in which each stage worked and did not wait for another
  double compute_seconds = 0;
  double write_seconds = 0;
  int64_t device_peak_bytes = 0;  // GPU memory of the engine at its fullest; 0 on the CPU
};

// Gives the next pass and where to read it; empty at the end. Called on the reading thread.
struct PassInput {
  Pass pass;
  std::shared_ptr<BaseSource> bases;
};
using NextPass = std::function<std::optional<PassInput>()>;

// Called with the parts of all passes in order, on the writing thread.
using Consumer = std::function<void(const Part&)>;

// Runs all passes. Throws what any stage threw, after all threads have stopped.
StreamStats stream_passes(mamba::Engine& engine, const mamba::Model& model, const NextPass& next,
                          const Consumer& consume, const StreamOptions& options);

// Calls visit(segment) for the segments of the part's pass that share a base with the part, ascending.
template <typename Visit>
void for_each_overlap(const Part& part, const Visit& visit) {
  for_each_overlap(*part.pass, part.start, part.start + part.length, visit);
}

// The groups of a part that end with it, as Part::pooled has them; means_GD holds one row for each of `groups`.
std::vector<PooledRow> finished_rows(const Part& part, const GroupPlan& groups,
                                     const float* means_GD, int64_t width);

// What the rows or means that these options ask for take on the host, a base.
int64_t tap_bytes(const mamba::Model& model, const StreamOptions& options);

// Bytes of the buffers for these options; for planning.
int64_t stream_buffer_bytes(const mamba::Model& model, const StreamOptions& options);

}  // namespace chromamba::pipelines
