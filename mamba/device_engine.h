// The engine's work on a GPU: many rows at a time, layer after layer.
//
// How the work is split. The chunks of a call are laid into passes of as many rows as memory allows. A pass
// goes through all layers with one launch of each kernel a layer; activations of one layer live in
// device memory at a time, so memory depends on the rows of a pass and never on a contig's length.
// Pieces of a sequence always begin where a segment does (kernels/batch.h): a call that ends elsewhere keeps
// its last tokens, and the next call computes them again from the carry at that base. So every base is
// computed by the same operations whatever the chunks were, and the scan may work on segments in parallel.
// The next pass is laid out and copied while the GPU computes.
//
// A snapshot costs no launch or copy of its own: the kernels of a pass write its states straight to where those of its
// sequence lie, and its ln p of the next token comes with those of the sequences that end there. A run
// from it counts its segments from the snapshot's base, and so has no tail to compute again.
//
// Several GPUs share the layers: each has a run of them, and a pass goes from GPU to GPU as on an assembly line, its
// residual stream and the last mixer's rows copied over. One sequence keeps all of them busy, its states stay where
// their layers are, results come in the order of the input, and no GPU needs another's share of the memory. The
// first passes of a call fill the line: with n GPUs and p passes n - 1 of p + n - 1 steps.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "kernels/device.h"
#include "mamba/engine.h"

namespace chromamba::mamba {

class DeviceEngine {
 public:
  // Uploads the model. `device.memory` bounds the device memory. ResourceError when not even the smallest pass fits.
  DeviceEngine(const Model& model, const ComputeDevice& device);
  ~DeviceEngine();

  SequenceState new_sequence();
  void copy_sequence(const SequenceState& from, SequenceState& to);  // what lies on the devices
  void forward(std::span<Chunk> chunks, const std::function<void()>& poll);
  std::vector<LayerState> read_layers(const SequenceState& state);
  int64_t peak_bytes() const;                      // of device memory
  static int64_t state_bytes(const Model& model);  // of one sequence, on all devices together
  // Page-locked memory and what the CUDA runtime maps, about.
  static int64_t host_bytes(const Model& model, int64_t gpus, int64_t tap_bytes);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chromamba::mamba
