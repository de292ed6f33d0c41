// Residual add and normalisation, the head of every block:
//
//   residual += hidden
//   RMSNorm    out = residual / sqrt(mean(residual²) + eps) · weight + bias      (Zhang & Sennrich 2019)
//   LayerNorm  out = (residual - mean) / sqrt(var + eps) · weight + bias         (Ba et al. 2016)
//
// Shapes   hidden_LD, residual_LD, out_LD [L, D] f32, rows contiguous; weight_D, bias_D [D].
//          hidden may be null (nothing is added); bias may be null. out may be hidden, and may not
//          be residual.
// Cost     about 5·D flops and 16·D bytes a base (read hidden and residual, write residual and out).
// Split    rows are independent; one call does its rows in order.
// Numerics f32; the sum over D runs in SIMD lanes, so its rounding depends on the instruction set but
//          on nothing else. Against the double reference: ≤ 4·sqrt(D)·2^-24 relative.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace chromamba::kernels {

enum class NormKind { rms, layer };

struct AddNormArgs {
  NormKind kind = NormKind::rms;
  int64_t length = 0;   // L
  int64_t d_model = 0;  // D
  float eps = 1e-5F;
  const float* hidden_LD = nullptr;
  float* residual_LD = nullptr;
  const float* weight_D = nullptr;
  const float* bias_D = nullptr;
  float* out_LD = nullptr;
};

void add_norm(Exec& exec, const AddNormArgs& args);

namespace detail {
void add_norm_simd(const AddNormArgs& args);
}

}  // namespace chromamba::kernels
