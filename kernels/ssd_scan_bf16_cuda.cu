// ssd_scan in bf16: tiles of 64 rows as matrix products on the tensor cores. With a[t] the sum of log2(e)·Δ·A over the
// tile's rows up to t (f32, never positive), S the state before the tile and one head:
//
//   scores[t, s] = (Cmat[t] · Bmat[s]) · 2^(a[t] - a[s]) · Δ[s]  for s <= t, else 0
//   out[t]       = 2^a[t] · Cmat[t] · S + Σ_s scores[t, s] · x[s] + D · x[t]
//   S           := 2^a[63] · S + Σ_s Bmat[s] · (2^(a[63] - a[s]) · Δ[s] · x[s])
//
// The exponents are differences of sums, so every factor is at most 1. A block owns 16 channels for each of its warps: one
// head, several small ones of a group, or part of the warps idle. A warp keeps the states of its 16 channels in registers,
// f32, as the sums of a product [channels, states], which are at once the second operand of Cmat · S: states never leave
// the warp. The scores are computed once a block, rounded to bf16 and shared. What a block multiplies for 64 rows of a head
// with P = 64, N = 128: 1.7 M products (scores 0.33 M, of which the upper triangle is left out; Cmat · S 0.52 M; scores · x
// 0.16 M; the new state 0.52 M), 784 instructions of mma.m16n8k16.
//
// Rounded to bf16: the scores, S before it meets Cmat, Δ·x with its decay. Sums are f32.
#include "kernels/matrix_cores.cuh"
#include "kernels/ssd_scan_cuda.cuh"

namespace chromamba::kernels::cuda {
namespace {

// Rows of a tile. The scores cost 64 products a row, channel and base pair of tiles, the states twice N whatever the tile:
// with N = 128 twice as many rows cost as much more as half as many save.
constexpr int kTileRows = 64;
constexpr int kRowTiles = kTileRows / 16;
// Padding of a row in shared memory: the eight rows of a matrix lie in different banks.
constexpr int kPad = 8;
constexpr int kScorePitch = kTileRows + kPad;

// A decay below 2^kNegligible adds less to a state than its inputs are known to (2^-9), unless an input is 2^17 times its
// successors: step 1 does not go back further.
constexpr float kNegligible = -17.0F;

// How heads are dealt to blocks of kWarps warps.
struct Heads {
  int slices;     // warps of a head
  int per_block;  // heads
  int per_group;  // blocks

  Heads(const DeviceSsdScanArgs& args, int warps) {
    slices = static_cast<int>(args.head_dim / 16);
    per_block = warps / slices;
    const int group = static_cast<int>(args.heads / args.groups);
    if (per_block > group) per_block = group;
    per_group = (group + per_block - 1) / per_block;
  }
};

// Of the heads of a block and each row of a tile: a, Δ, and 2^(a[63] - a)·Δ.
struct RowFactors {
  float sum[kTileRows];
  float step[kTileRows];
  float weight[kTileRows];
};

// What a block works on.
struct BlockHeads {
  int64_t segment;
  int group;
  int head;     // first
  int heads;    // of the block
  int channel;  // first

