// ssd_scan in f32: the recurrence, row after row, on the multiply-add units. No product is rounded to TF32.
//
// A thread owns four channels of one head with sixteen of their states in registers; kN / 16 neighbouring lanes share the
// channels and add up their parts of the outputs. Four channels use each value of Bmat and Cmat that a thread reads, and
// sixteen states each input: 192 operations a base for eight 16-byte reads from shared memory. A block owns as many
// channels of one group as its warps hold; tiles of kTileRows rows are on their way while one is worked on.
#include "kernels/ssd_scan_cuda.cuh"

namespace chromamba::kernels::cuda {
namespace {

constexpr int kMostWarps = 4;
constexpr int kTileRows = 16;
constexpr int kOwnChannels = 4;
constexpr int kOwnStates = 16;

template <int kN>
struct Geometry {
  static constexpr int kSharers = kN / kOwnStates;  // lanes that share their channels
  static constexpr int kWarpChannels = 32 / kSharers * kOwnChannels;
  static constexpr int kMostChannels = kMostWarps * kWarpChannels;
  // Heads begin at multiples of 16 channels, and so do blocks' channels.
  static constexpr int kMostHeads = (kMostChannels + 15) / 16;
};

template <int kN, bool kOutputs>
struct RowsMemory {
  float x[2][kTileRows][Geometry<kN>::kMostChannels];
  float b[2][kTileRows][kN];
  float c[kOutputs ? 2 : 1][kOutputs ? kTileRows : 1][kN];
  float dt[2][kTileRows][Geometry<kN>::kMostHeads];
  float delta[kTileRows][Geometry<kN>::kMostHeads];
  float loss[kTileRows][Geometry<kN>::kMostHeads];
};

// Blocks of a segment.
template <int kN>
struct Blocks {
  int warps;
  int channels;   // of a full block
  int per_group;  // blocks
  explicit Blocks(const DeviceSsdScanArgs& args) {
    const auto group_channels = static_cast<int>(args.heads / args.groups * args.head_dim);
    constexpr int kWarp = Geometry<kN>::kWarpChannels;
    const int wanted = (group_channels + kWarp - 1) / kWarp;
    warps = wanted < kMostWarps ? wanted : kMostWarps;
    channels = warps * kWarp;
    per_group = (group_channels + channels - 1) / channels;
  }
};

// kOutputs: step 3; else step 1.
template <int kN, bool kOutputs>
__global__ void __launch_bounds__(32 * kMostWarps, 4)
    ssd_rows_kernel(DeviceSsdScanArgs args, SsdSizes sizes, Blocks<kN> blocks) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& memory = *reinterpret_cast<RowsMemory<kN, kOutputs>*>(shared);
  using Own = Geometry<kN>;
  const int blocks_per_segment = blocks.per_group * static_cast<int>(args.groups);
  const int64_t segment_index = blockIdx.x / blocks_per_segment;
  const int block = static_cast<int>(blockIdx.x % blocks_per_segment);
  const DeviceSegment segment = args.batch.segments[segment_index];
  // Nobody continues from the last segment of a span unless it is whole.
  if (!kOutputs && segment.whole == 0) return;
  const DeviceSpan span = args.batch.spans[segment.span];
  const SegmentRows rows(span, segment, args.reverse);

  const int group = block / blocks.per_group;
  const int head_dim = static_cast<int>(args.head_dim);
  const int d_state = static_cast<int>(args.d_state);
  const int group_channels = sizes.heads_per_group * head_dim;
  const int in_group = block % blocks.per_group * blocks.channels;
  const int first = group * group_channels + in_group;  // channel of the block
  const int count =
      group_channels - in_group < blocks.channels ? group_channels - in_group : blocks.channels;
  const int first_head = first / head_dim;
  const int heads = (first + count - 1) / head_dim - first_head + 1;

  const int tid = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int lane = tid % 32;
  const int sharer = lane % Own::kSharers;
  const int own = tid / 32 * Own::kWarpChannels + lane / Own::kSharers * kOwnChannels;
  const bool active = own < count;
  const int channel = first + (active ? own : 0);
  const int head = channel / head_dim - first_head;

