#include "kernels/check.h"
#include "kernels/head.h"
#include "kernels/norm_rows.cuh"

namespace chromamba::kernels {
namespace {

constexpr int kWarps = 4;
// Rows a warp takes at a time, so that one read of the head's weights serves several rows, and
// vocabulary entries whose partial sums are reduced together.
constexpr int kRows = 2;
constexpr int kEntries = 8;

// Sums each of kEntries values over the lanes of a warp; a lane comes out with the sum of one of them,
// entry_of(lane). Halving the values at each step takes 9 shuffles and not 40.
__device__ __forceinline__ float reduce_entries(float (&sum)[kEntries], int lane) {
  // Step k pairs lanes whose numbers differ in bit k; each keeps one half of the values.
#pragma unroll
  for (int half = kEntries / 2, bit = 1; half >= 1; half /= 2, bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float keep = upper ? sum[i + half] : sum[i];
      const float give = upper ? sum[i] : sum[i + half];
      sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, bit);
    }
  }
  float total = sum[0];
#pragma unroll
  for (int bit = kEntries; bit < 32; bit *= 2) total += __shfl_xor_sync(0xffffffffu, total, bit);
  return total;
}

// Which entry a lane's sum belongs to: the bits of the lane number, most significant half first.
__device__ __forceinline__ int entry_of(int lane) {
  int entry = 0;
#pragma unroll
  for (int half = kEntries / 2, bit = 1; half >= 1; half /= 2, bit *= 2) {
    if ((lane & bit) != 0) entry += half;
  }
  return entry;
}

// Up to D = 256, seven blocks a multiprocessor (72 registers) are 5 % faster than the six that 78 would allow.
template <int kVectors, typename T, bool kMirror>
__global__ void __launch_bounds__(32 * kWarps, kVectors == 1 ? 7 : 1)
    head_kernel(DeviceHeadArgs args) {
  const int lane = threadIdx.x % 32;
  const int entry = entry_of(lane);
  const int64_t group = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (group * kRows >= args.rows) return;
  cuda::RowPart<kVectors> part[kRows];
  int64_t index[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    // The last group may be short: its spare rows repeat the last one and write nothing.
    index[r] = group * kRows + r;
    const int64_t used = index[r] < args.rows ? index[r] : args.rows - 1;
    const int64_t row = args.row_list != nullptr ? args.row_list[used] : used;
    const T* hidden = static_cast<const T*>(args.hidden_LD);
    if (hidden != nullptr) hidden += row * args.stride;
    part[r] = cuda::load_row<kVectors, T>(args.residual_LD + row * args.stride, hidden, args.stride,
                                          lane);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {  // apart, so that all loads are on their way first
    cuda::norm_row(part[r], args.norm, args.d_model, args.stride, args.eps, args.norm_weight_D,
                   args.norm_bias_D, lane);
  }
  // Running maximum and sum of exponentials, over blocks of kEntries logits; all lanes hold the same.
  float largest[kRows];
  float total[kRows];
  float wanted[kRows];
  int32_t target[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    largest[r] = -INFINITY;
    total[r] = 0;
    wanted[r] = 0;
    target[r] = args.target_L != nullptr && index[r] < args.rows ? args.target_L[index[r]] : -1;
  }
  const int passes = args.log_p_LV != nullptr ? 2 : 1;  // the second writes ln p
  for (int pass = 0; pass < passes; ++pass) {
    float log_sum[kRows];
    if (pass == 1) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) log_sum[r] = logf(total[r]) + largest[r];
    }
    for (int64_t first = 0; first < args.vocab_size; first += kEntries) {
      float sum[kRows][kEntries] = {};
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        const int64_t column = cuda::part_column(k, lane);
        if (column >= args.stride) continue;
#pragma unroll
        for (int v = 0; v < kEntries; ++v) {
          if (first + v >= args.vocab_size) continue;
          float w[8];
          cuda::load8(args.weight_VD + (first + v) * args.stride + column, w);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[r][v] = fmaf(part[r].value[k][i], w[i], sum[r][v]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float logit = reduce_entries(sum[r], lane);
        const int64_t v = first + entry;
        const bool valid = v < args.vocab_size;
        if (kMirror && valid && index[r] < args.rows) {
          logit += args.mirror_logits_LV[(args.rows - 1 - index[r]) * args.vocab_size + v];
        }
        const bool writes = valid && lane < kEntries && index[r] < args.rows;
        if (pass == 1) {
          if (writes) args.log_p_LV[index[r] * args.vocab_size + v] = logit - log_sum[r];
          continue;
        }
        if (writes && args.logits_LV != nullptr) {
          args.logits_LV[index[r] * args.vocab_size + v] = logit;
        }
        float block_largest = valid ? logit : -INFINITY;
#pragma unroll
        for (int bit = 1; bit < kEntries; bit *= 2) {
          block_largest = fmaxf(block_largest, __shfl_xor_sync(0xffffffffu, block_largest, bit));
        }
        // fmaxf drops a NaN; the sum below keeps it.
        const float next = fmaxf(largest[r], block_largest);
        float block_total = valid ? expf(logit - next) : 0.0F;
        float block_wanted = valid && v == target[r] ? logit : 0.0F;
#pragma unroll
        for (int bit = 1; bit < kEntries; bit *= 2) {
          block_total += __shfl_xor_sync(0xffffffffu, block_total, bit);
          block_wanted += __shfl_xor_sync(0xffffffffu, block_wanted, bit);
        }
        total[r] = fmaf(total[r], first == 0 ? 0.0F : expf(largest[r] - next), block_total);
        largest[r] = next;
        wanted[r] += block_wanted;
      }
    }
  }
  if (args.out_L != nullptr && lane == 0) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (index[r] >= args.rows) continue;
      // The NaN that the CPU writes too: files are compared byte for byte.
      args.out_L[index[r]] =
          target[r] >= 0 ? wanted[r] - (logf(total[r]) + largest[r]) : __int_as_float(0x7fc00000);
    }
  }
}

}  // namespace

void head_log_likelihood(DeviceExec& exec, const DeviceHeadArgs& args) {
  require(args.d_model > 0 && args.stride >= args.d_model && args.stride % 8 == 0 &&
              args.vocab_size > 0,
          "head: sizes");
  if (args.rows == 0) return;
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    cuda::with_vectors(args.stride, [&](auto vectors) {
      constexpr int kVectors = decltype(vectors)::value;
      const auto kernel = args.mirror_logits_LV != nullptr ? head_kernel<kVectors, T, true>
                                                           : head_kernel<kVectors, T, false>;
      kernel<<<cuda::blocks_for(args.rows, kWarps * kRows), 32 * kWarps, 0, exec.impl().stream>>>(
          args);
    });
  });
  cuda::check_launch(exec, "head_log_likelihood");
}

}  // namespace chromamba::kernels
