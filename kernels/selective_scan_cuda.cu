#include "kernels/check.h"
#include "kernels/cuda_common.cuh"
#include "kernels/selective_scan.h"

namespace chromamba::kernels {
namespace {

// Channels of a block. Four warps share the reads of Bmat and Cmat; more would leave fewer blocks for
// short sequences.
constexpr int kThreads = 128;
// Bases of a tile in shared memory: 8 KB each for u, dt and z. An element type's tile is what a block of 128
// channels reads with four 16-byte loads a thread.
template <typename T>
constexpr int kTileBases = 64 / static_cast<int>(sizeof(T));

// Factors below 2^kNegligible add less to a state than the inputs of its type are known to (bf16: to 2^-9), unless an
// input is 2^17 times (f32: 2^48) its successors.
template <typename T>
constexpr float kNegligible = sizeof(T) == 2 ? -17.0F : -48.0F;

// 2^(a·b) for a·b <= 0: on the special-function unit in bf16; in f32 on the multiply-add units, where
// the product is never rounded, so that a chain of 10^5 factors near 1 keeps its 7 digits. (In bf16, polynomials
// for 1 to 4 of 16 exponentials were measured: between 1 % faster and 2 % slower.)
template <typename T>
__device__ __forceinline__ float exp2_of(float a, float b);
template <>
__device__ __forceinline__ float exp2_of<Bf16>(float a, float b) {
  return cuda::exp2_fast(a * b);
}
template <>
__device__ __forceinline__ float exp2_of<float>(float a, float b) {
  return cuda::exp2_product(a, b);
}

// Time steps in units of ln 2: Δ·log2(e), so that exp(Δ·A) = 2^(step·A); Bmat carries the unit back into Δ·u·Bmat.
constexpr float kTimeUnit = cuda::kLn2;

// softplus(dt + bias)·log2(e) = max(x, 0) + log2(1 + 2^-|x|) with x = (dt + bias)·log2(e).
template <typename T>
class TimeStep {
 public:
  __device__ explicit TimeStep(float bias) : bias_(bias * cuda::kLog2E) {}
  __device__ __forceinline__ float operator()(float dt) const;

 private:
  float bias_;
};
template <>
__device__ __forceinline__ float TimeStep<float>::operator()(float dt) const {
  // In f32 small steps keep their relative accuracy.
  const float x = fmaf(dt, cuda::kLog2E, bias_);
  return fmaxf(x, 0.0F) + cuda::kLog2E * log1pf(cuda::exp2_product(-fabsf(x), 1.0F));
}
template <>
__device__ __forceinline__ float TimeStep<Bf16>::operator()(float dt) const {
  // The sum rounds a small step to a multiple of 2^-24, less than what rounding dt to bf16 does to it
  // down to steps of 10^-5; below, the state stands still for 10^5 bases either way.
  const float x = fmaf(dt, cuda::kLog2E, bias_);
  return fmaxf(x, 0.0F) + cuda::log2_fast(1.0F + cuda::exp2_fast(-fabsf(x)));
}

// One block's part of the activations: kTileBases rows of 128 channels in running order.
template <typename T>
struct Tile {
  T values[kTileBases<T>][kThreads];
};

// The channels of a block and of a thread.
struct BlockChannels {
  int64_t first;   // of the block
  int64_t own;     // of this thread; beyond the last one where it is not active
  int64_t loaded;  // the same, or the last one
  int count;       // of the block's channels
  bool active;
  __device__ explicit BlockChannels(int64_t channels)
      : first(int64_t{blockIdx.y} * blockDim.x),
        own(first + threadIdx.x),
        loaded(own < channels ? own : channels - 1),
        count(static_cast<int>(channels - first < blockDim.x ? channels - first : blockDim.x)),
        active(own < channels) {}
};

// Starts copying `count` rows from base `start` of the segment on. What lies beyond the channels or the
// rows is left as it is: nobody uses it.
template <typename T>
__device__ __forceinline__ void load_tile(const T* from, int64_t stride,
                                          const cuda::SegmentRows& rows, int start, int count,
                                          int channels, Tile<T>& tile) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  constexpr int kAcross = kThreads / kVector;  // vectors in a row of the tile
  const int across = static_cast<int>(threadIdx.x) % kAcross;
  const int down = static_cast<int>(threadIdx.x) / kAcross;
  const int per_pass = static_cast<int>(blockDim.x) / kAcross;
  if (across * kVector >= channels) return;
  const T* at = from + (rows.first + rows.step * (start + down)) * stride + across * kVector;
  const int advance = rows.step * per_pass * static_cast<int>(stride * sizeof(T));  // bytes
  if (count == kTileBases<T> && per_pass == kThreads / kAcross) {
#pragma unroll
    for (int i = 0; i < kTileBases<T> / (kThreads / kAcross); ++i) {
      cuda::copy_async(&tile.values[down + i * (kThreads / kAcross)][across * kVector],
                       reinterpret_cast<const char*>(at) + int64_t{i} * advance);
    }
    return;
  }
  for (int t = down; t < count; t += per_pass) {
    cuda::copy_async(&tile.values[t][across * kVector], at);
    at = reinterpret_cast<const T*>(reinterpret_cast<const char*>(at) + advance);
  }
}

// Rows of N values that all channels share (Bmat, Cmat) on their way to shared memory: read ahead into
// registers, and stored as f32, zero beyond N and beyond the rows. Each thread follows one state down the rows.
template <typename T, int kStates>
struct StateRows {
  // Of a full block; a narrower one, of a small model, reads what is left at once.
  static constexpr int kPerThread = kTileBases<T> * kStates / kThreads;
  static constexpr int kAhead = kPerThread > 0 ? kPerThread : 1;
  const T* first;  // this thread's first row of the segment
  int advance;     // bytes from one of its rows to the next
  int64_t stride;  // from base to base
  int n;
  int down;
  int per_pass;
  bool used;  // its state is one of the model's
  T held[kAhead];

