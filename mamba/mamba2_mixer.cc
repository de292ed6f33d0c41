#include "mamba/mamba2_mixer.h"

#include <algorithm>
#include <cmath>

#include "kernels/causal_conv1d.h"
#include "kernels/ssd_scan.h"

namespace chromamba::mamba {
namespace {

kernels::GatedNormKind norm_kind(const ModelConfig& config) {
  if (!config.gated_norm) return kernels::GatedNormKind::none;
  return config.norm_before_gate ? kernels::GatedNormKind::norm_first
                                 : kernels::GatedNormKind::gate_first;
}

}  // namespace

Mamba2Mixer::Mamba2Mixer(const ModelConfig& config, TensorLoader& tensors,
                         const MixerOptions& options)
    : d_model_(config.d_model),
      d_inner_(config.d_inner),
      d_state_(config.d_state),
      d_conv_(config.d_conv),
      n_heads_(config.n_heads),
      head_dim_(config.head_dim),
      n_groups_(config.n_groups),
      dt_min_(static_cast<float>(config.dt_min)),
      dt_max_(static_cast<float>(config.dt_max)),
      norm_kind_(norm_kind(config)),
      norm_groups_(config.gated_norm_groups),
      norm_eps_(static_cast<float>(config.gated_norm_eps)) {
  TensorLoader own = tensors.scope(options.name);
  in_proj_ = take_in_proj(config, tensors, options, in_width());
  conv_KC_ = transposed(own.take("conv1d.weight", {conv_channels(), 1, d_conv_}), conv_channels(),
                        d_conv_);
  conv_bias_ = own.take_or_empty("conv1d.bias", {conv_channels()}, config.conv_bias);
  dt_bias_ = own.take("dt_bias", {n_heads_});
  A_ = own.take("A_log", {n_heads_});
  for (float& a : A_) a = -std::exp(a);
  if (config.D_per_channel) {
    D_skip_ = own.take("D", {d_inner_});
  } else {
    const AlignedFloats by_head = own.take("D", {n_heads_});
    for (const float skip : by_head) {
      D_skip_.insert(D_skip_.end(), static_cast<size_t>(head_dim_), skip);
    }
  }
  norm_ = own.take_or_empty("norm.weight", {d_inner_}, config.gated_norm);
  out_proj_ = take_out_proj(config, tensors, options);
}

LayerState Mamba2Mixer::zero_state() const {
  return {AlignedFloats(static_cast<size_t>(d_conv_ * conv_channels()), 0.0F),
          AlignedFloats(static_cast<size_t>(d_state_ * d_inner_), 0.0F)};
}

// The convolution's rows [T, C], in_proj's [T, E + C + H]. Once the convolution has consumed xBC, its columns take
// the scan's output and then the gated norm's: a tile's activations must stay in the L2 cache.
int64_t Mamba2Mixer::workspace_floats(int64_t rows) const {
  return rows * (conv_channels() + in_width());
}

int64_t Mamba2Mixer::matmul_flops() const { return in_proj_.flops() + out_proj_.flops(); }

void Mamba2Mixer::forward(kernels::Exec& exec, const MixerCall& call) const {
  const int64_t rows = call.rows;
  const int64_t wide = in_width();
  const int64_t mixed = conv_channels();
  float* x = call.workspace;    // [x, Bmat, Cmat] after the convolution
  float* z = x + rows * mixed;  // [z, xBC, dt]
  float* y = z + d_inner_;      // over xBC, row stride `wide`
  const float* dt = y + mixed;

  in_proj_.apply(exec, rows, call.input_LD, d_model_, z, wide);

  carry_parts(call, CarryPart::conv, [&](int64_t row, int64_t length, float* state) {
    kernels::causal_conv1d(exec, {.length = length,
                                  .channels = mixed,
                                  .taps = d_conv_,
                                  .reverse = call.reverse,
                                  .u_LE = y + row * wide,
                                  .u_stride = wide,
                                  .weight_KE = conv_KC_.data(),
                                  .bias_E = data_or_null(conv_bias_),
                                  .state_KE = state,
                                  .out_LE = x + row * mixed,
                                  .out_stride = mixed});
  });

  carry_parts(call, CarryPart::ssm, [&](int64_t row, int64_t length, float* state) {
    const float* mixed_rows = x + row * mixed;
    kernels::ssd_scan(exec, {.length = length,
                             .heads = n_heads_,
                             .head_dim = head_dim_,
                             .groups = n_groups_,
                             .d_state = d_state_,
                             .reverse = call.reverse,
                             .x_LE = mixed_rows,
                             .x_stride = mixed,
                             .dt_LH = dt + row * wide,
                             .dt_stride = wide,
                             .dt_bias_H = dt_bias_.data(),
                             .dt_min = dt_min_,
                             .dt_max = dt_max_,
                             .A_H = A_.data(),
                             .Bmat_LGN = mixed_rows + d_inner_,
                             .Cmat_LGN = mixed_rows + d_inner_ + n_groups_ * d_state_,
                             .bc_stride = mixed,
                             .D_E = D_skip_.data(),
                             .state_NE = state,
                             .out_LE = y + row * wide,
                             .out_stride = wide});
  });

  kernels::gated_norm(exec, {.kind = norm_kind_,
                             .length = rows,
                             .channels = d_inner_,
                             .groups = norm_groups_,
                             .eps = norm_eps_,
                             .y_LE = y,
                             .y_stride = wide,
                             .z_LE = z,
                             .z_stride = wide,
                             .weight_E = data_or_null(norm_),
                             .out_LE = y,
                             .out_stride = wide});
  out_proj_.apply(exec, rows, y, wide, call.out_LD, d_model_);
}

}  // namespace chromamba::mamba
