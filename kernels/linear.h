// Dense layer: Y = X · Wᵀ + bias.
//
// Shapes   x [rows, K] with row stride x_stride; W [N, K] as checkpoints store it, passed as
//          `weight_panels`: what pack_panels made of it once, [ceil(N / 16), K, 16], zero beyond N;
//          bias_N [N] or null; y [rows, N] with row stride y_stride. f32, strides in elements. y may
//          not alias x.
// Cost     2·rows·N·K flops; 4·(rows·(K + N) + N·K) bytes.
// Split    SIMD lanes own columns. A block of 14 rows by two vectors (6 rows on machines with 16
//          registers) keeps its sums in registers while k runs; all rows pass before the next
//          columns, so that a panel stays in the L1 cache.
// Numerics f32, fused multiply-adds (SSE4: multiply, then add). Against the double reference:
//          ≤ K·2^-24 relative to Σ|x·w|.
// Determinism  an element is one chain of additions in the order of k, whatever rows are beside it.
//          That is why this is not BLAS: its sgemm takes another path, and so another rounding, for
//          another number of rows. It also packs the weights again at every call; on the shapes of a
//          D=128 model this runs 5 to 20 % faster than OpenBLAS 0.3.21 on whole tiles.
#pragma once

#include <cstdint>

#include "kernels/base/aligned.h"
#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

// Columns of a panel: one cache line, the widest SIMD register.
constexpr int64_t kPanelWidth = 16;

// weight_NK [N, K] in the order that `linear` reads.
AlignedFloats pack_panels(const AlignedFloats& weight_NK, int64_t out_features,
                          int64_t in_features);

// Where element k of column n lies in the panels.
inline int64_t panel_index(int64_t n, int64_t k, int64_t in_features) {
  return (n / kPanelWidth * in_features + k) * kPanelWidth + n % kPanelWidth;
}

struct LinearArgs {
  int64_t rows = 0;
  int64_t in_features = 0;   // K
  int64_t out_features = 0;  // N
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* weight_panels = nullptr;
  const float* bias_N = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
};

void linear(Exec& exec, const LinearArgs& args);

// On a device: cuBLASLt, x and weight_NK [N, K] in the context's element type, sums in f32 (TF32 is
// never used), y rounded once. Strides multiples of 8. The algorithm of a shape (K, N) is chosen once, for
// kPlanRows rows and without split sums, and used for any number of rows: each element is the same
// sequence of operations wherever its row lies.
struct DeviceLinearArgs {
  int64_t rows = 0;
  int64_t in_features = 0;   // K
  int64_t out_features = 0;  // N
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* weight_NK = nullptr;
  const void* bias_N = nullptr;  // element type, or null
  void* y = nullptr;
  int64_t y_stride = 0;
  bool accumulate = false;  // y += the product, which cuBLASLt may round to the element type first
};
void linear(DeviceExec& exec, const DeviceLinearArgs& args);

namespace detail {
void linear_simd(const LinearArgs& args);
}  // namespace detail

}  // namespace chromamba::kernels
