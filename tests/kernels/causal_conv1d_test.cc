#include "kernels/causal_conv1d.h"

#include <cmath>
#include <vector>

#include "kernels/conv_project.h"
#include "tests/kernels/kernel_test.h"
#include "tests/random_values.h"
#include "tests/tolerances.h"

namespace chromamba::kernels {
namespace {

using tests::DeviceTarget;
using tests::on_every_target;
using tests::on_gpu;
using tests::OnDevice;
using tests::poisoned;
using tests::random_values;
using tests::relative_error;
using tests::rounded;
using tests::same_bits;

struct Problem {
  Problem(int64_t l, int64_t e, int64_t k, bool with_bias = true)
      : length(l),
        channels(e),
        taps(k),
        u(random_values(l * (e + 5), 1)),
        weight(random_values(k * e, 2)),
        bias(with_bias ? random_values(e, 3) : AlignedFloats()),
        state0(random_values(k * e, 4)) {}

  template <typename Target>
  void run(Target& exec, int64_t from, int64_t count, bool reverse, AlignedFloats& state,
           float* out, bool silu = true) const {
    causal_conv1d(exec, {.length = count,
                         .channels = channels,
                         .taps = taps,
                         .silu = silu,
                         .reverse = reverse,
                         .u_LE = u.data() + from * (channels + 5),
                         .u_stride = channels + 5,
                         .weight_KE = weight.data(),
                         .bias_E = bias.empty() ? nullptr : bias.data(),
                         .state_KE = state.data(),
                         .out_LE = out,
                         .out_stride = channels});
  }

