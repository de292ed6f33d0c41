// The runner for models that are not causal: the counterpart of stream_passes (stream.h), with the same passes and parts.
//
// A pass is read to its end before it is computed (mamba/sweep_engine.h): its letters wait in memory or, where they are
// many, in a scratch file, and so do the activations. Short sequences go through the engine together.
// Results depend on the pass alone: not on blocks, threads, memory nor on what else is in the job.
#pragma once

#include <cstdint>
#include <string>

#include "mamba/sweep_engine.h"
#include "pipelines/stream.h"

namespace chromamba::pipelines {

struct SweepOptions {
  // chunk_size: bases in a block. bases_done counts bases of all sequences, each window and each mask by itself.
  StreamOptions stream;
  mamba::Halves halves =
      mamba::Halves::both;  // Part::hidden_LD has SweepEngine::hidden_width columns
  Windows windows;
  // 0: every base is read as it is. Otherwise ln p is that of masked bases: mask_stride sequences, in each of
  // which every base whose number in the contig (0-based, forward) leaves one remainder is [MASK], N
  // included. Bases outside of the pass's segments may have no value (NaN).
  int64_t mask_stride = 0;
  int64_t rows_bytes = 0;            // of activations that may lie in memory
  int64_t sequences = 4096;          // of one call of the engine, at most
  std::string scratch_folder = ".";  // for what is more than memory holds
};

// Runs all passes. Throws what reading, computing or writing threw. `consume` is called on a thread of its own.
// DataError when masks are wanted and the model has no [MASK].
StreamStats sweep_passes(const mamba::Model& model, const mamba::ComputeDevice& device, int threads,
                         const NextPass& next, const Consumer& consume,
                         const SweepOptions& options);

// What a pass comes to with these windows and masks.
struct SweepLoad {
  int64_t bases = 0;    // of all sequences
  int64_t longest = 0;  // sequence
};
SweepLoad sweep_load(const Pass& pass, const Windows& windows, int64_t mask_stride);

// For planning: bytes of buffers besides the engine's; of a sequence's states; and of scratch files besides
// the activations, for the longest pass and sequence.
int64_t sweep_buffer_bytes(const mamba::Model& model, const SweepOptions& options);
int64_t sequence_state_bytes(const mamba::Model& model);
int64_t sweep_scratch_bytes(int64_t longest_pass, int64_t longest_sequence,
                            const SweepOptions& options);

}  // namespace chromamba::pipelines
