// The published implementations' numbers, tensor by tensor: the first wrong layer names itself.
#include <cstdio>

#include "tests/mamba/fixture.h"
#include "tests/tolerances.h"

namespace chromamba::mamba {
namespace {

using tests::channels_first;
using tests::Fixture;
using tests::ModelOutputs;
using tests::relative_error;

constexpr kernels::Backend kCpu = kernels::Backend::cpu;

// Reports every tensor's error as a share of what is allowed, so that a drift is seen before it fails.
void check(const std::string& name, double error, double allowed) {
  INFO(name << ": error " << error << ", " << 100 * error / allowed << " % of the tolerance");
  CHECK(error <= allowed);
  std::printf("%-40s %.1e  %5.1f %% of the tolerance\n", name.c_str(), error,
              100 * error / allowed);
}

void check_tensor(const Fixture& fixture, const std::string& label, const std::string& name,
                  const AlignedFloats& actual) {
  check(label + " " + name, relative_error(actual, fixture.tensor(name)), tests::kFixture);
}

// ln p of the bases after the first, as the published code gives it.
AlignedFloats after_first(const AlignedFloats& log_likelihood) {
  CHECK(std::isnan(log_likelihood.front()));
  return {log_likelihood.begin() + 1, log_likelihood.end()};
}

void check_states(const Fixture& fixture, const std::string& label, const SequenceState& state) {
  const int64_t channels = fixture.model.config().d_inner;
  for (size_t k = 0; k < state.layers.size(); ++k) {
    check_tensor(fixture, label, "conv_state." + std::to_string(k),
                 channels_first(state.layers[k].conv, channels));
    check_tensor(fixture, label, "ssm_state." + std::to_string(k),
                 channels_first(state.layers[k].ssm, channels));
  }
}

void check_mamba_ssm(const std::string& weights, kernels::Backend backend,
                     const std::string& label) {
  const Fixture fixture("mamba1_ref", weights);
  const int64_t n_layer = fixture.model.config().n_layer;
  std::vector<int64_t> layers;
  for (int64_t k = 1; k <= n_layer; ++k) layers.push_back(k);
  layers.push_back(kFinalLayer);
  const ModelOutputs out(fixture.model, fixture.tokens, backend, 2, 2048, layers);
  for (int64_t k = 0; k < n_layer; ++k) {
    check_tensor(fixture, label, "residual." + std::to_string(k),
                 out.hidden[static_cast<size_t>(k)]);
  }
  check_tensor(fixture, label, "final_hidden", out.hidden.back());
  check_tensor(fixture, label, "logits", out.logits);
  check_tensor(fixture, label, "next_logprob", after_first(out.log_likelihood));
  check_states(fixture, label, out.state);
}

TEST_CASE("mamba1_ref: every tensor of mamba_ssm, from safetensors and from pytorch_model.bin") {
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    check_mamba_ssm("", kCpu, "mamba1_ref " + target);
  }
  kernels::use_simd_target("auto");
  check_mamba_ssm("pytorch_model.bin", kCpu, "mamba1_ref .bin");
  check_mamba_ssm("", kernels::Backend::reference, "mamba1_ref reference");
}

TEST_CASE("mamba1_hf: every tensor of Transformers") {
  const Fixture fixture("mamba1_hf");
  // hidden_states.k is the stream after block k, counted from 0; the last is after the final norm.
  const int64_t n_layer = fixture.model.config().n_layer;
  std::vector<int64_t> layers;
  for (int64_t k = 1; k <= n_layer; ++k) layers.push_back(k);
  layers.push_back(kFinalLayer);
  const ModelOutputs out(fixture.model, fixture.tokens, kCpu, 2, 1024, layers);
  for (int64_t k = 0; k <= n_layer; ++k) {
    check_tensor(fixture, "mamba1_hf", "hidden_states." + std::to_string(k),
                 out.hidden[static_cast<size_t>(k)]);
  }
  check_tensor(fixture, "mamba1_hf", "final_hidden", out.hidden.back());
  check_tensor(fixture, "mamba1_hf", "logits", out.logits);
}

TEST_CASE("mamba1_long: the whole genome of phage lambda in chunks") {
  const Fixture fixture("mamba1_long");
  const ModelOutputs out(fixture.model, fixture.tokens, kCpu, 2, 10000, {});
  check_tensor(fixture, "mamba1_long", "next_logprob", after_first(out.log_likelihood));
  const int64_t vocab = fixture.model.config().vocab_size;
  check_tensor(fixture, "mamba1_long", "logits_tail",
               AlignedFloats(out.logits.end() - 64 * vocab, out.logits.end()));
  check_states(fixture, "mamba1_long", out.state);
}

TEST_CASE("human-d128: ln p of 65,536 held-out bases", "[slow]") {
  const Fixture fixture("human-d128");
  CHECK(fixture.model.parameter_count() == 935040);
  const Model built_in = Model::built_in();
  CHECK(built_in.sha256() == fixture.model.sha256());
  const ModelOutputs out(built_in, fixture.tokens, kCpu, 2, 65536, {});
  const AlignedFloats actual = after_first(out.log_likelihood);
  const AlignedFloats expected = fixture.tensor("next_logprob");
  REQUIRE(actual.size() == expected.size());
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    worst = std::max(worst, std::fabs(static_cast<double>(actual[i]) - expected[i]));
  }
  check("human-d128 next_logprob, absolute", worst, tests::kBuiltInLogP);
  check("human-d128 next_logprob", relative_error(actual, expected), tests::kFixture);
}

}  // namespace
}  // namespace chromamba::mamba
