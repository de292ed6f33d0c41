#include "kernels/linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <array>
#include <utility>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// Rows and vectors of columns whose sums stay in registers. The sums, the two vectors of weights of
// one k and a broadcast value fill 31 of 32 registers (AVX-512) or 15 of 16. Two vectors share a
// broadcast, so that loads stay at half of what the machine can do beside two FMAs a cycle.
constexpr int kVectors = 2;
#if HWY_TARGET <= HWY_AVX3
constexpr int kMaxRows = 14;
#else
constexpr int kMaxRows = 6;
#endif

// kRows rows by kCols vectors: every sum is one chain of fused multiply-adds in the order of k.
template <int kRows, int kCols>
HWY_INLINE void Multiply(const LinearArgs& args, const float* x, float* y, int64_t column,
                         const float* const* panel) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V sum[kRows][kCols];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kCols; ++c) sum[r][c] = hn::Zero(d);
  }
  for (int64_t k = 0; k < args.in_features; ++k) {
    V w[kCols];
    for (int c = 0; c < kCols; ++c) w[c] = hn::Load(d, panel[c] + k * kPanelWidth);
    HWY_UNROLL(16)
    for (int r = 0; r < kRows; ++r) {
      const V value = hn::Set(d, x[r * args.x_stride + k]);
      for (int c = 0; c < kCols; ++c) sum[r][c] = hn::MulAdd(value, w[c], sum[r][c]);
    }
  }
  for (int c = 0; c < kCols; ++c) {
    const int64_t at = column + c * lanes;
    const int64_t used = args.out_features - at;
    if (used <= 0) break;
    const V bias = args.bias_N != nullptr ? load_n(d, args.bias_N + at, used) : hn::Zero(d);
    for (int r = 0; r < kRows; ++r) {
      store_n(hn::Add(sum[r][c], bias), d, y + r * args.y_stride + at, used);
    }
  }
}

using Multiplier = void (*)(const LinearArgs&, const float*, float*, int64_t, const float* const*);

template <int kCols, int... kRows>
HWY_INLINE constexpr std::array<Multiplier, sizeof...(kRows)> multipliers(
    std::integer_sequence<int, kRows...>) {
  return {&Multiply<kRows + 1, kCols>...};
}

void Linear(const LinearArgs& args) {
  static constexpr auto kWide = multipliers<kVectors>(std::make_integer_sequence<int, kMaxRows>());
  static constexpr auto kNarrow = multipliers<1>(std::make_integer_sequence<int, kMaxRows>());
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows;
  for (int64_t column = 0; column < args.out_features; column += kVectors * lanes) {
    const float* panel[kVectors];
    for (int c = 0; c < kVectors; ++c) {
      const int64_t at = column + c * lanes;
      panel[c] = args.weight_panels + panel_index(at, 0, args.in_features);
    }
    const bool narrow = args.out_features - column <= lanes;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = args.rows * b / blocks;
      const int64_t rows = args.rows * (b + 1) / blocks - first;
      const Multiplier multiply = (narrow ? kNarrow : kWide)[static_cast<size_t>(rows - 1)];
      multiply(args, args.x + first * args.x_stride, args.y + first * args.y_stride, column, panel);
    }
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(Linear);
void linear_simd(const LinearArgs& args) { HWY_DYNAMIC_DISPATCH(Linear)(args); }
}  // namespace chromamba::kernels::detail
#endif
