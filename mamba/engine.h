// Runs a model over sequences in chunks, exactly: the state is carried, so a sequence cut anywhere
// gives the same bits as the whole, whatever the chunk sizes, batch mates or number of threads.
//
// How the work is split (CPU; device_engine.h has the GPU's way). A chunk is cut into tiles of kTileRows
// bases. A worker takes the next tile and walks it through all layers while its activations stay in the L2
// cache. Tiles of one sequence meet only at the two hand-overs of each layer
// (CarryGate); between those, neighbours run at the same time, one a layer or so ahead of the other,
// so one contig keeps about n_layer / (share of time in hand-overs) threads busy, and several
// sequences in one call keep more. Each tile is computed by one thread from the same inputs by the
// same operations, which is why the thread count cannot change a result.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/exec.h"
#include "mamba/model.h"
#include "mamba/pooling.h"

namespace chromamba::mamba {

// Bases in a tile. Its activations (about 1 MB for D=128) still fit the L2 cache of current server
// cores beside a layer's weights; hand-overs between threads cost nothing visible at this size.
constexpr int64_t kTileRows = 256;

// Layer numbers: 0 is the token embedding, k the residual stream after k blocks, n_layer the one
// before the final norm, kFinalLayer the output of the final norm.
constexpr int64_t kFinalLayer = -1;

// What computes: the CPU (or its double reference) with threads, or GPUs.
struct ComputeDevice {
  kernels::Backend backend = kernels::Backend::cpu;
  bool cuda = false;
  // For GPUs alone:
  std::vector<int> ordinals = {0};             // several share the layers (device_engine.h)
  kernels::DType dtype = kernels::DType::f32;  // of activations and weights
  int64_t memory = int64_t{4} << 30;           // bound for the memory of each, bytes
  int64_t pass_rows = 0;                       // bases it takes at a time; 0: a good number
};

struct DeviceSequence;  // device_states.h

// What one sequence carries between chunks. Belongs to the engine that made it.
struct SequenceState {
  SequenceState() = default;
  SequenceState(SequenceState&&) = default;
  SequenceState& operator=(SequenceState&&) = default;

  int64_t position = 0;            // bases seen
  std::vector<LayerState> layers;  // on the CPU; Engine::layer_states() reads them on any device
  AlignedFloats next_log_p;  // [V] ln p of the next token given all bases seen (once position > 0)
  GroupWalk groups;          // of pooled taps: those that have begun and not ended
  std::vector<std::vector<double>> sums;   // theirs, each [D] (on the CPU)
  std::shared_ptr<DeviceSequence> device;  // on a GPU
};

struct HiddenTap {
  int64_t layer = kFinalLayer;
  float* out_LD = nullptr;  // [length, D]
};

// Means of a layer's rows over groups of bases, summed base after base in double (kernels/pool_rows.h): the same
// bits on any device that gives the same rows, however the sequence is cut into chunks. The engine keeps
// the sums of groups that a chunk leaves open, D doubles each.
struct PooledTap {
  int64_t layer = kFinalLayer;  // the same for all chunks of a call
  std::span<const BaseGroup>
      groups;                 // of this chunk, as GroupWalk::begin_chunk wants them; may be none
  float* means_GD = nullptr;  // [groups, D]; rows of groups that go on are left alone
};

// A copy of a sequence's state in the middle of a chunk, for whoever goes on from there with other bases. On the CPU it
// goes on with the same bits as the sequence itself; on a GPU its segments (kernels/batch.h) begin at the snapshot, so that
// results may differ in their rounding, but only with the sequence and the place. Sums of pooled taps are not copied.
struct Snapshot {
  int64_t at = 0;  // bases of the chunk before it: 0 ... length - 1
  // Overwritten; its next_log_p where the call has results of the head. Not one of the call's own sequences. A state that
  // was a snapshot or a sequence before is a good one: on a GPU it keeps its place in memory.
  SequenceState* to = nullptr;
};

// A chunk of one sequence and where its results go. Null outputs are not computed.
struct Chunk {
  SequenceState* state = nullptr;
  const int32_t* tokens_L = nullptr;
  int64_t length = 0;
  // [length] ln p(base | all bases before it, from the sequence's first); NaN at the first base of
  // the sequence and wherever the token is that of N.
  float* log_likelihood_L = nullptr;
  float* logits_LV = nullptr;  // [length, V]
  std::vector<HiddenTap> taps;
  std::optional<PooledTap> pooled;
  std::vector<Snapshot> snapshots;  // ascending by `at`, each at another base
};

class DeviceEngine;

class Engine {
 public:
  // `threads` >= 1 workers. The model must outlive the engine.
  Engine(const Model& model, kernels::Backend backend, int threads);
  // `threads` counts for the CPU only. ResourceError when the GPU is not there or too small.
  Engine(const Model& model, const ComputeDevice& device, int threads);
  ~Engine();

  SequenceState new_sequence() const;
  // A copy that goes on by itself, of a sequence or a snapshot. Sums of pooled taps are not copied.
  SequenceState copy_of(const SequenceState& state) const;

  // Computes the chunks (of different sequences) and advances their states. One caller at a time.
  // `poll`, if given, is called by any worker before each tile (on a GPU: before each pass) and may throw to stop. DataError when
  // the model's weights make a log-likelihood that is not finite. When it throws, the states of this
  // call's sequences are undefined.
  void forward(std::span<Chunk> chunks, const std::function<void()>& poll = {});

  // The state of every layer after the last base seen.
  std::vector<LayerState> layer_states(const SequenceState& state) const;

  // Bytes of one sequence's state, on the device that computes.
  static int64_t state_bytes(const Model& model, const ComputeDevice& device);

  // The memory of the fullest GPU at its fullest so far; 0 on the CPU.
  int64_t device_peak_bytes() const;

  // Bytes of host memory that the engine holds besides the model: for planning. `tap_bytes`: what taps bring to
  // the host, a base.
  static int64_t workspace_bytes(const Model& model, const ComputeDevice& device, int threads,
                                 int64_t tap_bytes);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;            // the CPU's
  std::unique_ptr<DeviceEngine> device_;  // or the GPU's
};

}  // namespace chromamba::mamba
