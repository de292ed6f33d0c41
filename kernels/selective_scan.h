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

#include "kernels/batch.h"
#include "kernels/device.h"
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

// On a device, over the spans of a batch: u, dt, Bmat, Cmat, z, out in the context's element type; the rest, state
// and accumulators f32. One thread owns a channel with all its states in registers; a block owns 128
// channels of one segment (batch.h); Bmat and Cmat of 32 bases wait in shared memory.
//
//   1  end of each segment from a zero state, walking it backwards: h = Σ_t exp(A·S_t)·Δ_t·u_t·B_t with S_t
//      the sum of Δ after t. Groups of states whose factor fell below 2^-17 (f32: 2^-48) for the whole warp are
//      left out, and the walk ends when all are: fast-decaying states cost little.
//   2  carry over segments: h0[k + 1] = exp(A·S)·h0[k] + end[k], one thread a state
//   3  every segment forward from its h0: outputs, and the state after the span's last base
//
// Spans of one segment each need step 3 only (`workspace` null; a span without a whole segment skips the others in any case).
// Snapshots (batch.h) are taken in step 3, as it passes their bases. Each step's order is fixed by the position in the sequence.
// Bytes a base, bf16: step 1 reads 4·E + 2·N, step 3 reads 6·E + 4·N and writes 2·E; step 2 moves
// 16·N·E/512. Unfused (softplus, scan, skip, gate apart, f32 between) it would be 34·E.
// The special-function unit is the limit: N + 3 results a channel and base in step 3, 16 a clock and multiprocessor,
// which is 3.5e12 state updates/s at N = 16 on an H100 at 1.98 GHz; step 1 takes as many again where states live long.
// The published kernel reaches 0.71e12.
// out may alias dt.
struct DeviceSelectiveScanArgs {
  DeviceBatch batch;
  int64_t channels = 0;  // E
  int64_t d_state = 0;   // N
  bool reverse = false;
  const void* u_LE = nullptr;
  int64_t u_stride = 0;
  const void* dt_LE = nullptr;
  int64_t dt_stride = 0;
  const float* dt_bias_E = nullptr;  // or null
  const float* A_NE = nullptr;
  const void* Bmat_LN = nullptr;
  const void* Cmat_LN = nullptr;
  int64_t bc_stride = 0;
  const float* D_E = nullptr;
  const void* z_LE = nullptr;  // or null
  int64_t z_stride = 0;
  StateLayout state;
  float* workspace = nullptr;  // scan_workspace_floats; null: every span is one segment
                               // (of any length), and ssm_carry is read only
  void* out_LE = nullptr;
  int64_t out_stride = 0;
  // out += the gated output, each rounded to the element type first: for a layer of two directions that share the
  // product after it. out may not alias dt then, and no snapshots are taken.
  bool accumulate = false;
};
void selective_scan(DeviceExec& exec, const DeviceSelectiveScanArgs& args);

// Floats of workspace for a batch of so many segments: end state and sum of Δ of each.
inline int64_t scan_workspace_floats(int64_t segments, int64_t channels, int64_t d_state) {
  return segments * channels * (d_state + 1);
}

namespace detail {
void selective_scan_simd(const SelectiveScanArgs& args);
}

}  // namespace chromamba::kernels
