#include "kernels/check.h"
#include "kernels/conv_project.h"
#include "kernels/conv_rows.cuh"
#include "kernels/matrix_cores.cuh"

namespace chromamba::kernels {
namespace {

// Rows that a thread convolves: K more are read before them.
constexpr int kRunRows = 32;
constexpr int kMostThreads = 256;
// Padding of a row in shared memory: eight rows of a matrix lie in different banks.
constexpr int kPad = 8;

// So many x 16 rows are multiplied at a time.
constexpr int kTiles = 4;

template <int kTaps>
__global__ void __launch_bounds__(kMostThreads, 2)
    conv_project_kernel(DeviceConvProjectArgs args, int rows, int blocks_per_segment) {
  extern __shared__ __align__(16) unsigned char shared[];
  const DeviceCausalConv1dArgs& conv = args.conv;
  const int channels = static_cast<int>(conv.channels);
  const int width = static_cast<int>(args.width);
  const int rank = static_cast<int>(args.rank);
  const int u_pitch = channels + kPad;
  const int x_pitch = width + kPad;
  auto* u_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* x_tile = u_tile + rows * u_pitch;

  const DeviceSegment segment = conv.batch.segments[blockIdx.x / blocks_per_segment];
  const int64_t from = segment.start + static_cast<int64_t>(blockIdx.x % blocks_per_segment) * rows;
  const int64_t segment_end = segment.start + segment.length;
  if (from >= segment_end) return;
  const int64_t end = from + rows < segment_end ? from + rows : segment_end;
  const DeviceSpan span = conv.batch.spans[segment.span];
  const cuda::RowMap map(span, conv.reverse);
  {
    const int threads_e = channels / cuda::kConvChannels;
    const int e = static_cast<int>(threadIdx.x) % threads_e * cuda::kConvChannels;
    const int64_t run = from + static_cast<int>(threadIdx.x) / threads_e * kRunRows;
    const int64_t run_end = run + kRunRows < end ? run + kRunRows : end;
    if (run < run_end) {
      Bf16* out = static_cast<Bf16*>(conv.out_LE) + e;
      cuda::convolve_run<Bf16, kTaps>(
          conv, span, map, run, run_end, e, [&](int64_t i, const auto& row) {
            cuda::PackedChannels<Bf16> packed;
            packed.pack(row);
            *reinterpret_cast<uint2*>(out + map.row(i) * conv.out_stride) = packed.raw;
            *reinterpret_cast<uint2*>(u_tile + static_cast<int>(i - from) * u_pitch + e) =
                packed.raw;
          });
    }
  }
  __syncthreads();

  // Rows beyond the segment hold what was there: no row's product sees another row.
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int n = warp; n < width / 8; n += warps) {
    for (int first = 0; first < rows; first += 16 * kTiles) {
      float sums[kTiles][4] = {};
      const uint4* weight =
          static_cast<const uint4*>(args.x_weight) + (n * (channels / 32)) * 32 + lane;
      const Bf16* u = u_tile + (first + lane % 16) * u_pitch + lane / 16 * 8;
#pragma unroll 8  // loads of weights, from the L2 cache, in flight
      for (int k = 0; k < channels / 32; ++k) {
        const uint4 b = __ldg(weight + k * 32);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          unsigned a[4];
          cuda::load_rows(a, u + m * 16 * u_pitch + k * 32);
          cuda::multiply_add(sums[m], a, b.x, b.y);
          cuda::load_rows(a, u + m * 16 * u_pitch + k * 32 + 16);
          cuda::multiply_add(sums[m], a, b.z, b.w);
        }
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        Bf16* to = x_tile + (first + m * 16 + lane / 4) * x_pitch + n * 8 + 2 * (lane % 4);
        *reinterpret_cast<unsigned*>(to) = cuda::pack_pair(sums[m][0], sums[m][1]);
        *reinterpret_cast<unsigned*>(to + 8 * x_pitch) = cuda::pack_pair(sums[m][2], sums[m][3]);
      }
    }
  }
  __syncthreads();

  const int count = static_cast<int>(end - from);
  for (int i = static_cast<int>(threadIdx.x); i < count * (width / 8);
       i += static_cast<int>(blockDim.x)) {
    const int row = i / (width / 8);
    const int column = i % (width / 8) * 8;
    *reinterpret_cast<uint4*>(static_cast<Bf16*>(args.x_LW) + map.row(from + row) * args.x_stride +
                              column) =
        *reinterpret_cast<const uint4*>(x_tile + row * x_pitch + column);
  }
  for (int group = warp; group < channels / 32; group += warps) {
    for (int first = 0; first < rows; first += 16 * kTiles) {
      float sums[kTiles][4][4] = {};
      for (int k = 0; k < rank; k += 16) {
        const uint2* weight = static_cast<const uint2*>(args.dt_weight) +
                              (group * (rank / 16) + k / 16) * 4 * 32 + lane;
        uint2 b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i] = __ldg(weight + i * 32);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          unsigned a[4];
          cuda::load_rows(a, x_tile + (first + m * 16 + lane % 16) * x_pitch + k + lane / 16 * 8);
#pragma unroll
          for (int i = 0; i < 4; ++i) cuda::multiply_add(sums[m][i], a, b[i].x, b[i].y);
        }
      }
      Bf16* to = static_cast<Bf16*>(args.dt_LE) + group * 32 + 8 * (lane % 4);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first + m * 16 + half * 8 + lane / 4;
          if (row >= count) continue;
          uint4 packed;
          unsigned* words = &packed.x;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            words[i] = cuda::pack_pair(sums[m][i][2 * half], sums[m][i][2 * half + 1]);
          }
          *reinterpret_cast<uint4*>(to + map.row(from + row) * args.dt_stride) = packed;
        }
      }
    }
  }
}

template <int kTaps>
void launch(DeviceExec& exec, const DeviceConvProjectArgs& args) {
  const int threads_e = static_cast<int>(args.conv.channels) / cuda::kConvChannels;
  const int runs = kMostThreads / threads_e;  // 2 or more: rows are whole products
  const int rows = runs * kRunRows;
  const int blocks = static_cast<int>((args.conv.batch.longest_segment + rows - 1) / rows);
  const auto bytes = static_cast<int>(rows * (args.conv.channels + args.width + 2 * kPad) *
                                      static_cast<int64_t>(sizeof(Bf16)));
  const auto kernel = conv_project_kernel<kTaps>;
  cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              exec.impl(), "conv_project");
  kernel<<<static_cast<unsigned>(args.conv.batch.segment_count * blocks), runs * threads_e, bytes,
           exec.impl().stream>>>(args, rows, blocks);
}

}  // namespace

void conv_project(DeviceExec& exec, const DeviceConvProjectArgs& args) {
  require(
      conv_project_fits(exec.dtype(), args.conv.channels, args.conv.taps, args.rank, args.width) &&
          args.conv.silu && args.rank <= args.width && args.conv.u_stride % 8 == 0 &&
          args.conv.out_stride % 8 == 0 && args.x_stride % 8 == 0 && args.dt_stride % 8 == 0,
      "conv_project: sizes");
  if (args.conv.batch.segment_count == 0) return;
  switch (args.conv.taps) {
    case 2:
      launch<2>(exec, args);
      break;
    case 3:
      launch<3>(exec, args);
      break;
    default:
      launch<4>(exec, args);
      break;
  }
  cuda::check_launch(exec, "conv_project");
  cuda::conv_snapshots(exec, args.conv);
}

}  // namespace chromamba::kernels
