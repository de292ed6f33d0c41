// The scan of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060: state space duality), with the time step's softplus and the
// skip term. For head h of H, its channels p, its group g(h) = h / (H / G) and state n:
//
//   Δ[t, h]       = clamp(softplus(dt[t, h] + dt_bias[h]), dt_min, dt_max)
//   s[t, n, h, p] = exp(Δ[t, h] · A[h]) · s[t-1, n, h, p] + Δ[t, h] · x[t, h, p] · Bmat[t, g, n]
//   out[t, h, p]  = Σ_n s[t, n, h, p] · Cmat[t, g, n] + D[h, p] · x[t, h, p]
//
// The gate and its norm are gated_norm.h. With `reverse` the recurrence runs from the last row to the first.
//
// Shapes   x_LE, out_LE [L, E] with E = H·P and the channels of a head together; dt_LH [L, H]; Bmat_LGN, Cmat_LGN
//          [L, G·N]; all with row strides, for x, Bmat and Cmat are slices of one convolution's rows and dt of
//          in_proj's. A_H [H] negative; dt_bias_H [H] (may be null); D_E [E], whether the model has it by head or by
//          channel; state_NE [N, E] (states first, so that channels fill SIMD lanes), the state before the call in, after
//          its last step out. out may alias x. f32.
// Cost     N·E state updates a base, each three FMAs, and one exponential a head; 8·E + 8·G·N + 4·H bytes a base.
// Split    one call owns its channels from first to last row; SIMD lanes own channels of one head; rows are taken in
//          blocks that keep Δ·x and y of a lane group in L1. The carry is state_NE.
// Numerics f32 state and accumulator. A state moves by (exp(Δ·A) - 1)·s: what is near 1 rounded to f32 would bias a state
//          that lives for 10^4 bases by 10^-4 where Δ is at one of its limits, the same at every base. The order of operations on a channel depends on N and the instruction set only,
//          so any split over rows gives the same bits. Against the double reference: each step adds ≤ 8·2^-24
//          relative; decay keeps the sum bounded (tolerances.h).
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/batch.h"
#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

struct SsdScanArgs {
  int64_t length = 0;    // L
  int64_t heads = 0;     // H
  int64_t head_dim = 0;  // P
  int64_t groups = 1;    // G, divides H
  int64_t d_state = 0;   // N
  bool reverse = false;
  const float* x_LE = nullptr;
  int64_t x_stride = 0;
  const float* dt_LH = nullptr;
  int64_t dt_stride = 0;
  const float* dt_bias_H = nullptr;
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
  const float* A_H = nullptr;
  const float* Bmat_LGN = nullptr;
  const float* Cmat_LGN = nullptr;
  int64_t bc_stride = 0;
  const float* D_E = nullptr;
  float* state_NE = nullptr;
  float* out_LE = nullptr;
  int64_t out_stride = 0;
};

void ssd_scan(Exec& exec, const SsdScanArgs& args);

// What the device overload takes: P and N multiples of kSsdStep (pad with channels and states that are zero), up to:
constexpr int64_t kSsdStep = 16;
constexpr int64_t kSsdMostHeadDim = 128;
constexpr int64_t kSsdMostStates = 256;

// On a device, over the spans of a batch: x, dt, Bmat, Cmat, out in the context's element type, strides multiples of 8,
// pointers to multiples of 16 bytes (dt excepted); the rest, state and accumulators f32. In three steps:
//
//   1  end of each whole segment (batch.h) from a zero state
//   2  carry over segments: h0[k + 1] = exp(A·ΣΔ)·h0[k] + end[k], one thread a state
//   3  every segment from its h0: outputs, and the state after the span's last base
//
// Spans of one segment each need step 3 only (`workspace` null; a span without a whole segment skips the others in any case).
// Snapshots (batch.h) are taken after step 2, row after row from their segment's first. Each step's order is fixed by the position in the
// segment, and segments by the position in the sequence: results depend neither on how it came in nor on what else is in
// the batch.
//   f32   the recurrence on the multiply-add units, without TF32 (ssd_scan_f32_cuda.cu)
//   bf16  tiles of 64 rows as matrix products on the tensor cores (ssd_scan_bf16_cuda.cu); step 1 goes back from the
//         segment's end and stops where a head's decay has fallen below 2^-17
// Bytes a base, bf16: step 1 reads 2·E + 2·G·N + 2·H, step 3 as much and 2·G·N more, and writes 2·E; the states between
// steps 1 and 3 move 16·N·E/512. Every head reads its group's Bmat and Cmat again, from the L2 cache.
// Flops, bf16: 2·(32·N·H + 2·N·E + 32·E) in step 3, 2·N·E in step 1, products of tiles above the diagonal left out.
// out may alias x.
struct DeviceSsdScanArgs {
  DeviceBatch batch;
  int64_t heads = 0;     // H
  int64_t head_dim = 0;  // P
  int64_t groups = 1;    // G
  int64_t d_state = 0;   // N
  bool reverse = false;
  const void* x_LE = nullptr;
  int64_t x_stride = 0;
  const void* dt_LH = nullptr;
  int64_t dt_stride = 0;
  const float* dt_bias_H = nullptr;  // or null
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
  const float* A_H = nullptr;
  const void* Bmat_LGN = nullptr;
  const void* Cmat_LGN = nullptr;
  int64_t bc_stride = 0;
  const float* D_E = nullptr;
  StateLayout state;
  float* workspace =
      nullptr;  // ssd_workspace_floats; null: every span is one segment (of any length), and
                // ssm_carry is read only
  void* out_LE = nullptr;
  int64_t out_stride = 0;
};
void ssd_scan(DeviceExec& exec, const DeviceSsdScanArgs& args);

// ResourceError, which advises another device, for a model whose heads or states are more than a GPU's registers hold.
void require_ssd_sizes(int64_t head_dim, int64_t d_state);

// Floats of workspace for a batch of so many segments: end state and log-decay by head of each, and what keeps the
// next one's states aligned.
inline int64_t ssd_segment_floats(int64_t heads, int64_t head_dim, int64_t d_state) {
  return heads * head_dim * d_state + (heads + 3) / 4 * 4;
}
inline int64_t ssd_workspace_floats(int64_t segments, int64_t heads, int64_t head_dim,
                                    int64_t d_state) {
  return segments * ssd_segment_floats(heads, head_dim, d_state);
}

namespace detail {
void ssd_scan_simd(const SsdScanArgs& args);
}

}  // namespace chromamba::kernels
