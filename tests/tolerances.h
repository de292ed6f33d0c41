// Every tolerance of the numeric tests, with its reason. A test may ask for less, never for more.
#pragma once

namespace chromamba::tests {

// Unit roundoff of f32: the largest relative error of one rounding.
inline constexpr double kRoundoff = 0x1p-24;

// Fixtures of the published implementations, computed in f32 themselves: the bound, as a share
// of each tensor's largest magnitude. Measured here: 3e-7 to 4e-6.
inline constexpr double kFixture = 1e-5;

// The plain double-precision model (tests/mamba/naive_model.h) against them: their own f32 alone.
// Measured: at most 1.1e-6.
inline constexpr double kNaiveFixture = 2e-6;

// A fixture whose published kernels multiply in TF32 (10 bits of mantissa: mamba_ssm's Triton kernels of Mamba-2): the
// issue's bound. The double references differ from it by 1.2e-4.
inline constexpr double kTf32Fixture = 3e-4;

// ln p of the real model against the published implementation, absolute. Measured here: 6e-6 over
// 1,024 bases, 2e-5 over 65,536.
inline constexpr double kBuiltInLogP = 5e-5;

// The same in bf16 (8 bits of mantissa in activations and weights), mean over bases: the bound.
inline constexpr double kBf16MeanLogP = 2e-3;

// The same for the fixtures' models, whose random weights leave the residual stream to what the mixers add: with exact
// kernels between activations that are rounded to bf16 the difference is 1.25e-2.
inline constexpr double kBf16FixtureLogP = 2.5e-2;

// The fixtures of two directions: masked bases' mean |Δ ln p| as a share of their mean |ln p|, which random weights make
// as large as 15. Measured: 3.3e-4.
inline constexpr double kBf16SweepLogP = 1e-3;

// One kernel in bf16 against its double reference on the same rounded inputs: the output's own rounding
// (2^-9) and that of values handed on inside the kernel's fused functions (2^-11).
inline constexpr double kBf16Kernel = 0x1p-8;

// The matrix form of ssd_scan in bf16: the scores, the state and the inputs with their decays are rounded once more before
// they are multiplied, each by up to what the output is; inputs of random signs average nothing. Seen: 5.2e-3.
inline constexpr double kBf16Products = 0x1p-7;

// One kernel against its double reference, as a share of the largest value of the output. A kernel
// does at most a few dozen dependent roundings a value, decays keep the scan's from adding up.
inline constexpr double kKernel = 64 * kRoundoff;  // 3.8e-6

// Transcendental functions of kernels/simd_math-inl.h, in units of the last place.
// Without fused multiply-add the exponent x·log2(e), up to 126, is rounded: 126·ln2·2^-24 = 44 ulps.
inline constexpr double kExpUlps = 4;
inline constexpr double kNoFmaUlps = 44;
inline constexpr double kSoftplusUlps = 8;
inline constexpr double kSiluUlps = 8;
inline constexpr double kLossUlps =
    8;  // 2^x - 1: the polynomial's 9.2e-8 counts double where 2^x is near 1/2

}  // namespace chromamba::tests
