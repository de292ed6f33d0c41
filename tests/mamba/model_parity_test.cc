// The published implementations' numbers, tensor by tensor: the first wrong layer names itself.
#include <cstdio>

#include "tests/mamba/fixture.h"
#include "tests/tolerances.h"

namespace chromamba::mamba {
namespace {

using tests::channels_first;
using tests::Fixture;
using tests::ModelOutputs;
using tests::on_cpu;
using tests::on_reference;
using tests::relative_error;
using tests::test_devices;

// Reports every tensor's error as a share of what is allowed, so that a drift is seen before it fails.
void check(const std::string& name, double error, double allowed) {
  INFO(name << ": error " << error << ", " << 100 * error / allowed << " % of the tolerance");
  CHECK(error <= allowed);
  std::printf("%-40s %.1e  %5.1f %% of the tolerance\n", name.c_str(), error,
              100 * error / allowed);
}

void check_tensor(const Fixture& fixture, const std::string& label, const std::string& name,
                  const AlignedFloats& actual, double tolerance = tests::kFixture) {
  check(label + " " + name, relative_error(actual, fixture.tensor(name)), tolerance);
}

// ln p of the bases after the first, as the published code gives it.
AlignedFloats after_first(const AlignedFloats& log_likelihood) {
  CHECK(std::isnan(log_likelihood.front()));
  return {log_likelihood.begin() + 1, log_likelihood.end()};
}

void check_states(const Fixture& fixture, const std::string& label,
                  const std::vector<LayerState>& layers) {
  const int64_t channels = fixture.model.config().d_inner;
  REQUIRE(static_cast<int64_t>(layers.size()) == fixture.model.config().n_layer);
  for (size_t k = 0; k < layers.size(); ++k) {
    check_tensor(fixture, label, "conv_state." + std::to_string(k),
                 channels_first(layers[k].conv, channels));
    check_tensor(fixture, label, "ssm_state." + std::to_string(k),
                 channels_first(layers[k].ssm, channels));
  }
}

// Every layer's stream, and what comes of it. Not the states, which only some fixtures have.
ModelOutputs check_layers(const Fixture& fixture, const ComputeDevice& device,
                          const std::string& label, double tolerance) {
  const int64_t n_layer = fixture.model.config().n_layer;
  std::vector<int64_t> layers;
  for (int64_t k = 1; k <= n_layer; ++k) layers.push_back(k);
  layers.push_back(kFinalLayer);
  const ModelOutputs out(fixture.model, fixture.tokens, device, 2, 2048, layers);
  for (int64_t k = 0; k < n_layer; ++k) {
    check_tensor(fixture, label, "residual." + std::to_string(k),
                 out.hidden[static_cast<size_t>(k)], tolerance);
  }
  check_tensor(fixture, label, "final_hidden", out.hidden.back(), tolerance);
  check_tensor(fixture, label, "logits", out.logits, tolerance);
  check_tensor(fixture, label, "next_logprob", after_first(out.log_likelihood), tolerance);
  return out;
}

void check_mamba1_ref(const std::string& weights, const ComputeDevice& device,
                      const std::string& label) {
  const Fixture fixture("mamba1_ref", weights);
  const ModelOutputs out = check_layers(fixture, device, label, tests::kFixture);
  check_states(fixture, label, out.layer_states);
}

TEST_CASE("mamba1_ref: every tensor of mamba_ssm, from safetensors and from pytorch_model.bin") {
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    check_mamba1_ref("", on_cpu(), "mamba1_ref " + target);
  }
  kernels::use_simd_target("auto");
  check_mamba1_ref("pytorch_model.bin", on_cpu(), "mamba1_ref .bin");
  for (const ComputeDevice& device : test_devices()) {
    if (device.cuda) check_mamba1_ref("", device, "mamba1_ref " + tests::label(device));
  }
  check_mamba1_ref("", on_reference(), "mamba1_ref reference");
}

TEST_CASE("mamba2_ref: every tensor of mamba_ssm") {
  const Fixture fixture("mamba2_ref");
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    check_layers(fixture, on_cpu(), "mamba2_ref " + target, tests::kTf32Fixture);
  }
  kernels::use_simd_target("auto");
  for (const ComputeDevice& device : test_devices()) {
    if (!device.cuda) continue;
    check_layers(fixture, device, "mamba2_ref " + tests::label(device), tests::kTf32Fixture);
  }
  check_layers(fixture, on_reference(), "mamba2_ref reference", tests::kTf32Fixture);
}

