#include <cmath>

#include "kernels/add_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/add_norm_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// Four accumulators hide the latency of the add; their order of summation depends on D alone.
void AddNorm(const AddNormArgs& args) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = args.d_model;
  const auto inverse_width = 1.0F / static_cast<float>(width);
  for (int64_t t = 0; t < args.length; ++t) {
    const float* hidden = args.hidden_LD != nullptr ? args.hidden_LD + t * width : nullptr;
    float* residual = args.residual_LD + t * width;
    float* out = args.out_LD + t * width;

    V sum0 = hn::Zero(d);
    V sum1 = hn::Zero(d);
    V squares0 = hn::Zero(d);
    V squares1 = hn::Zero(d);
    int64_t i = 0;
    for (; i + 2 * lanes <= width; i += 2 * lanes) {
      V r0 = hn::LoadU(d, residual + i);
      V r1 = hn::LoadU(d, residual + i + lanes);
      if (hidden != nullptr) {
        r0 = hn::Add(r0, hn::LoadU(d, hidden + i));
        r1 = hn::Add(r1, hn::LoadU(d, hidden + i + lanes));
        hn::StoreU(r0, d, residual + i);
        hn::StoreU(r1, d, residual + i + lanes);
      }
      sum0 = hn::Add(sum0, r0);
      sum1 = hn::Add(sum1, r1);
      squares0 = hn::MulAdd(r0, r0, squares0);
      squares1 = hn::MulAdd(r1, r1, squares1);
    }
    for (; i < width; i += lanes) {
      const int64_t n = width - i < lanes ? width - i : lanes;
      V r = load_n(d, residual + i, n);
      if (hidden != nullptr) {
        r = hn::Add(r, load_n(d, hidden + i, n));
        store_n(r, d, residual + i, n);
      }
      sum0 = hn::Add(sum0, r);
      squares0 = hn::MulAdd(r, r, squares0);
    }

    float mean = 0.0F;
    float variance = hn::GetLane(hn::SumOfLanes(d, hn::Add(squares0, squares1))) * inverse_width;
    if (args.kind == NormKind::layer) {
      mean = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1))) * inverse_width;
      // A second pass over deviations: mean of squares minus square of mean cancels badly.
      const V vmean = hn::Set(d, mean);
      V deviations = hn::Zero(d);
      for (i = 0; i < width; i += lanes) {
        const int64_t n = width - i < lanes ? width - i : lanes;
        V deviation = hn::Sub(load_n(d, residual + i, n), vmean);
        if (n < lanes) {
          deviation = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(n)), deviation);
        }
        deviations = hn::MulAdd(deviation, deviation, deviations);
      }
      variance = hn::GetLane(hn::SumOfLanes(d, deviations)) * inverse_width;
    }
    // Squares that overflow must not pass as a scale of zero: what comes out is not a number then.
    const float deviation =
        std::isfinite(variance) ? std::sqrt(variance + args.eps) : std::nanf("");
    const V scale = hn::Set(d, 1.0F / deviation);
    const V vmean = hn::Set(d, mean);
    for (i = 0; i < width; i += lanes) {
      const int64_t n = width - i < lanes ? width - i : lanes;
      const V normal = hn::Mul(hn::Sub(load_n(d, residual + i, n), vmean), scale);
      V result = hn::Mul(normal, load_n(d, args.weight_D + i, n));
      if (args.bias_D != nullptr) result = hn::Add(result, load_n(d, args.bias_D + i, n));
      store_n(result, d, out + i, n);
    }
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(AddNorm);
void add_norm_simd(const AddNormArgs& args) { HWY_DYNAMIC_DISPATCH(AddNorm)(args); }
}  // namespace chromamba::kernels::detail
#endif
