// The kernels without a carry: token embedding, add + norm, linear, head.
#include "kernels/add_norm.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/token_embedding.h"
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

TEST_CASE("token embedding copies rows and refuses tokens outside the vocabulary") {
  const AlignedFloats table = random_values(5 * 7, 1);
  const std::vector<int32_t> tokens = {4, 0, 2};
  AlignedFloats out = poisoned(3 * 7);
  Exec exec;
  const TokenEmbeddingArgs args{.length = 3,
                                .vocab_size = 5,
                                .d_model = 7,
                                .tokens_L = tokens.data(),
                                .table_VD = table.data(),
                                .out_LD = out.data()};
  token_embedding(exec, args);
  for (int t = 0; t < 3; ++t) {
    for (int d = 0; d < 7; ++d) CHECK(out[t * 7 + d] == table[tokens[t] * 7 + d]);
  }
  for (const int32_t bad : {-1, 5}) {
    TokenEmbeddingArgs wrong = args;
    wrong.tokens_L = &bad;
    wrong.length = 1;
    CHECK_THROWS_AS(token_embedding(exec, wrong), InternalError);
  }
}

TEST_CASE("add + norm agrees with the double reference") {
  for (const NormKind kind : {NormKind::rms, NormKind::layer}) {
    for (const int64_t width : {1, 3, 16, 31, 48, 128, 257}) {
      for (const bool with_hidden : {true, false}) {
        const AlignedFloats hidden = random_values(9 * width, 1);
        const AlignedFloats residual = random_values(9 * width, 2, 3.0F);
        const AlignedFloats weight = random_values(width, 3);
        const AlignedFloats bias = random_values(width, 4);
        const auto run = [&](auto& exec, AlignedFloats& stream, AlignedFloats& out) {
          add_norm(exec, {.kind = kind,
                          .length = 9,
                          .d_model = width,
                          .eps = 1e-5F,
                          .hidden_LD = with_hidden ? hidden.data() : nullptr,
                          .residual_LD = stream.data(),
                          .weight_D = weight.data(),
                          .bias_D = kind == NormKind::layer ? bias.data() : nullptr,
                          .out_LD = out.data()});
        };
        Exec reference(Backend::reference);
        AlignedFloats expected_stream = residual;
        AlignedFloats expected = poisoned(9 * width);
        run(reference, expected_stream, expected);
        on_every_target([&](auto& exec) {
          INFO("D " << width << (kind == NormKind::layer ? ", LayerNorm" : ", RMSNorm"));
          AlignedFloats stream = residual;
          AlignedFloats out = poisoned(9 * width);
          run(exec, stream, out);
          CHECK(same_bits(stream, expected_stream));
          // One element has no variance: LayerNorm divides rounding error by sqrt(eps).
          if (width > 1) CHECK(relative_error(out, expected) <= tests::kKernel);
        });
      }
    }
  }
}

TEST_CASE("linear agrees with the double reference, and a row's bits do not depend on other rows") {
  constexpr int64_t kRows = 67;
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{8, 40}, {128, 33}, {3, 1}, {257, 96}}) {
    const AlignedFloats x = random_values(kRows * (in + 3), 1);
    const AlignedFloats weight = pack_panels(random_values(out * in, 2), out, in);
    const AlignedFloats bias = random_values(out, 3);
    for (const bool with_bias : {true, false}) {
      const auto run = [&, in = in, out = out](auto& exec, int64_t first, int64_t rows) {
        AlignedFloats y = poisoned(rows * (out + 2));
        linear(exec, {.rows = rows,
                      .in_features = in,
                      .out_features = out,
                      .x = x.data() + first * (in + 3),
                      .x_stride = in + 3,
                      .weight_panels = weight.data(),
                      .bias_N = with_bias ? bias.data() : nullptr,
                      .y = y.data(),
                      .y_stride = out + 2});
        return y;
      };
      Exec reference(Backend::reference);
      const AlignedFloats expected = run(reference, 0, kRows);
      on_every_target([&, in = in, out = out](auto& exec) {
        const AlignedFloats whole = run(exec, 0, kRows);
        INFO(in << " -> " << out);
        CHECK(relative_error(whole, expected) <= tests::kKernel);
        CHECK(std::isnan(whole[static_cast<size_t>(out)]));  // the gap of the stride is untouched
        for (const int64_t rows : {1, 2, 5, 6, 13, 14, 15, 64}) {
          const AlignedFloats part = run(exec, 3, rows);
          const auto from = whole.begin() + 3 * (out + 2);
          CHECK(same_bits(part, AlignedFloats(from, from + rows * (out + 2))));
        }
      });
    }
  }
}

TEST_CASE("head gives log-probabilities that agree with double, the same through either use") {
  for (const int64_t vocab : {2, 8, 12, 16, 17, 50}) {
    const AlignedFloats logits = random_values(11 * (vocab + 1), 1, 0, 6);
    std::vector<int32_t> targets(11);
    for (size_t t = 0; t < targets.size(); ++t) {
      targets[t] = t == 4 ? -1 : static_cast<int32_t>(t % static_cast<size_t>(vocab));
    }
    const auto run = [&](Exec& exec, AlignedFloats& out, AlignedFloats& all) {
      head_log_softmax(exec, {.length = 11,
                              .vocab_size = vocab,
                              .logits_LV = logits.data(),
                              .logits_stride = vocab + 1,
                              .target_L = targets.data(),
                              .out_L = out.data(),
                              .log_p_LV = all.data()});
    };
    Exec reference(Backend::reference);
    AlignedFloats expected = poisoned(11);
    AlignedFloats expected_all = poisoned(11 * vocab);
    run(reference, expected, expected_all);
    tests::on_every_instruction_set([&](auto& exec) {
      AlignedFloats out(11, 0.0F);
      AlignedFloats all = poisoned(11 * vocab);
      run(exec, out, all);
      CHECK(relative_error(all, expected_all) <= tests::kKernel);
      for (size_t t = 0; t < targets.size(); ++t) {
        if (targets[t] < 0) {
          CHECK(std::isnan(out[t]));
          continue;
        }
        CHECK(out[t] == all[t * static_cast<size_t>(vocab) + static_cast<size_t>(targets[t])]);
        double sum = 0;
        for (int64_t v = 0; v < vocab; ++v)
          sum += std::exp(all[t * static_cast<size_t>(vocab) + v]);
        CHECK(sum == Approx(1.0).margin(1e-5));
      }
    });
  }
}

TEST_CASE("an unknown instruction set is refused by name") {
  CHECK_THROWS_AS(use_simd_target("avx1024"), UsageError);
  use_simd_target("auto");
  CHECK(!simd_targets().empty());
}

}  // namespace
}  // namespace chromamba::kernels
