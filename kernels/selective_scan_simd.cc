#include "kernels/selective_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/selective_scan_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// Rows handled at a time for one lane group: three buffers of 32 × 64 bytes leave most of a 32-KB L1
// to the input rows, and loading and storing N states every 32 rows costs 3 % of their updates.
constexpr int64_t kBlockRows = 32;

// States kept in registers through a block of rows. AVX-512 has 32 registers: 16 states and the
// polynomial fit. With 16 registers 8 states are the most that leaves room for temporaries.
#if HWY_TARGET <= HWY_AVX3
constexpr int kMaxGroup = 16;
#else
constexpr int kMaxGroup = 8;
#endif

// The rows of one block as one lane group sees them: [rows, lanes] each, in running order.
struct BlockRows {
  const float* delta;    // Δ·log2(e), so that exp(Δ·A) = 2^(delta·A)
  const float* delta_u;  // Δ·u
  float* y;              // in and out
};

// Updates kGroup states of one lane group over a block of rows and adds their part of y.
// a, h: [kGroup, channels] at the group's first state; b, c: the group's first column.
template <int kGroup, bool kGuarded>
HWY_INLINE void ScanGroup(const SelectiveScanArgs& args, int64_t rows, int64_t lanes_used,
                          const BlockRows& block, const float* a, float* h, const float* b,
                          const float* c, int64_t bc_step) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V state[kGroup];
  V decay[kGroup];
  for (int n = 0; n < kGroup; ++n) {
    state[n] = load_n(d, h + n * args.channels, lanes_used);
    decay[n] = load_n(d, a + n * args.channels, lanes_used);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const V step = hn::Load(d, block.delta + r * lanes);
    const V input = hn::Load(d, block.delta_u + r * lanes);
    V y0 = hn::Load(d, block.y + r * lanes);
    V y1 = hn::Zero(d);
    HWY_UNROLL(16)
    for (int n = 0; n < kGroup; ++n) {
      const V factor = exp2_product<kGuarded>(d, step, decay[n]);
      state[n] = hn::MulAdd(factor, state[n], hn::Mul(input, hn::Set(d, b[n])));
      if (n % 2 == 0) {
        y0 = hn::MulAdd(state[n], hn::Set(d, c[n]), y0);
      } else {
        y1 = hn::MulAdd(state[n], hn::Set(d, c[n]), y1);
      }
    }
    hn::Store(hn::Add(y0, y1), d, block.y + r * lanes);
    b += bc_step;
    c += bc_step;
  }
  for (int n = 0; n < kGroup; ++n) store_n(state[n], d, h + n * args.channels, lanes_used);
}

// One lane group over one block of rows. `first` is the first row in running order and `step` the
// distance, in rows, to the next: 1, or -1 for a reverse scan.
HWY_INLINE void ScanBlock(const SelectiveScanArgs& args, int64_t first, int64_t step, int64_t rows,
                          int64_t e) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t n_used = args.channels - e < lanes ? args.channels - e : lanes;
  HWY_ALIGN float delta[kBlockRows * HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN float delta_u[kBlockRows * HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN float y[kBlockRows * HWY_MAX_BYTES / sizeof(float)];

  const V bias = args.dt_bias_E != nullptr ? load_n(d, args.dt_bias_E + e, n_used) : hn::Zero(d);
  const V skip = load_n(d, args.D_E + e, n_used);
  const V log2e = hn::Set(d, kLog2E);
  V longest = hn::Zero(d);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = first + r * step;
    const V u = load_n(d, args.u_LE + t * args.u_stride + e, n_used);
    const V dt = hn::Add(load_n(d, args.dt_LE + t * args.dt_stride + e, n_used), bias);
    const V time_step = softplus(d, dt);
    const V exponent = hn::Mul(time_step, log2e);
    longest = hn::Max(longest, exponent);
    hn::Store(exponent, d, delta + r * lanes);
    hn::Store(hn::Mul(time_step, u), d, delta_u + r * lanes);
    hn::Store(hn::Mul(skip, u), d, y + r * lanes);
  }

  // Trained models stay far inside the range of the fast exponential; the check costs one multiply a
  // state and block, and the guarded form gives the same bits where both are right.
  V fastest = hn::Zero(d);
  for (int64_t n = 0; n < args.d_state; ++n) {
    fastest = hn::Min(fastest, load_n(d, args.A_NE + n * args.channels + e, n_used));
  }
  const bool guarded = !hn::AllTrue(d, hn::Gt(hn::Mul(longest, fastest), hn::Set(d, -kExp2Range)));

  const BlockRows block{delta, delta_u, y};
  const int64_t bc_step = step * args.bc_stride;
  int64_t n = 0;
  const auto group = [&](auto size) {
    constexpr int kGroup = decltype(size)::value;
    for (; n + kGroup <= args.d_state; n += kGroup) {
      const float* a = args.A_NE + n * args.channels + e;
      float* h = args.state_NE + n * args.channels + e;
      const float* b = args.Bmat_LN + first * args.bc_stride + n;
      const float* c = args.Cmat_LN + first * args.bc_stride + n;
      if (guarded) {
        ScanGroup<kGroup, true>(args, rows, n_used, block, a, h, b, c, bc_step);
      } else {
        ScanGroup<kGroup, false>(args, rows, n_used, block, a, h, b, c, bc_step);
      }
    }
  };
  group(std::integral_constant<int, kMaxGroup>());
  group(std::integral_constant<int, 4>());
  group(std::integral_constant<int, 1>());

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = first + r * step;
    V out = hn::Load(d, y + r * lanes);
    if (args.z_LE != nullptr) {
      out = hn::Mul(out, silu(d, load_n(d, args.z_LE + t * args.z_stride + e, n_used)));
    }
    store_n(out, d, args.out_LE + t * args.out_stride + e, n_used);
  }
}

void SelectiveScan(const SelectiveScanArgs& args) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  const int64_t step = args.reverse ? -1 : 1;
  for (int64_t block = 0; block < args.length; block += kBlockRows) {
    const int64_t rows = args.length - block < kBlockRows ? args.length - block : kBlockRows;
    const int64_t first = args.reverse ? args.length - 1 - block : block;
    for (int64_t e = 0; e < args.channels; e += lanes) ScanBlock(args, first, step, rows, e);
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(SelectiveScan);
void selective_scan_simd(const SelectiveScanArgs& args) {
  HWY_DYNAMIC_DISPATCH(SelectiveScan)(args);
}
}  // namespace chromamba::kernels::detail
#endif
