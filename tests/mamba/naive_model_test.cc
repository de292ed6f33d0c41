// The plain model against the published implementations' numbers, and by its symmetries where there are
// none: only then is it a yardstick for the product.
#include "tests/mamba/naive_model.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "mamba/checkpoint.h"
#include "mamba/safetensors.h"
#include "tests/mamba/made_caduceus.h"
#include "tests/random_values.h"
#include "tests/test_data.h"
#include "tests/tolerances.h"

namespace chromamba::tests {
namespace {

// Another store, and which of its tensors were read.
class RecordingStore : public mamba::TensorStore {
 public:
  explicit RecordingStore(const mamba::TensorStore& store)
      : store_(store), was_read_(store.tensors().size()) {}

  const std::vector<mamba::TensorInfo>& tensors() const override { return store_.tensors(); }

  // The first weight that nobody read, or "".
  std::string unread() const {
    for (size_t i = 0; i < was_read_.size(); ++i) {
      if (!was_read_[i] && tensors()[i].dtype != mamba::DType::other) return tensors()[i].name;
    }
    return "";
  }

 private:
  void read_elements(size_t index, int64_t first, int64_t count, void* out) const override {
    was_read_[index] = true;
    store_.read_part(tensors()[index], first, count, out);
  }

  const mamba::TensorStore& store_;
  mutable std::vector<bool> was_read_;
};

NaiveOutputs forward_reading_all(const mamba::Checkpoint& checkpoint,
                                 const std::vector<int32_t>& tokens) {
  const RecordingStore store(*checkpoint.tensors);
  NaiveOutputs out = naive_forward(store, checkpoint.config, tokens);
  CHECK(store.unread().empty());
  return out;
}

struct Published {
  explicit Published(const std::string& fixture)
      : name(fixture),
        checkpoint(mamba::open_checkpoint(test_data() + "/" + fixture)),
        expected(mamba::open_safetensors(test_data() + "/" + fixture + "/expected.safetensors")),
        tokens(integers<int32_t>("input_ids")),
        n_layer(checkpoint.config.contains("n_layer") ? checkpoint.config["n_layer"]
                                                      : checkpoint.config["num_hidden_layers"]) {}

  template <typename Integer>
  std::vector<Integer> integers(const std::string& tensor) const {
    const mamba::TensorInfo* info = expected->find(tensor);
    REQUIRE(info != nullptr);
    REQUIRE(info->dtype_name == "I64");
    std::vector<int64_t> raw(static_cast<size_t>(info->numel));
    expected->read_raw(*info, raw.data(), info->bytes);
    return {raw.begin(), raw.end()};
  }

  NaiveOutputs forward(const std::vector<int32_t>& ids) const {
    return forward_reading_all(checkpoint, ids);
  }

  void check(const std::string& tensor, const std::vector<double>& actual, double allowed) const {
    const mamba::TensorInfo* info = expected->find(tensor);
    INFO(name << " " << tensor);
    REQUIRE(info != nullptr);
    AlignedFloats values(static_cast<size_t>(info->numel));
    expected->read_f32(*info, values.data());
    const double error = relative_error(actual, values);
    std::printf("%-40s %.1e  %5.1f %% of the tolerance\n", (name + " " + tensor).c_str(), error,
                100 * error / allowed);
    CHECK(error <= allowed);
  }