TEST_CASE("mamba2_ref in bf16: ln p on a GPU") {
  const Fixture fixture("mamba2_ref");
  for (const ComputeDevice& device : test_devices({kernels::DType::bf16})) {
    if (!device.cuda) continue;
    const ModelOutputs out(fixture.model, fixture.tokens, device, 1, 1000, {});
    const AlignedFloats actual = after_first(out.log_likelihood);
    const AlignedFloats expected = fixture.tensor("next_logprob");
    double sum = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
      sum += std::fabs(static_cast<double>(actual[i]) - expected[i]);
    }
    check("mamba2_ref " + tests::label(device) + " next_logprob, mean absolute",
          sum / static_cast<double>(actual.size()), tests::kBf16FixtureLogP);
  }
}

void check_hf(const std::string& name, const ComputeDevice& device, const std::string& target) {
  const Fixture fixture(name);
  const std::string label = name + " " + target;
  // hidden_states.k is the stream after block k, counted from 0; the last is after the final norm.
  const int64_t n_layer = fixture.model.config().n_layer;
  std::vector<int64_t> layers;
  for (int64_t k = 1; k <= n_layer; ++k) layers.push_back(k);
  layers.push_back(kFinalLayer);
  const ModelOutputs out(fixture.model, fixture.tokens, device, 2, 1024, layers);
  for (int64_t k = 0; k <= n_layer; ++k) {
    check_tensor(fixture, label, "hidden_states." + std::to_string(k),
                 out.hidden[static_cast<size_t>(k)]);
  }
  check_tensor(fixture, label, "final_hidden", out.hidden.back());
  check_tensor(fixture, label, "logits", out.logits);
}

TEST_CASE("mamba1_hf: every tensor of Transformers") {
  for (const ComputeDevice& device : test_devices()) {
    check_hf("mamba1_hf", device, tests::label(device));
  }
}

TEST_CASE("mamba2_hf: every tensor of Transformers") {
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    check_hf("mamba2_hf", on_cpu(), target);
  }
  kernels::use_simd_target("auto");
  for (const ComputeDevice& device : test_devices()) {
    if (device.cuda) check_hf("mamba2_hf", device, tests::label(device));
  }
  check_hf("mamba2_hf", on_reference(), "reference");
}

void check_long(const ComputeDevice& device) {
  const Fixture fixture("mamba1_long");
  const std::string label = "mamba1_long " + tests::label(device);
  const ModelOutputs out(fixture.model, fixture.tokens, device, 2, 10000, {});
  check_tensor(fixture, label, "next_logprob", after_first(out.log_likelihood));
  const int64_t vocab = fixture.model.config().vocab_size;
  check_tensor(fixture, label, "logits_tail",
               AlignedFloats(out.logits.end() - 64 * vocab, out.logits.end()));
  check_states(fixture, label, out.layer_states);
}

TEST_CASE("mamba1_long: the whole genome of phage lambda in chunks") {
  for (const ComputeDevice& device : test_devices()) check_long(device);
}

void check_human(const ComputeDevice& device) {
  const Fixture fixture("human-d128");
  const std::string label = "human-d128 " + tests::label(device) + " ";
  const Model built_in = Model::built_in();
  CHECK(built_in.sha256() == fixture.model.sha256());
  const ModelOutputs out(built_in, fixture.tokens, device, 2, 65536, {});
  const AlignedFloats actual = after_first(out.log_likelihood);
  const AlignedFloats expected = fixture.tensor("next_logprob");
  REQUIRE(actual.size() == expected.size());
  double worst = 0;
  double sum = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::fabs(static_cast<double>(actual[i]) - expected[i]);
    worst = std::max(worst, error);
    sum += error;
  }
  if (device.dtype == kernels::DType::bf16) {
    check(label + "next_logprob, mean absolute", sum / static_cast<double>(actual.size()),
          tests::kBf16MeanLogP);
    return;
  }
  check(label + "next_logprob, absolute", worst, tests::kBuiltInLogP);
  check(label + "next_logprob", relative_error(actual, expected), tests::kFixture);
}

TEST_CASE("human-d128: ln p of 65,536 held-out bases", "[slow]") {
  CHECK(Model::built_in().parameter_count() == 935040);
  for (const ComputeDevice& device : test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    check_human(device);
  }
}

}  // namespace
}  // namespace chromamba::mamba