  __device__ BlockHeads(const DeviceSsdScanArgs& args, const SsdSizes& sizes, const Heads& dealt) {
    const int per_segment = dealt.per_group * static_cast<int>(args.groups);
    segment = blockIdx.x / per_segment;
    const int block = static_cast<int>(blockIdx.x % per_segment);
    group = block / dealt.per_group;
    const int in_group = block % dealt.per_group * dealt.per_block;
    head = group * sizes.heads_per_group + in_group;
    const int left = sizes.heads_per_group - in_group;
    heads = left < dealt.per_block ? left : dealt.per_block;
    channel = head * static_cast<int>(args.head_dim);
  }
};

// Starts copying `count` rows of `width` elements, from row `at` on, to a tile whose rows hold kWidth elements; zeros beyond
// the rows. Columns beyond the width are left as they are.
template <int kWidth, int kThreads>
__device__ __forceinline__ void load_tile(const Bf16* from, int64_t stride, int64_t at, int step,
                                          int count, int width, Bf16* tile) {
  constexpr int kAcross = kWidth / 8;
  constexpr int kRowsAtOnce = kThreads / kAcross;
  static_assert(kThreads % kAcross == 0);
  const int column = static_cast<int>(threadIdx.x) % kAcross * 8;
  const int down = static_cast<int>(threadIdx.x) / kAcross;
  if (column >= width) return;
  const Bf16* source = from + at * stride + column;
#pragma unroll
  for (int i = 0; i < (kTileRows + kRowsAtOnce - 1) / kRowsAtOnce; ++i) {
    const int row = down + i * kRowsAtOnce;
    if (row >= kTileRows) break;
    const bool used = row < count;
    copy_async_or_zero(tile + row * (kWidth + kPad) + column,
                       source + (used ? row : 0) * step * stride, used);
  }
}

// Zeros in the columns from `width` on, where no row is ever copied to.
template <int kWidth>
__device__ __forceinline__ void clear_columns(int width, Bf16* tile) {
  const int padding = kWidth - width;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * padding;
       i += static_cast<int>(blockDim.x)) {
    tile[i / padding * (kWidth + kPad) + width + i % padding] = from_float<Bf16>(0.0F);
  }
}

// The time steps of one head, as the warp that has its index works on them: lane l has rows l and l + 32.
class TimeSteps {
 public:
  __device__ TimeSteps(const DeviceSsdScanArgs& args, const BlockHeads& block,
                       const SegmentRows& rows, int warp)
      : args_(args), rows_(rows), used_(warp < block.heads) {
    const int head = block.head + (used_ ? warp : 0);
    from_ = static_cast<const Bf16*>(args.dt_LH) + head;
    bias_ = args.dt_bias_H != nullptr ? args.dt_bias_H[head] : 0.0F;
    rate_ = args.A_H[head] * kLog2E;
  }

  // Reads the rows of the tile from base `start` of the segment on.
  __device__ __forceinline__ void read(int start, int count) {
    if (!used_) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane() + 32 * i;
      if (row < count) {
        held_[i] =
            to_float(from_[(rows_.first + int64_t{rows_.step} * (start + row)) * args_.dt_stride]);
      }
    }
  }
  // The factors of what was read, rows beyond `count` being steps of no time. `after`: a of what follows the tile, for the
  // weights. Returns a of the tile, in every lane.
  __device__ __forceinline__ float store(int count, float after, RowFactors& factors) const {
    float sum[2];
    float step[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      step[i] = lane() + 32 * i < count ? ssd_time_step(args_, held_[i], bias_) : 0.0F;
      sum[i] = rate_ * step[i];
#pragma unroll
      for (int far = 1; far < 32; far *= 2) {
        const float before = __shfl_up_sync(0xffffffffu, sum[i], far);
        if (lane() >= far) sum[i] += before;
      }
    }
    sum[1] += __shfl_sync(0xffffffffu, sum[0], 31);
    const float total = __shfl_sync(0xffffffffu, sum[1], 31);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane() + 32 * i;
      factors.sum[row] = sum[i];
      factors.step[row] = step[i];
      factors.weight[row] = exp2_fast(fminf(total - sum[i], 0.0F) + after) * step[i];
    }
    return total;
  }
  __device__ bool used() const { return used_; }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  const DeviceSsdScanArgs& args_;
  const SegmentRows& rows_;
  const Bf16* from_;
  float bias_;
  float rate_;
  bool used_;
  float held_[2] = {};
};

// The states of a warp's 16 channels: the sums of products [channels, 8 states].
template <int kN>
using States = float[kN / 8][4];

// Calls f(reference, offset in [N, E]) for the states of a lane, channels counted from the warp's first.
template <int kN, typename F>
__device__ __forceinline__ void for_each_state(States<kN>& states, int64_t d_state,
                                               int64_t channels, const F& f) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * n < d_state) {
        f(states[n][i], (8 * n + 2 * (lane % 4) + i % 2) * channels + lane / 4 + i / 2 * 8);
      }
    }
  }
}