  // State 4·k + i of a thread is state of_state(k) + i of the model: sharers read neighbouring 16 bytes.
  const auto of_state = [&](int k) { return 4 * (k * Own::kSharers + sharer); };
  float h[kOwnStates][kOwnChannels];
#pragma unroll
  for (int k = 0; k < kOwnStates / 4; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float4 value = make_float4(0, 0, 0, 0);
      if (kOutputs && of_state(k) < d_state) {
        const float* before = ssd_state_before(args, sizes, span, segment_index);
        value =
            *reinterpret_cast<const float4*>(before + (of_state(k) + i) * sizes.channels + channel);
      }
      h[4 * k + i][0] = value.x, h[4 * k + i][1] = value.y;
      h[4 * k + i][2] = value.z, h[4 * k + i][3] = value.w;
    }
  }
  float skip[kOwnChannels];  // of one of the sharers
#pragma unroll
  for (int i = 0; i < kOwnChannels; ++i) {
    skip[i] = kOutputs && sharer == 0 ? args.D_E[channel + i] : 0.0F;
  }

  // States beyond N multiply by zero.
  const int padding = kN - d_state;
  for (int i = tid; i < 2 * kTileRows * padding; i += threads) {
    const int row = i / padding % kTileRows;
    const int turn = i / padding / kTileRows;
    memory.b[turn][row][d_state + i % padding] = 0;
    if (kOutputs) memory.c[turn][row][d_state + i % padding] = 0;
  }

  const float* x_rows = static_cast<const float*>(args.x_LE) + first;
  const float* b_rows = static_cast<const float*>(args.Bmat_LGN) + group * d_state;
  const float* c_rows = static_cast<const float*>(args.Cmat_LGN) + group * d_state;
  const float* dt_rows = static_cast<const float*>(args.dt_LH) + first_head;
  const auto rows_left = [&](int start) {
    return segment.length - start < kTileRows ? segment.length - start : kTileRows;
  };
  const auto read_ahead = [&](int start, int turn) {
    const int64_t at = rows.first + int64_t{rows.step} * start;
    const int n = rows_left(start);
    for (int i = tid; i < n * (count / 4); i += threads) {
      const int row = i / (count / 4);
      const int column = i % (count / 4) * 4;
      copy_async(&memory.x[turn][row][column],
                 x_rows + (at + rows.step * row) * args.x_stride + column);
    }
    for (int i = tid; i < n * (d_state / 4); i += threads) {
      const int row = i / (d_state / 4);
      const int column = i % (d_state / 4) * 4;
      const int64_t from = (at + rows.step * row) * args.bc_stride + column;
      copy_async(&memory.b[turn][row][column], b_rows + from);
      if constexpr (kOutputs) copy_async(&memory.c[turn][row][column], c_rows + from);
    }
    for (int i = tid; i < n * heads; i += threads) {
      copy_word_async(&memory.dt[turn][i / heads][i % heads],
                      dt_rows + (at + rows.step * (i / heads)) * args.dt_stride + i % heads);
    }
    commit_copies();
  };

