// What the CUDA kernels share: error checks, vector loads of either element type, fast functions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/batch.h"
#include "kernels/cublas_lt.cuh"
#include "kernels/device.h"

namespace chromamba::kernels {

using Bf16 = __nv_bfloat16;

struct LinearPlan;

// cuBLASLt's own advice for Hopper; its algorithms without split sums hardly use it.
constexpr int64_t kBlasWorkspaceBytes = int64_t{32} << 20;

struct DeviceExec::Impl {
  DeviceInfo info;
  DType dtype = DType::bf16;
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  void* blas_workspace = nullptr;
  int64_t in_use = 0;
  int64_t peak = 0;
  std::map<std::string, std::shared_ptr<LinearPlan>> plans;  // by shape: see linear_cuda.cu

  Impl() = default;
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
};

namespace cuda {

// Throws for a failed call of the CUDA runtime; `what` says what was being done.
void check(cudaError_t status, const DeviceExec::Impl& exec, const char* what);

// After every launch.
inline void check_launch(const DeviceExec& exec, const char* kernel) {
  check(cudaGetLastError(), exec.impl(), kernel);
}

inline unsigned blocks_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

// Calls f with a null pointer of the context's element type.
template <typename F>
void with_dtype(DType dtype, F&& f) {
  if (dtype == DType::f32) {
    f(static_cast<float*>(nullptr));
  } else {
    f(static_cast<Bf16*>(nullptr));
  }
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Bf16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float value) {
  return __float2bfloat16_rn(value);
}

// Eight consecutive elements, 16-byte aligned: one 16-byte access (bf16) or two (f32).
__device__ __forceinline__ void load8(const float* from, float (&to)[8]) {
  const float4 a = *reinterpret_cast<const float4*>(from);
  const float4 b = *reinterpret_cast<const float4*>(from + 4);
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
__device__ __forceinline__ void load8(const Bf16* from, float (&to)[8]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void store8(const float (&from)[8], float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  *reinterpret_cast<float4*>(to + 4) = make_float4(from[4], from[5], from[6], from[7]);
}
__device__ __forceinline__ void store8(const float (&from)[8], Bf16* to) {
  uint4 raw;
  unsigned* words = &raw.x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
    words[i] = *reinterpret_cast<const unsigned*>(&pair);
  }
  *reinterpret_cast<uint4*>(to) = raw;
}

constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.693147180559945309F;

// 2^x on the special-function unit: 2 ulp, subnormal results are zero.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float tanh_fast(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 2^(a·b) for a·b <= 0 on the multiply-add units, with the fraction of the product taken before it is
// rounded: degree 5 on [-0.5, 0.5], 9.2e-8 relative (the coefficients of simd_math-inl.h).
__device__ __forceinline__ float exp2_product(float a, float b) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: rounds to an integer in the low bits
  const float shifted = fmaxf(fmaf(a, b, kMagic), kMagic - 126.0F);
  // Below 2^-126 the fraction is meaningless, and its bounds keep the result tiny.
  const float f = fminf(fmaxf(fmaf(a, b, -(shifted - kMagic)), -0.5F), 0.5F);
  float p = fmaf(f, 1.326472685e-3F, 9.671512666e-3F);
  p = fmaf(p, f, 5.550733744e-2F);
  p = fmaf(p, f, 2.402224208e-1F);
  p = fmaf(p, f, 6.931469776e-1F);
  p = fmaf(p, f, 1.0F);
  return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

// x / (1 + exp(-x)). For bf16 through tanh: one special function in place of two, relative error
// 2^-11, a quarter of what rounding the result to bf16 costs.
template <typename T>
__device__ __forceinline__ float silu(float x);
template <>
__device__ __forceinline__ float silu<float>(float x) {
  return x / (1.0F + expf(-x));
}
template <>
__device__ __forceinline__ float silu<Bf16>(float x) {
  const float half = 0.5F * x;
  return fmaf(half, tanh_fast(half), half);
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Where a segment lies: byte offsets within a segment fit 32 bits.
struct SegmentRows {
  int64_t first;
  int step;
  __device__ SegmentRows(const DeviceSpan& span, const DeviceSegment& segment, bool reverse)
      : first(reverse ? span.row + span.length - 1 - segment.start : span.row + segment.start),
        step(reverse ? -1 : 1) {}
};

// Sixteen bytes from device to shared memory, beside the computation.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
// The same, or zeros.
__device__ __forceinline__ void copy_async_or_zero(void* to, const void* from, bool used) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(used ? 16 : 0)
               : "memory");
}
// Four bytes.
__device__ __forceinline__ void copy_word_async(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory");
}

}  // namespace cuda
}  // namespace chromamba::kernels
