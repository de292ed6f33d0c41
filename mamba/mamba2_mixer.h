// The Mamba-2 mixer (Dao & Gu 2024, arXiv 2405.21060), as released code and weights compute it:
//
//   [z, xBC, dt] = W_in n (+ b_in)              [x, Bmat, Cmat] = SiLU(causal_conv1d(xBC) + b_conv)
//   y = scan(x, Δ, Bmat, Cmat)                  Δ = clamp(softplus(dt + dt_bias)), one decay rate a head (ssd_scan.h)
//   hidden = W_out gated_norm(y, z) (+ b_out)   by default RMSNorm(y · SiLU(z)) · w (gated_norm.h)
//
// Tensors (checkpoint names), with C = E + 2·G·N: in_proj.weight [E + C + H, D], in_proj.bias, conv1d.weight
// [C, 1, K], conv1d.bias [C], dt_bias [H], A_log [H], D [H] or [E], norm.weight [E], out_proj.weight [D, E],
// out_proj.bias.
#pragma once

#include "kernels/gated_norm.h"
#include "mamba/mixer.h"

namespace chromamba::mamba {

class Mamba2Mixer : public Mixer {
 public:
  Mamba2Mixer(const ModelConfig& config, TensorLoader& tensors, const MixerOptions& options);

  void forward(kernels::Exec& exec, const MixerCall& call) const override;
  LayerState zero_state() const override;
  int64_t workspace_floats(int64_t rows) const override;
  int64_t matmul_flops() const override;
  std::unique_ptr<DeviceMixer> upload(kernels::DeviceExec& exec) const override;
  int64_t device_state_floats() const override;

 private:
  int64_t conv_channels() const { return d_inner_ + 2 * n_groups_ * d_state_; }
  int64_t in_width() const { return d_inner_ + conv_channels() + n_heads_; }

  int64_t d_model_;
  int64_t d_inner_;
  int64_t d_state_;
  int64_t d_conv_;
  int64_t n_heads_;
  int64_t head_dim_;
  int64_t n_groups_;
  float dt_min_;
  float dt_max_;
  kernels::GatedNormKind norm_kind_;
  int64_t norm_groups_;
  float norm_eps_;
  Projection in_proj_;       // [E + C + H, D]
  AlignedFloats conv_KC_;    // [K, C]: transposed, see causal_conv1d.h
  AlignedFloats conv_bias_;  // [C] or empty
  AlignedFloats dt_bias_;    // [H]
  AlignedFloats A_;          // [H] = -exp(A_log)
  AlignedFloats D_skip_;     // [E], by channel whatever the checkpoint has
  AlignedFloats norm_;       // [E] or empty
  Projection out_proj_;      // [D, E]
};

}  // namespace chromamba::mamba
