#include "kernels/causal_conv1d.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/causal_conv1d_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// One output row. Rows run outermost: the K input rows and the weights stay in the L1 cache, where
// walking down a column of a [L, 2E] tensor would touch a new line, often of the same cache set, at
// every step.
template <int kTaps>
HWY_INLINE void ConvRow(const CausalConv1dArgs& args, const float* const* rows, float* out) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t channels = args.channels;
  const int64_t taps = kTaps > 0 ? kTaps : args.taps;
  for (int64_t e = 0; e < channels; e += lanes) {
    const int64_t n = channels - e < lanes ? channels - e : lanes;
    V sum = args.bias_E != nullptr ? load_n(d, args.bias_E + e, n) : hn::Zero(d);
    for (int64_t k = 0; k < taps; ++k) {
      sum = hn::MulAdd(load_n(d, args.weight_KE + k * channels + e, n), load_n(d, rows[k] + e, n),
                       sum);
    }
    store_n(args.silu ? silu(d, sum) : sum, d, out + e, n);
  }
}

void CausalConv1d(const CausalConv1dArgs& args) {
  const float* rows[kMaxConvTaps];
  for (int64_t t = 0; t < args.length; ++t) {
    for (int64_t k = 0; k < args.taps; ++k) {
      rows[k] = detail::conv_row(args, t - (args.taps - 1) + k);
    }
    float* out = args.out_LE + (args.reverse ? args.length - 1 - t : t) * args.out_stride;
    if (args.taps == 4) {
      ConvRow<4>(args, rows, out);
    } else {
      ConvRow<0>(args, rows, out);
    }
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(CausalConv1d);
void causal_conv1d_simd(const CausalConv1dArgs& args) { HWY_DYNAMIC_DISPATCH(CausalConv1d)(args); }
}  // namespace chromamba::kernels::detail
#endif