  __device__ StateRows(const void* matrix, int64_t row_stride, const cuda::SegmentRows& rows,
                       int64_t d_state)
      : stride(rows.step * row_stride),
        n(static_cast<int>(threadIdx.x) % kStates),
        down(static_cast<int>(threadIdx.x) / kStates),
        per_pass(static_cast<int>(blockDim.x) / kStates),
        used(n < d_state && down < per_pass) {
    first = static_cast<const T*>(matrix) + rows.first * row_stride + down * stride + n;
    advance = per_pass * static_cast<int>(stride * static_cast<int64_t>(sizeof(T)));
  }

  __device__ __forceinline__ void read(int start, int count) {
    const char* at = reinterpret_cast<const char*>(first + start * stride);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      held[i] = used && down + i * per_pass < count
                    ? *reinterpret_cast<const T*>(at + int64_t{i} * advance)
                    : cuda::from_float<T>(0.0F);
    }
  }
  __device__ __forceinline__ void store(int start, int count, float scale, float* tile) const {
    if (down >= per_pass) return;  // threads that are no whole row
    float* to = tile + down * kStates + n;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (down + i * per_pass < kTileBases<T>) *to = scale * cuda::to_float(held[i]);
      to += per_pass * kStates;
    }
    for (int t = down + kAhead * per_pass; t < kTileBases<T>; t += per_pass) {
      tile[t * kStates + n] =
          used && t < count ? scale * cuda::to_float(first[(start + t - down) * stride]) : 0.0F;
    }
  }
};

// The way back: `count` rows of the tile to memory.
template <typename T>
__device__ __forceinline__ void store_tile(const Tile<T>& tile, T* to, int64_t stride,
                                           const cuda::SegmentRows& rows, int start, int count,
                                           int channels) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  constexpr int kAcross = kThreads / kVector;
  const int across = static_cast<int>(threadIdx.x) % kAcross;
  const int down = static_cast<int>(threadIdx.x) / kAcross;
  const int per_pass = static_cast<int>(blockDim.x) / kAcross;
  if (across * kVector >= channels) return;
  T* at = to + (rows.first + rows.step * (start + down)) * stride + across * kVector;
  const int advance = rows.step * per_pass * static_cast<int>(stride * sizeof(T));  // bytes
