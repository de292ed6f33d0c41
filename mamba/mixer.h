// A mixer is what a block does to its normalised input: the sequence-mixing part of one layer.
//
// A new model family is one Mixer and one line in make_mixer (mixer.cc). Mixers work on one tile: some
// consecutive bases of one sequence, or several short sequences. A base's results never depend on the tile's other rows except
// through the state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/aligned.h"
#include "kernels/batch.h"
#include "kernels/device.h"
#include "kernels/exec.h"
#include "mamba/config.h"
#include "mamba/tensor_loader.h"

namespace chromamba::mamba {

// What one layer carries from a sequence's past: exact, a few KB, independent of its length.
struct LayerState {
  AlignedFloats conv;  // [K, channels of the convolution] its last K inputs, oldest first
  AlignedFloats ssm;   // [N, E] the recurrent state
};

enum class CarryPart { conv, ssm };

// Orders the tiles of a sequence at the two places where one hands its state to the next. A mixer
// calls wait() just before it touches that part of the state and pass_on() just after, and does all
// else outside, so that neighbouring tiles overlap on different threads.
class CarryGate {
 public:
  virtual ~CarryGate() = default;
  virtual void wait(CarryPart part) = 0;
  virtual void pass_on(CarryPart part) = 0;
};

// Rows of a tile that are consecutive bases of one sequence.
struct TilePart {
  int64_t rows = 0;
  LayerState* state = nullptr;     // before them, and then after them
  LayerState* snapshot = nullptr;  // becomes a copy of the state after them; or null
};

// One gate stands for all parts: they are of one sequence, or of sequences that no other tile of the call has.
struct MixerCall {
  int64_t rows = 0;                 // bases
  bool reverse = false;             // the last row is the sequence's next base
  const float* input_LD = nullptr;  // [rows, D]
  float* out_LD = nullptr;          // [rows, D]; may alias input
  float* workspace = nullptr;       // workspace_floats(rows)
  std::span<const TilePart> parts;  // of all rows, in their order; one where `reverse`
  CarryGate* gate = nullptr;
};

// Calls run(first row, rows, state) for every part when the tile's turn has come, `state` being the part of the layer's
// state that is named, and keeps the snapshots.
template <typename Run>
void carry_parts(const MixerCall& call, CarryPart which, const Run& run) {
  const auto named = [which](LayerState& state) -> AlignedFloats& {
    return which == CarryPart::conv ? state.conv : state.ssm;
  };
  call.gate->wait(which);
  int64_t row = 0;
  for (const TilePart& part : call.parts) {
    run(row, part.rows, named(*part.state).data());
    if (part.snapshot != nullptr) named(*part.snapshot) = named(*part.state);
    row += part.rows;
  }
  call.gate->pass_on(which);
}

// One direction of a layer of two whose out_proj both share: it can be left out of the first and done once for the sum.
enum class DevicePart {
  whole,
  begin,   // the rows before out_proj go to `half`
  finish,  // this direction's are added to them; out = their sum through out_proj
};

struct DeviceMixerCall {
  kernels::DeviceBatch batch;
  const void* input_LD = nullptr;  // [rows, padded D]
  void* out_LD = nullptr;          // [rows, padded D]; may alias input
  std::byte* workspace = nullptr;  // workspace_bytes(rows, segments)
  int64_t state_offset = 0;        // of this layer in DeviceSpan::state
  bool reverse = false;            // each span runs from its last row to its first
  bool accumulate = false;         // out += result; out may not alias input then
  DevicePart part = DevicePart::whole;
  void* half = nullptr;  // [rows, half_width()]
  // finish: the workspace is as `begin` of the same rows has left it, and in_proj need not be done again.
  bool follows_begin = false;
};

// A mixer's weights on a device and its forward pass there.
class DeviceMixer {
 public:
  virtual ~DeviceMixer() = default;
  virtual void forward(kernels::DeviceExec& exec, const DeviceMixerCall& call) const = 0;
  virtual int64_t state_floats() const = 0;  // of one sequence (kernels/batch.h)
  virtual int64_t workspace_bytes(int64_t rows, int64_t segments) const = 0;
  // Of the rows between `begin` and `finish`, padded; 0 where only whole layers can be had.
  virtual int64_t half_width() const { return 0; }
  // One sequence's state after its last base, from a copy of its state_floats() on the host. `turn`: that of the conv
  // state, where a segment ends with the base (kernels/batch.h): then what the next begins with is read.
  virtual LayerState read_state(const float* floats, std::optional<int32_t> turn) const = 0;
};

// Rows on a device are padded to a multiple of 8 elements, 16 bytes in bf16: the width of a load.
inline int64_t padded_width(int64_t n) { return (n + 7) / 8 * 8; }

class Mixer {
 public:
  virtual ~Mixer() = default;
  virtual void forward(kernels::Exec& exec, const MixerCall& call) const = 0;
  virtual LayerState zero_state() const = 0;
  virtual int64_t workspace_floats(int64_t rows) const = 0;
  virtual std::unique_ptr<DeviceMixer> upload(kernels::DeviceExec& exec) const = 0;
  // DeviceMixer::state_floats(), without a device.
  virtual int64_t device_state_floats() const = 0;
  // Floating-point operations of the matrix products, per base.
  virtual int64_t matmul_flops() const = 0;

  // Tells the mixers of a block's two directions of each other; both live as long as the block.
  static void pair(Mixer& first, Mixer& second) {
    first.partner_ = &second;
    second.partner_ = &first;
    first.comes_first_ = true;
  }

 protected:
  const Mixer* partner() const { return partner_; }
  bool comes_first() const { return comes_first_; }

 private:
  const Mixer* partner_ = nullptr;
  bool comes_first_ = false;
};

// Where a mixer's weights are and how they are used.
struct MixerOptions {
  std::string name;  // begins its tensors' names: "" or, in a bidirectional block, "mamba_fwd."
  // Of the mixer that has the same in_proj and out_proj; each tensor may be stored under either name.
  std::string shares;
  bool shared = false;
  // The channels of D run backwards: the columns of in_proj, the rows of out_proj (model.h).
  bool flipped_width = false;
};

// The mixer that the configuration names, with its weights taken from `tensors` (scoped to
// "…layers.k.mixer."). DataError for missing or misshapen tensors.
std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, TensorLoader& tensors,
                                  const MixerOptions& options);

// A product with its weights in panels (kernels/linear.h), and its bias where it has one.
struct Projection {
  int64_t out_features = 0;
  int64_t in_features = 0;
  AlignedFloats panels;
  AlignedFloats bias;

  // y [rows, out] = x [rows, in] · Wᵀ + bias, with row strides.
  void apply(kernels::Exec& exec, int64_t rows, const float* x, int64_t x_stride, float* y,
             int64_t y_stride) const;
  int64_t flops() const { return 2 * out_features * in_features; }  // of a row
};

// A mixer's in_proj [width, D] and out_proj [D, E], as the options say: stored under either direction's name where they
// are shared, the axis of D turned round where it is flipped. Others, without a bias, from `own`: the mixer's scope.
Projection take_in_proj(const ModelConfig& config, TensorLoader& tensors,
                        const MixerOptions& options, int64_t width);
Projection take_out_proj(const ModelConfig& config, TensorLoader& tensors,
                         const MixerOptions& options);
Projection take_projection(TensorLoader& own, const std::string& name, int64_t out_features,
                           int64_t in_features);

inline const float* data_or_null(const AlignedFloats& values) {
  return values.empty() ? nullptr : values.data();
}

}  // namespace chromamba::mamba
