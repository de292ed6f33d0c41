#include "kernels/ssd_scan.h"

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

struct Shape {
  int64_t length, heads, head_dim, groups, d_state;
};

// A scan's inputs as the mixer has them: x, Bmat and Cmat are slices of one row, dt of another, wider than the tensors.
struct Problem {
  explicit Problem(const Shape& s)
      : shape(s),
        channels(s.heads * s.head_dim),
        mixed(channels + 2 * s.groups * s.d_state + 3),
        xbc(random_values(s.length * mixed, 1)),
        dt(random_values(s.length * (s.heads + 2), 2, -2, 1.5F)),
        dt_bias(random_values(s.heads, 3, -1)),
        decay(random_values(s.heads, 4)),
        skip(random_values(channels, 5)),
        h0(random_values(s.d_state * channels, 6)) {
    for (float& a : decay) a = -0.01F - std::fabs(4 * a);
  }

  // Rows [from, from + count) into out [count, E], from and to `state`.
  template <typename Target>
  void run(Target& exec, int64_t from, int64_t count, bool reverse, AlignedFloats& state,
           float* out, int64_t out_stride = 0) const {
    SsdScanArgs args;
    args.length = count;
    args.heads = shape.heads;
    args.head_dim = shape.head_dim;
    args.groups = shape.groups;
    args.d_state = shape.d_state;
    args.reverse = reverse;
    args.x_LE = xbc.data() + from * mixed + 1;
    args.x_stride = mixed;
    args.dt_LH = dt.data() + from * (shape.heads + 2) + 1;
    args.dt_stride = shape.heads + 2;
    args.dt_bias_H = biased ? dt_bias.data() : nullptr;
    args.dt_min = dt_min;
    args.dt_max = dt_max;
    args.A_H = decay.data();
    args.Bmat_LGN = args.x_LE + channels;
    args.Cmat_LGN = args.Bmat_LGN + shape.groups * shape.d_state;
    args.bc_stride = mixed;
    args.D_E = skip.data();
    args.state_NE = state.data();
    args.out_LE = out;
    args.out_stride = out_stride > 0 ? out_stride : channels;
    ssd_scan(exec, args);
  }

  template <typename Target>
  AlignedFloats whole(Target& exec, AlignedFloats& state, bool reverse = false) const {
    AlignedFloats out = poisoned(shape.length * channels);
    run(exec, 0, shape.length, reverse, state, out.data());
    return out;
  }

  Shape shape;
  int64_t channels, mixed;
  AlignedFloats xbc, dt, dt_bias, decay, skip, h0;
  bool biased = true;
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
};

void check_reference(const Problem& problem, bool reverse = false) {
  const Shape& s = problem.shape;
  Exec reference(Backend::reference);
  AlignedFloats expected_state = problem.h0;
  const AlignedFloats expected = problem.whole(reference, expected_state, reverse);
  on_every_target([&](auto& exec) {
    INFO("L " << s.length << ", H " << s.heads << ", P " << s.head_dim << ", G " << s.groups
              << ", N " << s.d_state << (reverse ? ", reverse" : ""));
    AlignedFloats state = problem.h0;
    CHECK(relative_error(problem.whole(exec, state, reverse), expected) <= tests::kKernel);
    CHECK(relative_error(state, expected_state) <= tests::kKernel);
  });
}

TEST_CASE("SSD scan agrees with the double reference") {
  for (const Shape& shape : std::initializer_list<Shape>{
           {75, 8, 16, 1, 32}, {75, 4, 64, 1, 128}, {75, 1, 1, 1, 1},    {75, 3, 7, 1, 5},
           {75, 2, 33, 2, 15}, {75, 6, 16, 2, 17},  {75, 20, 5, 4, 16},  {75, 2, 128, 1, 16},
           {75, 2, 24, 1, 40}, {75, 1, 80, 1, 256}, {75, 35, 2, 5, 9},   {1, 8, 16, 1, 32},
           {63, 4, 16, 1, 32}, {64, 4, 16, 1, 32},  {65, 4, 16, 1, 32},  {31, 2, 48, 2, 48},
           {32, 2, 48, 2, 48}, {33, 2, 48, 2, 48},  {127, 2, 96, 2, 96}, {129, 1, 112, 1, 80}}) {
    check_reference(Problem(shape));
    check_reference(Problem(shape), true);
  }
}

TEST_CASE("SSD scan: a time step that is not a number is not taken for one of its limits") {
  for (const bool limited : {false, true}) {
    Problem problem({40, 3, 20, 1, 7});
    if (limited) problem.dt_min = 0.01F, problem.dt_max = 0.1F;
    constexpr int64_t kRow = 10;
    problem.dt[static_cast<size_t>(kRow * (3 + 2) + 1 + 1)] = std::nanf("");  // of the second head
    const auto check = [&](auto& exec) {
      AlignedFloats state = problem.h0;
      const AlignedFloats out = problem.whole(exec, state);
      for (int64_t t = 0; t < 40; ++t) {
        for (int64_t e = 0; e < problem.channels; ++e) {
          const bool hit = t >= kRow && e / 20 == 1;
          if (std::isnan(out[static_cast<size_t>(t * problem.channels + e)]) != hit) {
            FAIL_CHECK("row " << t << ", channel " << e);
          }
        }
      }
    };
    on_every_target(check);
    Exec reference(Backend::reference);
    check(reference);
  }
}

