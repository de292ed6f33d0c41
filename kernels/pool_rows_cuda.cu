#include <cuda_pipeline.h>

#include "kernels/check.h"
#include "kernels/cuda_common.cuh"
#include "kernels/pool_rows.h"

namespace chromamba::kernels {
namespace {

// A warp a block: 32 neighbouring columns, the 128 bytes that memory hands out at a time.
constexpr int kColumns = 32;
// Rows fetched at a time, and how many such steps there is room for. One group of D = 256 has 8 warps on
// 8 multiprocessors, so each must keep enough in flight on its own: 7 steps are 14 KiB, which at 0.7 us of
// memory latency is 160 GB/s for all, as fast as the additions follow each other.
constexpr int kStepRows = 16;
constexpr int kSteps = 8;

// Every thread fetches for itself alone and waits for its own copies, so no barrier is needed.
__global__ void __launch_bounds__(kColumns) pool_rows_kernel(PoolRowsArgs args, unsigned slices) {
  __shared__ float ring[kSteps * kStepRows][kColumns];
  const PoolGroup group = args.groups[blockIdx.x / slices];
  const int lane = static_cast<int>(threadIdx.x);
  // Slices of a row are neighbouring blocks, which run at about the same time.
  const int64_t column = int64_t{blockIdx.x % slices} * kColumns + lane;
  if (column >= args.width) return;
  const float* rows = args.rows_LD + group.row * args.stride + column;
  const int64_t steps = (group.rows + kStepRows - 1) / kStepRows;
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      const int64_t first = step * kStepRows;
      const int at = static_cast<int>(step % kSteps) * kStepRows;
#pragma unroll
      for (int i = 0; i < kStepRows; ++i) {
        if (first + i < group.rows) {
          __pipeline_memcpy_async(&ring[at + i][lane], rows + (first + i) * args.stride,
                                  sizeof(float));
        }
      }
    }
    __pipeline_commit();  // also past the end, so that a step's number is that of its commit
  };
#pragma unroll 1
  for (int step = 0; step < kSteps - 1; ++step) fetch(step);
  double sum = group.begins ? 0.0 : group.sum_D[column];
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    fetch(step + kSteps - 1);  // to where the step before lay, which has been added
    __pipeline_wait_prior(kSteps - 1);
    const int64_t left = group.rows - step * kStepRows;
    const int at = static_cast<int>(step % kSteps) * kStepRows;
    float value[kStepRows];
#pragma unroll
    for (int i = 0; i < kStepRows; ++i) value[i] = ring[at + i][lane];
#pragma unroll
    for (int i = 0; i < kStepRows; ++i) {
      if (i < left) sum += static_cast<double>(value[i]);
    }
  }
  if (group.mean_D != nullptr) {
    group.mean_D[column] = static_cast<float>(sum / static_cast<double>(group.bases));
  } else {
    group.sum_D[column] = sum;
  }
}

}  // namespace

void pool_rows(DeviceExec& exec, const PoolRowsArgs& args) {
  require(args.width > 0 && args.stride >= args.width, "pool_rows: sizes");
  if (args.count == 0) return;
  const unsigned slices = cuda::blocks_for(args.width, kColumns);
  pool_rows_kernel<<<cuda::blocks_for(args.count * slices, 1), kColumns, 0, exec.impl().stream>>>(
      args, slices);
  cuda::check_launch(exec, "pool_rows");
}

}  // namespace chromamba::kernels
