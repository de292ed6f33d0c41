#include "kernels/causal_conv1d.h"
#include "kernels/check.h"
#include "kernels/cuda_common.cuh"

namespace chromamba::kernels {
namespace {

// Rows that a thread walks: K - 1 more are read before them, 9 % at K = 4.
constexpr int kRunRows = 32;
constexpr int kThreads = 128;

struct RowMap {
  int64_t first;
  int64_t step;
  __device__ RowMap(const DeviceSpan& span, bool reverse)
      : first(reverse ? span.row + span.length - 1 : span.row), step(reverse ? -1 : 1) {}
  __device__ int64_t row(int64_t i) const { return first + i * step; }
};

// Input of running base i (possibly negative: from the state) of 8 channels.
template <typename T>
__device__ __forceinline__ void load_input(const DeviceCausalConv1dArgs& args,
                                           const DeviceSpan& span, const RowMap& map, int64_t i,
                                           int64_t e, float (&to)[8]) {
  if (i >= 0) {
    cuda::load8(static_cast<const T*>(args.u_LE) + map.row(i) * args.u_stride + e, to);
  } else {
    cuda::load8(span.state + args.state.conv_carry + (args.taps + i) * args.channels + e, to);
  }
}

template <typename T, int kTaps>
__global__ void __launch_bounds__(kThreads)
    conv_kernel(DeviceCausalConv1dArgs args, int threads_e, int runs_per_segment) {
  const int64_t e = 8 * (int64_t{blockIdx.y} * threads_e + threadIdx.x);
  if (e >= args.channels) return;
  const int64_t run = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int64_t segment_index = run / runs_per_segment;
  if (segment_index >= args.batch.segment_count) return;
  const DeviceSegment segment = args.batch.segments[segment_index];
  const int64_t from = segment.start + run % runs_per_segment * kRunRows;
  const int64_t segment_end = segment.start + segment.length;
  const int64_t end = from + kRunRows < segment_end ? from + kRunRows : segment_end;
  if (from >= end) return;
  const DeviceSpan span = args.batch.spans[segment.span];
  const RowMap map(span, args.reverse);

  float weight[kTaps][8];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) cuda::load8(args.weight_KE + k * args.channels + e, weight[k]);
  float bias[8] = {};
  if (args.bias_E != nullptr) cuda::load8(args.bias_E + e, bias);
  float window[kTaps][8];
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k) {
    load_input<T>(args, span, map, from + k - (kTaps - 1), e, window[k + 1]);
  }
#pragma unroll 4
  for (int64_t i = from; i < end; ++i) {
#pragma unroll
    for (int k = 0; k + 1 < kTaps; ++k) {
#pragma unroll
      for (int c = 0; c < 8; ++c) window[k][c] = window[k + 1][c];
    }
    const int64_t row = map.row(i);
    cuda::load8(static_cast<const T*>(args.u_LE) + row * args.u_stride + e, window[kTaps - 1]);
    float out[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      float sum = bias[c];
#pragma unroll
      for (int k = 0; k < kTaps; ++k) sum = fmaf(weight[k][c], window[k][c], sum);
      out[c] = args.silu ? cuda::silu<T>(sum) : sum;
    }
    cuda::store8(out, static_cast<T*>(args.out_LE) + row * args.out_stride + e);
  }
}

// The last K inputs at a span's end, and at the end of its last whole segment. One thread owns 8
// channels of one span, so reading the old carry before overwriting it needs no other order.
template <typename T>
__global__ void __launch_bounds__(kThreads) conv_state_kernel(DeviceCausalConv1dArgs args) {
  const int64_t e = 8 * (int64_t{blockIdx.x} * kThreads + threadIdx.x);
  if (e >= args.channels) return;
  const DeviceSpan span = args.batch.spans[blockIdx.y];
  if (span.length == 0) return;
  const RowMap map(span, args.reverse);
  const int64_t whole = span.length / args.batch.segment_bases * args.batch.segment_bases;
  float value[8];
  for (int64_t k = 0; k < args.taps; ++k) {
    load_input<T>(args, span, map, span.length - args.taps + k, e, value);
    cuda::store8(value, span.state + args.state.conv_last + k * args.channels + e);
  }
  if (whole == 0) return;
  for (int64_t k = 0; k < args.taps; ++k) {
    load_input<T>(args, span, map, whole - args.taps + k, e, value);
    cuda::store8(value, span.state + args.state.conv_carry + k * args.channels + e);
  }
}

}  // namespace

void causal_conv1d(DeviceExec& exec, const DeviceCausalConv1dArgs& args) {
  require(args.channels > 0 && args.channels % 8 == 0 && args.taps >= 2 &&
              args.taps <= kMaxConvTaps && args.u_stride % 8 == 0 && args.out_stride % 8 == 0,
          "causal_conv1d: sizes");
  if (args.batch.segment_count == 0) return;
  const int64_t vectors = args.channels / 8;
  const int threads_e = static_cast<int>(vectors < kThreads ? vectors : kThreads);
  const int threads_run = kThreads / threads_e;
  const int runs = static_cast<int>((args.batch.segment_bases + kRunRows - 1) / kRunRows);
  const dim3 block(static_cast<unsigned>(threads_e), static_cast<unsigned>(threads_run));
  const dim3 grid(cuda::blocks_for(args.batch.segment_count * runs, threads_run),
                  cuda::blocks_for(vectors, threads_e));
  const cudaStream_t stream = exec.impl().stream;
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    const auto launch = [&](auto taps) {
      conv_kernel<T, decltype(taps)::value><<<grid, block, 0, stream>>>(args, threads_e, runs);
    };
    switch (args.taps) {
      case 2:
        launch(std::integral_constant<int, 2>());
        break;
      case 3:
        launch(std::integral_constant<int, 3>());
        break;
      case 4:
        launch(std::integral_constant<int, 4>());
        break;
      case 5:
        launch(std::integral_constant<int, 5>());
        break;
      case 6:
        launch(std::integral_constant<int, 6>());
        break;
      case 7:
        launch(std::integral_constant<int, 7>());
        break;
      default:
        launch(std::integral_constant<int, 8>());
        break;
    }
    cuda::check_launch(exec, "causal_conv1d");
    conv_state_kernel<T>
        <<<dim3(cuda::blocks_for(vectors, kThreads), static_cast<unsigned>(args.batch.span_count)),
           kThreads, 0, stream>>>(args);
  });
  cuda::check_launch(exec, "causal_conv1d's state");
}

}  // namespace chromamba::kernels