  std::string name;
  mamba::Checkpoint checkpoint;
  std::unique_ptr<mamba::TensorStore> expected;
  std::vector<int32_t> tokens;
  int64_t n_layer;
};

void check_residuals(const Published& published, const NaiveOutputs& out, double allowed) {
  REQUIRE(static_cast<int64_t>(out.residual.size()) == published.n_layer);
  for (size_t k = 0; k < out.residual.size(); ++k) {
    published.check("residual." + std::to_string(k), out.residual[k], allowed);
  }
  published.check("final_hidden", out.final_hidden, allowed);
  published.check("logits", out.logits, allowed);
}

// ln p of each base after the first.
std::vector<double> next_log_p(const NaiveOutputs& out, const std::vector<int32_t>& tokens) {
  const auto vocab = static_cast<int64_t>(out.logits.size() / tokens.size());
  const std::vector<double> log_p = naive_log_softmax(out.logits, vocab);
  std::vector<double> result;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    result.push_back(log_p[t * static_cast<size_t>(vocab) + static_cast<size_t>(tokens[t + 1])]);
  }
  return result;
}

void check_causal(const std::string& fixture, double allowed) {
  const Published published(fixture);
  const NaiveOutputs out = published.forward(published.tokens);
  check_residuals(published, out, allowed);
  published.check("next_logprob", next_log_p(out, published.tokens), allowed);
}

TEST_CASE("naive model: mamba1_ref") { check_causal("mamba1_ref", kNaiveFixture); }
TEST_CASE("naive model: mamba2_ref") { check_causal("mamba2_ref", kTf32Fixture); }

void check_hugging_face(const std::string& fixture) {
  const Published published(fixture);
  const NaiveOutputs out = published.forward(published.tokens);
  for (size_t k = 0; k < out.residual.size(); ++k) {
    published.check("hidden_states." + std::to_string(k), out.residual[k], kNaiveFixture);
  }
  published.check("hidden_states." + std::to_string(out.residual.size()), out.final_hidden,
                  kNaiveFixture);
  published.check("final_hidden", out.final_hidden, kNaiveFixture);
  published.check("logits", out.logits, kNaiveFixture);
}

TEST_CASE("naive model: mamba1_hf") { check_hugging_face("mamba1_hf"); }
TEST_CASE("naive model: mamba2_hf") { check_hugging_face("mamba2_hf"); }

void check_caduceus(const std::string& fixture) {
  const Published published(fixture);
  check_residuals(published, published.forward(published.tokens), kNaiveFixture);

  const int32_t mask = 3;
  std::vector<double> masked_log_p;
  for (const auto position : published.integers<size_t>("masked_positions")) {
    std::vector<int32_t> tokens = published.tokens;
    tokens.at(position) = mask;
    const std::vector<double> logits = published.forward(tokens).logits;
    const size_t vocab = logits.size() / tokens.size();
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(position * vocab);
    for (const double value : naive_log_softmax({row, row + static_cast<std::ptrdiff_t>(vocab)},
                                                static_cast<int64_t>(vocab))) {
      masked_log_p.push_back(value);
    }
  }
  published.check("masked_logprob", masked_log_p, kNaiveFixture);
}

TEST_CASE("naive model: caduceus_ph") { check_caduceus("caduceus_ph"); }
TEST_CASE("naive model: caduceus_ps") { check_caduceus("caduceus_ps"); }

// --- made-up Caduceus models ---

std::vector<int32_t> random_tokens(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = 7 + static_cast<int32_t>(random() % 5);
  return tokens;
}

std::vector<int32_t> reverse_complement(const std::vector<int32_t>& tokens) {
  std::vector<int32_t> result(tokens.rbegin(), tokens.rend());
  for (int32_t& token : result) token = token <= 10 ? 17 - token : token;
  return result;
}

NaiveOutputs forward(const MadeCaduceus& shape, const std::vector<int32_t>& tokens) {
  return forward_reading_all(made_caduceus(shape, 5), tokens);
}

std::vector<MadeCaduceus> made_shapes() {
  std::vector<MadeCaduceus> shapes;
  for (const bool rcps : {false, true}) {
    for (const bool mamba2 : {false, true}) {
      MadeCaduceus shape;
      shape.rcps = rcps;
      shape.mamba2 = mamba2;
      shapes.push_back(shape);
      shape.strategy = "ew_multiply";
      shape.tied = false;
      shape.proj_bias = true;
      shape.rms_norm = false;
      shapes.push_back(shape);
      shape.bidirectional = false;
      shape.conv_bias = false;
      shape.gated_norm = false;
      shapes.push_back(shape);
      shape = MadeCaduceus();
      shape.rcps = rcps;
      shape.mamba2 = mamba2;
      shape.d_model = 12;
      shape.n_layer = 3;
      shape.strategy = "ew_multiply";
      shape.fused_add_norm = false;
      shape.head_stored = false;
      shape.d_state = 5;
      shape.d_conv = 3;
      shape.headdim = 6;
      shape.headdim_in_config = false;
      shape.ngroups = 2;
      shape.D_per_channel = true;
      shape.norm_before_gate = true;
      shape.dt_limit = {0.01, 0.2};
      shapes.push_back(shape);
    }
  }
  return shapes;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) return std::numeric_limits<double>::infinity();
    result = std::max(result, std::fabs(value));
  }
  return result;
}