#pragma unroll 4
  for (int t = down; t < count; t += per_pass) {
    *reinterpret_cast<uint4*>(at) =
        *reinterpret_cast<const uint4*>(&tile.values[t][across * kVector]);
    at = reinterpret_cast<T*>(reinterpret_cast<char*>(at) + advance);
  }
}

// The same, added to what is there. Reads come apart from writes, all of a thread's before its first write.
template <typename T>
struct TileSum {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kAcross = kThreads / kVector;
  // With fewer threads than kThreads there are more rows for each: at least two warps run.
  static constexpr int kMostRows = 2 * kTileBases<T> * kAcross / kThreads;
  uint4 old[kMostRows];
  int across, down, per_pass;

  __device__ TileSum()
      : across(static_cast<int>(threadIdx.x) % kAcross),
        down(static_cast<int>(threadIdx.x) / kAcross),
        per_pass(static_cast<int>(blockDim.x) / kAcross) {}

  __device__ __forceinline__ void read(const T* from, int64_t stride, const cuda::SegmentRows& rows,
                                       int start, int count, int channels) {
    if (across * kVector >= channels) return;
#pragma unroll
    for (int i = 0; i < kMostRows; ++i) {
      const int t = down + i * per_pass;
      if (t >= count) break;
      old[i] = *reinterpret_cast<const uint4*>(
          from + (rows.first + rows.step * (start + t)) * stride + across * kVector);
    }
  }

  __device__ __forceinline__ void write(const Tile<T>& tile, T* to, int64_t stride,
                                        const cuda::SegmentRows& rows, int start, int count,
                                        int channels) const {
    if (across * kVector >= channels) return;
#pragma unroll
    for (int i = 0; i < kMostRows; ++i) {
      const int t = down + i * per_pass;
      if (t >= count) break;
      uint4 sum = old[i];
      T* values = reinterpret_cast<T*>(&sum);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        values[k] = cuda::from_float<T>(cuda::to_float(values[k]) +
                                        cuda::to_float(tile.values[t][across * kVector + k]));
      }
      *reinterpret_cast<uint4*>(to + (rows.first + rows.step * (start + t)) * stride +
                                across * kVector) = sum;
    }
  }
};

// Bases that are worked on together: time steps, gates and loads of several are independent, which
// keeps one warp busy where there are few.
template <int kStates>
constexpr int kGroup = kStates <= 16 ? 8 : 4;

// Step 1: what a segment adds to the state, and its sum of time steps.
template <typename T, int kStates>
struct EndsMemory {
  Tile<T> u[2];
  Tile<T> dt[2];
  float b[kTileBases<T> * kStates];
};

