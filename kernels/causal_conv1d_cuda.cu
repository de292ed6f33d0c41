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

// Channels of a thread: few, so that many threads, each with many rows on their way, hide the memory's latency.
constexpr int kChannels = 4;

// Four elements as they lie in memory.
template <typename T>
struct Packed;
template <>
struct Packed<float> {
  float4 raw;
  __device__ __forceinline__ void unpack(float (&to)[kChannels]) const {
    to[0] = raw.x, to[1] = raw.y, to[2] = raw.z, to[3] = raw.w;
  }
  __device__ __forceinline__ void pack(const float (&from)[kChannels]) {
    raw = make_float4(from[0], from[1], from[2], from[3]);
  }
};
template <>
struct Packed<Bf16> {
  uint2 raw;
  __device__ __forceinline__ void unpack(float (&to)[kChannels]) const {
    to[0] = __uint_as_float(raw.x << 16);
    to[1] = __uint_as_float(raw.x & 0xffff0000u);
    to[2] = __uint_as_float(raw.y << 16);
    to[3] = __uint_as_float(raw.y & 0xffff0000u);
  }
  __device__ __forceinline__ void pack(const float (&from)[kChannels]) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(from[0], from[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(from[2], from[3]);
    raw = make_uint2(*reinterpret_cast<const unsigned*>(&low),
                     *reinterpret_cast<const unsigned*>(&high));
  }
};

template <typename T>
__device__ __forceinline__ void load_channels(const T* from, float (&to)[kChannels]) {
  reinterpret_cast<const Packed<T>*>(from)->unpack(to);
}
template <typename T>
__device__ __forceinline__ void store_channels(const float (&from)[kChannels], T* to) {
  Packed<T> packed;
  packed.pack(from);
  *reinterpret_cast<Packed<T>*>(to) = packed;
}

template <typename T, int kTaps>
__global__ void __launch_bounds__(kThreads)
    conv_kernel(DeviceCausalConv1dArgs args, int threads_e, int runs_per_segment) {
  const int64_t e = kChannels * (int64_t{blockIdx.y} * threads_e + threadIdx.x);
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

  // Rows are read kAhead at a time before the ones in hand are worked on: several loads in flight.
  constexpr int kAhead = 8;
  const T* u = static_cast<const T*>(args.u_LE) + map.row(from) * args.u_stride + e;
  T* to = static_cast<T*>(args.out_LE) + map.row(from) * args.out_stride + e;
  const int64_t u_step = map.step * args.u_stride;
  const int64_t out_step = map.step * args.out_stride;
  const int count = static_cast<int>(end - from);
  Packed<T> next[kAhead];
  const auto read_ahead = [&](int i) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < count) next[j] = *reinterpret_cast<const Packed<T>*>(u + (i + j) * u_step);
    }
  };
  read_ahead(0);
  float weight[kTaps][kChannels];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) load_channels(args.weight_KE + k * args.channels + e, weight[k]);
  float bias[kChannels] = {};
  if (args.bias_E != nullptr) load_channels(args.bias_E + e, bias);
  // The last K inputs; before the sequence's first base they are in the state.
  float window[kTaps][kChannels];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    const int64_t i = from + k - kTaps;
    if (i >= 0) {
      load_channels(static_cast<const T*>(args.u_LE) + map.row(i) * args.u_stride + e, window[k]);
    } else {
      load_channels<float>(span.state + args.state.conv_carry +
                               (span.turn * args.taps + args.taps + i) * args.channels + e,
                           window[k]);
    }
  }
  for (int i = 0; i < count; i += kAhead) {
    Packed<T> rows[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) rows[j] = next[j];
    read_ahead(i + kAhead);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j >= count) break;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
#pragma unroll
        for (int k = 0; k + 1 < kTaps; ++k) window[k][c] = window[k + 1][c];
      }
      rows[j].unpack(window[kTaps - 1]);
      float out[kChannels];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        float sum = bias[c];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) sum = fmaf(weight[k][c], window[k][c], sum);
        out[c] = args.silu ? cuda::silu<T>(sum) : sum;
      }
      store_channels(out, to + (i + j) * out_step);
    }
  }
  // The window now holds the last K inputs (the first of them, where the run is shorter than K, is the
  // carry's): what comes after the span, or after its last whole segment, begins with them.
  const auto save = [&](float* state) {
#pragma unroll
    for (int k = 0; k < kTaps; ++k) store_channels(window[k], state + k * args.channels);
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
  const int64_t vectors = args.channels / kChannels;
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
