// The Mamba-1 mixer (Gu & Dao 2023, arXiv 2312.00752), as released code and weights compute it:
//
//   [u, z] = W_in n (+ b_in)            u' = SiLU(causal_conv1d(u) + b_conv)
//   [d, Bmat, Cmat] = W_x u'            dt = W_dt d        (Δ = softplus(dt + b_dt) inside the scan)
//   hidden = W_out scan(u', dt, Bmat, Cmat, z) (+ b_out)
//
// Tensors (checkpoint names): in_proj.weight [2E, D], in_proj.bias, conv1d.weight [E, 1, K],
// conv1d.bias [E], x_proj.weight [R + 2N, E], dt_proj.weight [E, R], dt_proj.bias [E], A_log [E, N],
// D [E], out_proj.weight [D, E], out_proj.bias.
#pragma once

#include "mamba/mixer.h"

namespace chromamba::mamba {

class Mamba1Mixer : public Mixer {
 public:
  Mamba1Mixer(const ModelConfig& config, TensorLoader& tensors, const MixerOptions& options);

  void forward(kernels::Exec& exec, const MixerCall& call) const override;
  LayerState zero_state() const override;
  int64_t workspace_floats(int64_t rows) const override;
  int64_t matmul_flops() const override;
  std::unique_ptr<DeviceMixer> upload(kernels::DeviceExec& exec) const override;
  int64_t device_state_floats() const override;

 private:
  // Of each channel, the rate at which its slowest state forgets, with the time step that the bias gives.
  std::vector<double> forgetting_rates() const;
  // Channels in the order of the device: those of a warp forget at about the same rate.
  std::vector<int64_t> device_order() const;

  int64_t d_model_;
  int64_t d_inner_;
  int64_t d_state_;
  int64_t d_conv_;
  int64_t dt_rank_;
  bool shares_out_proj_;     // with the other direction, whose output is added
  Projection in_proj_;       // [2E, D]
  AlignedFloats conv_KE_;    // [K, E]: transposed, see causal_conv1d.h
  AlignedFloats conv_bias_;  // [E] or empty
  Projection x_proj_;        // [R + 2N, E]
  Projection dt_proj_;       // [E, R]; its bias is the scan's
  AlignedFloats dt_bias_;    // [E]
  AlignedFloats A_NE_;       // [N, E] = -exp(A_log) transposed
  AlignedFloats D_skip_;     // [E]
  Projection out_proj_;      // [D, E]
};

}  // namespace chromamba::mamba