template <typename T, int kStates>
__global__ void __launch_bounds__(kThreads) segment_ends_kernel(DeviceSelectiveScanArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& memory = *reinterpret_cast<EndsMemory<T, kStates>*>(shared);
  constexpr int kTile = kTileBases<T>;
  constexpr int kBases = kGroup<kStates>;
  const DeviceSegment segment = args.batch.segments[blockIdx.x];
  // Nobody continues from the last segment of a span unless it is whole.
  if (segment.whole == 0) return;
  const DeviceSpan span = args.batch.spans[segment.span];
  const BlockChannels block(args.channels);
  const int lane = block.active ? static_cast<int>(threadIdx.x) : block.count - 1;
  const cuda::SegmentRows rows(span, segment, args.reverse);
  const TimeStep<T> time_step(args.dt_bias_E != nullptr ? args.dt_bias_E[block.loaded] : 0.0F);

  float a[kStates];
  float h[kStates];
  constexpr int kQuads = kStates / 4;
  float slowest[kQuads];
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    a[n] = n < args.d_state ? args.A_NE[n * args.channels + block.loaded] : 0.0F;
    h[n] = 0;
  }
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    slowest[q] = -INFINITY;
#pragma unroll
    for (int n = 4 * q; n < 4 * q + 4; ++n) {
      if (n < args.d_state) slowest[q] = fmaxf(slowest[q], a[n]);
    }
  }

  StateRows<T, kStates> b_rows(args.Bmat_LN, args.bc_stride, rows, args.d_state);
  const T* u_rows = static_cast<const T*>(args.u_LE) + block.first;
  const T* dt_rows = static_cast<const T*>(args.dt_LE) + block.first;
  const auto read_ahead = [&](int start, int turn) {
    load_tile(u_rows, args.u_stride, rows, start, kTile, block.count, memory.u[turn]);
    load_tile(dt_rows, args.dt_stride, rows, start, kTile, block.count, memory.dt[turn]);
    cuda::commit_copies();
    b_rows.read(start, kTile);
  };

  float sum = 0;  // of the steps after the base in hand
  bool live = true;
  int turn = 0;
  read_ahead(segment.length - kTile, turn);
  for (int start = segment.length - kTile; live; start -= kTile) {
    cuda::wait_for_copies();
    b_rows.store(start, kTile, kTimeUnit, memory.b);
    __syncthreads();
    if (start > 0) read_ahead(start - kTile, 1 - turn);
    const Tile<T>& u_tile = memory.u[turn];
    const Tile<T>& dt_tile = memory.dt[turn];
    for (int t = kTile - kBases; t >= 0; t -= kBases) {
      float after[kBases];  // the sum after each base
      float input[kBases];
#pragma unroll
      for (int i = 0; i < kBases; ++i) {
        after[i] = time_step(cuda::to_float(dt_tile.values[t + i][lane]));
        input[i] = after[i] * cuda::to_float(u_tile.values[t + i][lane]);
      }
      const float before_group = sum;
#pragma unroll
      for (int i = kBases - 1; i >= 0; --i) {
        const float delta = after[i];
        after[i] = sum;
        sum += delta;
      }
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        if (!__any_sync(0xffffffffu, before_group * slowest[q] > kNegligible<T>)) continue;
#pragma unroll
        for (int i = kBases - 1; i >= 0; --i) {
          const float4 b4 = *reinterpret_cast<const float4*>(memory.b + (t + i) * kStates + 4 * q);
          const float b[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int n = 4 * q + k;
            h[n] = fmaf(exp2_of<T>(after[i], a[n]), input[i] * b[k], h[n]);
          }
        }
      }
    }
    // The whole block leaves together, for the tile is loaded by all.
    bool still = false;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) still = still || sum * slowest[q] > kNegligible<T>;
    live = __syncthreads_or(still && start > 0) != 0;
    turn = 1 - turn;
  }
  cuda::wait_for_copies();
  if (!block.active) return;
  float* out =
      args.workspace + int64_t{blockIdx.x} * (args.d_state + 1) * args.channels + block.own;
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    if (n < args.d_state) out[n * args.channels] = h[n];
  }
  out[args.d_state * args.channels] = sum;
}

// Step 2: turns each segment's end state into the state before it, in place. One thread a state of
// a span; kCarryAhead segments are read before the first is needed, for the chain itself is short. A span without
// a whole segment begins with its carry and leaves it as it is.
constexpr int kCarryAhead = 32;
__global__ void __launch_bounds__(kThreads) carry_kernel(DeviceSelectiveScanArgs args) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t states = args.d_state * args.channels;
  if (i >= states) return;
  const DeviceSpan span = args.batch.spans[blockIdx.y];
  if (span.whole_segments == 0) return;
  const int64_t e = i % args.channels;
  const float a = args.A_NE[i];
  float* carry = span.state + args.state.ssm_carry + i;
  float h = *carry;
  const int64_t whole = span.whole_segments;
  const int64_t block = (args.d_state + 1) * args.channels;
  float* at = args.workspace + span.first_segment * block + i;
  const float* sums = args.workspace + span.first_segment * block + states + e;
  for (int64_t k = 0; k < whole; k += kCarryAhead) {
    float end[kCarryAhead];
    float factor[kCarryAhead];
#pragma unroll
    for (int j = 0; j < kCarryAhead; ++j) {
      const int64_t used = k + j < whole ? k + j : whole - 1;
      end[j] = at[used * block];
      factor[j] = sums[used * block];
    }
#pragma unroll
    for (int j = 0; j < kCarryAhead; ++j) {
      if (k + j >= whole) break;
      at[(k + j) * block] = h;
      h = fmaf(cuda::exp2_product(factor[j], a), h, end[j]);
    }
  }
  *carry = h;
  if (whole < span.segments) {
    at[whole * block] = h;
  } else {
    span.state[args.state.ssm_last + i] = h;
  }
}

