// Runs models that read a sequence in both directions, exactly, over sequences of any length in bounded memory.
//
// A bidirectional layer needs the whole of the layer before it, so a sequence goes layer by layer and not chunk by
// chunk. A sweep walks the sequence once from one end to the other, carrying the state, with two half layers: it finishes
// layer k, whose other direction the sweep before has left behind, and begins layer k + 1 in the same direction. n layers
// are n + 1 sweeps, in turns forward and reverse. Between sweeps a base is two rows, of the residual stream [D] and of the
// half layer's output ([D]; on a GPU [E] where both directions share out_proj), in a store: memory, or a file where there
// are more bases than memory allows. Blocks of a sweep are loaded and stored beside the computing.
//
// RC-equivariant models (model.h) run both strands as two sequences and join them in the end.
//
// Results depend on the sequence alone: not on blocks, threads, stores, nor on the other sequences of a call.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>

#include "mamba/engine.h"
#include "mamba/model.h"
#include "mamba/store.h"

namespace chromamba::mamba {

// The channels of an RC-equivariant model's rows; for others `both` is all there is.
enum class Halves {
  both,     // [2D] as the published code returns them
  forward,  // [D] the first half
  reverse,  // [D] the second half, its channels turned round: of the reverse complement, at forward coordinates
  mean,  // [D] the mean of these two: the same for a sequence and its reverse complement
};

struct SweepWanted {
  // Hidden rows of this layer (engine.h numbers them); with ln p or logits only n_layer or the final one, for rows of
  // one layer are kept.
  std::optional<int64_t> layer;
  Halves halves = Halves::both;
  bool log_likelihood = false;
  bool logits = false;
};

// Results of consecutive bases. Null where they are not wanted.
struct SweepRows {
  int64_t start = 0;
  int64_t length = 0;
  const float* hidden = nullptr;     // [length, D or 2D]
  const float* logits_LV = nullptr;  // [length, V]
  const float* log_likelihood_L =
      nullptr;  // [length] ln p(target), NaN where the target is N or negative
};

// These callbacks run on the thread that called run().
struct SweepSequence {
  int64_t length = 0;
  // Tokens [start, start + count); asked for several times, in any order.
  std::function<void(int64_t start, int64_t count, int32_t* tokens)> tokens;
  // The tokens whose ln p is wanted where that is not the token itself (it was masked).
  std::function<void(int64_t start, int64_t count, int32_t* targets)> targets;
  // Takes the results of the whole sequence, ascending.
  std::function<void(const SweepRows&)> consume;
};

struct SweepMemory {
  int64_t block_rows = 65536;  // bases that a block has at most; a GPU may take fewer
  int64_t rows_bytes = 0;      // of rows that may lie in memory; beyond, `scratch` makes a store
  MakeStore scratch;
  // Of rows that may lie on a GPU, where ComputeDevice::memory has room; beyond, they lie on the host.
  int64_t device_rows_bytes = std::numeric_limits<int64_t>::max();
};

class SweepEngine {
 public:
  // The model must outlive the engine. ResourceError when the GPU is not there or too small.
  SweepEngine(const Model& model, const ComputeDevice& device, int threads, SweepMemory memory);
  ~SweepEngine();

  // Computes the sequences and hands their results over, one after the other. `poll` is called by any worker before each
  // tile (on a GPU: before each pass), by several at a time, and may throw. DataError when a
  // wanted log-likelihood is not finite.
  void run(std::span<SweepSequence> sequences, const SweepWanted& wanted,
           const std::function<void()>& poll = {});

  // For progress, on any thread: what run() has computed so far, and what a base of a sequence takes for these results.
  int64_t half_layers_done() const;
  static int64_t half_layers(const Model& model, const SweepWanted& wanted);
  int64_t device_peak_bytes() const;

  // Bytes a base takes in a store.
  static int64_t store_bytes(const Model& model, const ComputeDevice& device);
  // Bytes of host memory besides the model and the store: for planning.
  static int64_t workspace_bytes(const Model& model, const ComputeDevice& device, int threads,
                                 const SweepWanted& wanted, int64_t block_rows);
  // Width of the hidden rows that are handed over.
  static int64_t hidden_width(const Model& model, Halves halves);

  class Backend;  // what the CPU and a GPU do differently

 private:
  std::unique_ptr<Backend> backend_;
};

}  // namespace chromamba::mamba