TEST_CASE("made Caduceus models: shapes of the outputs, and no activation grows large") {
  for (const MadeCaduceus& shape : made_shapes()) {
    const std::vector<int32_t> tokens = random_tokens(301, 1);
    const NaiveOutputs out = forward(shape, tokens);
    CAPTURE(shape.rcps, shape.mamba2, shape.strategy, shape.bidirectional, shape.fused_add_norm);
    CHECK(out.logits.size() == 16 * tokens.size());
    const size_t width = static_cast<size_t>(shape.d_model) * (shape.rcps ? 2 : 1);
    CHECK(out.final_hidden.size() == width * tokens.size());
    for (const std::vector<double>& residual : out.residual) {
      CHECK(largest(residual) < 100);
      CHECK(largest(residual) > 0.5);
    }
    CHECK(largest(out.logits) < 50);
  }
}

// Schiff et al. 2024, theorem 3.1: the reverse complement gives the outputs flipped.
TEST_CASE("made Caduceus models with rcps: the reverse complement mirrors every output") {
  for (const MadeCaduceus& shape : made_shapes()) {
    if (!shape.rcps) continue;
    CAPTURE(shape.mamba2, shape.strategy, shape.bidirectional, shape.fused_add_norm);
    const std::vector<int32_t> tokens = random_tokens(77, 2);
    const NaiveOutputs out = forward(shape, tokens);
    const NaiveOutputs mirrored = forward(shape, reverse_complement(tokens));
    const auto reversed = [](std::vector<double> values) {
      std::reverse(values.begin(), values.end());  // both L and D
      return values;
    };
    for (size_t k = 0; k < out.residual.size(); ++k) {
      CHECK(relative_error(mirrored.residual[k], reversed(out.residual[k])) < 1e-12);
    }
    CHECK(relative_error(mirrored.final_hidden, reversed(out.final_hidden)) < 1e-12);
    std::vector<double> logits(out.logits.size());
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (size_t id = 0; id < 16; ++id) {
        const size_t complement = id >= 7 && id <= 10 ? 17 - id : id;
        logits[t * 16 + id] = out.logits[(tokens.size() - 1 - t) * 16 + complement];
      }
    }
    CHECK(relative_error(mirrored.logits, logits) < 1e-12);
  }
}

TEST_CASE("made Caduceus models: shared projections, stored under either name or both") {
  const std::vector<int32_t> tokens = random_tokens(50, 3);
  for (MadeCaduceus shape : made_shapes()) {
    if (!shape.bidirectional) continue;
    shape.tied = true;
    shape.proj_bias = true;
    shape.tied_storage = TiedStorage::both_names;
    const NaiveOutputs both = forward(shape, tokens);
    shape.tied_storage = TiedStorage::forward_name;
    CHECK(forward(shape, tokens).logits == both.logits);
    shape.tied_storage = TiedStorage::reverse_name;
    CHECK(forward(shape, tokens).logits == both.logits);
    shape.tied = false;
    CHECK(forward(shape, tokens).logits != both.logits);
  }
}

TEST_CASE("made Caduceus models of one direction see no later base; those of two do") {
  std::vector<int32_t> tokens = random_tokens(60, 4);
  std::vector<int32_t> changed = tokens;
  changed.back() = changed.back() == 7 ? 8 : 7;
  for (MadeCaduceus shape : made_shapes()) {
    if (shape.rcps) continue;
    for (const bool bidirectional : {false, true}) {
      shape.bidirectional = bidirectional;
      std::vector<double> before = forward(shape, tokens).logits;
      std::vector<double> after = forward(shape, changed).logits;
      CHECK(before != after);
      before.resize(before.size() - 16);
      after.resize(before.size());
      CHECK((before == after) == !bidirectional);
    }
  }
}

// Tensors in memory.
class MapStore : public mamba::TensorStore {
 public:
  void add(const mamba::TensorInfo& like, std::vector<int64_t> shape, std::vector<float> values) {
    mamba::TensorInfo info = like;
    info.shape = std::move(shape);
    REQUIRE(mamba::set_sizes(info));
    REQUIRE(info.numel == static_cast<int64_t>(values.size()));
    infos_.push_back(info);  // in the order of the store copied, by name
    values_.push_back(std::move(values));
  }

  const std::vector<mamba::TensorInfo>& tensors() const override { return infos_; }

 private:
  void read_elements(size_t index, int64_t first, int64_t count, void* out) const override {
    std::copy_n(values_[index].begin() + first, count, static_cast<float*>(out));
  }

  std::vector<mamba::TensorInfo> infos_;
  std::vector<std::vector<float>> values_;
};

