#include <cmath>

#include "kernels/gated_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gated_norm_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// One group of one row. The first pass leaves in `out` what the norm is taken of (or, without a norm, the result).
HWY_INLINE void GateGroup(const GatedNormArgs& args, int64_t width, const float* y, const float* z,
                          const float* weight, float* out) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const bool norm_first = args.kind == GatedNormKind::norm_first;
  V squares = hn::Zero(d);
  for (int64_t e = 0; e < width; e += lanes) {
    const int64_t n = width - e < lanes ? width - e : lanes;
    V value = load_n(d, y + e, n);
    if (!norm_first) {
      value = hn::Mul(value, silu(d, load_n(d, z + e, n)));
      store_n(value, d, out + e, n);
    }
    squares = hn::MulAdd(value, value, squares);
  }
  if (args.kind == GatedNormKind::none) return;
  const float variance =
      hn::GetLane(hn::SumOfLanes(d, squares)) * (1.0F / static_cast<float>(width));
  // Squares that overflow must not pass as a scale of zero: what comes out is not a number then.
  const float deviation = std::isfinite(variance) ? std::sqrt(variance + args.eps) : std::nanf("");
  const V scale = hn::Set(d, 1.0F / deviation);
  for (int64_t e = 0; e < width; e += lanes) {
    const int64_t n = width - e < lanes ? width - e : lanes;
    V value = load_n(d, norm_first ? y + e : out + e, n);
    value = hn::Mul(hn::Mul(value, scale), load_n(d, weight + e, n));
    if (norm_first) value = hn::Mul(value, silu(d, load_n(d, z + e, n)));
    store_n(value, d, out + e, n);
  }
}

void GatedNorm(const GatedNormArgs& args) {
  const int64_t width = args.channels / args.groups;
  for (int64_t t = 0; t < args.length; ++t) {
    for (int64_t e = 0; e < args.channels; e += width) {
      GateGroup(args, width, args.y_LE + t * args.y_stride + e, args.z_LE + t * args.z_stride + e,
                args.weight_E != nullptr ? args.weight_E + e : nullptr,
                args.out_LE + t * args.out_stride + e);
    }
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(GatedNorm);
void gated_norm_simd(const GatedNormArgs& args) { HWY_DYNAMIC_DISPATCH(GatedNorm)(args); }
}  // namespace chromamba::kernels::detail
#endif
