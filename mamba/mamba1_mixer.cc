#include "mamba/mamba1_mixer.h"

#include <cmath>

#include "kernels/causal_conv1d.h"
#include "kernels/selective_scan.h"

namespace chromamba::mamba {
Mamba1Mixer::Mamba1Mixer(const ModelConfig& config, TensorLoader& tensors,
                         const MixerOptions& options)
    : d_model_(config.d_model),
      d_inner_(config.d_inner),
      d_state_(config.d_state),
      d_conv_(config.d_conv),
      dt_rank_(config.dt_rank),
      shares_out_proj_(options.shared && config.directions == Directions::add) {
  TensorLoader own = tensors.scope(options.name);
  in_proj_ = take_in_proj(config, tensors, options, 2 * d_inner_);
  conv_KE_ = transposed(own.take("conv1d.weight", {d_inner_, 1, d_conv_}), d_inner_, d_conv_);
  conv_bias_ = own.take_or_empty("conv1d.bias", {d_inner_}, config.conv_bias);
  x_proj_ = take_projection(own, "x_proj.weight", dt_rank_ + 2 * d_state_, d_inner_);
  dt_proj_ = take_projection(own, "dt_proj.weight", d_inner_, dt_rank_);
  dt_bias_ = own.take("dt_proj.bias", {d_inner_});
  A_NE_ = transposed(own.take("A_log", {d_inner_, d_state_}), d_inner_, d_state_);
  for (float& a : A_NE_) a = -std::exp(a);
  D_skip_ = own.take("D", {d_inner_});
  out_proj_ = take_out_proj(config, tensors, options);
}

LayerState Mamba1Mixer::zero_state() const {
  return {AlignedFloats(static_cast<size_t>(d_conv_ * d_inner_), 0.0F),
          AlignedFloats(static_cast<size_t>(d_state_ * d_inner_), 0.0F)};
}

// xz [T, 2E], u' [T, E], x_proj's output [T, R + 2N]. Once the convolution has consumed u, its half of
// xz takes dt and then the scan's output: a tile's activations must stay in the L2 cache.
int64_t Mamba1Mixer::workspace_floats(int64_t rows) const {
  return rows * (3 * d_inner_ + dt_rank_ + 2 * d_state_);
}

int64_t Mamba1Mixer::matmul_flops() const {
  return in_proj_.flops() + x_proj_.flops() + dt_proj_.flops() + out_proj_.flops();
}

void Mamba1Mixer::forward(kernels::Exec& exec, const MixerCall& call) const {
  const int64_t rows = call.rows;
  const int64_t wide = 2 * d_inner_;
  const int64_t narrow = dt_rank_ + 2 * d_state_;
  float* xz = call.workspace;
  float* u = xz + rows * wide;
  float* dt = xz;                      // [T, E] with row stride 2E
  float* x_dbl = u + rows * d_inner_;  // [d, Bmat, Cmat], last because its width fits no cache line

  in_proj_.apply(exec, rows, call.input_LD, d_model_, xz, wide);

  carry_parts(call, CarryPart::conv, [&](int64_t row, int64_t length, float* state) {
    kernels::causal_conv1d(exec, {.length = length,
                                  .channels = d_inner_,
                                  .taps = d_conv_,
                                  .reverse = call.reverse,
                                  .u_LE = xz + row * wide,
                                  .u_stride = wide,
                                  .weight_KE = conv_KE_.data(),
                                  .bias_E = data_or_null(conv_bias_),
                                  .state_KE = state,
                                  .out_LE = u + row * d_inner_,
                                  .out_stride = d_inner_});
  });

  x_proj_.apply(exec, rows, u, d_inner_, x_dbl, narrow);
  dt_proj_.apply(exec, rows, x_dbl, narrow, dt, wide);

  carry_parts(call, CarryPart::ssm, [&](int64_t row, int64_t length, float* state) {
    const float* narrow_rows = x_dbl + row * narrow;
    kernels::selective_scan(exec, {.length = length,
                                   .channels = d_inner_,
                                   .d_state = d_state_,
                                   .reverse = call.reverse,
                                   .u_LE = u + row * d_inner_,
                                   .u_stride = d_inner_,
                                   .dt_LE = dt + row * wide,
                                   .dt_stride = wide,
                                   .dt_bias_E = dt_bias_.data(),
                                   .A_NE = A_NE_.data(),
                                   .Bmat_LN = narrow_rows + dt_rank_,
                                   .Cmat_LN = narrow_rows + dt_rank_ + d_state_,
                                   .bc_stride = narrow,
                                   .D_E = D_skip_.data(),
                                   .z_LE = xz + row * wide + d_inner_,
                                   .z_stride = wide,
                                   .state_NE = state,
                                   .out_LE = dt + row * wide,
                                   .out_stride = wide});
  });

  out_proj_.apply(exec, rows, dt, wide, call.out_LD, d_model_);
}

}  // namespace chromamba::mamba
