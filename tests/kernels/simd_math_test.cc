// The vector functions against double, on every instruction set, over the ranges they promise.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/simd_math_test.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// function 0: exp_clamped, 1: exp2_product(x, 0.75), 2: softplus, 3: silu, 4: the
// guarded exp2_product, 5: exp2_product_minus_one. n need not be a multiple of the lanes.
void Evaluate(int function, const float* in, float* out, int64_t n) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t used = std::min(lanes, n - i);
    const auto x = load_n(d, in + i, used);
    auto y = x;
    if (function == 0) y = exp_clamped(d, x);
    if (function == 1) y = exp2_product<false>(d, x, hn::Set(d, 0.75F));
    if (function == 4) y = exp2_product<true>(d, x, hn::Set(d, 0.75F));
    if (function == 5) y = exp2_product_minus_one(d, x, hn::Set(d, 0.75F));
    if (function == 2) y = softplus(d, x);
    if (function == 3) y = silu(d, x);
    store_n(y, d, out + i, used);
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "tests/kernels/kernel_test.h"
#include "tests/tolerances.h"

namespace chromamba::kernels {
HWY_EXPORT(Evaluate);
namespace {

// Largest error over [low, high] in units of the last place of the exact value.
double largest_ulps(int function, double low, double high,
                    const std::function<double(double)>& exact) {
  constexpr int64_t kPoints = 40001;  // odd: the last vector is partial
  std::vector<float> in(kPoints);
  for (int64_t i = 0; i < kPoints; ++i) {
    in[static_cast<size_t>(i)] =
        static_cast<float>(low + (high - low) * static_cast<double>(i) / (kPoints - 1));
  }
  std::vector<float> out(kPoints + 1, 12345.0F);
  HWY_DYNAMIC_DISPATCH(Evaluate)(function, in.data(), out.data(), kPoints);
  REQUIRE(out.back() == 12345.0F);  // nothing was written past the end
  double worst = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const double want = exact(static_cast<double>(in[i]));
    const double ulp = std::max(std::fabs(want) * 0x1p-23, 0x1p-126);
    const double error = std::fabs(static_cast<double>(out[i]) - want) / ulp;
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

double exact_silu(double x) { return x / (1.0 + std::exp(-x)); }
double exact_softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

TEST_CASE("vector functions agree with double on every instruction set") {
  tests::on_every_instruction_set([](Exec&) {
    const bool fused = cpu_backend_name().find("SSE4") == std::string::npos;
    const double extra = fused ? 0.0 : tests::kNoFmaUlps;
    const auto exact_exp = [](double x) { return std::exp(x); };
    const auto exact_power = [](double x) { return std::exp2(0.75 * x); };
    CHECK(largest_ulps(0, -87, 87, exact_exp) <= tests::kExpUlps + extra);
    CHECK(largest_ulps(0, -1, 1, exact_exp) <= tests::kExpUlps);
    CHECK(largest_ulps(1, -120, 0, exact_power) <= tests::kExpUlps + extra);
    CHECK(largest_ulps(1, -1e-3, 0, exact_power) <= tests::kExpUlps);
    CHECK(largest_ulps(4, -160, 0, exact_power) <= tests::kExpUlps + extra);
    const auto exact_loss = [](double x) { return std::expm1(0.75 * x * std::log(2.0)); };
    CHECK(largest_ulps(5, -160, 0, exact_loss) <= tests::kLossUlps);
    CHECK(largest_ulps(5, -1, 0, exact_loss) <= tests::kLossUlps);
    CHECK(largest_ulps(5, -1e-4, 0, exact_loss) <= tests::kLossUlps);
    CHECK(largest_ulps(2, -80, 80, exact_softplus) <= tests::kSoftplusUlps + extra);
    CHECK(largest_ulps(2, -2, 2, exact_softplus) <= tests::kSoftplusUlps);
    CHECK(largest_ulps(3, -80, 80, exact_silu) <= tests::kSiluUlps + extra);
    CHECK(largest_ulps(3, -2, 2, exact_silu) <= tests::kSiluUlps);
  });
}

TEST_CASE("vector functions stay finite far outside") {
  tests::on_every_instruction_set([](Exec&) {
    const std::vector<float> in = {-1e30F, -1e4F, -500, -200, 200, 500, 1e4F, 1e30F};
    std::vector<float> out(in.size());
    const auto n = static_cast<int64_t>(in.size());
    HWY_DYNAMIC_DISPATCH(Evaluate)(2, in.data(), out.data(), n);
    for (size_t i = 0; i < in.size(); ++i) {
      CHECK(std::fabs(out[i] - std::max(in[i], 0.0F)) <= 1e-30F);
    }
    HWY_DYNAMIC_DISPATCH(Evaluate)(3, in.data(), out.data(), n);
    for (size_t i = 0; i < in.size(); ++i) {
      if (in[i] > -1e5F) CHECK(std::fabs(out[i] - std::max(in[i], 0.0F)) <= 1e-30F);
    }
    HWY_DYNAMIC_DISPATCH(Evaluate)(0, in.data(), out.data(), n);
    for (size_t i = 0; i < in.size(); ++i) {
      CHECK(std::isfinite(out[i]));
      if (in[i] < -100) CHECK(out[i] <= 0x1p-125F);  // subnormal or less counts as zero
    }
    HWY_DYNAMIC_DISPATCH(Evaluate)(4, in.data(), out.data(), 4);
    for (size_t i = 0; i < 4; ++i) CHECK((out[i] >= 0.0F && out[i] <= 0x1p-125F));
    HWY_DYNAMIC_DISPATCH(Evaluate)(5, in.data(), out.data(), 4);
    for (size_t i = 0; i < 4; ++i) CHECK(out[i] == -1.0F);
  });
}

}  // namespace
}  // namespace chromamba::kernels
#endif
