#include "kernels/causal_conv1d.h"

#include "tests/kernels/kernel_test.h"
#include "tests/random_values.h"
#include "tests/tolerances.h"

namespace chromamba::kernels {
namespace {

using tests::on_every_target;
using tests::poisoned;
using tests::random_values;
using tests::relative_error;
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

TEST_CASE("causal conv refuses tap counts it does not have") {
  Exec exec(Backend::cpu);
  CHECK_THROWS_AS(causal_conv1d(exec, {.length = 1, .channels = 1, .taps = 1}), InternalError);
  CHECK_THROWS_AS(causal_conv1d(exec, {.length = 1, .channels = 1, .taps = 9}), InternalError);
}

}  // namespace
}  // namespace chromamba::kernels
