// Several sequences in one set of rows: what the device overloads of the kernels work on.
//
// Rows of a batch lie one after the other in every activation buffer. A span is a run of rows that are
// consecutive bases of one sequence. Spans are cut into segments of kSegmentBases bases, counted
// from the span's first base in running order; a scan works on segments in parallel. Because a
// sequence is always cut at the same bases (the engine starts spans at multiples of kSegmentBases
// only), results do not depend on how a sequence came in or on what else is in the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace chromamba::kernels {

// 512 bases: a segment's end state costs 1/512 of its updates to hand over, and 131,072 bases of one
// sequence give a D=256 model 1,024 blocks of 128 threads, enough for every GPU of today.
constexpr int64_t kSegmentBases = 512;

struct DeviceSpan {
  int64_t row = 0;     // first row
  int64_t length = 0;  // rows
  // Where the sequence's states lie on the device; each layer adds its own offset. Arrays of f32 for each layer:
  //   [N, E] and 2 x [K, E]  ssm and conv state after the last whole segment: `turn` says which conv state is
  //                          read; the other is written when the span has a whole segment
  //   [N, E] and [K, E]      the same after the span's last base (written)
  float* state = nullptr;
  int32_t turn = 0;
  int32_t first_segment = 0;
  int32_t segments = 0;
};

struct DeviceSegment {
  int32_t span = 0;
  int32_t length = 0;
  int64_t start = 0;  // in running order, from the span's first base
};

// Offsets, in floats, of one layer's states from DeviceSpan::state.
struct StateLayout {
  int64_t ssm_carry = 0;
  int64_t conv_carry = 0;  // two of them
  int64_t ssm_last = 0;
  int64_t conv_last = 0;
};

inline StateLayout state_layout(int64_t offset, int64_t channels, int64_t d_state, int64_t taps) {
  StateLayout layout;
  layout.ssm_carry = offset;
  layout.conv_carry = layout.ssm_carry + d_state * channels;
  layout.ssm_last = layout.conv_carry + 2 * taps * channels;
  layout.conv_last = layout.ssm_last + d_state * channels;
  return layout;
}
inline int64_t state_floats(int64_t channels, int64_t d_state, int64_t taps) {
  return (2 * d_state + 3 * taps) * channels;
}

// Device copies of the tables and their sizes.
struct DeviceBatch {
  const DeviceSpan* spans = nullptr;
  const DeviceSegment* segments = nullptr;
  int64_t rows = 0;
  int64_t span_count = 0;
  int64_t segment_count = 0;
  int64_t segment_bases = kSegmentBases;  // as given to cut_segments
};

// Fills first_segment and segments of the spans and returns the segments, of `segment_bases` each.
inline std::vector<DeviceSegment> cut_segments(std::vector<DeviceSpan>& spans,
                                               int64_t segment_bases = kSegmentBases) {
  std::vector<DeviceSegment> segments;
  for (std::size_t s = 0; s < spans.size(); ++s) {
    spans[s].first_segment = static_cast<int32_t>(segments.size());
    for (int64_t start = 0; start < spans[s].length; start += segment_bases) {
      const int64_t left = spans[s].length - start;
      segments.push_back({static_cast<int32_t>(s),
                          static_cast<int32_t>(left < segment_bases ? left : segment_bases),
                          start});
    }
    spans[s].segments = static_cast<int32_t>(segments.size()) - spans[s].first_segment;
  }
  return segments;
}

}  // namespace chromamba::kernels
