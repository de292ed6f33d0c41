// Vector helpers of the SIMD kernels: partial loads and the few transcendental functions that a
// Mamba block needs. Included once per instruction set (Highway's foreach_target), so everything
// lives in that target's namespace and no inline function leaks between instruction sets.
//
// Accuracy (against double): exp_clamped and exp2_product 4 ulp, softplus and silu 8 ulp. SSE4 has no
// fused multiply-add: there the product that makes an exponent is rounded, which adds up to |x|/2 ulp
// to exp(x). Tested in tests/kernels/simd_math_test.cc.
#if defined(CHROMAMBA_SIMD_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)  // per-target guard
#ifdef CHROMAMBA_SIMD_MATH_INL_H
#undef CHROMAMBA_SIMD_MATH_INL_H
#else
#define CHROMAMBA_SIMD_MATH_INL_H
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The first n lanes from memory, zero in the others; reads nothing past n.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V load_n(D d, const float* from, int64_t n) {
  if (n >= static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, from);
#if HWY_TARGET <= HWY_AVX2  // native masked loads fault on no lane that is masked off
  return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(n)), d, from);
#else
  HWY_ALIGN float buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy_n(from, n, buffer);
  return hn::Load(d, buffer);
#endif
}

// Writes the first n lanes and nothing past them.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_n(V v, D d, float* to, int64_t n) {
  if (n >= static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, to);
    return;
  }
  HWY_ALIGN float buffer[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, d, buffer);
  std::copy_n(buffer, n, to);
}

constexpr float kLog2E = 1.44269504088896340736F;

// Adding 1.5·2^23 rounds a float of magnitude below 2^22 to an integer, which then sits in the low
// mantissa bits of the sum.
constexpr float kRoundMagic = 12582912.0F;

// 2^f for f in [-0.5, 0.5]: minimax polynomial of degree 5 with p(0) = 1 exactly, relative error
// below 9.2e-8 before rounding. Degree 4 would leave 2.8e-6, too much for a long product of decays.
// The first function is (p(f) - 1) / f.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_slope(D d, V f) {
  V p = hn::MulAdd(f, hn::Set(d, 1.326472685e-3F), hn::Set(d, 9.671512666e-3F));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550733744e-2F));
  p = hn::MulAdd(p, f, hn::Set(d, 2.402224208e-1F));
  return hn::MulAdd(p, f, hn::Set(d, 6.931469776e-1F));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_fraction(D d, V f) {
  return hn::MulAdd(exp2_slope(d, f), f, hn::Set(d, 1.0F));
}

// polynomial · 2^n, where `shifted` is n + kRoundMagic and `rounded` is n. AVX-512 has an instruction
// for it, which underflows to zero; elsewhere n is added to the exponent's bits, guarded at -126.
template <bool kGuarded, class D, class V = hn::Vec<D>>
HWY_INLINE V scale_by_power(D d, V polynomial, V shifted, V rounded) {
#if HWY_TARGET == HWY_AVX3
  (void)d;
  (void)shifted;
  return V{_mm512_scalef_ps(polynomial.raw, rounded.raw)};
#else
  (void)rounded;
  const hn::RebindToSigned<D> di;
  if (kGuarded) shifted = hn::Max(shifted, hn::Set(d, kRoundMagic - 126.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, polynomial), exponent));
#endif
}

// a·b as an exponent: 2^(a·b) for a·b <= 126; values below 2^-126 come out as at most about
// 2^-126, which is zero to any sum they enter. a·b is never rounded: its fraction is taken with one
// fused operation.
// Beyond ±kExp2Range only the guarded form is right, at two or three operations more; inside both
// give the same bits.
#if HWY_TARGET == HWY_AVX3
constexpr float kExp2Range = 2097152.0F;  // 2^21: a·b + kRoundMagic still counts in halves
#else
constexpr float kExp2Range = 125.0F;  // the exponent fits its bits without a clamp
#endif

template <bool kGuarded, class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_product(D d, V a, V b) {
  const V magic = hn::Set(d, kRoundMagic);
  const V shifted = hn::MulAdd(a, b, magic);
  const V rounded = hn::Sub(shifted, magic);
  V fraction = hn::MulSub(a, b, rounded);
  if (kGuarded) fraction = hn::Min(hn::Max(fraction, hn::Set(d, -0.5F)), hn::Set(d, 0.5F));
  return scale_by_power<kGuarded>(d, exp2_fraction(d, fraction), shifted, rounded);
}

// 2^(a·b) - 1 for a·b <= 0, with relative accuracy where it is near 0: 8 ulp. -1 where 2^(a·b) is below 2^-25.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_product_minus_one(D d, V a, V b) {
  const V one = hn::Set(d, 1.0F);
  const V magic = hn::Set(d, kRoundMagic);
  const V shifted = hn::MulAdd(a, b, magic);
  const V rounded = hn::Sub(shifted, magic);
  V fraction = hn::MulSub(a, b, rounded);
  fraction = hn::Min(hn::Max(fraction, hn::Set(d, -0.5F)), hn::Set(d, 0.5F));
  const V power = scale_by_power<true>(d, one, shifted, rounded);
  return hn::MulAdd(power, hn::Mul(fraction, exp2_slope(d, fraction)), hn::Sub(power, one));
}

// exp(x) for x <= 87; what is smaller than 2^-126 comes out as that or as 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_clamped(D d, V x) {
  // The product x·log2(e) loses up to |x|·2^-24 in the exponent; log2(e) in two parts keeps 4 ulp.
  const V magic = hn::Set(d, kRoundMagic);
  const V bounded = hn::Max(hn::Min(x, hn::Set(d, 88.0F)), hn::Set(d, -1000.0F));
  const V shifted = hn::MulAdd(bounded, hn::Set(d, kLog2E), magic);
  const V rounded = hn::Sub(shifted, magic);
  V fraction = hn::MulSub(bounded, hn::Set(d, kLog2E), rounded);
  fraction = hn::MulAdd(bounded, hn::Set(d, 1.925963033e-8F), fraction);  // log2(e) - kLog2E
  return scale_by_power<true>(d, exp2_fraction(d, fraction), shifted, rounded);
}

// x / (1 + exp(-x)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu(D d, V x) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0F), exp_clamped(d, hn::Neg(x))));
}

// log(1 + exp(x)), as max(x, 0) + log1p(exp(-|x|)); log1p(y) = 2·atanh(y / (2 + y)) keeps full
// relative accuracy down to y = 0, where time steps of a trained model live.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V softplus(D d, V x) {
  const V y = exp_clamped(d, hn::Neg(hn::Abs(x)));
  const V s = hn::Div(y, hn::Add(y, hn::Set(d, 2.0F)));  // in (0, 1/3]
  const V q = hn::Mul(s, s);
  // Odd series of atanh, q <= 1/9: the term left out is q^8/17 < 1.4e-9 relative.
  V p = hn::MulAdd(q, hn::Set(d, 2.0F / 15.0F), hn::Set(d, 2.0F / 13.0F));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0F / 11.0F));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0F / 9.0F));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0F / 7.0F));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0F / 5.0F));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0F / 3.0F));
  p = hn::MulAdd(p, q, hn::Set(d, 2.0F));
  // In this order of the operands what is not a number stays so, where the maximum gives the second one.
  return hn::MulAdd(s, p, hn::Max(hn::Zero(d), x));
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
