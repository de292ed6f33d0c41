// Log-probabilities of tokens from logits: natural log of a softmax over the whole vocabulary, padded
// rows included, as the published code computes it.
//
//   log_p[t, v] = logits[t, v] - max_v' - ln Σ_v' exp(logits[t, v'] - max)
//
// Shapes   logits_LV [L, V] f32 with row stride logits_stride. Two uses, either may be null:
//          target_L [L] int32 with out_L [L]: out[t] = log_p[t, target[t]], NaN where target < 0;
//          log_p_LV [L, V]: all of it (may alias logits when the strides agree).
// Cost     V exponentials and one logarithm a base; 4·V + 8 bytes.
// Split    rows are independent.
// Numerics f32, sum in SIMD lanes, logarithm in double. Against the double reference: 4·2^-24 of the
//          largest |logit| in the row plus 2e-7. A row's bits are the same through either use.
#pragma once

#include <cstdint>

#include "kernels/add_norm.h"
#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

struct HeadArgs {
  int64_t length = 0;      // L
  int64_t vocab_size = 0;  // V
  const float* logits_LV = nullptr;
  int64_t logits_stride = 0;
  const int32_t* target_L = nullptr;
  float* out_L = nullptr;
  float* log_p_LV = nullptr;
};

void head_log_softmax(Exec& exec, const HeadArgs& args);

// On a device, from the residual stream to log-likelihoods in one kernel: the last residual add, the final norm, the
// product with the head and the log-softmax; logits stay in registers. One warp owns a row.
// Bytes a base, bf16: 2·D + 4·D read, 8 more for target and result; unfused 12·D + 6·V. The stream is not
// written, so a tap of the final norm is another call of add_norm before this one.
struct DeviceHeadArgs {
  NormKind norm = NormKind::rms;
  int64_t rows = 0;
  int64_t d_model = 0;  // D
  int64_t stride = 0;   // between rows, a multiple of 8
  int64_t vocab_size = 0;
  float eps = 1e-5F;
  const void* hidden_LD = nullptr;
  const float* residual_LD = nullptr;
  const float* norm_weight_D = nullptr;  // [stride], zero beyond d_model
  const float* norm_bias_D = nullptr;
  const float* weight_VD = nullptr;  // [V, stride] f32, zero beyond d_model
  // Logits to add, or null: row i takes row rows-1-i, for they are of the other strand.
  const float* mirror_logits_LV = nullptr;
  const int32_t* row_list = nullptr;  // rows to take, or null: all, in order
  const int32_t* target_L = nullptr;  // one for each row taken; < 0: NaN
  float* out_L = nullptr;
  float* log_p_LV = nullptr;   // [rows, V], or null
  float* logits_LV = nullptr;  // [rows, V], or null
};
void head_log_likelihood(DeviceExec& exec, const DeviceHeadArgs& args);

namespace detail {
// Writes max and ln Σ exp(· - max) of each row.
void row_log_sum_exp_simd(const HeadArgs& args, float* max_L, float* log_sum_L);
}  // namespace detail

}  // namespace chromamba::kernels
