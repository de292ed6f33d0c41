// What a sweep engine does in which order, on any device. Inside mamba/ only.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "mamba/model.h"
#include "mamba/sweep_engine.h"

namespace chromamba::mamba {

// What a sweep does at a layer, in its direction.
enum class StagePart {
  whole,   // the layer has this direction only
  begin,   // the first of two: its output is left behind
  finish,  // the second: joins the two
};

struct SweepStage {
  int64_t layer = 0;
  StagePart part = StagePart::whole;
};

struct Sweep {
  bool reverse = false;
  bool first = false;  // begins with the token embedding
  std::vector<SweepStage> stages;
};

// The sweeps for the first `layers` layers, at least one.
std::vector<Sweep> plan_sweeps(const Model& model, int64_t layers);

// The mixer of a stage.
const Mixer& stage_mixer(const Model& model, const SweepStage& stage, bool reverse);

// One strand of one sequence, whose rows lie together in the store.
struct StrandRun {
  size_t sequence = 0;
  bool mirror = false;  // RC(x) of an RC-equivariant model
  int64_t length = 0;
  int64_t row = 0;  // first row in the store
};

std::vector<StrandRun> strand_runs(const Model& model, std::span<const SweepSequence> sequences);

// Tokens [start, start + count) of a strand.
void read_tokens(const Model& model, const SweepSequence& sequence, bool mirror, int64_t start,
                 int64_t count, int32_t* tokens);

// Rows [start, start + length) of a run, in a block.
struct SweepPiece {
  size_t run = 0;
  int64_t start = 0;
  int64_t length = 0;
};

// Pieces whose rows lie together in the store, in the order of a sweep.
struct SweepBlock {
  int64_t row = 0;  // the lowest, in the store
  int64_t rows = 0;
  std::vector<SweepPiece> pieces;
};

// The rows in the order of a sweep (a reverse one begins at the end of the last run), in blocks of at most `rows` rows
// and `most_pieces` pieces. A run that goes on in another block is cut at a multiple of `grid` from where the sweep
// enters it.
// Of the runs named, whose rows follow each other in the store.
std::vector<SweepBlock> cut_blocks(std::span<const StrandRun> runs, std::span<const size_t> named,
                                   bool reverse, int64_t rows, int64_t grid, int64_t most_pieces);

// Elements of the device's rows of half a layer: of E where the directions share out_proj (mixer.h), else of D.
int64_t device_half_width(const Model& model);

// How many layers the results need. InternalError for a layer that is not there when the results are handed over.
int64_t layers_wanted(const Model& model, const SweepWanted& wanted);

// Hidden rows of `count` bases from those of x (f, ascending) and of RC(x) (g, of the same bases: row i of the bases is
// g's row count-1-i), each [count, D].
void join_halves(Halves halves, bool swapped, int64_t width, int64_t count, const float* f,
                 const float* g, float* out);

// DataError when ln p of a target >= 0 is not finite. `first`: base of the first row.
void require_finite(const Model& model, const int32_t* targets, const float* log_p, int64_t rows,
                    int64_t first);

// What both kinds have.
class SweepEngine::Backend {
 public:
  virtual ~Backend() = default;
  virtual void run(std::span<SweepSequence> sequences, const SweepWanted& wanted,
                   const std::function<void()>& poll) = 0;
  virtual int64_t device_peak_bytes() const { return 0; }

  std::atomic<int64_t> half_layers_done{0};
};

std::unique_ptr<SweepEngine::Backend> make_device_sweeps(const Model& model,
                                                         const ComputeDevice& device,
                                                         SweepMemory memory);

}  // namespace chromamba::mamba