// states += Σ_s (weight[s] · x[s]) Bmat[s] over a tile. x: the warp's channels.
template <int kN, int kXPitch>
__device__ __forceinline__ void add_tile(const Bf16* x, const Bf16* b, const float* weight,
                                         States<kN>& states) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1  // registers again
  for (int s = 0; s < kRowTiles; ++s) {
    unsigned raw[4];  // rows 0 to 7 and 8 to 15 of channels 0 to 7, then of channels 8 to 15
    load_columns(raw, x + (16 * s + lane % 16) * kXPitch + lane / 16 * 8);
    const float2 upper = *reinterpret_cast<const float2*>(weight + 16 * s + 2 * (lane % 4));
    const float2 lower = *reinterpret_cast<const float2*>(weight + 16 * s + 8 + 2 * (lane % 4));
    const auto weighted = [](unsigned pair, const float2& w) {
      return pack_pair(low_half(pair) * w.x, high_half(pair) * w.y);
    };
    const unsigned a[4] = {weighted(raw[0], upper), weighted(raw[2], upper),
                           weighted(raw[1], lower), weighted(raw[3], lower)};
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      unsigned b4[4];
      load_columns(b4, b + (16 * s + lane % 16) * (kN + kPad) + 16 * n + lane / 16 * 8);
      multiply_add(states[2 * n], a, b4[0], b4[1]);
      multiply_add(states[2 * n + 1], a, b4[2], b4[3]);
    }
  }
}

// 128 registers a thread where they do, half the states each: 16 warps of a multiprocessor.
template <int kN, int kWarps>
constexpr int kBlocks = (kN > 128 ? 8 : 16) / kWarps;

// Step 1: what a segment adds to the state, and its decay. Tiles are taken from the last one back, until what is left
// before them has decayed.
template <int kN, int kWarps>
struct EndsMemory {
  Bf16 x[2][kTileRows * (16 * kWarps + kPad)];
  Bf16 b[2][kTileRows * (kN + kPad)];
  RowFactors factors[kWarps];
};

template <int kN, int kWarps>
__global__ void __launch_bounds__(32 * kWarps, kBlocks<kN, kWarps>)
    ssd_ends_kernel(DeviceSsdScanArgs args, SsdSizes sizes, Heads dealt) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& memory = *reinterpret_cast<EndsMemory<kN, kWarps>*>(shared);
  constexpr int kThreads = 32 * kWarps;
  constexpr int kChannels = 16 * kWarps;
  const BlockHeads block(args, sizes, dealt);
  const DeviceSegment segment = args.batch.segments[block.segment];
  // Nobody continues from the last segment of a span unless it is whole.
  if (segment.whole == 0) return;
  const DeviceSpan span = args.batch.spans[segment.span];
  const SegmentRows rows(span, segment, args.reverse);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head = warp / dealt.slices;  // of the block
  const int width = block.heads * static_cast<int>(args.head_dim);
  const int d_state = static_cast<int>(args.d_state);
  const Bf16* x_rows = static_cast<const Bf16*>(args.x_LE) + block.channel;
  const Bf16* b_rows = static_cast<const Bf16*>(args.Bmat_LGN) + block.group * d_state;
  TimeSteps time_steps(args, block, rows, warp);
  clear_columns<kN>(d_state, memory.b[0]);
  clear_columns<kN>(d_state, memory.b[1]);

  const auto read_ahead = [&](int start, int turn) {
    const int64_t at = rows.first + int64_t{rows.step} * start;
    load_tile<kChannels, kThreads>(x_rows, args.x_stride, at, rows.step, kTileRows, width,
                                   memory.x[turn]);
    load_tile<kN, kThreads>(b_rows, args.bc_stride, at, rows.step, kTileRows, d_state,
                            memory.b[turn]);
    commit_copies();
    time_steps.read(start, kTileRows);
  };

  States<kN> states = {};
  float after =
      0;  // a of the tiles after the one in hand: of the head that the warp has the time steps of
  bool live = true;
  int turn = 0;
  read_ahead(segment.length - kTileRows, turn);
  for (int start = segment.length - kTileRows; live; start -= kTileRows) {
    if (time_steps.used()) after += time_steps.store(kTileRows, after, memory.factors[warp]);
    wait_for_copies();
    __syncthreads();
    if (start > 0) read_ahead(start - kTileRows, 1 - turn);
    if (head < block.heads) {
      add_tile<kN, kChannels + kPad>(memory.x[turn] + 16 * warp, memory.b[turn],
                                     memory.factors[head].weight, states);
    }
    const bool still = time_steps.used() && start > 0 && after > kNegligible;
    live = __syncthreads_or(still ? 1 : 0) != 0;
    turn = 1 - turn;
  }
  wait_for_copies();
  float* out = args.workspace + block.segment * sizes.segment_floats;
  if (time_steps.used() && threadIdx.x % 32 == 0) {
    out[d_state * sizes.channels + block.head + warp] = after;
  }
  if (head >= block.heads) return;
  out += block.channel + 16 * warp;
  for_each_state<kN>(states, d_state, sizes.channels,
                     [&](float value, int64_t at) { out[at] = value; });
}

