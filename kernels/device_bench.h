// Measures the kernels of a GPU and the GPU itself. The scan's result on a small problem is compared with the
// double reference before it is timed; whoever calls this verifies the others first, by a model whose results
// are known (the selftest does). Times are medians between events.
#pragma once

#include <vector>

#include "kernels/device.h"
#include "kernels/kernel_bench.h"

namespace chromamba::kernels {

// Every kernel of a block on `shapes.rows` bases of one sequence; `error` is NaN where it was not measured. InternalError when a scan's error is above
// 1e-5 (f32) or 2e-2 (bf16) of its largest value.
std::vector<KernelTiming> bench_device_kernels(DeviceExec& exec, const KernelShapes& shapes);

struct ScanTiming {
  int64_t sequences = 0;
  int64_t length = 0;
  int64_t channels = 0;
  bool carried = true;  // segments in parallel, as the engine runs it; else each sequence as one
  double seconds = 0;
  double updates_per_s = 0;  // of the state: length · E · N
};

// The scan alone with N = 16.
ScanTiming bench_device_scan(DeviceExec& exec, int64_t sequences, int64_t length, int64_t channels,
                             bool carried);

// copy_bytes: a copy of 1 GiB on the device, read + written; sgemm_flops: a product of 8192³ in the
// context's element type.
MachineCeilings measure_device_ceilings(DeviceExec& exec);

}  // namespace chromamba::kernels
