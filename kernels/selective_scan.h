// Selective scan of Mamba-1 (Gu & Dao 2023, arXiv 2312.00752), fused with the time step's softplus,
// the skip term and the output gate. For every channel e and state n:
//
//   Δ[t, e]    = softplus(dt[t, e] + dt_bias[e])
//   h[t, n, e] = exp(Δ[t, e] · A[n, e]) · h[t-1, n, e] + Δ[t, e] · u[t, e] · Bmat[t, n]
//   y[t, e]    = Σ_n h[t, n, e] · Cmat[t, n] + D[e] · u[t, e]
//   out[t, e]  = y[t, e] · SiLU(z[t, e])           (without z: y)
//
// (B is Δ·Bmat, as in the released code and weights; the paper prints a zero-order hold.)
// With `reverse` the recurrence runs from the last row to the first.
//
// Shapes   u_LE, dt_LE, z_LE, out_LE [L, E] with their own row strides; Bmat_LN, Cmat_LN [L, N] with
//          row stride bc_stride (they are slices of one projection); A_NE [N, E] negative (states
//          first, so that channels fill SIMD lanes); dt_bias_E (may be null), D_E [E]; state_NE
//          [N, E], h before the call in, h after its last step out. out may alias dt or u. f32.
// Cost     N·E state updates a base, each one exponential, two multiplies and two FMAs (about 14
//          vector operations for SIMD-width updates); 16·E + 8·N bytes a base.
// Split    one call owns its channels from first to last row; SIMD lanes own channels; rows are
//          taken in blocks that keep Δ, Δ·u and y of a lane group in L1. The carry is state_NE.
// Numerics f32 state and accumulator. The order of operations on a channel depends on N and the
//          instruction set only, so any split over rows gives the same bits. Against the double
//          reference: each step adds ≤ 8·2^-24 relative; decay keeps the sum bounded (tolerances.h).
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace chromamba::kernels {

struct SelectiveScanArgs {
  int64_t length = 0;    // L
  int64_t channels = 0;  // E
  int64_t d_state = 0;   // N
  bool reverse = false;
  const float* u_LE = nullptr;
  int64_t u_stride = 0;
  const float* dt_LE = nullptr;
  int64_t dt_stride = 0;
  const float* dt_bias_E = nullptr;
  const float* A_NE = nullptr;
  const float* Bmat_LN = nullptr;
  const float* Cmat_LN = nullptr;
  int64_t bc_stride = 0;
  const float* D_E = nullptr;
  const float* z_LE = nullptr;
  int64_t z_stride = 0;
  float* state_NE = nullptr;
  float* out_LE = nullptr;
  int64_t out_stride = 0;
};

void selective_scan(Exec& exec, const SelectiveScanArgs& args);

namespace detail {
void selective_scan_simd(const SelectiveScanArgs& args);
}

}  // namespace chromamba::kernels