// Step 3 for one base: the states of a channel move on, and its output is returned.
template <typename T, int kStates>
__device__ __forceinline__ float step(float delta, float u, float skip, const float* b_row,
                                      const float* c_row, const float (&a)[kStates],
                                      float (&h)[kStates]) {
  const float input = delta * u;
  float y[2] = {skip * u, 0};
#pragma unroll
  for (int q = 0; q < kStates / 4; ++q) {
    const float4 b4 = *reinterpret_cast<const float4*>(b_row + 4 * q);
    const float4 c4 = *reinterpret_cast<const float4*>(c_row + 4 * q);
    const float b[4] = {b4.x, b4.y, b4.z, b4.w};
    const float c[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int n = 4 * q + k;
      h[n] = fmaf(exp2_of<T>(delta, a[n]), h[n], input * b[k]);
      y[k % 2] = fmaf(h[n], c[k], y[k % 2]);
    }
  }
  return y[0] + y[1];
}

template <typename T, int kStates>
struct OutputsMemory {
  Tile<T> u[2];
  Tile<T> dt[2];  // and then the outputs
  Tile<T> z[2];
  float b[kTileBases<T> * kStates];
  float c[kTileBases<T> * kStates];
};

// Four blocks of a multiprocessor are what shared memory holds: 128 registers a thread let one warp
// have many bases' exponentials in flight.
template <typename T, int kStates, bool kGated, bool kSnapshots, bool kAdds = false>
__global__ void __launch_bounds__(kThreads, kStates <= 16 ? 4 : 1)
    segment_outputs_kernel(DeviceSelectiveScanArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& memory = *reinterpret_cast<OutputsMemory<T, kStates>*>(shared);
  constexpr int kTile = kTileBases<T>;
  constexpr int kBases = kGroup<kStates>;
  const DeviceSegment segment = args.batch.segments[blockIdx.x];
  const DeviceSpan span = args.batch.spans[segment.span];
  const BlockChannels block(args.channels);
  const int lane = static_cast<int>(threadIdx.x);
  const cuda::SegmentRows rows(span, segment, args.reverse);
  const TimeStep<T> time_step(args.dt_bias_E != nullptr ? args.dt_bias_E[block.loaded] : 0.0F);
  const float skip = args.D_E[block.loaded];

  float a[kStates];
  float h[kStates];
  const int64_t block_floats = (args.d_state + 1) * args.channels;
  const float* before = args.workspace != nullptr && span.whole_segments > 0
                            ? args.workspace + int64_t{blockIdx.x} * block_floats
                            : span.state + args.state.ssm_carry;
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    a[n] = 0;
    h[n] = 0;
    if (n < args.d_state) {
      a[n] = args.A_NE[n * args.channels + block.loaded];
      h[n] = before[n * args.channels + block.loaded];
    }
  }

  // The next snapshot: the first at or after the segment's first base to begin with. Its base counts from there.
  int64_t snapshot = 0;
  int64_t snapshot_at = INT64_MAX;
  const DeviceSnapshot* snapshots = args.batch.snapshots;
  const auto find_snapshot = [&] {
    snapshot_at = snapshot < args.batch.snapshot_count && snapshots[snapshot].span == segment.span
                      ? snapshots[snapshot].base - segment.start
                      : INT64_MAX;
  };
  if constexpr (kSnapshots) {
    int64_t high = args.batch.snapshot_count;
    while (snapshot < high) {
      const int64_t middle = (snapshot + high) / 2;
      const DeviceSnapshot& at = snapshots[middle];
      if (at.span < segment.span || (at.span == segment.span && at.base < segment.start)) {
        snapshot = middle + 1;
      } else {
        high = middle;
      }
    }
    find_snapshot();
  }

  StateRows<T, kStates> b_rows(args.Bmat_LN, args.bc_stride, rows, args.d_state);
  StateRows<T, kStates> c_rows(args.Cmat_LN, args.bc_stride, rows, args.d_state);
  const auto rows_left = [&](int start) {
    return segment.length - start < kTile ? segment.length - start : kTile;
  };
  const auto read_ahead = [&](int start, int turn) {
    const int count = rows_left(start);
    load_tile(static_cast<const T*>(args.u_LE) + block.first, args.u_stride, rows, start, count,
              block.count, memory.u[turn]);
    load_tile(static_cast<const T*>(args.dt_LE) + block.first, args.dt_stride, rows, start, count,
              block.count, memory.dt[turn]);
    if constexpr (kGated) {
      load_tile(static_cast<const T*>(args.z_LE) + block.first, args.z_stride, rows, start, count,
                block.count, memory.z[turn]);
    }
    cuda::commit_copies();
    b_rows.read(start, count);
    c_rows.read(start, count);
  };
  const auto take_snapshots = [&](int base) {
    while (base == snapshot_at) {
      if (block.active) {
        float* to = snapshots[snapshot].state + args.state.ssm_carry + block.own;
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
          if (n < args.d_state) to[n * args.channels] = h[n];
        }
      }
      ++snapshot;
      find_snapshot();
    }
  };

  int turn = 0;
  read_ahead(0, turn);
  for (int start = 0; start < segment.length; start += kTile) {
    const int count = rows_left(start);
    cuda::wait_for_copies();
    b_rows.store(start, count, kTimeUnit, memory.b);
    c_rows.store(start, count, 1.0F, memory.c);
    __syncthreads();
    if (start + kTile < segment.length) read_ahead(start + kTile, 1 - turn);
    const Tile<T>& u_tile = memory.u[turn];
    const Tile<T>& z_tile = memory.z[turn];
    Tile<T>& dt_tile = memory.dt[turn];
    int t = 0;
    const auto take_base = [&] {
      if constexpr (kSnapshots) take_snapshots(start + t);
      const float delta = time_step(cuda::to_float(dt_tile.values[t][lane]));
      float y = step<T, kStates>(delta, cuda::to_float(u_tile.values[t][lane]), skip,
                                 memory.b + t * kStates, memory.c + t * kStates, a, h);
      if constexpr (kGated) y *= cuda::silu<T>(cuda::to_float(z_tile.values[t][lane]));
      dt_tile.values[t][lane] = cuda::from_float<T>(y);
      ++t;
    };
    while (t + kBases <= count) {
      if constexpr (kSnapshots) {
        // Bases with a snapshot among them are taken one by one: the same operations on each.
        if (snapshot_at < start + t + kBases) {
#pragma unroll 1
          for (int i = 0; i < kBases; ++i) take_base();
          continue;
        }
      }
      float u[kBases];
      float delta[kBases];
      float y[kBases];
#pragma unroll
      for (int i = 0; i < kBases; ++i) {
        u[i] = cuda::to_float(u_tile.values[t + i][lane]);
        delta[i] = time_step(cuda::to_float(dt_tile.values[t + i][lane]));
      }
#pragma unroll
      for (int i = 0; i < kBases; ++i) {
        y[i] = step<T, kStates>(delta[i], u[i], skip, memory.b + (t + i) * kStates,
                                memory.c + (t + i) * kStates, a, h);
      }
#pragma unroll
      for (int i = 0; i < kBases; ++i) {
        if constexpr (kGated) y[i] *= cuda::silu<T>(cuda::to_float(z_tile.values[t + i][lane]));
        dt_tile.values[t + i][lane] = cuda::from_float<T>(y[i]);
      }
      t += kBases;
    }
#pragma unroll 1
    while (t < count) take_base();
    T* out = static_cast<T*>(args.out_LE) + block.first;
    if constexpr (kAdds) {
      TileSum<T> sum;
      sum.read(out, args.out_stride, rows, start, count, block.count);
      __syncthreads();
      sum.write(dt_tile, out, args.out_stride, rows, start, count, block.count);
    } else {
      __syncthreads();
      store_tile(dt_tile, out, args.out_stride, rows, start, count, block.count);
    }
    turn = 1 - turn;
  }
  // Where the span's last segment is whole, step 2 knows the state after it: what the next span begins with.
  const bool known = args.workspace != nullptr && segment.whole != 0;
  if (block.active && !known && segment.start + segment.length == span.length) {
    float* last = span.state + args.state.ssm_last + block.own;
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      if (n < args.d_state) last[n * args.channels] = h[n];
    }
  }
}

