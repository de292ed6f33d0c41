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

#include "kernels/device.h"
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

// On a device: the same over rows of any sequences, out in the context's element type.
// d_model counts the values that are normalised; rows lie `stride` elements apart (a multiple of 8,
// 16-byte aligned) and out is zero from d_model to stride, so that products may read whole rows.
// One warp owns a row; 8 values a lane and load. Bytes a base, bf16: hidden 2·D, residual 4·D read and 4·D
// written, out 2·D; unfused (add, norm, convert) it would be 26·D.
struct DeviceAddNormArgs {
  NormKind kind = NormKind::rms;
  int64_t rows = 0;
  int64_t d_model = 0;
  int64_t stride = 0;
  float eps = 1e-5F;
  const void* hidden_LD = nullptr;  // null: nothing is added, and the residual is not written
  const void* times_LD = nullptr;   // hidden is multiplied by it first, or null
  float* residual_LD = nullptr;
  const float* weight_D = nullptr;  // [stride], zero beyond d_model
  const float* bias_D = nullptr;    // the same, or null
  // Where the stream begins: the residual is set to the tokens' rows of the table (token_embedding.h) in place of being
  // read, and hidden is null. 2·D bytes a base less than an embedding before it.
  const int32_t* tokens_L = nullptr;
  const float* table_VD = nullptr;  // [vocab_size, stride]
  int64_t vocab_size = 0;
  void* out_LD = nullptr;
  float* out_f32_LD = nullptr;  // the same, not rounded, rows d_model apart; either may be null
};
void add_norm(DeviceExec& exec, const DeviceAddNormArgs& args);

namespace detail {
void add_norm_simd(const AddNormArgs& args);
}

}  // namespace chromamba::kernels
