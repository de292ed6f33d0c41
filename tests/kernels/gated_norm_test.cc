#include "kernels/gated_norm.h"

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

// Inputs in rows wider than the tensors, as the mixer has them.
struct Problem {
  Problem(GatedNormKind k, int64_t l, int64_t e, int64_t g)
      : kind(k),
        length(l),
        channels(e),
        groups(g),
        yz(random_values(l * (2 * e + 5), 1)),
        weight(random_values(e, 2, 1, 0.3F)) {}

  template <typename Target>
  void run(Target& exec, int64_t from, int64_t count, float* out, int64_t out_stride) const {
    GatedNormArgs args;
    args.kind = kind;
    args.length = count;
    args.channels = channels;
    args.groups = groups;
    args.eps = 1e-3F;
    args.y_LE = yz.data() + from * stride() + 1;
    args.y_stride = stride();
    args.z_LE = args.y_LE + channels + 1;
    args.z_stride = stride();
    args.weight_E = kind == GatedNormKind::none ? nullptr : weight.data();
    args.out_LE = out;
    args.out_stride = out_stride;
    gated_norm(exec, args);
  }
  template <typename Target>
  AlignedFloats whole(Target& exec) const {
    AlignedFloats out = poisoned(length * channels);
    run(exec, 0, length, out.data(), channels);
    return out;
  }
  int64_t stride() const { return 2 * channels + 5; }

  GatedNormKind kind;
  int64_t length, channels, groups;
  AlignedFloats yz, weight;
};

constexpr GatedNormKind kKinds[] = {GatedNormKind::gate_first, GatedNormKind::norm_first,
                                    GatedNormKind::none};

TEST_CASE("gated norm agrees with the double reference") {
  for (const GatedNormKind kind : kKinds) {
    for (const auto& [channels, groups] : std::initializer_list<std::pair<int64_t, int64_t>>{
             {1, 1}, {7, 1}, {16, 1}, {128, 1}, {130, 2}, {512, 1}, {512, 4}, {96, 3}, {2600, 1}}) {
      for (const int64_t length : {0, 1, 9}) {
        INFO("kind " << static_cast<int>(kind) << ", E " << channels << ", groups " << groups);
        const Problem problem(kind, length, channels, groups);
        Exec reference(Backend::reference);
        const AlignedFloats expected = problem.whole(reference);
        on_every_target([&](auto& exec) {
          CHECK(relative_error(problem.whole(exec), expected) <= tests::kKernel);
        });
      }
    }
  }
}

TEST_CASE("gated norm: rows do not depend on their neighbours, and out may be y") {
  for (const GatedNormKind kind : kKinds) {
    const Problem problem(kind, 21, 72, 2);
    on_every_target([&](auto& exec) {
      const AlignedFloats whole = problem.whole(exec);
      AlignedFloats rows = poisoned(21 * 72);
      for (int64_t t = 0; t < 21; ++t) problem.run(exec, t, 1, rows.data() + t * 72, 72);
      CHECK(same_bits(rows, whole));
      Problem aliased = problem;
      aliased.run(exec, 0, 21, aliased.yz.data() + 1, problem.stride());
      for (int64_t t = 0; t < 21; ++t) {
        for (int64_t i = 0; i < problem.stride(); ++i) {
          const auto at = static_cast<size_t>(t * problem.stride() + i);
          const bool inside = i >= 1 && i < 73;
          REQUIRE(aliased.yz[at] ==
                  (inside ? whole[static_cast<size_t>(t * 72 + i - 1)] : problem.yz[at]));
        }
      }
    });
  }
}

TEST_CASE("gated norm: squares that overflow do not pass as zero") {
  Problem problem(GatedNormKind::norm_first, 3, 32, 1);
  for (int64_t e = 0; e < 32; ++e)
    problem.yz[static_cast<size_t>(problem.stride() + 1 + e)] = 1e30F;
  on_every_target([&](auto& exec) {
    const AlignedFloats out = problem.whole(exec);
    CHECK(std::isfinite(out[0]));
    CHECK(std::isnan(out[32]));
    CHECK(std::isfinite(out[64]));
  });
}

TEST_CASE("gated norm refuses impossible arguments") {
  Exec exec(Backend::cpu);
  CHECK_THROWS_AS(gated_norm(exec, {.length = 1, .channels = 0}), InternalError);
  CHECK_THROWS_AS(gated_norm(exec, {.length = 1, .channels = 4, .groups = 3}), InternalError);
  CHECK_THROWS_AS(
      gated_norm(exec, {.length = 1, .channels = 4, .y_stride = 4, .z_stride = 4, .out_stride = 4}),
      InternalError);
}

}  // namespace
}  // namespace chromamba::kernels
