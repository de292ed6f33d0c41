// Products of small bf16 matrices on the tensor cores, as one warp does them (mma.m16n8k16, Ampere and later), and the way
// of their operands from shared memory. With g = lane / 4 and j = lane % 4, a lane holds
//
//   A [16, 16]  a[0] row g, columns 2j, 2j+1; a[1] row g+8; a[2] row g, columns 2j+8, 2j+9; a[3] row g+8, the same
//   B [16, 8]   b0 rows 2j, 2j+1 of column g; b1 rows 2j+8, 2j+9
//   sums [16, 8]  [0], [1] row g, columns 2j, 2j+1; [2], [3] row g+8
//
// Sums are f32. In a pair the element of the lower index lies in the lower half.
#pragma once

#include "kernels/cuda_common.cuh"

namespace chromamba::kernels::cuda {

// Four matrices of 8 x 8; lane l names row l % 8 of matrix l / 8, 16 bytes in shared memory. Of matrix i a lane gets
// columns 2j, 2j+1 of row g. For A in row-major order lane l names row l % 16 from column l / 16 * 8 on.
__device__ __forceinline__ void load_rows(unsigned (&a)[4], const Bf16* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(at)))
               : "memory");
}
// The same with each matrix transposed: a lane gets rows 2j, 2j+1 of column g.
__device__ __forceinline__ void load_columns(unsigned (&a)[4], const Bf16* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(at)))
               : "memory");
}

// sums += A · B
__device__ __forceinline__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0,
                                             unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ __forceinline__ float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(unsigned pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

}  // namespace chromamba::kernels::cuda
