#include "kernels/check.h"
#include "kernels/ssd_scan_cuda.cuh"

namespace chromamba::kernels {
namespace {

constexpr int kThreads = 128;
// Segments read before the first is needed: the chain itself is short.
constexpr int kCarryAhead = 32;

// Step 2: turns each segment's end state into the state before it, in place. One thread a state of a span.
__global__ void __launch_bounds__(kThreads)
    ssd_carry_kernel(DeviceSsdScanArgs args, cuda::SsdSizes sizes) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t states = args.d_state * sizes.channels;
  if (i >= states) return;
  const DeviceSpan span = args.batch.spans[blockIdx.y];
  if (span.segments == 0) return;
  const int64_t head = i % sizes.channels / args.head_dim;
  float* carry = span.state + args.state.ssm_carry + i;
  float h = *carry;
  const int64_t whole = span.whole_segments;
  float* at = args.workspace + span.first_segment * sizes.segment_floats + i;
  const float* decays = args.workspace + span.first_segment * sizes.segment_floats + states + head;
  for (int64_t k = 0; k < whole; k += kCarryAhead) {
    float end[kCarryAhead];
    float decay[kCarryAhead];
#pragma unroll
    for (int j = 0; j < kCarryAhead; ++j) {
      const int64_t used = k + j < whole ? k + j : whole - 1;
      end[j] = at[used * sizes.segment_floats];
      decay[j] = decays[used * sizes.segment_floats];
    }
#pragma unroll
    for (int j = 0; j < kCarryAhead; ++j) {
      if (k + j >= whole) break;
      at[(k + j) * sizes.segment_floats] = h;
      h = fmaf(cuda::exp2_product(decay[j], 1.0F), h, end[j]);
    }
  }
  *carry = h;
  if (whole < span.segments) {
    at[whole * sizes.segment_floats] = h;
  } else {
    span.state[args.state.ssm_last + i] = h;
  }
}

}  // namespace

void ssd_scan(DeviceExec& exec, const DeviceSsdScanArgs& args) {
  require(args.heads > 0 && args.head_dim > 0 && args.d_state > 0 && args.groups > 0 &&
              args.heads % args.groups == 0 && args.head_dim % kSsdStep == 0 &&
              args.d_state % kSsdStep == 0,
          "ssd_scan: sizes");
  require_ssd_sizes(args.head_dim, args.d_state);
  const int64_t channels = args.heads * args.head_dim;
  require(args.x_stride >= channels && args.out_stride >= channels &&
              args.dt_stride >= args.heads && args.bc_stride >= args.groups * args.d_state &&
              args.x_stride % 8 == 0 && args.out_stride % 8 == 0 && args.bc_stride % 8 == 0,
          "ssd_scan: strides");
  require(args.workspace != nullptr || args.batch.segment_count <= args.batch.span_count,
          "ssd_scan: workspace");
  require(args.workspace == nullptr || args.batch.longest_segment % 64 == 0,
          "ssd_scan: segments must be whole tiles");
  if (args.batch.segment_count == 0) return;
  const bool f32 = exec.dtype() == DType::f32;
  if (args.workspace != nullptr) {
    f32 ? cuda::ssd_segment_ends_f32(exec, args) : cuda::ssd_segment_ends_bf16(exec, args);
    ssd_carry_kernel<<<dim3(cuda::blocks_for(args.d_state * channels, kThreads),
                            static_cast<unsigned>(args.batch.span_count)),
                       kThreads, 0, exec.impl().stream>>>(args, cuda::SsdSizes(args));
    cuda::check_launch(exec, "ssd_scan, carry");
  }
  f32 ? cuda::ssd_outputs_f32(exec, args) : cuda::ssd_outputs_bf16(exec, args);
}

}  // namespace chromamba::kernels
