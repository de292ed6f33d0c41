#include "kernels/check.h"
#include "kernels/cuda_common.cuh"
#include "kernels/token_embedding.h"

namespace chromamba::kernels {
namespace {

constexpr int kThreads = 256;

// One thread copies four values.
__global__ void __launch_bounds__(kThreads) embedding_kernel(DeviceTokenEmbeddingArgs args) {
  const int64_t per_row = args.d_model / 4;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.rows * per_row) return;
  const int64_t row = i / per_row;
  const int64_t column = 4 * (i % per_row);
  const int32_t token = args.tokens_L[row];
  float4 value;
  if (token >= 0 && token < args.vocab_size) {
    value = *reinterpret_cast<const float4*>(args.table_VD + token * args.d_model + column);
  } else {
    value.x = value.y = value.z = value.w = __int_as_float(0x7fffffff);
  }
  *reinterpret_cast<float4*>(args.out_LD + row * args.d_model + column) = value;
}

}  // namespace

void token_embedding(DeviceExec& exec, const DeviceTokenEmbeddingArgs& args) {
  require(args.d_model > 0 && args.d_model % 8 == 0, "token_embedding: d_model");
  if (args.rows == 0) return;
  embedding_kernel<<<cuda::blocks_for(args.rows * (args.d_model / 4), kThreads), kThreads, 0,
                     exec.impl().stream>>>(args);
  cuda::check_launch(exec, "token_embedding");
}

}  // namespace chromamba::kernels