// Launches with as much dynamic shared memory as a kernel's memory takes; more than 48 KB must be asked for.
template <typename Memory, typename Kernel>
void launch_kernel(DeviceExec& exec, const DeviceSelectiveScanArgs& args, Kernel kernel,
                   const char* name) {
  // At least 64 threads, as many as the states of a row at most.
  const int64_t warps = args.channels > 64 ? (args.channels + 31) / 32 : 2;
  const int threads = static_cast<int>(warps < kThreads / 32 ? 32 * warps : kThreads);
  const dim3 grid(static_cast<unsigned>(args.batch.segment_count),
                  cuda::blocks_for(args.channels, threads));
  constexpr int kBytes = static_cast<int>(sizeof(Memory));
  if (kBytes > 48 * 1024) {
    cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                exec.impl(), name);
  }
  kernel<<<grid, threads, kBytes, exec.impl().stream>>>(args);
  cuda::check_launch(exec, name);
}

template <typename T, int kStates>
void launch(DeviceExec& exec, const DeviceSelectiveScanArgs& args) {
  if (args.workspace != nullptr) {
    launch_kernel<EndsMemory<T, kStates>>(exec, args, segment_ends_kernel<T, kStates>,
                                          "selective_scan, segment ends");
    carry_kernel<<<dim3(cuda::blocks_for(args.d_state * args.channels, kThreads),
                        static_cast<unsigned>(args.batch.span_count)),
                   kThreads, 0, exec.impl().stream>>>(args);
    cuda::check_launch(exec, "selective_scan, carry");
  }
  const auto outputs = [&](auto kernel) {
    launch_kernel<OutputsMemory<T, kStates>>(exec, args, kernel, "selective_scan, outputs");
  };
  if (args.accumulate) {
    outputs(segment_outputs_kernel<T, kStates, true, false, true>);
  } else if (args.z_LE == nullptr) {
    args.batch.snapshot_count > 0 ? outputs(segment_outputs_kernel<T, kStates, false, true>)
                                  : outputs(segment_outputs_kernel<T, kStates, false, false>);
  } else {
    args.batch.snapshot_count > 0 ? outputs(segment_outputs_kernel<T, kStates, true, true>)
                                  : outputs(segment_outputs_kernel<T, kStates, true, false>);
  }
}

}  // namespace

