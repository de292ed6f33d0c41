// The causal convolution as one thread does it: a few channels, down a run of rows, the last K inputs in registers.
#pragma once

#include "kernels/causal_conv1d.h"
#include "kernels/cuda_common.cuh"

namespace chromamba::kernels::cuda {

struct RowMap {
  int64_t first;
  int64_t step;
  __device__ RowMap(const DeviceSpan& span, bool reverse)
      : first(reverse ? span.row + span.length - 1 : span.row), step(reverse ? -1 : 1) {}
  __device__ int64_t row(int64_t i) const { return first + i * step; }
};

// Channels of a thread: few, so that many threads, each with many rows on their way, hide the memory's latency.
constexpr int kConvChannels = 4;

// Four elements as they lie in memory.
template <typename T>
struct PackedChannels;
template <>
struct PackedChannels<float> {
  float4 raw;
  __device__ __forceinline__ void unpack(float (&to)[kConvChannels]) const {
    to[0] = raw.x, to[1] = raw.y, to[2] = raw.z, to[3] = raw.w;
  }
  __device__ __forceinline__ void pack(const float (&from)[kConvChannels]) {
    raw = make_float4(from[0], from[1], from[2], from[3]);
  }
};
template <>
struct PackedChannels<Bf16> {
  uint2 raw;
  __device__ __forceinline__ void unpack(float (&to)[kConvChannels]) const {
    to[0] = __uint_as_float(raw.x << 16);
    to[1] = __uint_as_float(raw.x & 0xffff0000u);
    to[2] = __uint_as_float(raw.y << 16);
    to[3] = __uint_as_float(raw.y & 0xffff0000u);
  }
  __device__ __forceinline__ void pack(const float (&from)[kConvChannels]) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(from[0], from[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(from[2], from[3]);
    raw = make_uint2(*reinterpret_cast<const unsigned*>(&low),
                     *reinterpret_cast<const unsigned*>(&high));
  }
};

template <typename T>
__device__ __forceinline__ void load_channels(const T* from, float (&to)[kConvChannels]) {
  reinterpret_cast<const PackedChannels<T>*>(from)->unpack(to);
}
template <typename T>
__device__ __forceinline__ void store_channels(const float (&from)[kConvChannels], T* to) {
  PackedChannels<T> packed;
  packed.pack(from);
  *reinterpret_cast<PackedChannels<T>*>(to) = packed;
}

// The input of running base i of a span, for the channels from e on; before its first base, i >= -K, from its state.
template <typename T>
__device__ __forceinline__ void load_input(const DeviceCausalConv1dArgs& args,
                                           const DeviceSpan& span, const RowMap& map, int64_t i,
                                           int64_t e, float (&to)[kConvChannels]) {
  if (i >= 0) {
    load_channels(static_cast<const T*>(args.u_LE) + map.row(i) * args.u_stride + e, to);
  } else {
    load_channels<float>(span.state + args.state.conv_carry +
                             (span.turn * args.taps + args.taps + i) * args.channels + e,
                         to);
  }
}

// Queues what a convolution leaves behind for the batch's snapshots; nothing where it has none. (causal_conv1d_cuda.cu)
void conv_snapshots(DeviceExec& exec, const DeviceCausalConv1dArgs& args);

// Calls sink(i, out) for the running bases [from, end) of a span, whose channels from e on are the thread's, and leaves
// states behind where the span or its last whole segment ends with the run.
template <typename T, int kTaps, typename Sink>
__device__ __forceinline__ void convolve_run(const DeviceCausalConv1dArgs& args,
                                             const DeviceSpan& span, const RowMap& map,
                                             int64_t from, int64_t end, int64_t e,
                                             const Sink& sink) {
  // Rows are read kAhead at a time before the ones in hand are worked on: several loads in flight.
  constexpr int kAhead = 8;
  const T* u = static_cast<const T*>(args.u_LE) + map.row(from) * args.u_stride + e;
  const int64_t u_step = map.step * args.u_stride;
  const int count = static_cast<int>(end - from);
  PackedChannels<T> next[kAhead];
  const auto read_ahead = [&](int i) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j < count)
        next[j] = *reinterpret_cast<const PackedChannels<T>*>(u + (i + j) * u_step);
    }
  };
  read_ahead(0);
  float weight[kTaps][kConvChannels];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) load_channels(args.weight_KE + k * args.channels + e, weight[k]);
  float bias[kConvChannels] = {};
  if (args.bias_E != nullptr) load_channels(args.bias_E + e, bias);
  // The last K inputs.
  float window[kTaps][kConvChannels];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    load_input<T>(args, span, map, from + k - kTaps, e, window[k]);
  }
  for (int i = 0; i < count; i += kAhead) {
    PackedChannels<T> rows[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) rows[j] = next[j];
    read_ahead(i + kAhead);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j >= count) break;
#pragma unroll
      for (int c = 0; c < kConvChannels; ++c) {
#pragma unroll
        for (int k = 0; k + 1 < kTaps; ++k) window[k][c] = window[k + 1][c];
      }
      rows[j].unpack(window[kTaps - 1]);
      float out[kConvChannels];
#pragma unroll
      for (int c = 0; c < kConvChannels; ++c) {
        float sum = bias[c];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) sum = fmaf(weight[k][c], window[k][c], sum);
        out[c] = args.silu ? silu<T>(sum) : sum;
      }
      sink(from + i + j, out);
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

}  // namespace chromamba::kernels::cuda
