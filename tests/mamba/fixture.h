// A reference fixture: a checkpoint and what the published implementation computed with it.
#pragma once

#include <catch2/catch.hpp>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "mamba/checkpoint.h"
#include "mamba/engine.h"
#include "mamba/model.h"
#include "mamba/safetensors.h"
#include "tests/random_values.h"
#include "tests/test_data.h"

namespace chromamba::tests {

struct Fixture {
  explicit Fixture(const std::string& name, const std::string& weights = "")
      : folder(test_data() + "/" + name),
        model(mamba::open_checkpoint(folder + (weights.empty() ? "" : "/" + weights))),
        expected(mamba::open_safetensors(folder + "/expected.safetensors")) {
    const mamba::TensorInfo* ids = expected->find("input_ids");
    REQUIRE(ids != nullptr);
    const auto n = static_cast<size_t>(ids->numel);
    tokens.resize(n);
    if (ids->dtype_name == "U8") {
      std::vector<uint8_t> raw(n);
      expected->read_raw(*ids, raw.data(), ids->bytes);
      tokens.assign(raw.begin(), raw.end());
    } else {
      std::vector<int64_t> raw(n);
      expected->read_raw(*ids, raw.data(), ids->bytes);
      for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<int32_t>(raw[i]);
    }
  }

  AlignedFloats tensor(const std::string& name) const {
    const mamba::TensorInfo* info = expected->find(name);
    INFO("tensor " << name);
    REQUIRE(info != nullptr);
    AlignedFloats values(static_cast<size_t>(info->numel));
    expected->read_f32(*info, values.data());
    return values;
  }

  std::string folder;
  mamba::Model model;
  std::unique_ptr<mamba::TensorStore> expected;
  std::vector<int32_t> tokens;
};

// A mamba_ssm checkpoint (of Mamba-1, or with ssm_cfg.layer of Mamba-2) in memory with seeded random weights of the shapes that the config asks for;
// those of the tensor `huge` are 1e36 times as large.
mamba::Checkpoint made_checkpoint(const std::string& config, unsigned seed,
                                  const std::string& huge = "");

// Everything a model gives for a sequence, computed in chunks of `chunk` bases.
struct ModelOutputs {
  ModelOutputs(const mamba::Model& model, const std::vector<int32_t>& tokens,
               const mamba::ComputeDevice& device, int threads, int64_t chunk,
               const std::vector<int64_t>& layers) {
    const auto n = static_cast<int64_t>(tokens.size());
    const int64_t width = model.config().d_model;
    const int64_t vocab = model.config().vocab_size;
    log_likelihood = poisoned(n);
    logits = poisoned(n * vocab);
    for (size_t i = 0; i < layers.size(); ++i) hidden.push_back(poisoned(n * width));
    mamba::Engine engine(model, device, threads);
    mamba::SequenceState state = engine.new_sequence();
    for (int64_t start = 0; start < n; start += chunk) {
      mamba::Chunk part;
      part.state = &state;
      part.tokens_L = tokens.data() + start;
      part.length = std::min(chunk, n - start);
      part.log_likelihood_L = log_likelihood.data() + start;
      part.logits_LV = logits.data() + start * vocab;
      for (size_t i = 0; i < layers.size(); ++i) {
        part.taps.push_back({layers[i], hidden[i].data() + start * width});
      }
      engine.forward({&part, 1});
    }
    position = state.position;
    next_log_p = state.next_log_p;
    layer_states = engine.layer_states(state);
  }

  AlignedFloats log_likelihood;
  AlignedFloats logits;
  std::vector<AlignedFloats> hidden;  // as `layers`
  // Of the state after the last chunk.
  int64_t position = 0;
  AlignedFloats next_log_p;
  std::vector<mamba::LayerState> layer_states;
};

inline mamba::ComputeDevice on_cpu() { return {}; }

inline mamba::ComputeDevice on_reference() {
  mamba::ComputeDevice device;
  device.backend = kernels::Backend::reference;
  return device;
}

// The CPU, the first GPU in the types named, and two GPUs that share the layers (where there is one, it plays both);
// says so when there is none.
inline std::vector<mamba::ComputeDevice> test_devices(
    std::initializer_list<kernels::DType> dtypes = {kernels::DType::f32}) {
  std::vector<mamba::ComputeDevice> devices = {on_cpu()};
  std::string why;
  const std::vector<kernels::DeviceInfo> gpus = kernels::cuda_devices(&why);
  if (gpus.empty()) {
    std::printf("SKIPPED on a GPU: %s\n", why.c_str());
    return devices;
  }
  for (const kernels::DType dtype : dtypes) {
    mamba::ComputeDevice device;
    device.cuda = true;
    device.dtype = dtype;
    device.ordinals = {gpus.front().ordinal};
    devices.push_back(device);
    device.ordinals.push_back(gpus.back().ordinal);
    devices.push_back(device);
  }
  return devices;
}

inline std::string label(const mamba::ComputeDevice& device) {
  if (!device.cuda) return device.backend == kernels::Backend::cpu ? "cpu" : "reference";
  std::string text = "cuda";
  for (const int ordinal : device.ordinals) text += " " + std::to_string(ordinal);
  return text + ", " + kernels::dtype_name(device.dtype);
}

// States are kept channels-last; the published ones are [E, K] and [E, N].
inline AlignedFloats channels_first(const AlignedFloats& rows, int64_t channels) {
  const auto n = static_cast<int64_t>(rows.size()) / channels;
  AlignedFloats result(rows.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t e = 0; e < channels; ++e) result[e * n + i] = rows[i * channels + e];
  }
  return result;
}

}  // namespace chromamba::tests
