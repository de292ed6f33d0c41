// The Mamba-2 mixer on a device: the same calls in the same order as mamba2_mixer.cc, over a batch.
//
// Heads are padded to multiples of kSsdStep channels and groups to multiples of kSsdStep states, with weights that are zero:
// padded channels and states are zero throughout. dt is padded so that rows begin at multiples of 32 bytes in bf16.
#include <string>

#include "kernels/base/error.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gated_norm.h"
#include "kernels/linear.h"
#include "kernels/ssd_scan.h"
#include "mamba/device_layout.h"
#include "mamba/mamba2_mixer.h"

namespace chromamba::mamba {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceExec;

class Mamba2Device : public DeviceMixer {
 public:
  struct Shape {
    int64_t d_model, heads, head_dim, groups, d_state, taps;
  };

  Mamba2Device(const Shape& shape, kernels::DType dtype)
      : shape_(shape),
        model_(padded_width(shape.d_model)),
        head_dim_(padded_to(shape.head_dim, kernels::kSsdStep)),
        states_(padded_to(shape.d_state, kernels::kSsdStep)),
        inner_(shape.heads * head_dim_),
        mixed_(inner_ + 2 * shape.groups * states_),
        wide_(inner_ + mixed_ + padded_to(shape.heads, 16)),
        dtype_bytes_(kernels::dtype_bytes(dtype)) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      channels_ = joined(std::move(channels_), in_order(shape.head_dim, h * head_dim_));
    }
    mixed_channels_ = channels_;
    for (int64_t g = 0; g < 2 * shape.groups; ++g) {
      mixed_channels_ =
          joined(std::move(mixed_channels_), in_order(shape.d_state, inner_ + g * states_));
    }
  }

  void forward(DeviceExec& exec, const DeviceMixerCall& call) const override;
  int64_t state_floats() const override {
    return kernels::state_floats(inner_, states_, shape_.taps, mixed_);
  }
  int64_t workspace_bytes(int64_t rows, int64_t segments) const override {
    return rows * dtype_bytes_ * (wide_ + mixed_) + 4 * scan_floats(segments);
  }
  LayerState read_state(const float* floats, std::optional<int32_t> turn) const override {
    const kernels::StateLayout layout = state(0);
    const int64_t conv = turn ? layout.conv_carry + *turn * shape_.taps * mixed_ : layout.conv_last;
    const int64_t ssm = turn ? layout.ssm_carry : layout.ssm_last;
    return {take_columns(floats + conv, shape_.taps, mixed_channels_, mixed_),
            take_columns(floats + ssm, shape_.d_state, channels_, inner_)};
  }

  int64_t scan_floats(int64_t segments) const {
    return kernels::ssd_workspace_floats(segments, shape_.heads, head_dim_, states_);
  }
  kernels::StateLayout state(int64_t offset) const {
    return kernels::state_layout(offset, inner_, states_, shape_.taps, mixed_);
  }

  Shape shape_;
  int64_t model_;     // padded D
  int64_t head_dim_;  // padded P
  int64_t states_;    // padded N
  int64_t inner_;     // E with padded heads
  int64_t mixed_;     // of the convolution: [x, Bmat, Cmat], padded
  int64_t wide_;      // of in_proj's rows: [z, x, Bmat, Cmat, dt], padded
  int64_t dtype_bytes_;
  Places channels_;
  Places mixed_channels_;
  float dt_min_ = 0;
  float dt_max_ = 0;
  kernels::DeviceGatedNormArgs norm_;  // what does not change from call to call
  DeviceProjection in_proj_, out_proj_;
  DeviceBuffer conv_, conv_bias_, dt_bias_, a_, skip_, norm_weight_;
};

