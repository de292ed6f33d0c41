#include "kernels/causal_conv1d.h"
#include "kernels/check.h"
#include "kernels/cuda_common.cuh"

namespace chromamba::kernels {
namespace {

// Rows that a thread walks: K more are read before them, 6 % at K = 4.
constexpr int kRunRows = 64;
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
    cuda::load8(span.state + args.state.conv_carry +
                    (span.turn * args.taps + args.taps + i) * args.channels + e,
                to);
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
  for (int k = 0; k < kTaps; ++k) {
    load_input<T>(args, span, map, from + k - kTaps, e, window[k]);
  }
  // Rows are read kAhead at a time before the ones in hand are worked on: several loads in flight.
  constexpr int kAhead = 4;
  const T* u = static_cast<const T*>(args.u_LE) + map.row(from) * args.u_stride + e;
  T* to = static_cast<T*>(args.out_LE) + map.row(from) * args.out_stride + e;
  const int64_t u_step = map.step * args.u_stride;
  const int64_t out_step = map.step * args.out_stride;
  const int count = static_cast<int>(end - from);
  float next[kAhead][8];
  const auto read_ahead = [&](int i) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < count) cuda::load8(u + (i + j) * u_step, next[j]);
    }
  };
  read_ahead(0);
  for (int i = 0; i < count; i += kAhead) {
    float rows[kAhead][8];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
#pragma unroll
      for (int c = 0; c < 8; ++c) rows[j][c] = next[j][c];
    }
    read_ahead(i + kAhead);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j >= count) break;
#pragma unroll
      for (int c = 0; c < 8; ++c) {
#pragma unroll
        for (int k = 0; k + 1 < kTaps; ++k) window[k][c] = window[k + 1][c];
        window[kTaps - 1][c] = rows[j][c];
      }
      float out[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        float sum = bias[c];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) sum = fmaf(weight[k][c], window[k][c], sum);
        out[c] = args.silu ? cuda::silu<T>(sum) : sum;
      }
      cuda::store8(out, to + (i + j) * out_step);
    }
  }
  // The window now holds the last K inputs (the first of them, where the run is shorter than K, is the
  // carry's): what comes after the span, or after its last whole segment, begins with them.
  const auto save = [&](float* state) {
#pragma unroll
    for (int k = 0; k < kTaps; ++k) cuda::store8(window[k], state + k * args.channels);
  };
  if (end == span.length) save(span.state + args.state.conv_last + e);
  if (end == span.whole_length) {
    save(span.state + args.state.conv_carry + (1 - span.turn) * args.taps * args.channels + e);
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
  const int runs = static_cast<int>((args.batch.longest_segment + kRunRows - 1) / kRunRows);
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
  });
  cuda::check_launch(exec, "causal_conv1d");
}

}  // namespace chromamba::kernels