  int64_t length, channels, taps;
  AlignedFloats u, weight, bias, state0;
};

TEST_CASE("causal conv agrees with the double reference and keeps the last K inputs") {
  for (const int64_t taps : {2, 3, 4, 5, 8}) {
    for (const int64_t channels : {1, 15, 16, 17, 100}) {
      const Problem problem(33, channels, taps, channels != 15);
      for (const bool silu : {true, false}) {
        Exec reference(Backend::reference);
        AlignedFloats expected = poisoned(33 * channels);
        AlignedFloats expected_state = problem.state0;
        problem.run(reference, 0, 33, false, expected_state, expected.data(), silu);
        for (int64_t k = 0; k < taps; ++k) {
          const float* row = problem.u.data() + (33 - taps + k) * (channels + 5);
          CHECK(std::equal(row, row + channels, expected_state.data() + k * channels));
        }
        on_every_target([&](auto& exec) {
          INFO("K " << taps << ", E " << channels);
          AlignedFloats out = poisoned(33 * channels);
          AlignedFloats state = problem.state0;
          problem.run(exec, 0, 33, false, state, out.data(), silu);
          CHECK(relative_error(out, expected) <= tests::kKernel);
          CHECK(same_bits(state, expected_state));
        });
      }
    }
  }
}

TEST_CASE("causal conv: any split is the whole, bit for bit, in both directions") {
  const Problem problem(50, 40, 4);
  on_every_target([&](auto& exec) {
    for (const bool reverse : {false, true}) {
      AlignedFloats whole = poisoned(50 * 40);
      AlignedFloats state = problem.state0;
      problem.run(exec, 0, 50, reverse, state, whole.data());
      for (const int64_t piece : {1, 2, 3, 4, 5, 16, 49}) {
        INFO("pieces of " << piece << (reverse ? ", reverse" : ""));
        AlignedFloats out = poisoned(50 * 40);
        AlignedFloats carried = problem.state0;
        for (int64_t done = 0; done < 50; done += piece) {
          const int64_t n = std::min(piece, 50 - done);
          const int64_t from = reverse ? 50 - done - n : done;
          problem.run(exec, from, n, reverse, carried, out.data() + from * 40);
        }
        CHECK(same_bits(out, whole));
        CHECK(same_bits(carried, state));
      }
    }
  });
}

TEST_CASE("causal conv: reverse is the flipped forward convolution") {
  const Problem problem(21, 8, 3);
  Problem flipped = problem;
  for (int64_t t = 0; t < 21; ++t) {
    std::copy_n(problem.u.data() + (20 - t) * 13, 13, flipped.u.data() + t * 13);
  }
  on_every_target([&](auto& exec) {
    AlignedFloats backward = poisoned(21 * 8);
    AlignedFloats forward = poisoned(21 * 8);
    AlignedFloats state_a = problem.state0;
    AlignedFloats state_b = problem.state0;
    problem.run(exec, 0, 21, true, state_a, backward.data());
    flipped.run(exec, 0, 21, false, state_b, forward.data());
    for (int64_t t = 0; t < 21; ++t) {
      CHECK(std::equal(forward.begin() + t * 8, forward.begin() + t * 8 + 8,
                       backward.begin() + (20 - t) * 8));
    }
    CHECK(same_bits(state_a, state_b));
  });
}

// Two sequences in a batch, with snapshots; by itself and with the projections after it.
void check_snapshots(DeviceTarget& target, int32_t turn, bool reverse, bool projects) {
  constexpr int64_t kChannels = 128;
  constexpr int64_t kTaps = 4;
  constexpr int64_t kStride = 2 * kChannels;
  constexpr int64_t kWidth = 48;
  const int64_t floats = state_floats(kChannels, 0, kTaps);
  const std::vector<int64_t> lengths = {700, 3};
  const std::vector<std::pair<int32_t, int64_t>> wanted = {{0, 0},   {0, 1},   {0, 3}, {0, 4},
                                                           {0, 512}, {0, 699}, {1, 0}, {1, 2}};
  OnDevice on(target.exec);
  const auto up = [&](const AlignedFloats& values) {
    on.buffers.push_back(
        upload(target.exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
    return on.buffers.back().data();
  };
  const auto up_f32 = [&](const AlignedFloats& values) {
    on.buffers.push_back(
        upload_f32(target.exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
    return on.buffers.back().as<float>();
  };
  const AlignedFloats u = rounded(random_values(703 * kStride, 1));
  const AlignedFloats states = random_values(2 * floats, 2);
  const auto kept_size = static_cast<int64_t>(wanted.size()) * floats;
  float* device_states = up_f32(states);
  float* kept = up_f32(poisoned(kept_size));
  std::vector<DeviceSpan> spans(2);
  for (size_t s = 0; s < 2; ++s) {
    spans[s].row = s == 0 ? 0 : lengths[0];
    spans[s].length = lengths[s];
    spans[s].state = device_states + static_cast<int64_t>(s) * floats;
    spans[s].turn = turn;
  }
  const std::vector<DeviceSegment> segments = cut_segments(spans);
  std::vector<DeviceSnapshot> snapshots;
  for (const auto& [span, base] : wanted) {
    snapshots.push_back({span, base, kept + static_cast<int64_t>(snapshots.size()) * floats});
  }
  DeviceConvProjectArgs args;
  args.conv.batch.spans = on.table(spans);
  args.conv.batch.segments = on.table(segments);
  args.conv.batch.snapshots = on.table(snapshots);
  args.conv.batch.rows = 703;
  args.conv.batch.span_count = 2;
  args.conv.batch.segment_count = static_cast<int64_t>(segments.size());
  args.conv.batch.snapshot_count = static_cast<int64_t>(snapshots.size());
  args.conv.channels = kChannels;
  args.conv.taps = kTaps;
  args.conv.reverse = reverse;
  args.conv.u_LE = up(u);
  args.conv.u_stride = kStride;
  args.conv.weight_KE = up_f32(random_values(kTaps * kChannels, 3));
  args.conv.state = state_layout(0, kChannels, 0, kTaps);
  args.conv.out_LE = up(poisoned(703 * kChannels));
  args.conv.out_stride = kChannels;
  if (projects) {
    args.rank = 16;
    args.width = kWidth;
    args.x_weight = up(pack_x_weight(random_values(kWidth * kChannels, 4), kWidth, kChannels));
    args.dt_weight = up(pack_dt_weight(random_values(kChannels * 16, 5), kChannels, 16));
    args.x_LW = up(poisoned(703 * kWidth));
    args.x_stride = kWidth;
    args.dt_LE = up(poisoned(703 * kChannels));
    args.dt_stride = kChannels;
    conv_project(target.exec, args);
  } else {
    causal_conv1d(target.exec, args.conv);
  }
  AlignedFloats actual = poisoned(kept_size);
  copy_to_host(target.exec, actual.data(), kept, 4 * kept_size);
  target.exec.synchronize();
  // Nothing else is written.
  AlignedFloats expected = poisoned(kept_size);
  for (size_t k = 0; k < wanted.size(); ++k) {
    const DeviceSpan& span = spans[static_cast<size_t>(wanted[k].first)];
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      const int64_t i = wanted[k].second - kTaps + tap;
      const int64_t row = span.row + (reverse ? span.length - 1 - i : i);
      const float* from = i >= 0 ? u.data() + row * kStride
                                 : states.data() + wanted[k].first * floats +
                                       (turn * kTaps + kTaps + i) * kChannels;
      std::copy_n(from, kChannels,
                  expected.begin() + static_cast<int64_t>(k) * floats + tap * kChannels);
    }
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) != std::isnan(expected[i]) ||
        (!std::isnan(actual[i]) && actual[i] != expected[i])) {
      FAIL("float " << i << " of " << floats << " each is " << actual[i] << ", not "
                    << expected[i]);
    }
  }
}

TEST_CASE("GPU causal conv leaves snapshots the last K inputs before their bases") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool reverse : {false, true}) {
      for (const int32_t turn : {0, 1}) {
        INFO(dtype_name(dtype) << ", turn " << turn << (reverse ? ", reverse" : ""));
        on_gpu(
            [&](DeviceTarget& target) {
              check_snapshots(target, turn, reverse, false);
              if (dtype == DType::bf16) check_snapshots(target, turn, reverse, true);
            },
            dtype);
      }
    }
  }
}

TEST_CASE("causal conv refuses tap counts it does not have") {
  Exec exec(Backend::cpu);
  CHECK_THROWS_AS(causal_conv1d(exec, {.length = 1, .channels = 1, .taps = 1}), InternalError);
  CHECK_THROWS_AS(causal_conv1d(exec, {.length = 1, .channels = 1, .taps = 9}), InternalError);
}

}  // namespace
}  // namespace chromamba::kernels
