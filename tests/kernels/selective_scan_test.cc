#include "kernels/selective_scan.h"

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

// A scan's inputs, in buffers wider than the tensors so that strides matter.
struct Problem {
  Problem(int64_t l, int64_t e, int64_t n, bool gate = true)
      : length(l),
        channels(e),
        d_state(n),
        uz(random_values(l * (2 * e + 3), 1)),
        dt(random_values(l * e, 2, -2, 1.5F)),
        bc(random_values(l * (2 * n + 5), 3)),
        dt_bias(random_values(e, 4, -1)),
        decay(random_values(n * e, 5)),
        skip(random_values(e, 6)),
        h0(random_values(n * e, 7)),
        gated(gate) {
    for (float& a : decay) a = -0.01F - std::fabs(4 * a);
  }

  // Rows [from, from + count) into out [count, E], from and to `state`.
  template <typename Target>
  void run(Target& exec, int64_t from, int64_t count, bool reverse, AlignedFloats& state,
           float* out) const {
    const int64_t wide = 2 * channels + 3;
    const int64_t narrow = 2 * d_state + 5;
    SelectiveScanArgs args;
    args.length = count;
    args.channels = channels;
    args.d_state = d_state;
    args.reverse = reverse;
    args.u_LE = uz.data() + from * wide;
    args.u_stride = wide;
    args.z_LE = gated ? args.u_LE + channels : nullptr;
    args.z_stride = wide;
    args.dt_LE = dt.data() + from * channels;
    args.dt_stride = channels;
    args.dt_bias_E = dt_bias.data();
    args.A_NE = decay.data();
    args.Bmat_LN = bc.data() + from * narrow + 2;
    args.Cmat_LN = bc.data() + from * narrow + 2 + d_state;
    args.bc_stride = narrow;
    args.D_E = skip.data();
    args.state_NE = state.data();
    args.out_LE = out;
    args.out_stride = channels;
    selective_scan(exec, args);
  }

  template <typename Target>
  AlignedFloats whole(Target& exec, AlignedFloats& state, bool reverse = false) const {
    AlignedFloats out = poisoned(length * channels);
    run(exec, 0, length, reverse, state, out.data());
    return out;
  }

  int64_t length, channels, d_state;
  AlignedFloats uz, dt, bc, dt_bias, decay, skip, h0;
  bool gated;
};

TEST_CASE("selective scan agrees with the double reference") {
  for (const int64_t d_state : {1, 3, 4, 8, 15, 16, 17, 64}) {
    for (const int64_t channels : {1, 7, 16, 33, 96}) {
      const Problem problem(75, channels, d_state, channels != 7);
      Exec reference(Backend::reference);
      AlignedFloats expected_state = problem.h0;
      const AlignedFloats expected = problem.whole(reference, expected_state);
      on_every_target([&](auto& exec) {
        INFO("N " << d_state << ", E " << channels);
        AlignedFloats state = problem.h0;
        CHECK(relative_error(problem.whole(exec, state), expected) <= tests::kKernel);
        CHECK(relative_error(state, expected_state) <= tests::kKernel);
      });
    }
  }
}

TEST_CASE("selective scan: any split is the whole, bit for bit") {
  const Problem problem(200, 40, 16);
  on_every_target([&](auto& exec) {
    for (const bool reverse : {false, true}) {
      AlignedFloats state = problem.h0;
      const AlignedFloats whole = problem.whole(exec, state, reverse);
      for (const int64_t piece : {1, 7, 31, 32, 33, 64, 199, 200}) {
        INFO("pieces of " << piece << (reverse ? ", reverse" : ""));
        AlignedFloats carried = problem.h0;
        AlignedFloats out = poisoned(200 * 40);
        for (int64_t done = 0; done < 200; done += piece) {
          const int64_t n = std::min(piece, 200 - done);
          const int64_t from = reverse ? 200 - done - n : done;
          problem.run(exec, from, n, reverse, carried, out.data() + from * 40);
          problem.run(exec, from, 0, reverse, carried, nullptr);  // no rows: nothing happens
        }
        CHECK(same_bits(out, whole));
        CHECK(same_bits(carried, state));
      }
    }
  });
}

