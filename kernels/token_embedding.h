// Token embedding: out[t] = table[token[t]], the first step of every model here.
//
// Shapes   tokens_L [L] int32 in [0, V); table_VD [V, D] f32; out_LD [L, D] f32.
// Cost     no arithmetic; 4·D bytes written a base, the table stays in cache.
// Split    one call copies its rows in order; callers split over L as they like.
// Numerics exact.
// A token outside [0, V) is an InternalError: tokenizers check against V when they are made.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

struct TokenEmbeddingArgs {
  int64_t length = 0;      // L
  int64_t vocab_size = 0;  // V
  int64_t d_model = 0;     // D
  const int32_t* tokens_L = nullptr;
  const float* table_VD = nullptr;
  float* out_LD = nullptr;
};

void token_embedding(Exec& exec, const TokenEmbeddingArgs& args);

// On a device, into the residual stream (f32). tokens_L [rows], table_VD [V, D] f32, out_LD [rows, D]
// f32, 16-byte aligned, D a multiple of 8. A token outside the table gives NaN. 4·D bytes written a base.
struct DeviceTokenEmbeddingArgs {
  int64_t rows = 0;
  int64_t vocab_size = 0;
  int64_t d_model = 0;
  const int32_t* tokens_L = nullptr;
  const float* table_VD = nullptr;
  float* out_LD = nullptr;
};
void token_embedding(DeviceExec& exec, const DeviceTokenEmbeddingArgs& args);

}  // namespace chromamba::kernels
