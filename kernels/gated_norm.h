// The gate of a Mamba-2 block and its norm (Dao & Gu 2024, arXiv 2405.21060, section 7.2):
//
//   gate_first   out = RMSNorm(y · SiLU(z)) · weight      as the released models have it
//   norm_first   out = RMSNorm(y) · weight · SiLU(z)      (norm_before_gate)
//   none         out = y · SiLU(z)
//
// RMSNorm(v) = v / sqrt(mean(v²) + eps), the mean taken over each of `groups` equal runs of the channels.
//
// Shapes   y_LE, z_LE, out_LE [L, E] with their own row strides; weight_E [E], null for `none`. out may alias y. f32.
// Cost     about 12·E flops and 12·E bytes a base.
// Split    rows are independent; one call does its rows in order.
// Numerics f32; the sum over a group runs in SIMD lanes, so its rounding depends on the instruction set but on nothing
//          else. Against the double reference: ≤ 4·sqrt(E)·2^-24 relative.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

enum class GatedNormKind { gate_first, norm_first, none };

struct GatedNormArgs {
  GatedNormKind kind = GatedNormKind::gate_first;
  int64_t length = 0;    // L
  int64_t channels = 0;  // E
  int64_t groups = 1;    // divides E
  float eps = 1e-5F;
  const float* y_LE = nullptr;
  int64_t y_stride = 0;
  const float* z_LE = nullptr;
  int64_t z_stride = 0;
  const float* weight_E = nullptr;
  float* out_LE = nullptr;
  int64_t out_stride = 0;
};

void gated_norm(Exec& exec, const GatedNormArgs& args);

// On a device: the same over rows of any sequences, y, z and out in the context's element type; groups of a multiple of 8
// channels, strides multiples of 8, 16-byte aligned. One warp owns a group of a row; 8 values a lane and load. Bytes a
// base, bf16: 6·E; unfused (gate, norm, scale) it would be 12·E.
struct DeviceGatedNormArgs {
  GatedNormKind kind = GatedNormKind::gate_first;
  int64_t rows = 0;
  int64_t channels = 0;  // E
  int64_t groups = 1;
  int64_t counted =
      0;  // channels of a group that are no padding (which must be zero): what the mean divides by
  float eps = 1e-5F;
  const void* y_LE = nullptr;
  int64_t y_stride = 0;
  const void* z_LE = nullptr;
  int64_t z_stride = 0;
  const float* weight_E = nullptr;
  void* out_LE = nullptr;  // may be y
  int64_t out_stride = 0;
};
void gated_norm(DeviceExec& exec, const DeviceGatedNormArgs& args);

namespace detail {
void gated_norm_simd(const GatedNormArgs& args);
}

}  // namespace chromamba::kernels
