// The convolution of Mamba-1 and the two narrow projections that follow it, in one pass over the rows of a GPU:
//
//   u'[t, e] = SiLU(Σ_k weight[k, e] · u[t - K + 1 + k, e] + bias[e])      (causal_conv1d.h)
//   x[t, :]  = u'[t, :] · x_weightᵀ      [x | Bmat | Cmat]: the low-rank time step, then the scan's inputs
//   dt[t, e] = x[t, :R] · dt_weightᵀ
//
// Bytes a base, bf16, with W the width of x: apart 8·E + 2·W + 2·R (u' is read again, and the time step's part of x), here
// 6·E + 2·W: u is read, u', x and dt are written. 1,048,576 rows of E = 512, W = 48 take 1.30 ms on an H100 where the three
// take 1.64. Beyond E = 512 a block has too few rows for each reading of x_weight, and the three are faster.
//
// Shapes   u_LE, out_LE, dt_LE [L, E] and x_LW [L, W] with their own row strides, bf16; weights packed by
//          pack_products() and uploaded. dt_LE must not overlap u_LE, whose rows neighbours still read.
// Split    a block owns some rows of a segment with all channels: it convolves, keeps u' in shared memory, and multiplies
//          it on the tensor cores.
// Numerics f32 sums; u', x and dt are rounded to bf16. A row's bits do not depend on other rows.
#pragma once

#include <cstdint>

#include "kernels/base/aligned.h"
#include "kernels/causal_conv1d.h"

namespace chromamba::kernels {

// Whether conv_project() can take these sizes; otherwise its three parts can.
inline bool conv_project_fits(DType dtype, int64_t channels, int64_t taps, int64_t rank,
                              int64_t width) {
  return dtype == DType::bf16 && channels % 128 == 0 && channels <= 512 && taps >= 2 && taps <= 4 &&
         rank % 16 == 0 && rank <= 64 && width % 8 == 0 && width <= 256;
}

// Weights [W, E] and [E, R] as the tensor cores take them, f32 here.
AlignedFloats pack_x_weight(const AlignedFloats& weight_WE, int64_t width, int64_t channels);
AlignedFloats pack_dt_weight(const AlignedFloats& weight_ER, int64_t channels, int64_t rank);

struct DeviceConvProjectArgs {
  DeviceCausalConv1dArgs conv;  // with SiLU; out_LE takes u'
  int64_t rank = 0;             // R
  int64_t width = 0;            // W
  const void* x_weight = nullptr;
  const void* dt_weight = nullptr;
  void* x_LW = nullptr;
  int64_t x_stride = 0;
  void* dt_LE = nullptr;
  int64_t dt_stride = 0;
};
void conv_project(DeviceExec& exec, const DeviceConvProjectArgs& args);

}  // namespace chromamba::kernels
