// Dense layer: Y = X · W + bias.
//
// Shapes   x [rows, K] with row stride x_stride; weight_KN [K, N] contiguous: the transpose of what checkpoints
//          store, because BLAS packs it by contiguous copies, which is 1 to 2 % of the whole product;
//
//          bias_N [N] or null; y [rows, N] with row stride y_stride. f32, strides in elements.
// Cost     2·rows·N·K flops; 4·(rows·(K + N) + N·K) bytes.
// Split    one BLAS call on the calling thread.
// Numerics f32. Against the double reference: ≤ K·2^-24 relative to Σ|x·w|.
// Determinism  BLAS may choose another micro-kernel, and so another rounding, for another number of
//          rows. A caller that needs a row's bits not to depend on how a sequence was split must
//          keep `rows` and the row's index the same: the streaming engine always passes whole tiles.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace chromamba::kernels {

struct LinearArgs {
  int64_t rows = 0;
  int64_t in_features = 0;   // K
  int64_t out_features = 0;  // N
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* weight_KN = nullptr;
  const float* bias_N = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
};

void linear(Exec& exec, const LinearArgs& args);

namespace detail {
void linear_blas(const LinearArgs& args);
}

}  // namespace chromamba::kernels