// Step 3. x, Bmat and Cmat have one place each: the other blocks of a multiprocessor work while one waits for its tile.
template <int kN, int kWarps>
struct OutputsMemory {
  Bf16 x[kTileRows * (16 * kWarps + kPad)];
  Bf16 b[kTileRows * (kN + kPad)];
  Bf16 c[kTileRows * (kN + kPad)];
  // And then, as many as the block has heads: RowFactors and scores.
};
struct HeadMemory {
  RowFactors factors;
  Bf16 scores[kTileRows * kScorePitch];
};

// The scores of the block's heads: 16 rows by up to 32 columns a turn, dealt so that four warps have two or three tiles of
// 16 columns each. Tiles above the diagonal are neither computed nor read.
template <int kN, int kWarps>
__device__ __forceinline__ void compute_scores(const Bf16* b, const Bf16* c, int heads,
                                               HeadMemory* memory) {
  constexpr int kPitch = kN + kPad;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int unit = static_cast<int>(threadIdx.x) / 32; unit < 6; unit += kWarps) {
    const int row_tile = unit < 4 ? unit : 7 - unit;
    const int half = unit / 4;
    const bool both = 2 * half + 1 <= row_tile;  // tiles of 16 columns
    float sums[4][4] = {};
#pragma unroll
    for (int k = 0; k < kN; k += 16) {
      unsigned a[4];
      load_rows(a, c + (16 * row_tile + lane % 16) * kPitch + k + lane / 16 * 8);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i == 1 && !both) break;
        unsigned b4[4];  // states k to k+7 and k+8 to k+15 of columns 0 to 7, then of 8 to 15
        load_rows(b4, b + (32 * half + 16 * i + lane % 8 + lane / 16 * 8) * kPitch + k +
                          lane / 8 % 2 * 8);
        multiply_add(sums[2 * i], a, b4[0], b4[1]);
        multiply_add(sums[2 * i + 1], a, b4[2], b4[3]);
      }
    }
    const int t = 16 * row_tile + lane / 4;  // and t + 8
    for (int h = 0; h < heads; ++h) {
      const RowFactors& factors = memory[h].factors;
      const float upper = factors.sum[t];
      const float lower = factors.sum[t + 8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= 2 && !both) break;
        const int s = 32 * half + 8 * i + 2 * (lane % 4);  // and s + 1
        const float2 sum = *reinterpret_cast<const float2*>(factors.sum + s);
        const float2 step = *reinterpret_cast<const float2*>(factors.step + s);
        const auto score = [](float product, float decay, float time_step, bool past) {
          return past ? product * exp2_fast(fminf(decay, 0.0F)) * time_step : 0.0F;
        };
        Bf16* to = memory[h].scores + t * kScorePitch + s;
        *reinterpret_cast<unsigned*>(to) =
            pack_pair(score(sums[i][0], upper - sum.x, step.x, s <= t),
                      score(sums[i][1], upper - sum.y, step.y, s + 1 <= t));
        *reinterpret_cast<unsigned*>(to + 8 * kScorePitch) =
            pack_pair(score(sums[i][2], lower - sum.x, step.x, s <= t + 8),
                      score(sums[i][3], lower - sum.y, step.y, s + 1 <= t + 8));
      }
    }
  }
}

// Word i of lane j of each four neighbours becomes word j of lane i.
__device__ __forceinline__ void transpose_words(unsigned (&word)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int far = 1; far <= 2; far *= 2) {
    const bool upper = (lane & far) != 0;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int i =
          far == 1 ? 2 * k : k;  // swaps words i of the upper lane and i + far of the lower
      const unsigned given = upper ? word[i] : word[i + far];
      const unsigned taken = __shfl_xor_sync(0xffffffffu, given, far);
      if (upper) {
        word[i] = taken;
      } else {
        word[i + far] = taken;
      }
    }
  }
}

