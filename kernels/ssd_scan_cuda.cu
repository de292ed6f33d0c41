#include "kernels/check.h"
#include "kernels/ssd_scan_cuda.cuh"

namespace chromamba::kernels {
namespace {

constexpr int kThreads = 128;
// Segments read before the first is needed: the chain itself is short.
constexpr int kCarryAhead = 32;

// Step 2: turns each segment's end state into the state before it, in place. One thread a state of a span. A span without
// a whole segment begins with its carry and leaves it as it is.
__global__ void __launch_bounds__(kThreads)
    ssd_carry_kernel(DeviceSsdScanArgs args, cuda::SsdSizes sizes) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t states = args.d_state * sizes.channels;
  if (i >= states) return;
  const DeviceSpan span = args.batch.spans[blockIdx.y];
  if (span.whole_segments == 0) return;
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

// States of a thread of a snapshot, all of one channel, and rows that are read at a time.
constexpr int kOwnStates = 32;
constexpr int kSnapshotRows = 16;
// Of a block's channels; heads begin at multiples of kSsdStep channels, and so does the block.
constexpr int kMostHeads = kThreads / static_cast<int>(kSsdStep);

// The states before the snapshots' bases: the recurrence from where their segment begins, in f32 with either type, by the
// operations of ssd_scan_f32_cuda.cu in their order. A block owns up to kThreads channels of a group and kOwnStates states.
// (A snapshot costs a row after the other what the matrix products do for 64 at a time, but there is one for hundreds of
// bases that are run from it.)
template <typename T>
__global__ void __launch_bounds__(kThreads)
    ssd_snapshots_kernel(DeviceSsdScanArgs args, cuda::SsdSizes sizes, int blocks_per_group) {
  __shared__ float x[kSnapshotRows][kThreads];  // a thread reads what it has written itself
  __shared__ __align__(16) float b[kSnapshotRows][kOwnStates];
  __shared__ float delta[kSnapshotRows][kMostHeads];
  __shared__ float loss[kSnapshotRows][kMostHeads];
  const int blocks = blocks_per_group * static_cast<int>(args.groups);
  const DeviceSnapshot snapshot = args.batch.snapshots[blockIdx.x / blocks];
  const int block = static_cast<int>(blockIdx.x % blocks);
  const DeviceSpan span = args.batch.spans[snapshot.span];
  const int64_t segment_index = span.first_segment + snapshot.base / args.batch.longest_segment;
  const DeviceSegment segment = args.batch.segments[segment_index];
  const cuda::SegmentRows rows(span, segment, args.reverse);
  const auto count = static_cast<int>(snapshot.base - segment.start);

  const int tid = static_cast<int>(threadIdx.x);
  const int head_dim = static_cast<int>(args.head_dim);
  const int group = block / blocks_per_group;
  const int in_group = block % blocks_per_group * kThreads;
  const int group_channels = sizes.heads_per_group * head_dim;
  const int first = group * group_channels + in_group;  // channel of the block
  const int width = group_channels - in_group < kThreads ? group_channels - in_group : kThreads;
  const int first_head = first / head_dim;
  const int heads = (first + width - 1) / head_dim - first_head + 1;
  const bool active = tid < width;
  const int channel = first + (active ? tid : 0);
  const int head = channel / head_dim - first_head;
  const int first_state = static_cast<int>(blockIdx.y) * kOwnStates;
  const int left = static_cast<int>(args.d_state) - first_state;
  const int states = left < kOwnStates ? left : kOwnStates;

  const T* x_rows = static_cast<const T*>(args.x_LE) + channel;
  const T* b_rows = static_cast<const T*>(args.Bmat_LGN) + group * args.d_state + first_state;
  const T* dt_rows = static_cast<const T*>(args.dt_LH) + first_head;
  const float* before = cuda::ssd_state_before(args, sizes, span, segment_index) +
                        first_state * sizes.channels + channel;
  float h[kOwnStates];
#pragma unroll
  for (int n = 0; n < kOwnStates; ++n) h[n] = n < states ? before[n * sizes.channels] : 0.0F;
  for (int start = 0; start < count; start += kSnapshotRows) {
    const int taken = count - start < kSnapshotRows ? count - start : kSnapshotRows;
    const auto row = [&](int t) { return rows.first + int64_t{rows.step} * (start + t); };
    __syncthreads();
#pragma unroll 4
    for (int t = 0; t < taken; ++t) x[t][tid] = cuda::to_float(x_rows[row(t) * args.x_stride]);
    for (int i = tid; i < taken * kOwnStates; i += kThreads) {
      const int n = i % kOwnStates;
      // States beyond N stay zero.
      b[i / kOwnStates][n] =
          n < states ? cuda::to_float(b_rows[row(i / kOwnStates) * args.bc_stride + n]) : 0.0F;
    }
    for (int i = tid; i < taken * heads; i += kThreads) {
      const int at = i % heads;
      const float bias = args.dt_bias_H != nullptr ? args.dt_bias_H[first_head + at] : 0.0F;
      const float dt = cuda::to_float(dt_rows[row(i / heads) * args.dt_stride + at]);
      const float step = cuda::ssd_time_step(args, dt, bias);
      delta[i / heads][at] = step;
      loss[i / heads][at] = expm1f(step * args.A_H[first_head + at]);
    }
    __syncthreads();
#pragma unroll 1
    for (int t = 0; t < taken; ++t) {
      const float lost = loss[t][head];
      const float input = delta[t][head] * x[t][tid];
#pragma unroll
      for (int n = 0; n < kOwnStates; n += 4) {
        const float4 b4 = *reinterpret_cast<const float4*>(&b[t][n]);
        h[n] = fmaf(input, b4.x, fmaf(lost, h[n], h[n]));
        h[n + 1] = fmaf(input, b4.y, fmaf(lost, h[n + 1], h[n + 1]));
        h[n + 2] = fmaf(input, b4.z, fmaf(lost, h[n + 2], h[n + 2]));
        h[n + 3] = fmaf(input, b4.w, fmaf(lost, h[n + 3], h[n + 3]));
      }
    }
  }
  if (!active) return;
  float* to = snapshot.state + args.state.ssm_carry + first_state * sizes.channels + channel;
#pragma unroll
  for (int n = 0; n < kOwnStates; ++n) {
    if (n < states) to[n * sizes.channels] = h[n];
  }
}

void take_snapshots(DeviceExec& exec, const DeviceSsdScanArgs& args) {
  if (args.batch.snapshot_count == 0) return;
  const unsigned per_group = cuda::blocks_for(args.heads / args.groups * args.head_dim, kThreads);
  const dim3 grid(static_cast<unsigned>(args.batch.snapshot_count * args.groups) * per_group,
                  cuda::blocks_for(args.d_state, kOwnStates));
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    ssd_snapshots_kernel<T><<<grid, kThreads, 0, exec.impl().stream>>>(args, cuda::SsdSizes(args),
                                                                       static_cast<int>(per_group));
  });
  cuda::check_launch(exec, "ssd_scan, snapshots");
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
  take_snapshots(exec, args);  // before the outputs, which may replace x
  f32 ? cuda::ssd_outputs_f32(exec, args) : cuda::ssd_outputs_bf16(exec, args);
}

}  // namespace chromamba::kernels
