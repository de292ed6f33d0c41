// Causal depthwise convolution with SiLU, the short memory of a Mamba block (Gu & Dao 2023, §3.4):
//
//   out[t, e] = act(bias[e] + Σ_k weight[k, e] · u[t - (K-1) + k, e]),   k = 0 … K-1
//
// where u at negative t comes from the state: the last K inputs before this call. With `reverse`
// the sequence runs from the last row to the first (t counts from the end), so a backward pass
// needs no flipped copy.
//
// Shapes   u_LE [L, E] with row stride u_stride; weight_KE [K, E] (taps first, so that channels fill
//          SIMD lanes); bias_E [E] or null; state_KE [K, E], oldest first, in and out (only the last
//          K-1 rows are read; K are kept because the published implementation keeps K); out_LE
//          [L, E] with row stride out_stride. out may not alias u. f32.
// Cost     2·K·E flops + E SiLUs; 8·E bytes a base.
// Split    one call runs over t, SIMD lanes own channels. The carry is the state.
// Numerics f32, taps added oldest first whether they come from the state or from u, so any split of
//          a sequence gives the same bits. Against the double reference: ≤ 16·2^-24 of Σ|w·u| + |bias|.
#pragma once

#include <cstdint>

#include "kernels/batch.h"
#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

constexpr int64_t kMaxConvTaps = 8;

struct CausalConv1dArgs {
  int64_t length = 0;    // L
  int64_t channels = 0;  // E
  int64_t taps = 0;      // K, 2 … kMaxConvTaps
  bool silu = true;
  bool reverse = false;
  const float* u_LE = nullptr;
  int64_t u_stride = 0;
  const float* weight_KE = nullptr;
  const float* bias_E = nullptr;
  float* state_KE = nullptr;
  float* out_LE = nullptr;
  int64_t out_stride = 0;
};

void causal_conv1d(Exec& exec, const CausalConv1dArgs& args);

// On a device, over the spans of a batch. u and out in the context's element type, strides multiples of 8, E a
// multiple of 8; weight, bias and states f32. A thread owns 4 channels and a run of rows, and keeps
// the last K rows in registers: u is read once (and K of 64 rows twice). The states in
// DeviceSpan::state are read before the span and written after it by the thread that ends there (batch.h); those of
// snapshots by a kernel of their own. Bytes a base, bf16: 2·E read, 2·E written.
struct DeviceCausalConv1dArgs {
  DeviceBatch batch;
  int64_t channels = 0;
  int64_t taps = 0;
  bool silu = true;
  bool reverse = false;
  const void* u_LE = nullptr;
  int64_t u_stride = 0;
  const float* weight_KE = nullptr;
  const float* bias_E = nullptr;
  StateLayout state;
  void* out_LE = nullptr;
  int64_t out_stride = 0;
};
void causal_conv1d(DeviceExec& exec, const DeviceCausalConv1dArgs& args);

namespace detail {
void causal_conv1d_simd(const CausalConv1dArgs& args);

// Row t of the sequence in running order: u's row, or the state's for t < 0.
inline const float* conv_row(const CausalConv1dArgs& args, int64_t t) {
  if (t < 0) return args.state_KE + (args.taps + t) * args.channels;
  return args.u_LE + (args.reverse ? args.length - 1 - t : t) * args.u_stride;
}
}  // namespace detail

}  // namespace chromamba::kernels
