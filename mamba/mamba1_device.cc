// The Mamba-1 mixer on a device: the same calls in the same order as mamba1_mixer.cc, over a batch.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/causal_conv1d.h"
#include "kernels/conv_project.h"
#include "kernels/linear.h"
#include "kernels/selective_scan.h"
#include "mamba/device_layout.h"
#include "mamba/mamba1_mixer.h"

namespace chromamba::mamba {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceExec;

class Mamba1Device : public DeviceMixer {
 public:
  struct Shape {
    int64_t d_model, d_inner, d_state, taps, dt_rank;
    bool shares_out_proj;
  };

  Mamba1Device(const Shape& shape, kernels::DType dtype)
      : shape_(shape),
        model_(padded_width(shape.d_model)),
        inner_(padded_width(shape.d_inner)),
        rank_(padded_to(shape.dt_rank, dtype == kernels::DType::bf16 ? 16 : 8)),
        narrow_(padded_width(rank_ + 2 * shape.d_state)),
        dtype_bytes_(kernels::dtype_bytes(dtype)),
        fused_(kernels::conv_project_fits(dtype, inner_, shape.taps, rank_, narrow_)) {}

  void forward(DeviceExec& exec, const DeviceMixerCall& call) const override;
  int64_t state_floats() const override {
    return kernels::state_floats(inner_, shape_.d_state, shape_.taps);
  }
  int64_t workspace_bytes(int64_t rows, int64_t segments) const override {
    return rows * dtype_bytes_ * ((keeps_xz() ? 4 : 3) * inner_ + narrow_) +
           4 * kernels::scan_workspace_floats(segments, inner_, shape_.d_state);
  }
  int64_t half_width() const override { return shape_.shares_out_proj ? inner_ : 0; }
  // Whether in_proj's rows outlast a call.
  bool keeps_xz() const { return fused_ || shape_.shares_out_proj; }
  LayerState read_state(const float* floats, std::optional<int32_t> turn) const override {
    const kernels::StateLayout layout =
        kernels::state_layout(0, inner_, shape_.d_state, shape_.taps);
    const int64_t conv = turn ? layout.conv_carry + *turn * shape_.taps * inner_ : layout.conv_last;
    const int64_t ssm = turn ? layout.ssm_carry : layout.ssm_last;
    return {take_columns(floats + conv, shape_.taps, channels_, inner_),
            take_columns(floats + ssm, shape_.d_state, channels_, inner_)};
  }