// Of a Mamba-2 Caduceus model of one direction with two groups, the model of one of them: its heads, its
// Bmat and Cmat, its part of the gated norm.
std::unique_ptr<MapStore> group_of(const mamba::TensorStore& store, const MadeCaduceus& shape,
                                   int64_t group) {
  const int64_t inner = shape.expand * shape.d_model;
  const int64_t heads = inner / shape.headdim;
  const auto range = [](std::vector<int64_t>& to, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to.push_back(first + i);
  };
  std::vector<int64_t> channels;
  range(channels, group * inner / 2, inner / 2);
  std::vector<int64_t> of_heads;
  range(of_heads, group * heads / 2, heads / 2);
  std::vector<int64_t> convolved = channels;
  range(convolved, inner + group * shape.d_state, shape.d_state);
  range(convolved, inner + (2 + group) * shape.d_state, shape.d_state);
  std::vector<int64_t> projected = channels;
  for (const int64_t row : convolved) projected.push_back(inner + row);
  for (const int64_t row : of_heads) projected.push_back(2 * inner + 4 * shape.d_state + row);

  auto result = std::make_unique<MapStore>();
  for (const mamba::TensorInfo& info : store.tensors()) {
    std::vector<float> values(static_cast<size_t>(info.numel));
    store.read_f32(info, values.data());
    const auto has = [&](const char* part) { return info.name.find(part) != std::string::npos; };
    if (has("out_proj")) {
      std::vector<float> kept;
      for (int64_t row = 0; row < shape.d_model; ++row) {
        for (const int64_t e : channels) kept.push_back(values[row * inner + e]);
      }
      result->add(info, {shape.d_model, inner / 2}, kept);
      continue;
    }
    const std::vector<int64_t>* rows = nullptr;
    if (has("in_proj")) rows = &projected;
    if (has("conv1d")) rows = &convolved;
    if (has("A_log") || has("dt_bias")) rows = &of_heads;
    if (has("mamba_fwd.D") || has("mamba_fwd.norm")) rows = &channels;
    if (rows == nullptr) {
      result->add(info, info.shape, values);
      continue;
    }
    const int64_t width = info.numel / info.shape[0];
    std::vector<float> kept;
    for (const int64_t row : *rows) {
      kept.insert(kept.end(), values.begin() + row * width, values.begin() + (row + 1) * width);
    }
    std::vector<int64_t> kept_shape = info.shape;
    kept_shape[0] = static_cast<int64_t>(rows->size());
    result->add(info, kept_shape, kept);
  }
  return result;
}

// No published fixture has two groups; that they share nothing but in_proj's input is their definition.
TEST_CASE("made Mamba-2 Caduceus models: two groups are the sum of two models of one") {
  MadeCaduceus shape;
  shape.mamba2 = true;
  shape.d_model = 12;
  shape.n_layer = 1;
  shape.bidirectional = false;
  shape.headdim = 6;
  shape.ngroups = 2;
  shape.D_per_channel = true;
  const std::vector<int32_t> tokens = random_tokens(40, 7);
  for (const bool norm_before_gate : {false, true}) {
    shape.norm_before_gate = norm_before_gate;
    const mamba::Checkpoint checkpoint = made_caduceus(shape, 8);
    const NaiveOutputs whole = forward_reading_all(checkpoint, tokens);
    nlohmann::json config = checkpoint.config;
    config["ssm_cfg"]["ngroups"] = 1;
    std::vector<double> sum = whole.embedding;
    for (const int64_t group : {0, 1}) {
      const NaiveOutputs part =
          naive_forward(*group_of(*checkpoint.tensors, shape, group), config, tokens);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += part.residual[0][i] - part.embedding[i];
    }
    CHECK(relative_error(whole.residual[0], sum) < 1e-12);
  }
}

TEST_CASE("made Caduceus models: each option changes the outputs") {
  const std::vector<int32_t> tokens = random_tokens(40, 6);
  MadeCaduceus base;
  base.mamba2 = true;
  base.d_model = 12;
  base.headdim = 6;
  base.ngroups = 2;
  const std::vector<double> logits = forward(base, tokens).logits;
  CHECK(forward(base, tokens).logits == logits);
  MadeCaduceus other = base;
  other.strategy = "ew_multiply";
  CHECK(forward(other, tokens).logits != logits);
  other = base;
  other.norm_before_gate = true;
  CHECK(forward(other, tokens).logits != logits);
  other = base;
  other.gated_norm = false;
  CHECK(forward(other, tokens).logits != logits);
  other = base;
  other.dt_limit = {0.05, 0.06};
  CHECK(forward(other, tokens).logits != logits);
  other.dt_limit = {0.0, 1e30};
  CHECK(forward(other, tokens).logits == logits);
  other = base;
  other.headdim_in_config = false;
  CHECK(forward(other, tokens).logits == logits);
}

}  // namespace
}  // namespace chromamba::tests
