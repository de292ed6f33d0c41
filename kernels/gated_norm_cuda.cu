#include "kernels/check.h"
#include "kernels/cuda_common.cuh"
#include "kernels/gated_norm.h"

namespace chromamba::kernels {
namespace {

constexpr int kWarps = 4;

// kVectors: how many runs of 256 channels a warp keeps in registers; 0: any number, read twice (the second time mostly
// from the cache).
template <typename T, int kVectors, bool kNormFirst>
__global__ void __launch_bounds__(32 * kWarps)
    gated_norm_kernel(DeviceGatedNormArgs args, int64_t width) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t unit = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;  // a group of a row
  if (unit >= args.rows * args.groups) return;
  const int64_t row = unit / args.groups;
  const int64_t first = unit % args.groups * width;
  const T* y = static_cast<const T*>(args.y_LE) + row * args.y_stride + first;
  const T* z = static_cast<const T*>(args.z_LE) + row * args.z_stride + first;
  T* out = static_cast<T*>(args.out_LE) + row * args.out_stride + first;
  const float* weight = args.weight_E != nullptr ? args.weight_E + first : nullptr;

  // What the norm is taken of, and the gate that is still to come.
  const auto load = [&](int64_t column, float(&value)[8], float(&gate)[8]) {
    cuda::load8(y + column, value);
    cuda::load8(z + column, gate);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      gate[i] = cuda::silu<T>(gate[i]);
      if constexpr (!kNormFirst) value[i] *= gate[i];
    }
  };
  const auto add_squares = [](const float(&value)[8], float sum) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(value[i], value[i], sum);
    return sum;
  };
  const auto finish = [&](int64_t column, float scale, float(&value)[8], const float(&gate)[8]) {
    if (weight != nullptr) {
      float w[8];
      cuda::load8(weight + column, w);
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] *= scale * w[i];
    }
    if constexpr (kNormFirst) {
#pragma unroll
      for (int i = 0; i < 8; ++i) value[i] *= gate[i];
    }
    cuda::store8(value, out + column);
  };
  const auto scale_of = [&](float squares) {
    const float variance = cuda::warp_sum(squares) / static_cast<float>(args.counted);
    // Squares that overflow must not pass as a scale of zero.
    return isfinite(variance) ? 1.0F / sqrtf(variance + args.eps) : NAN;
  };

  float squares = 0;
  if constexpr (kVectors > 0) {
    float value[kVectors][8];
    float gate[kVectors][8];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int64_t column = 8 * (32 * k + lane);
      if (column >= width) continue;
      load(column, value[k], gate[k]);
      squares = add_squares(value[k], squares);
    }
    const float scale = scale_of(squares);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int64_t column = 8 * (32 * k + lane);
      if (column < width) finish(column, scale, value[k], gate[k]);
    }
  } else {
    for (int64_t column = 8 * lane; column < width; column += 256) {
      float value[8];
      float gate[8];
      load(column, value, gate);
      squares = add_squares(value, squares);
    }
    const float scale = scale_of(squares);
    for (int64_t column = 8 * lane; column < width; column += 256) {
      float value[8];
      float gate[8];
      load(column, value, gate);
      finish(column, scale, value, gate);
    }
  }
}

}  // namespace

void gated_norm(DeviceExec& exec, const DeviceGatedNormArgs& args) {
  require(args.channels > 0 && args.groups > 0 && args.channels % args.groups == 0 &&
              args.channels / args.groups % 8 == 0 && args.counted > 0 &&
              args.counted <= args.channels / args.groups,
          "gated_norm: sizes");
  require(args.y_stride >= args.channels && args.z_stride >= args.channels &&
              args.out_stride >= args.channels && args.y_stride % 8 == 0 &&
              args.z_stride % 8 == 0 && args.out_stride % 8 == 0,
          "gated_norm: strides");
  require((args.kind == GatedNormKind::none) == (args.weight_E == nullptr), "gated_norm: weight");
  if (args.rows == 0) return;
  const int64_t width = args.channels / args.groups;
  const unsigned blocks = cuda::blocks_for(args.rows * args.groups, kWarps);
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    const auto launch = [&](auto vectors) {
      constexpr int kVectors = decltype(vectors)::value;
      const auto kernel = args.kind == GatedNormKind::norm_first
                              ? gated_norm_kernel<T, kVectors, true>
                              : gated_norm_kernel<T, kVectors, false>;
      kernel<<<blocks, 32 * kWarps, 0, exec.impl().stream>>>(args, width);
    };
    if (width <= 256) {
      launch(std::integral_constant<int, 1>());
    } else if (width <= 512) {
      launch(std::integral_constant<int, 2>());
    } else if (width <= 1024) {
      launch(std::integral_constant<int, 4>());
    } else {
      launch(std::integral_constant<int, 0>());
    }
  });
  cuda::check_launch(exec, "gated_norm");
}

}  // namespace chromamba::kernels
