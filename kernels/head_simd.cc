#include <cmath>

#include "kernels/head.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/head_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

void RowLogSumExp(const HeadArgs& args, float* max_L, float* log_sum_L) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t vocab = args.vocab_size;
  const V lowest = hn::Set(d, -3.0e38F);
  for (int64_t t = 0; t < args.length; ++t) {
    const float* logits = args.logits_LV + t * args.logits_stride;
    V top = lowest;
    for (int64_t v = 0; v < vocab; v += lanes) {
      const int64_t n = vocab - v < lanes ? vocab - v : lanes;
      const V x = load_n(d, logits + v, n);
      top = hn::Max(top, hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(n)), x, lowest));
    }
    const V max = hn::MaxOfLanes(d, top);
    V sum = hn::Zero(d);
    for (int64_t v = 0; v < vocab; v += lanes) {
      const int64_t n = vocab - v < lanes ? vocab - v : lanes;
      const V x = exp_clamped(d, hn::Sub(load_n(d, logits + v, n), max));
      sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(n)), x));
    }
    max_L[t] = hn::GetLane(max);
    log_sum_L[t] =
        static_cast<float>(std::log(static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)))));
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(RowLogSumExp);
void row_log_sum_exp_simd(const HeadArgs& args, float* max_L, float* log_sum_L) {
  HWY_DYNAMIC_DISPATCH(RowLogSumExp)(args, max_L, log_sum_L);
}
}  // namespace chromamba::kernels::detail
#endif
