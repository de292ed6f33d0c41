#include "kernels/ssd_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ssd_scan_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace chromamba::kernels::HWY_NAMESPACE {

// Rows handled at a time for one lane group: its two buffers and those of the time steps, 64 bytes a row each, take
// 8 KB of L1 and leave the rest to Bmat and Cmat, which all lane groups of a group's heads read again.
constexpr int64_t kBlockRows = 32;

// States kept in registers through a block of rows. AVX-512 has 32 registers; with 16 registers 8 states are the most
// that leaves room for temporaries.
#if HWY_TARGET <= HWY_AVX3
constexpr int kMaxGroup = 16;
#else
constexpr int kMaxGroup = 8;
#endif

constexpr int64_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);

// The rows of one block as one lane group sees them, in running order.
struct BlockRows {
  const float* loss;   // exp(Δ·A) - 1 of the lane group's head, kMaxLanes apart
  const float* input;  // Δ·x [rows, lanes]
  float* y;            // [rows, lanes], in and out
};

// Updates kGroup states of one lane group over a block of rows and adds their part of y.
// state: [kGroup, channels] at the group's first state and channel; b, c: at the first row, the group's first state.
template <int kGroup>
HWY_INLINE void ScanStates(int64_t channels, int64_t rows, int64_t lanes_used,
                           const BlockRows& block, float* state, const float* b, const float* c,
                           int64_t bc_step) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V s[kGroup];
  for (int n = 0; n < kGroup; ++n) s[n] = load_n(d, state + n * channels, lanes_used);
  for (int64_t r = 0; r < rows; ++r) {
    const V loss = hn::Set(d, block.loss[r * kMaxLanes]);
    const V input = hn::Load(d, block.input + r * lanes);
    V y0 = hn::Load(d, block.y + r * lanes);
    V y1 = hn::Zero(d);
    HWY_UNROLL(16)
    for (int n = 0; n < kGroup; ++n) {
      s[n] = hn::MulAdd(input, hn::Set(d, b[n]), hn::MulAdd(loss, s[n], s[n]));
      if (n % 2 == 0) {
        y0 = hn::MulAdd(s[n], hn::Set(d, c[n]), y0);
      } else {
        y1 = hn::MulAdd(s[n], hn::Set(d, c[n]), y1);
      }
    }
    hn::Store(hn::Add(y0, y1), d, block.y + r * lanes);
    b += bc_step;
    c += bc_step;
  }
  for (int n = 0; n < kGroup; ++n) store_n(s[n], d, state + n * channels, lanes_used);
}

// One lane group, `n_used` channels from e on, over one block of rows. `first` is the first row in running order and
// `step` the distance, in rows, to the next. delta, loss: of its head, kMaxLanes apart.
HWY_INLINE void ScanBlock(const SsdScanArgs& args, int64_t first, int64_t step, int64_t rows,
                          int64_t group, int64_t e, int64_t n_used, const float* delta,
                          const float* loss) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t channels = args.heads * args.head_dim;
  HWY_ALIGN float input[kBlockRows * kMaxLanes];
  HWY_ALIGN float y[kBlockRows * kMaxLanes];
  const V skip = load_n(d, args.D_E + e, n_used);
  for (int64_t r = 0; r < rows; ++r) {
    const V x = load_n(d, args.x_LE + (first + r * step) * args.x_stride + e, n_used);
    hn::Store(hn::Mul(hn::Set(d, delta[r * kMaxLanes]), x), d, input + r * lanes);
    hn::Store(hn::Mul(skip, x), d, y + r * lanes);
  }
  const BlockRows block{loss, input, y};
  const int64_t bc_step = step * args.bc_stride;
  const int64_t bc_first = first * args.bc_stride + group * args.d_state;
  int64_t n = 0;
  const auto scan = [&](auto size) {
    constexpr int kGroup = decltype(size)::value;
    for (; n + kGroup <= args.d_state; n += kGroup) {
      ScanStates<kGroup>(channels, rows, n_used, block, args.state_NE + n * channels + e,
                         args.Bmat_LGN + bc_first + n, args.Cmat_LGN + bc_first + n, bc_step);
    }
  };
  scan(std::integral_constant<int, kMaxGroup>());
  scan(std::integral_constant<int, 4>());
  scan(std::integral_constant<int, 1>());
  for (int64_t r = 0; r < rows; ++r) {
    store_n(hn::Load(d, y + r * lanes), d, args.out_LE + (first + r * step) * args.out_stride + e,
            n_used);
  }
}

// Heads are taken as many at a time as there are lanes: their time steps are computed together.
void SsdScan(const SsdScanArgs& args) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t step = args.reverse ? -1 : 1;
  const int64_t heads_per_group = args.heads / args.groups;
  HWY_ALIGN float delta[kBlockRows * kMaxLanes];
  HWY_ALIGN float loss[kBlockRows * kMaxLanes];
  const V log2e = hn::Set(d, kLog2E);
  const V least = hn::Set(d, args.dt_min);
  const V most = hn::Set(d, args.dt_max);
  for (int64_t block = 0; block < args.length; block += kBlockRows) {
    const int64_t rows = args.length - block < kBlockRows ? args.length - block : kBlockRows;
    const int64_t first = args.reverse ? args.length - 1 - block : block;
    for (int64_t h0 = 0; h0 < args.heads; h0 += lanes) {
      const int64_t count = args.heads - h0 < lanes ? args.heads - h0 : lanes;
      const V bias =
          args.dt_bias_H != nullptr ? load_n(d, args.dt_bias_H + h0, count) : hn::Zero(d);
      const V decay = load_n(d, args.A_H + h0, count);
      for (int64_t r = 0; r < rows; ++r) {
        const float* dt = args.dt_LH + (first + r * step) * args.dt_stride + h0;
        const V soft = softplus(d, hn::Add(load_n(d, dt, count), bias));
        // In this order of the operands what is not a number stays so, where minimum and maximum give the second one.
        const V time_step = hn::Min(most, hn::Max(least, soft));
        hn::Store(time_step, d, delta + r * kMaxLanes);
        hn::Store(exp2_product_minus_one(d, hn::Mul(time_step, log2e), decay), d,
                  loss + r * kMaxLanes);
      }
      for (int64_t head = h0; head < h0 + count; ++head) {
        const int64_t end = (head + 1) * args.head_dim;
        for (int64_t e = head * args.head_dim; e < end; e += lanes) {
          ScanBlock(args, first, step, rows, head / heads_per_group, e,
                    end - e < lanes ? end - e : lanes, delta + (head - h0), loss + (head - h0));
        }
      }
    }
  }
}

}  // namespace chromamba::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace chromamba::kernels::detail {
HWY_EXPORT(SsdScan);
void ssd_scan_simd(const SsdScanArgs& args) { HWY_DYNAMIC_DISPATCH(SsdScan)(args); }
}  // namespace chromamba::kernels::detail
#endif