TEST_CASE("SSD scan: any split is the whole, bit for bit") {
  // On a GPU sub-blocks of rows begin where a call does, so there this is checked by segments (device_kernels_test.cc).
  for (const Shape& shape : std::initializer_list<Shape>{{200, 4, 16, 2, 32}, {200, 3, 20, 1, 7}}) {
    const Problem problem(shape);
    const int64_t width = problem.channels;
    tests::on_every_instruction_set([&](Exec& exec) {
      for (const bool reverse : {false, true}) {
        AlignedFloats state = problem.h0;
        const AlignedFloats whole = problem.whole(exec, state, reverse);
        for (const int64_t piece : {1, 7, 31, 32, 33, 64, 199, 200}) {
          INFO("pieces of " << piece << (reverse ? ", reverse" : ""));
          AlignedFloats carried = problem.h0;
          AlignedFloats out = poisoned(200 * width);
          for (int64_t done = 0; done < 200; done += piece) {
            const int64_t n = std::min(piece, 200 - done);
            const int64_t from = reverse ? 200 - done - n : done;
            problem.run(exec, from, n, reverse, carried, out.data() + from * width);
            problem.run(exec, from, 0, reverse, carried, nullptr);  // no rows: nothing happens
          }
          CHECK(same_bits(out, whole));
          CHECK(same_bits(carried, state));
        }
      }
    });
  }
}

TEST_CASE("SSD scan: reverse is the flipped forward scan") {
  const Problem problem({77, 4, 16, 2, 32});
  Problem flipped = problem;
  const auto flip_rows = [](AlignedFloats& rows) {
    const auto width = static_cast<int64_t>(rows.size()) / 77;
    for (int64_t i = 0, j = 76; i < j; ++i, --j) {
      std::swap_ranges(rows.begin() + i * width, rows.begin() + (i + 1) * width,
                       rows.begin() + j * width);
    }
  };
  flip_rows(flipped.xbc);
  flip_rows(flipped.dt);
  on_every_target([&](auto& exec) {
    AlignedFloats state = problem.h0;
    AlignedFloats flipped_state = problem.h0;
    const AlignedFloats backward = problem.whole(exec, state, true);
    AlignedFloats forward = flipped.whole(exec, flipped_state, false);
    flip_rows(forward);
    CHECK(same_bits(backward, forward));
    CHECK(same_bits(state, flipped_state));
  });
}

TEST_CASE("SSD scan: out may be x, only its columns are written, and ten runs give the same bits") {
  const Problem problem({130, 3, 16, 1, 48});
  on_every_target([&](auto& exec) {
    AlignedFloats state = problem.h0;
    const AlignedFloats whole = problem.whole(exec, state);
    Problem aliased = problem;
    AlignedFloats aliased_state = problem.h0;
    aliased.run(exec, 0, 130, false, aliased_state, aliased.xbc.data() + 1, problem.mixed);
    for (int64_t t = 0; t < 130; ++t) {
      for (int64_t i = 0; i < problem.mixed; ++i) {
        const auto at = static_cast<size_t>(t * problem.mixed + i);
        const bool inside = i >= 1 && i < 1 + problem.channels;
        const float wanted =
            inside ? whole[static_cast<size_t>(t * problem.channels + i - 1)] : problem.xbc[at];
        REQUIRE(aliased.xbc[at] == wanted);
      }
    }
    for (int i = 0; i < 10; ++i) {
      AlignedFloats again = problem.h0;
      CHECK(same_bits(problem.whole(exec, again), whole));
      CHECK(same_bits(again, state));
    }
  });
}

TEST_CASE("SSD scan: limits of the time step, and none of its bias") {
  Problem problem({90, 4, 16, 1, 16});
  problem.dt_min = 0.05F;
  problem.dt_max = 0.3F;
  check_reference(problem);
  problem.biased = false;
  check_reference(problem);
  // The limits matter: without them the result is another.
  Problem free = problem;
  free.dt_min = 0;
  free.dt_max = std::numeric_limits<float>::infinity();
  Exec exec;
  AlignedFloats a = problem.h0;
  AlignedFloats b = problem.h0;
  CHECK(relative_error(problem.whole(exec, a), free.whole(exec, b)) > 0.01);
}

TEST_CASE("SSD scan: a state decays to nothing or hardly at all, and time steps may be extreme") {
  Problem problem({150, 4, 16, 1, 16});
  for (float& dt : problem.dt) dt = dt > -2 ? 80.0F : -80.0F;
  check_reference(problem);
  Problem slow({700, 4, 16, 1, 16});
  slow.decay = {-1e-6F, -1e-3F, -30.0F, -1e4F};
  check_reference(slow);
  // The same factor at every base: an error of its rounding would add up.
  Problem constant({3000, 4, 16, 1, 16});
  constant.dt_min = constant.dt_max = 0.031F;
  constant.decay = {-1e-4F, -1e-3F, -0.01F, -0.1F};
  check_reference(constant);
}

TEST_CASE("SSD scan refuses impossible arguments") {
  Exec exec(Backend::cpu);
  CHECK_THROWS_AS(ssd_scan(exec, {.length = 1, .heads = 0, .head_dim = 1, .d_state = 1}),
                  InternalError);
  CHECK_THROWS_AS(
      ssd_scan(exec, {.length = 1, .heads = 3, .head_dim = 1, .groups = 2, .d_state = 1}),
      InternalError);
  CHECK_THROWS_AS(
      ssd_scan(exec, {.length = 1, .heads = 2, .head_dim = 4, .d_state = 2, .x_stride = 7}),
      InternalError);
}

}  // namespace
}  // namespace chromamba::kernels
