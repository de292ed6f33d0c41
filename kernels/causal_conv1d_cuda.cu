#include "kernels/causal_conv1d.h"
#include "kernels/check.h"
#include "kernels/conv_rows.cuh"

namespace chromamba::kernels {
namespace {

// Rows that a thread walks: K more are read before them, 6 % at K = 4.
constexpr int kRunRows = 64;
constexpr int kThreads = 128;

template <typename T, int kTaps>
__global__ void __launch_bounds__(kThreads)
    conv_kernel(DeviceCausalConv1dArgs args, int threads_e, int runs_per_segment) {
  const int64_t e = cuda::kConvChannels * (int64_t{blockIdx.y} * threads_e + threadIdx.x);
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
  const cuda::RowMap map(span, args.reverse);

  T* out = static_cast<T*>(args.out_LE) + e;
  cuda::convolve_run<T, kTaps>(args, span, map, from, end, e, [&](int64_t i, const auto& row) {
    cuda::store_channels(row, out + map.row(i) * args.out_stride);
  });
}

// A thread has four channels of one input of one snapshot.
template <typename T>
__global__ void __launch_bounds__(kThreads) conv_snapshots_kernel(DeviceCausalConv1dArgs args) {
  const int64_t vectors = args.channels / cuda::kConvChannels;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = i / vectors;
  if (row >= args.batch.snapshot_count * args.taps) return;
  const int64_t e = i % vectors * cuda::kConvChannels;
  const int64_t tap = row % args.taps;
  const DeviceSnapshot snapshot = args.batch.snapshots[row / args.taps];
  const DeviceSpan span = args.batch.spans[snapshot.span];
  float input[cuda::kConvChannels];
  cuda::load_input<T>(args, span, cuda::RowMap(span, args.reverse), snapshot.base - args.taps + tap,
                      e, input);
  cuda::store_channels(input, snapshot.state + args.state.conv_carry + tap * args.channels + e);
}

}  // namespace

void cuda::conv_snapshots(DeviceExec& exec, const DeviceCausalConv1dArgs& args) {
  if (args.batch.snapshot_count == 0) return;
  const int64_t threads =
      args.batch.snapshot_count * args.taps * (args.channels / cuda::kConvChannels);
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    conv_snapshots_kernel<T>
        <<<cuda::blocks_for(threads, kThreads), kThreads, 0, exec.impl().stream>>>(args);
  });
  cuda::check_launch(exec, "causal_conv1d, snapshots");
}

void causal_conv1d(DeviceExec& exec, const DeviceCausalConv1dArgs& args) {
  require(args.channels > 0 && args.channels % 8 == 0 && args.taps >= 2 &&
              args.taps <= kMaxConvTaps && args.u_stride % 8 == 0 && args.out_stride % 8 == 0,
          "causal_conv1d: sizes");
  if (args.batch.segment_count == 0) return;
  const int64_t vectors = args.channels / cuda::kConvChannels;
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
  cuda::conv_snapshots(exec, args);
}

}  // namespace chromamba::kernels
