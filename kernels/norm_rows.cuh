// One row of the residual stream in the registers of a warp: what add_norm and the head share.
#pragma once

#include "kernels/add_norm.h"
#include "kernels/cuda_common.cuh"

namespace chromamba::kernels::cuda {

// Lane l holds elements 8·(32·k + l) … + 7 of the row for k < kVectors.
template <int kVectors>
struct RowPart {
  float value[kVectors][8];
};

__device__ __forceinline__ int64_t part_column(int k, int lane) { return 8 * (32 * k + lane); }

// residual + hidden (hidden null: residual alone; hidden · times where given); zero beyond `stride`.
template <int kVectors, typename T>
__device__ __forceinline__ RowPart<kVectors> load_row(const float* residual, const T* hidden,
                                                      int64_t stride, int lane,
                                                      const T* times = nullptr) {
  RowPart<kVectors> row;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int64_t column = part_column(k, lane);
    if (column < stride) {
      load8(residual + column, row.value[k]);
      if (hidden != nullptr) {
        float added[8];
        load8(hidden + column, added);
        if (times != nullptr) {
          float factor[8];
          load8(times + column, factor);
#pragma unroll
          for (int i = 0; i < 8; ++i) added[i] *= factor[i];
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) row.value[k][i] += added[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) row.value[k][i] = 0;
    }
  }
  return row;
}

// The norm of a row, in place. Elements beyond d_model must be zero and come out as zero, for the
// weights and biases are zero there.
template <int kVectors>
__device__ __forceinline__ void norm_row(RowPart<kVectors>& row, NormKind kind, int64_t d_model,
                                         int64_t stride, float eps, const float* weight,
                                         const float* bias, int lane) {
  const float share = 1.0F / static_cast<float>(d_model);
  float mean = 0;
  if (kind == NormKind::layer) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += row.value[k][i];
    }
    mean = warp_sum(sum) * share;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        // The padding stays zero: it must not count in the variance.
        if (part_column(k, lane) + i < d_model) row.value[k][i] -= mean;
      }
    }
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
#pragma unroll
    for (int i = 0; i < 8; ++i) squares = fmaf(row.value[k][i], row.value[k][i], squares);
  }
  const float scale = 1.0F / sqrtf(warp_sum(squares) * share + eps);
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int64_t column = part_column(k, lane);
    if (column >= stride) continue;
    float w[8];
    load8(weight + column, w);
    float b[8] = {};
    if (bias != nullptr) load8(bias + column, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) row.value[k][i] = fmaf(row.value[k][i] * scale, w[i], b[i]);
  }
}

// Calls f with the number of vectors of 8 that a lane holds for rows of `stride` values.
template <typename F>
void with_vectors(int64_t stride, F&& f) {
  if (stride <= 256) return f(std::integral_constant<int, 1>());
  if (stride <= 512) return f(std::integral_constant<int, 2>());
  if (stride <= 1024) return f(std::integral_constant<int, 4>());
  if (stride <= 2048) return f(std::integral_constant<int, 8>());
  if (stride <= 8192) return f(std::integral_constant<int, 32>());
  throw ResourceError("d_model above 8,192 does not fit a GPU's registers; use --device cpu");
}

}  // namespace chromamba::kernels::cuda
