// What the two ways of ssd_scan on a GPU share: f32 walks row after row (ssd_scan_f32_cuda.cu), bf16 multiplies tiles of
// rows on the tensor cores (ssd_scan_bf16_cuda.cu). Both have three steps (ssd_scan.h), the second in ssd_scan_cuda.cu.
#pragma once

#include "kernels/cuda_common.cuh"
#include "kernels/ssd_scan.h"

namespace chromamba::kernels::cuda {

// What a step needs besides the arguments.
struct SsdSizes {
  int64_t channels;        // E
  int64_t segment_floats;  // of workspace
  int heads_per_group;

  explicit SsdSizes(const DeviceSsdScanArgs& args)
      : channels(args.heads * args.head_dim),
        segment_floats(ssd_segment_floats(args.heads, args.head_dim, args.d_state)),
        heads_per_group(static_cast<int>(args.heads / args.groups)) {}
};

// Queue steps 1 and 3.
void ssd_segment_ends_f32(DeviceExec& exec, const DeviceSsdScanArgs& args);
void ssd_outputs_f32(DeviceExec& exec, const DeviceSsdScanArgs& args);
void ssd_segment_ends_bf16(DeviceExec& exec, const DeviceSsdScanArgs& args);
void ssd_outputs_bf16(DeviceExec& exec, const DeviceSsdScanArgs& args);

// A head's Δ from what in_proj gave. A block computes few of them: the accurate functions cost nothing.
__device__ __forceinline__ float ssd_time_step(const DeviceSsdScanArgs& args, float dt,
                                               float bias) {
  const float x = dt + bias;
  const float soft = fmaxf(x, 0.0F) + log1pf(expf(-fabsf(x)));
  // fminf and fmaxf would turn what is not a number into a limit.
  const float risen = soft < args.dt_min ? args.dt_min : soft;
  return risen > args.dt_max ? args.dt_max : risen;
}

// [N, E] before the segment's first base; where the span has no whole segment, nobody has moved its carry.
__device__ __forceinline__ const float* ssd_state_before(const DeviceSsdScanArgs& args,
                                                         const SsdSizes& sizes,
                                                         const DeviceSpan& span, int64_t segment) {
  return args.workspace != nullptr && span.whole_segments > 0
             ? args.workspace + segment * sizes.segment_floats
             : span.state + args.state.ssm_carry;
}

// Whether step 3 leaves the state after this segment behind: where the span's last segment is whole, step 2 knows it.
__device__ __forceinline__ bool ssd_leaves_state(const DeviceSsdScanArgs& args,
                                                 const DeviceSpan& span,
                                                 const DeviceSegment& segment) {
  const bool known = args.workspace != nullptr && segment.whole != 0;
  return !known && segment.start + segment.length == span.length;
}

// Launches with dynamic shared memory; more than 48 KB must be asked for.
template <typename Kernel, typename Blocks>
void launch_ssd(DeviceExec& exec, const DeviceSsdScanArgs& args, Kernel kernel, int64_t count,
                int threads, int bytes, const char* name, const Blocks& blocks) {
  if (bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          exec.impl(), name);
  }
  kernel<<<static_cast<unsigned>(count), threads, bytes, exec.impl().stream>>>(args, SsdSizes(args),
                                                                               blocks);
  check_launch(exec, name);
}

// Calls f with the number of states that the kernels are compiled for; those beyond N stay zero.
template <typename F>
void with_states(int64_t d_state, F&& f) {
  if (d_state <= 16) return f(std::integral_constant<int, 16>());
  if (d_state <= 32) return f(std::integral_constant<int, 32>());
  if (d_state <= 64) return f(std::integral_constant<int, 64>());
  if (d_state <= 128) return f(std::integral_constant<int, 128>());
  return f(std::integral_constant<int, 256>());
}

}  // namespace chromamba::kernels::cuda