// Writes the outputs of a tile's first `count` rows, for the warp's channels.
template <int kN, int kXPitch>
__device__ __forceinline__ void write_outputs(const Bf16* x, const Bf16* c, const HeadMemory& head,
                                              const States<kN>& states, const float2 (&skip)[2],
                                              int count, Bf16* out, int64_t out_step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Half of the rows at a time, and never both unrolled: their sums are 16 registers beside those of the states, and there are
  // 128 for all.
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    float sums[2][2][4] = {};  // [tile of 16 rows][tile of 8 channels]
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      const float(&low)[4] = states[2 * n];
      const float(&high)[4] = states[2 * n + 1];
      const unsigned first[2] = {pack_pair(low[0], low[1]), pack_pair(high[0], high[1])};
      const unsigned second[2] = {pack_pair(low[2], low[3]), pack_pair(high[2], high[3])};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        unsigned a[4];
        load_rows(a, c + (32 * half + 16 * m + lane % 16) * (kN + kPad) + 16 * n + lane / 16 * 8);
        multiply_add(sums[m][0], a, first[0], first[1]);
        multiply_add(sums[m][1], a, second[0], second[1]);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float* sum = head.factors.sum + 32 * half + 16 * m + lane / 4;
      const float upper = exp2_fast(sum[0]);
      const float lower = exp2_fast(sum[8]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sums[m][i][0] *= upper;
        sums[m][i][1] *= upper;
        sums[m][i][2] *= lower;
        sums[m][i][3] *= lower;
      }
    }
#pragma unroll
    for (int s = 0; s < 2 * half + 2; ++s) {
      unsigned b4[4];
      load_columns(b4, x + (16 * s + lane % 16) * kXPitch + lane / 16 * 8);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        if (s > 2 * half + m) continue;
        unsigned a[4];
        load_rows(a, head.scores + (32 * half + 16 * m + lane % 16) * kScorePitch + 16 * s +
                         lane / 16 * 8);
        multiply_add(sums[m][0], a, b4[0], b4[1]);
        multiply_add(sums[m][1], a, b4[2], b4[3]);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int t = 32 * half + 16 * m + lane / 4;
      unsigned word[4];  // rows t and t + 8, of each the first eight channels and the others
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int i = k % 2;
        const unsigned pair = *reinterpret_cast<const unsigned*>(x + (t + k / 2 * 8) * kXPitch +
                                                                 8 * i + 2 * (lane % 4));
        word[k] = pack_pair(fmaf(skip[i].x, low_half(pair), sums[m][i][k / 2 * 2]),
                            fmaf(skip[i].y, high_half(pair), sums[m][i][k / 2 * 2 + 1]));
      }
      transpose_words(word);  // now sixteen bytes of one row
      const int row = t + lane % 4 / 2 * 8;
      if (row < count) {
        *reinterpret_cast<uint4*>(out + row * out_step + lane % 2 * 8) =
            make_uint4(word[0], word[1], word[2], word[3]);
      }
    }
  }
}