TEST_CASE("selective scan: reverse is the flipped forward scan") {
  const Problem problem(77, 24, 16);
  Problem flipped = problem;
  const auto flip_rows = [](AlignedFloats& rows, int64_t length) {
    const auto width = static_cast<int64_t>(rows.size()) / length;
    for (int64_t i = 0, j = length - 1; i < j; ++i, --j) {
      std::swap_ranges(rows.begin() + i * width, rows.begin() + (i + 1) * width,
                       rows.begin() + j * width);
    }
  };
  flip_rows(flipped.uz, 77);
  flip_rows(flipped.dt, 77);
  flip_rows(flipped.bc, 77);
  on_every_target([&](auto& exec) {
    AlignedFloats state = problem.h0;
    AlignedFloats flipped_state = problem.h0;
    const AlignedFloats backward = problem.whole(exec, state, true);
    AlignedFloats forward = flipped.whole(exec, flipped_state, false);
    flip_rows(forward, 77);
    CHECK(same_bits(backward, forward));
    CHECK(same_bits(state, flipped_state));
  });
}

TEST_CASE("selective scan: out may be dt, and ten runs give the same bits") {
  const Problem problem(130, 48, 16);
  on_every_target([&](auto& exec) {
    AlignedFloats state = problem.h0;
    const AlignedFloats whole = problem.whole(exec, state);
    Problem aliased = problem;
    AlignedFloats aliased_state = problem.h0;
    aliased.run(exec, 0, 130, false, aliased_state, aliased.dt.data());
    CHECK(same_bits(aliased.dt, whole));
    for (int i = 0; i < 10; ++i) {
      AlignedFloats again = problem.h0;
      CHECK(same_bits(problem.whole(exec, again), whole));
    }
  });
}

TEST_CASE("selective scan: a state decays to nothing, and time steps may be extreme") {
  Problem problem(64, 16, 16);
  for (float& dt : problem.dt) dt = dt > -2 ? 80.0F : -80.0F;
  Exec reference(Backend::reference);
  AlignedFloats expected_state = problem.h0;
  const AlignedFloats expected = problem.whole(reference, expected_state);
  on_every_target([&](auto& exec) {
    AlignedFloats state = problem.h0;
    CHECK(relative_error(problem.whole(exec, state), expected) <= tests::kKernel);
    CHECK(relative_error(state, expected_state) <= tests::kKernel);
  });
}

TEST_CASE("selective scan: absurd decay rates give zero decay, and no split changes a bit") {
  // Only some rows and channels leave the range of the fast exponential, so blocks that take the
  // guarded path hold values that other splits compute on the fast one.
  Problem problem(100, 24, 16);
  problem.dt[50 * 24 + 3] = 1e6F;
  problem.dt[51 * 24 + 4] = 1e30F;
  for (int64_t n = 0; n < 16; ++n) problem.decay[static_cast<size_t>(n * 24 + 5)] = -1e9F;
  Exec reference(Backend::reference);
  AlignedFloats expected_state = problem.h0;
  const AlignedFloats expected = problem.whole(reference, expected_state);
  on_every_target([&](auto& exec) {
    AlignedFloats state = problem.h0;
    const AlignedFloats whole = problem.whole(exec, state);
    AlignedFloats carried = problem.h0;
    AlignedFloats out = poisoned(100 * 24);
    for (int64_t t = 0; t < 100; ++t) {
      problem.run(exec, t, 1, false, carried, out.data() + t * 24);
    }
    CHECK(same_bits(out, whole));
    CHECK(same_bits(carried, state));
    for (const int64_t e : {0, 3, 5, 23}) {  // channel 4 holds values of 1e30
      for (int64_t t = 0; t < 100; ++t) {
        const auto i = static_cast<size_t>(t * 24 + e);
        CHECK(whole[i] == Approx(expected[i]).epsilon(1e-5).margin(1e-4));
      }
    }
  });
}

TEST_CASE("selective scan refuses impossible arguments") {
  Exec exec(Backend::cpu);
  CHECK_THROWS_AS(selective_scan(exec, {.length = 1, .channels = 0, .d_state = 1}), InternalError);
  CHECK_THROWS_AS(selective_scan(exec, {.length = 1, .channels = 4, .d_state = 2, .u_stride = 3}),
                  InternalError);
}

}  // namespace
}  // namespace chromamba::kernels
