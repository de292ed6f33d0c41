#include "kernels/head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

void row_log_sum_exp_reference(const HeadArgs& args, float* max_L, float* log_sum_L) {
  for (int64_t t = 0; t < args.length; ++t) {
    const float* logits = args.logits_LV + t * args.logits_stride;
    const float max = *std::max_element(logits, logits + args.vocab_size);
    double sum = 0;
    for (int64_t v = 0; v < args.vocab_size; ++v) {
      sum += std::exp(static_cast<double>(logits[v]) - max);
    }
    max_L[t] = max;
    log_sum_L[t] = static_cast<float>(std::log(sum));
  }
}

}  // namespace

void head_log_softmax(Exec& exec, const HeadArgs& args) {
  require(args.length >= 0 && args.vocab_size > 0 && args.logits_stride >= args.vocab_size,
          "head_log_softmax: sizes");
  require((args.target_L == nullptr) == (args.out_L == nullptr),
          "head_log_softmax: target and out go together");
  float* max_L = exec.scratch(2 * args.length);
  float* log_sum_L = max_L + args.length;
  switch (exec.backend()) {
    case Backend::reference:
      row_log_sum_exp_reference(args, max_L, log_sum_L);
      break;
    case Backend::cpu:
      detail::row_log_sum_exp_simd(args, max_L, log_sum_L);
      break;
  }
  for (int64_t t = 0; t < args.length; ++t) {
    const float* logits = args.logits_LV + t * args.logits_stride;
    if (args.out_L != nullptr) {
      const int32_t target = args.target_L[t];
      require(target < args.vocab_size, "head_log_softmax: target outside the vocabulary");
      args.out_L[t] = target < 0 ? std::numeric_limits<float>::quiet_NaN()
                                 : (logits[target] - max_L[t]) - log_sum_L[t];
    }
    if (args.log_p_LV != nullptr) {
      float* log_p = args.log_p_LV + t * args.vocab_size;
      for (int64_t v = 0; v < args.vocab_size; ++v) {
        log_p[v] = (logits[v] - max_L[t]) - log_sum_L[t];
      }
    }
  }
}

}  // namespace chromamba::kernels