void Mamba2Device::forward(DeviceExec& exec, const DeviceMixerCall& call) const {
  const int64_t rows = call.batch.rows;
  // f32 first, for alignment: the scan's workspace, then in_proj's rows, then the convolution's.
  auto* scan_workspace = reinterpret_cast<float*>(call.workspace);
  std::byte* z = call.workspace + 4 * scan_floats(call.batch.segment_count);
  std::byte* x = z + rows * wide_ * dtype_bytes_;
  // The convolution's inputs, and then, once it has consumed them, the scan's outputs and those of the norm.
  std::byte* y = z + inner_ * dtype_bytes_;

  kernels::linear(exec, {rows, model_, wide_, call.input_LD, model_, in_proj_.weight.data(),
                         in_proj_.bias.data(), z, wide_});
  kernels::DeviceCausalConv1dArgs conv;
  conv.batch = call.batch;
  conv.channels = mixed_;
  conv.taps = shape_.taps;
  conv.reverse = call.reverse;
  conv.u_LE = y;
  conv.u_stride = wide_;
  conv.weight_KE = conv_.as<const float>();
  conv.bias_E = conv_bias_.as<const float>();
  conv.state = state(call.state_offset);
  conv.out_LE = x;
  conv.out_stride = mixed_;
  kernels::causal_conv1d(exec, conv);

  kernels::DeviceSsdScanArgs scan;
  scan.batch = call.batch;
  scan.heads = shape_.heads;
  scan.head_dim = head_dim_;
  scan.groups = shape_.groups;
  scan.d_state = states_;
  scan.reverse = call.reverse;
  scan.x_LE = x;
  scan.x_stride = mixed_;
  scan.dt_LH = y + mixed_ * dtype_bytes_;
  scan.dt_stride = wide_;
  scan.dt_bias_H = dt_bias_.as<const float>();
  scan.dt_min = dt_min_;
  scan.dt_max = dt_max_;
  scan.A_H = a_.as<const float>();
  scan.Bmat_LGN = x + inner_ * dtype_bytes_;
  scan.Cmat_LGN = x + (inner_ + shape_.groups * states_) * dtype_bytes_;
  scan.bc_stride = mixed_;
  scan.D_E = skip_.as<const float>();
  scan.state = conv.state;
  scan.workspace = scan_workspace;
  scan.out_LE = y;
  scan.out_stride = wide_;
  kernels::ssd_scan(exec, scan);

  kernels::DeviceGatedNormArgs norm = norm_;
  norm.rows = rows;
  norm.y_LE = y;
  norm.y_stride = wide_;
  norm.z_LE = z;
  norm.z_stride = wide_;
  norm.weight_E = norm_weight_.as<const float>();
  norm.out_LE = y;
  norm.out_stride = wide_;
  kernels::gated_norm(exec, norm);
  kernels::linear(exec, {rows, inner_, model_, y, wide_, out_proj_.weight.data(),
                         out_proj_.bias.data(), call.out_LD, model_, call.accumulate});
}

}  // namespace

int64_t Mamba2Mixer::device_state_floats() const {
  const Mamba2Device::Shape shape{d_model_, n_heads_, head_dim_, n_groups_, d_state_, d_conv_};
  return Mamba2Device(shape, kernels::DType::f32).state_floats();  // of either type
}

std::unique_ptr<DeviceMixer> Mamba2Mixer::upload(kernels::DeviceExec& exec) const {
  kernels::require_ssd_sizes(head_dim_, d_state_);
  auto device = std::make_unique<Mamba2Device>(
      Mamba2Device::Shape{d_model_, n_heads_, head_dim_, n_groups_, d_state_, d_conv_},
      exec.dtype());
  // Padding may not part the channels that are normalised together.
  const bool whole_heads = n_heads_ % norm_groups_ == 0;
  const bool unpadded = device->head_dim_ == head_dim_ && d_inner_ / norm_groups_ % 8 == 0;
  if (!whole_heads && !unpadded) {
    throw ResourceError("Mamba-2 with " + std::to_string(norm_groups_) +
                        " groups of its norm and " + std::to_string(n_heads_) + " heads of " +
                        std::to_string(head_dim_) +
                        " channels: on a GPU such groups are whole heads; use --device cpu");
  }
  device->norm_.kind = norm_kind_;
  device->norm_.channels = device->inner_;
  device->norm_.groups = norm_groups_;
  device->norm_.counted = d_inner_ / norm_groups_;
  device->norm_.eps = norm_eps_;
  device->dt_min_ = dt_min_;
  device->dt_max_ = dt_max_;

  const Places model = in_order(d_model_);
  const Places& channels = device->channels_;
  const int64_t inner = device->inner_;
  const int64_t mixed = device->mixed_;
  const Places wide = joined(joined(channels, shifted(device->mixed_channels_, inner)),
                             in_order(n_heads_, inner + mixed));
  const auto upload_f32 = [&](const AlignedFloats& values, int64_t rows, const Places& places,
                              int64_t padded) {
    if (values.empty()) return DeviceBuffer();
    return upload_weights_f32(exec, place_columns(values, rows, places, padded));
  };
  device->in_proj_ = upload_projection(exec, in_proj_, wide, device->wide_, model, device->model_);
  device->conv_ = upload_f32(conv_KC_, d_conv_, device->mixed_channels_, mixed);
  device->conv_bias_ = upload_f32(conv_bias_, 1, device->mixed_channels_, mixed);
  device->dt_bias_ = upload_weights_f32(exec, dt_bias_);
  device->a_ = upload_weights_f32(exec, A_);
  device->skip_ = upload_f32(D_skip_, 1, channels, inner);
  device->norm_weight_ = upload_f32(norm_, 1, channels, inner);
  device->out_proj_ = upload_projection(exec, out_proj_, model, device->model_, channels, inner);
  return device;
}

}  // namespace chromamba::mamba