  Shape shape_;
  int64_t model_;   // padded D
  int64_t inner_;   // padded E
  int64_t rank_;    // padded R
  int64_t narrow_;  // width of x_proj's rows: [d, Bmat, Cmat], padded
  int64_t dtype_bytes_;
  bool fused_;  // convolution, x_proj and dt_proj in one kernel
  // Channels are sorted by how long their slowest state lasts, so that the channels of a warp forget at
  // about the same rate and the scan's first step can leave whole groups out.
  Places channels_;
  DeviceProjection in_proj_, out_proj_;
  DeviceBuffer conv_, conv_bias_, x_proj_, dt_proj_, dt_bias_, a_, skip_;
};

void Mamba1Device::forward(DeviceExec& exec, const DeviceMixerCall& call) const {
  const int64_t rows = call.batch.rows;
  const int64_t wide = 2 * inner_;
  const kernels::StateLayout state =
      kernels::state_layout(call.state_offset, inner_, shape_.d_state, shape_.taps);
  // f32 first, for alignment: the scan's workspace, then xz [rows, 2E], u' [rows, E], x_proj's rows.
  auto* scan_workspace = reinterpret_cast<float*>(call.workspace);
  std::byte* xz = call.workspace + 4 * kernels::scan_workspace_floats(call.batch.segment_count,
                                                                      inner_, shape_.d_state);
  std::byte* u = xz + rows * wide * dtype_bytes_;
  std::byte* x_dbl = u + rows * inner_ * dtype_bytes_;
  // dt, and then the scan's outputs: over the convolution's inputs, once it has consumed them, unless they are
  // still to be read.
  std::byte* dt = keeps_xz() ? x_dbl + rows * narrow_ * dtype_bytes_ : xz;
  const int64_t dt_stride = keeps_xz() ? inner_ : wide;

  if (!call.follows_begin) {
    kernels::linear(exec, {rows, model_, wide, call.input_LD, model_, in_proj_.weight.data(),
                           in_proj_.bias.data(), xz, wide});
  }
  kernels::DeviceCausalConv1dArgs conv;
  conv.batch = call.batch;
  conv.channels = inner_;
  conv.taps = shape_.taps;
  conv.reverse = call.reverse;
  conv.u_LE = xz;
  conv.u_stride = wide;
  conv.weight_KE = conv_.as<const float>();
  conv.bias_E = conv_bias_.as<const float>();
  conv.state = state;
  conv.out_LE = u;
  conv.out_stride = inner_;
  if (fused_) {
    kernels::conv_project(exec, {conv, rank_, narrow_, x_proj_.data(), dt_proj_.data(), x_dbl,
                                 narrow_, dt, dt_stride});
  } else {
    kernels::causal_conv1d(exec, conv);
    kernels::linear(exec,
                    {rows, inner_, narrow_, u, inner_, x_proj_.data(), nullptr, x_dbl, narrow_});
    kernels::linear(exec,
                    {rows, rank_, inner_, x_dbl, narrow_, dt_proj_.data(), nullptr, dt, dt_stride});
  }
  kernels::DeviceSelectiveScanArgs scan;
  scan.batch = call.batch;
  scan.channels = inner_;
  scan.d_state = shape_.d_state;
  scan.reverse = call.reverse;
  scan.u_LE = u;
  scan.u_stride = inner_;
  scan.dt_LE = dt;
  scan.dt_stride = dt_stride;
  scan.dt_bias_E = dt_bias_.as<const float>();
  scan.A_NE = a_.as<const float>();
  scan.Bmat_LN = x_dbl + rank_ * dtype_bytes_;
  scan.Cmat_LN = x_dbl + (rank_ + shape_.d_state) * dtype_bytes_;
  scan.bc_stride = narrow_;
  scan.D_E = skip_.as<const float>();
  scan.z_LE = xz + inner_ * dtype_bytes_;
  scan.z_stride = wide;
  scan.state = state;
  scan.workspace = scan_workspace;
  scan.out_LE = call.half != nullptr ? call.half : dt;
  scan.out_stride = call.half != nullptr ? inner_ : dt_stride;
  scan.accumulate = call.part == DevicePart::finish;
  kernels::selective_scan(exec, scan);
  if (call.part == DevicePart::begin) return;
  kernels::linear(exec,
                  {rows, inner_, model_, scan.out_LE, scan.out_stride, out_proj_.weight.data(),
                   out_proj_.bias.data(), call.out_LD, model_, call.accumulate});
}

}  // namespace

std::vector<double> Mamba1Mixer::forgetting_rates() const {
  std::vector<double> rate(static_cast<size_t>(d_inner_));
  for (int64_t e = 0; e < d_inner_; ++e) {
    double slowest = std::numeric_limits<double>::infinity();
    for (int64_t n = 0; n < d_state_; ++n) {
      slowest =
          std::min(slowest, -static_cast<double>(A_NE_[static_cast<size_t>(n * d_inner_ + e)]));
    }
    rate[static_cast<size_t>(e)] =
        slowest * std::log1p(std::exp(static_cast<double>(dt_bias_[static_cast<size_t>(e)])));
  }
  return rate;
}