  float sum = 0;  // of the time steps of head tid, where there is one
  int turn = 0;
  read_ahead(0, turn);
  for (int start = 0; start < segment.length; start += kTileRows) {
    const int n = rows_left(start);
    wait_for_copies();
    __syncthreads();
    if (start + kTileRows < segment.length) read_ahead(start + kTileRows, 1 - turn);
    for (int i = tid; i < n * heads; i += threads) {
      const int at = first_head + i % heads;
      const float bias = args.dt_bias_H != nullptr ? args.dt_bias_H[at] : 0.0F;
      const float delta = ssd_time_step(args, memory.dt[turn][i / heads][i % heads], bias);
      memory.delta[i / heads][i % heads] = delta;
      memory.loss[i / heads][i % heads] = expm1f(delta * args.A_H[at]);
    }
    __syncthreads();
    if (!kOutputs && tid < heads) {
      for (int t = 0; t < n; ++t) sum += memory.delta[t][tid];
    }
#pragma unroll 1
    for (int t = 0; t < n; ++t) {
      const float loss = memory.loss[t][head];
      const float delta = memory.delta[t][head];
      const float4 x = *reinterpret_cast<const float4*>(&memory.x[turn][t][active ? own : 0]);
      const float input[kOwnChannels] = {delta * x.x, delta * x.y, delta * x.z, delta * x.w};
      float y[kOwnChannels] = {skip[0] * x.x, skip[1] * x.y, skip[2] * x.z, skip[3] * x.w};
#pragma unroll
      for (int k = 0; k < kOwnStates / 4; ++k) {
        const float4 b4 = *reinterpret_cast<const float4*>(&memory.b[turn][t][of_state(k)]);
        const float b[4] = {b4.x, b4.y, b4.z, b4.w};
        float c[4] = {};
        if constexpr (kOutputs) {
          const float4 c4 = *reinterpret_cast<const float4*>(&memory.c[turn][t][of_state(k)]);
          c[0] = c4.x, c[1] = c4.y, c[2] = c4.z, c[3] = c4.w;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int e = 0; e < kOwnChannels; ++e) {
            float& state = h[4 * k + i][e];
            state = fmaf(input[e], b[i], fmaf(loss, state, state));
            if constexpr (kOutputs) y[e] = fmaf(state, c[i], y[e]);
          }
        }
      }
      if constexpr (kOutputs) {
        float* out = static_cast<float*>(args.out_LE) +
                     (rows.first + int64_t{rows.step} * (start + t)) * args.out_stride + channel;
        // The sharers' parts: the first two exchanges leave each with the sum of fewer channels.
        if constexpr (Own::kSharers == 1) {
          if (active) *reinterpret_cast<float4*>(out) = make_float4(y[0], y[1], y[2], y[3]);
        } else {
          const bool odd = sharer % 2 != 0;
          float a0 = odd ? y[2] : y[0];
          float a1 = odd ? y[3] : y[1];
          a0 += __shfl_xor_sync(0xffffffffu, odd ? y[0] : y[2], 1);
          a1 += __shfl_xor_sync(0xffffffffu, odd ? y[1] : y[3], 1);
          if constexpr (Own::kSharers == 2) {
            if (active) *reinterpret_cast<float2*>(out + 2 * sharer) = make_float2(a0, a1);
          } else {
            const bool second = sharer / 2 % 2 != 0;
            float one = second ? a1 : a0;
            one += __shfl_xor_sync(0xffffffffu, second ? a0 : a1, 2);
#pragma unroll
            for (int step = 4; step < Own::kSharers; step *= 2) {
              one += __shfl_xor_sync(0xffffffffu, one, step);
            }
            if (active && sharer < 4) out[2 * (sharer % 2) + sharer / 2] = one;
          }
        }
      }
    }
    turn = 1 - turn;
  }

  float* to = nullptr;
  if constexpr (kOutputs) {
    if (ssd_leaves_state(args, span, segment)) to = span.state + args.state.ssm_last;
  } else {
    to = args.workspace + segment_index * sizes.segment_floats;
    if (tid < heads) {
      // Blocks that share a head write the same.
      to[d_state * sizes.channels + first_head + tid] = sum * (args.A_H[first_head + tid] * kLog2E);
    }
  }
  if (to == nullptr || !active) return;
#pragma unroll
  for (int k = 0; k < kOwnStates / 4; ++k) {
    if (of_state(k) >= d_state) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&value)[kOwnChannels] = h[4 * k + i];
      *reinterpret_cast<float4*>(to + (of_state(k) + i) * sizes.channels + channel) =
          make_float4(value[0], value[1], value[2], value[3]);
    }
  }
}

template <bool kOutputs>
void launch(DeviceExec& exec, const DeviceSsdScanArgs& args, const char* name) {
  with_states(args.d_state, [&](auto states) {
    constexpr int kN = decltype(states)::value;
    const Blocks<kN> blocks(args);
    launch_ssd(exec, args, ssd_rows_kernel<kN, kOutputs>,
               args.batch.segment_count * args.groups * blocks.per_group, 32 * blocks.warps,
               static_cast<int>(sizeof(RowsMemory<kN, kOutputs>)), name, blocks);
  });
}

}  // namespace

void ssd_segment_ends_f32(DeviceExec& exec, const DeviceSsdScanArgs& args) {
  launch<false>(exec, args, "ssd_scan, segment ends");
}
void ssd_outputs_f32(DeviceExec& exec, const DeviceSsdScanArgs& args) {
  launch<true>(exec, args, "ssd_scan, outputs");
}

}  // namespace chromamba::kernels::cuda
