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

namespace detail {
// Writes max and ln Σ exp(· - max) of each row.
void row_log_sum_exp_simd(const HeadArgs& args, float* max_L, float* log_sum_L);
}  // namespace detail

}  // namespace chromamba::kernels
