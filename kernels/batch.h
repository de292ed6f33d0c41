// Several sequences in one set of rows: what the device overloads of the kernels work on.
//
// Rows of a batch lie one after the other in every activation buffer. A span is a run of rows that are
// consecutive bases of one sequence. Sequences are cut into segments at fixed bases, which a
// scan works on in parallel; a span begins where a segment does. Because a sequence is always cut at the
// same bases, results do not depend on how it came in or on what else is in the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace chromamba::kernels {

// A segment gives a GPU a block for every 128 channels, so 65,536 bases of one sequence fill today's GPUs with
// a D=256 model. Segments of 1,024 bases make a scan of a megabase 7 % faster, for more of a long segment has decayed
// before its end, but one of 65,536 bases 35 % slower, and a pass of the engine is not much longer.
constexpr int64_t kSegmentBases = 512;

// The last base at or before this one (counted in running order) where a segment begins.
inline int64_t segment_floor(int64_t position) { return position / kSegmentBases * kSegmentBases; }

struct DeviceSpan {
  int64_t row = 0;     // first row
  int64_t length = 0;  // rows
  // Where the sequence's states lie on the device; each layer adds its own offset. Arrays of f32 for each layer, with
  // C the channels of its convolution (E in Mamba-1, E + 2·G·N in Mamba-2):
  //   [N, E] and 2 x [K, C]  ssm and conv state after the last whole segment: `turn` says which conv state is
  //                          read; the other is written when the span has a whole segment
  //   [N, E] and [K, C]      the same after the span's last base (written)
  float* state = nullptr;
  int32_t turn = 0;
  // Filled by cut_segments.
  int32_t first_segment = 0;
  int32_t segments = 0;
  int32_t whole_segments = 0;  // all of them, or all but the last
  int64_t whole_length = 0;    // their bases
};

struct DeviceSegment {
  int32_t span = 0;
  int32_t length = 0;
  int64_t start = 0;  // in running order, from the span's first base
  int32_t whole = 0;  // 1: ends where the next segment of its sequence begins
};

// The state just before a base of a span, for whoever goes on from there with other bases: what computes a layer's states
// leaves it behind where those of another sequence lie, as what its first segment begins with (of the conv states, the one
// with turn 0).
struct DeviceSnapshot {
  int32_t span = 0;
  int64_t base = 0;        // in running order, from the span's first: 0 ... length - 1
  float* state = nullptr;  // as DeviceSpan::state, of a sequence that is not in the batch
};

// Offsets, in floats, of one layer's states from DeviceSpan::state.
struct StateLayout {
  int64_t ssm_carry = 0;
  int64_t conv_carry = 0;  // two of them
  int64_t ssm_last = 0;
  int64_t conv_last = 0;
};

// `conv_channels`: of the convolution, where they are not those of the scan.
inline StateLayout state_layout(int64_t offset, int64_t channels, int64_t d_state, int64_t taps,
                                int64_t conv_channels) {
  StateLayout layout;
  layout.ssm_carry = offset;
  layout.conv_carry = layout.ssm_carry + d_state * channels;
  layout.ssm_last = layout.conv_carry + 2 * taps * conv_channels;
  layout.conv_last = layout.ssm_last + d_state * channels;
  return layout;
}
inline StateLayout state_layout(int64_t offset, int64_t channels, int64_t d_state, int64_t taps) {
  return state_layout(offset, channels, d_state, taps, channels);
}
inline int64_t state_floats(int64_t channels, int64_t d_state, int64_t taps,
                            int64_t conv_channels) {
  return 2 * d_state * channels + 3 * taps * conv_channels;
}
inline int64_t state_floats(int64_t channels, int64_t d_state, int64_t taps) {
  return state_floats(channels, d_state, taps, channels);
}

// Device copies of the tables and their sizes.
struct DeviceBatch {
  const DeviceSpan* spans = nullptr;
  const DeviceSegment* segments = nullptr;
  const DeviceSnapshot* snapshots = nullptr;  // ascending by span, then base
  int64_t rows = 0;
  int64_t span_count = 0;
  int64_t segment_count = 0;
  int64_t snapshot_count = 0;
  int64_t longest_segment = kSegmentBases;  // all of a span but its last one
};

// Completes the spans and returns their segments: of kSegmentBases, or of `equal` bases where that is given.
inline std::vector<DeviceSegment> cut_segments(std::vector<DeviceSpan>& spans, int64_t equal = 0) {
  std::vector<DeviceSegment> segments;
  for (std::size_t s = 0; s < spans.size(); ++s) {
    DeviceSpan& span = spans[s];
    span.first_segment = static_cast<int32_t>(segments.size());
    span.whole_segments = 0;
    span.whole_length = 0;
    for (int64_t start = 0; start < span.length;) {
      const int64_t wanted = equal > 0 ? equal : kSegmentBases;
      DeviceSegment segment;
      segment.span = static_cast<int32_t>(s);
      segment.start = start;
      segment.length =
          static_cast<int32_t>(span.length - start < wanted ? span.length - start : wanted);
      segment.whole = segment.length == wanted ? 1 : 0;
      span.whole_segments += segment.whole;
      if (segment.whole != 0) span.whole_length = start + wanted;
      segments.push_back(segment);
      start += segment.length;
    }
    span.segments = static_cast<int32_t>(segments.size()) - span.first_segment;
  }
  return segments;
}

}  // namespace chromamba::kernels