std::vector<int64_t> Mamba1Mixer::device_order() const {
  const auto sort = [](auto first, auto last, const std::vector<double>& rate) {
    std::stable_sort(first, last, [&](int64_t a, int64_t b) {
      return rate[static_cast<size_t>(a)] < rate[static_cast<size_t>(b)];
    });
  };
  Places order = in_order(d_inner_);
  const auto* other = shares_out_proj_ ? dynamic_cast<const Mamba1Mixer*>(partner()) : nullptr;
  if (other == nullptr) {
    sort(order.begin(), order.end(), forgetting_rates());
    return order;
  }
  // Both directions have one order, for their rows are shared: groups of channels that are alike in the first, and
  // within them sorted by the second. About as many groups as there are warps in each.
  const Mamba1Mixer& first = comes_first() ? *this : *other;
  const Mamba1Mixer& second = comes_first() ? *other : *this;
  sort(order.begin(), order.end(), first.forgetting_rates());
  constexpr double kWarp = 32;
  const auto groups = static_cast<int64_t>(
      std::max(1.0, std::round(std::sqrt(static_cast<double>(d_inner_) / kWarp))));
  const std::vector<double> rates = second.forgetting_rates();
  for (int64_t g = 0; g < groups; ++g) {
    sort(order.begin() + d_inner_ * g / groups, order.begin() + d_inner_ * (g + 1) / groups, rates);
  }
  return order;
}

int64_t Mamba1Mixer::device_state_floats() const {
  const Mamba1Device::Shape shape{d_model_, d_inner_, d_state_,
                                  d_conv_,  dt_rank_, shares_out_proj_};
  return Mamba1Device(shape, kernels::DType::f32).state_floats();  // of either type
}

std::unique_ptr<DeviceMixer> Mamba1Mixer::upload(kernels::DeviceExec& exec) const {
  auto device = std::make_unique<Mamba1Device>(
      Mamba1Device::Shape{d_model_, d_inner_, d_state_, d_conv_, dt_rank_, shares_out_proj_},
      exec.dtype());
  const int64_t inner = device->inner_;
  const Places sorted = device_order();
  device->channels_.resize(sorted.size());
  for (size_t place = 0; place < sorted.size(); ++place) {
    device->channels_[static_cast<size_t>(sorted[place])] = static_cast<int64_t>(place);
  }

  const Places& channels = device->channels_;
  const Places model = in_order(d_model_);
  const Places wide = joined(channels, shifted(channels, inner));
  const Places narrow = joined(in_order(dt_rank_), in_order(2 * d_state_, device->rank_));
  // [rows, E] f32 with the channels at their places.
  const auto upload_channels = [&](const AlignedFloats& values, int64_t rows, float fill) {
    return upload_weights_f32(exec, place_columns(values, rows, channels, inner, fill));
  };
  device->in_proj_ = upload_projection(exec, in_proj_, wide, 2 * inner, model, device->model_);
  device->conv_ = upload_channels(conv_KE_, d_conv_, 0);
  if (!conv_bias_.empty()) device->conv_bias_ = upload_channels(conv_bias_, 1, 0);
  AlignedFloats x_proj = place_product(x_proj_.panels, narrow, device->narrow_, channels, inner);
  AlignedFloats dt_proj =
      place_product(dt_proj_.panels, channels, inner, in_order(dt_rank_), device->rank_);
  if (device->fused_) {
    x_proj = kernels::pack_x_weight(x_proj, device->narrow_, inner);
    dt_proj = kernels::pack_dt_weight(dt_proj, inner, device->rank_);
  }
  device->x_proj_ = upload_weights(exec, x_proj);
  device->dt_proj_ = upload_weights(exec, dt_proj);
  device->dt_bias_ = upload_channels(dt_bias_, 1, 0);
  device->a_ = upload_channels(A_NE_, d_state_, -1);
  device->skip_ = upload_channels(D_skip_, 1, 0);
  // Each direction adds its bias; sharing out_proj, both are added at once.
  device->out_proj_ = upload_projection(exec, out_proj_, model, device->model_, channels, inner,
                                        shares_out_proj_ ? 2.0F : 1.0F);
  return device;
}

}  // namespace chromamba::mamba
