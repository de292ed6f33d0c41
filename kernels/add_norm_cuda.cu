#include "kernels/add_norm.h"
#include "kernels/check.h"
#include "kernels/norm_rows.cuh"

namespace chromamba::kernels {
namespace {

constexpr int kWarps = 4;

template <int kVectors, typename T, bool kEmbeds>
__global__ void __launch_bounds__(32 * kWarps) add_norm_kernel(DeviceAddNormArgs args) {
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= args.rows) return;
  const T* hidden = static_cast<const T*>(args.hidden_LD);
  if (hidden != nullptr) hidden += row * args.stride;
  const T* times = static_cast<const T*>(args.times_LD);
  if (times != nullptr) times += row * args.stride;
  float* residual = args.residual_LD + row * args.stride;
  const float* from = residual;
  bool known = true;
  if constexpr (kEmbeds) {
    const int32_t token = args.tokens_L[row];
    known = token >= 0 && token < args.vocab_size;
    from = args.table_VD + (known ? token : 0) * args.stride;
  }
  cuda::RowPart<kVectors> part =
      cuda::load_row<kVectors, T>(from, hidden, args.stride, lane, times);
  if (kEmbeds && !known) part.value[0][0] = __int_as_float(0x7fffffff);
  if (kEmbeds || hidden != nullptr) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int64_t column = cuda::part_column(k, lane);
      if (column < args.stride) cuda::store8(part.value[k], residual + column);
    }
  }
  if (args.out_LD == nullptr && args.out_f32_LD == nullptr) return;
  cuda::norm_row(part, args.kind, args.d_model, args.stride, args.eps, args.weight_D, args.bias_D,
                 lane);
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int64_t column = cuda::part_column(k, lane);
    if (column >= args.stride) continue;
    if (args.out_LD != nullptr) {
      cuda::store8(part.value[k], static_cast<T*>(args.out_LD) + row * args.stride + column);
    }
    if (args.out_f32_LD != nullptr) {
      for (int i = 0; i < 8 && column + i < args.d_model; ++i) {
        args.out_f32_LD[row * args.d_model + column + i] = part.value[k][i];
      }
    }
  }
}

}  // namespace

void add_norm(DeviceExec& exec, const DeviceAddNormArgs& args) {
  require(args.d_model > 0 && args.stride >= args.d_model && args.stride % 8 == 0,
          "add_norm: sizes");
  require(args.tokens_L == nullptr || (args.table_VD != nullptr && args.hidden_LD == nullptr),
          "add_norm: tokens");
  if (args.rows == 0) return;
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    cuda::with_vectors(args.stride, [&](auto vectors) {
      constexpr int kVectors = decltype(vectors)::value;
      const auto kernel = args.tokens_L != nullptr ? add_norm_kernel<kVectors, T, true>
                                                   : add_norm_kernel<kVectors, T, false>;
      kernel<<<cuda::blocks_for(args.rows, kWarps), 32 * kWarps, 0, exec.impl().stream>>>(args);
    });
  });
  cuda::check_launch(exec, "add_norm");
}

}  // namespace chromamba::kernels