void selective_scan(DeviceExec& exec, const DeviceSelectiveScanArgs& args) {
  require(args.channels > 0 && args.d_state > 0 && args.u_stride >= args.channels &&
              args.dt_stride >= args.channels && args.out_stride >= args.channels &&
              args.bc_stride >= args.d_state &&
              (args.z_LE == nullptr || args.z_stride >= args.channels),
          "selective_scan: sizes");
  require(!args.accumulate || (args.z_LE != nullptr && args.batch.snapshot_count == 0),
          "selective_scan: sums of gated outputs, without snapshots");
  require(args.workspace != nullptr || args.batch.segment_count <= args.batch.span_count,
          "selective_scan: workspace");
  require(args.channels % 8 == 0 && args.u_stride % 8 == 0 && args.dt_stride % 8 == 0 &&
              args.z_stride % 8 == 0 && args.out_stride % 8 == 0,
          "selective_scan: channels and strides must be multiples of 8");
  require(args.workspace == nullptr || args.batch.longest_segment % 32 == 0,
          "selective_scan: segments must be whole tiles");
  if (args.batch.segment_count == 0) return;
  cuda::with_dtype(exec.dtype(), [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    if (args.d_state <= 4) {
      launch<T, 4>(exec, args);
    } else if (args.d_state <= 8) {
      launch<T, 8>(exec, args);
    } else if (args.d_state <= 16) {
      launch<T, 16>(exec, args);
    } else if (args.d_state <= 32) {
      launch<T, 32>(exec, args);
    } else if (args.d_state <= 64) {
      launch<T, 64>(exec, args);
    } else {
      throw ResourceError(
          "d_state " + std::to_string(args.d_state) +
          ": states above 64 do not fit a GPU thread's registers; use --device cpu");
    }
  });
}

}  // namespace chromamba::kernels