template <int kN, int kWarps>
__global__ void __launch_bounds__(32 * kWarps, kBlocks<kN, kWarps>)
    ssd_outputs_kernel(DeviceSsdScanArgs args, SsdSizes sizes, Heads dealt) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& memory = *reinterpret_cast<OutputsMemory<kN, kWarps>*>(shared);
  auto* head_memory = reinterpret_cast<HeadMemory*>(shared + sizeof memory);
  constexpr int kThreads = 32 * kWarps;
  constexpr int kChannels = 16 * kWarps;
  const BlockHeads block(args, sizes, dealt);
  const DeviceSegment segment = args.batch.segments[block.segment];
  const DeviceSpan span = args.batch.spans[segment.span];
  const SegmentRows rows(span, segment, args.reverse);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head = warp / dealt.slices;  // of the block
  const bool active = head < block.heads;
  const int channel = block.channel + 16 * warp;
  const int width = block.heads * static_cast<int>(args.head_dim);
  const int d_state = static_cast<int>(args.d_state);
  const Bf16* x_rows = static_cast<const Bf16*>(args.x_LE) + block.channel;
  const Bf16* b_rows = static_cast<const Bf16*>(args.Bmat_LGN) + block.group * d_state;
  const Bf16* c_rows = static_cast<const Bf16*>(args.Cmat_LGN) + block.group * d_state;
  TimeSteps time_steps(args, block, rows, warp);
  clear_columns<kN>(d_state, memory.b);
  clear_columns<kN>(d_state, memory.c);

  const auto rows_left = [&](int start) {
    return segment.length - start < kTileRows ? segment.length - start : kTileRows;
  };
  const auto copy_tiles = [&](int start) {
    const int64_t at = rows.first + int64_t{rows.step} * start;
    const int count = rows_left(start);
    load_tile<kChannels, kThreads>(x_rows, args.x_stride, at, rows.step, count, width, memory.x);
    load_tile<kN, kThreads>(b_rows, args.bc_stride, at, rows.step, count, d_state, memory.b);
    load_tile<kN, kThreads>(c_rows, args.bc_stride, at, rows.step, count, d_state, memory.c);
    commit_copies();
  };
  copy_tiles(0);
  time_steps.read(0, rows_left(0));

  States<kN> states = {};
  float2 skip[2] = {};  // of channels 2j, 2j+1 and 2j+8, 2j+9
  if (active) {
    const float* before = ssd_state_before(args, sizes, span, block.segment) + channel;
    for_each_state<kN>(states, d_state, sizes.channels,
                       [&](float& value, int64_t at) { value = before[at]; });
    const float* skips = args.D_E + channel + 2 * (lane % 4);
    skip[0] = make_float2(skips[0], skips[1]);
    skip[1] = make_float2(skips[8], skips[9]);
  }
  const bool leaves_state = ssd_leaves_state(args, span, segment);
  const int64_t out_step = rows.step * args.out_stride;

  for (int start = 0; start < segment.length; start += kTileRows) {
    const int count = rows_left(start);
    const bool last = start + kTileRows >= segment.length;
    if (time_steps.used()) time_steps.store(count, 0.0F, head_memory[warp].factors);
    wait_for_copies();
    __syncthreads();
    if (!last) time_steps.read(start + kTileRows, rows_left(start + kTileRows));
    compute_scores<kN, kWarps>(memory.b, memory.c, block.heads, head_memory);
    __syncthreads();
    if (active) {
      const HeadMemory& own = head_memory[head];
      const Bf16* x = memory.x + 16 * warp;
      Bf16* out = static_cast<Bf16*>(args.out_LE) +
                  (rows.first + int64_t{rows.step} * start) * args.out_stride + channel;
      write_outputs<kN, kChannels + kPad>(x, memory.c, own, states, skip, count, out, out_step);
      if (!last || leaves_state) {
        const float decay = exp2_fast(own.factors.sum[kTileRows - 1]);
#pragma unroll
        for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) states[n][i] *= decay;
        }
        add_tile<kN, kChannels + kPad>(x, memory.b, own.factors.weight, states);
      }
    }
    __syncthreads();
    if (!last) copy_tiles(start + kTileRows);
  }
  if (!leaves_state || !active) return;
  float* to = span.state + args.state.ssm_last + channel;
  for_each_state<kN>(states, d_state, sizes.channels,
                     [&](float value, int64_t at) { to[at] = value; });
}

// Calls f(states, warps) for the sizes: heads of up to 64 channels share blocks of four warps.
template <typename F>
void with_sizes(const DeviceSsdScanArgs& args, F&& f) {
  with_states(args.d_state, [&](auto states) {
    if (args.head_dim <= 64) {
      f(states, std::integral_constant<int, 4>());
    } else {
      f(states, std::integral_constant<int, 8>());
    }
  });
}

int64_t blocks_of(const DeviceSsdScanArgs& args, const Heads& dealt) {
  return args.batch.segment_count * args.groups * dealt.per_group;
}

}  // namespace

void ssd_segment_ends_bf16(DeviceExec& exec, const DeviceSsdScanArgs& args) {
  with_sizes(args, [&](auto states, auto warps) {
    constexpr int kN = decltype(states)::value;
    constexpr int kWarps = decltype(warps)::value;
    const Heads dealt(args, kWarps);
    launch_ssd(exec, args, ssd_ends_kernel<kN, kWarps>, blocks_of(args, dealt), 32 * kWarps,
               static_cast<int>(sizeof(EndsMemory<kN, kWarps>)), "ssd_scan, segment ends", dealt);
  });
}

void ssd_outputs_bf16(DeviceExec& exec, const DeviceSsdScanArgs& args) {
  with_sizes(args, [&](auto states, auto warps) {
    constexpr int kN = decltype(states)::value;
    constexpr int kWarps = decltype(warps)::value;
    const Heads dealt(args, kWarps);
    const auto bytes = sizeof(OutputsMemory<kN, kWarps>) +
                       static_cast<size_t>(dealt.per_block) * sizeof(HeadMemory);
    launch_ssd(exec, args, ssd_outputs_kernel<kN, kWarps>, blocks_of(args, dealt), 32 * kWarps,
               static_cast<int>(bytes), "ssd_scan, outputs", dealt);
  });
}

}  // namespace chromamba::kernels::cuda
