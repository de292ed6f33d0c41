#include "mamba/random_model.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "mamba/checkpoint.h"

namespace chromamba::mamba {
namespace {

constexpr int64_t kVocab = 16;
constexpr int64_t kTaps = 4;

// Tensors of a safetensors file in memory.
class Writer {
 public:
  explicit Writer(unsigned seed) : random_(seed) {}

  void add(const std::string& name, const std::vector<int64_t>& shape,
           const std::function<float(int64_t)>& value) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    const size_t begin = 4 * data_.size();
    for (int64_t i = 0; i < n; ++i) data_.push_back(value(i));
    header_[name] = {
        {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, 4 * data_.size()}}};
  }
  void uniform(const std::string& name, const std::vector<int64_t>& shape, double bound) {
    std::uniform_real_distribution<float> draw(static_cast<float>(-bound),
                                               static_cast<float>(bound));
    add(name, shape, [&](int64_t) { return draw(random_); });
  }
  void constant(const std::string& name, const std::vector<int64_t>& shape, float value) {
    add(name, shape, [=](int64_t) { return value; });
  }
  std::mt19937& random() { return random_; }

  std::string bytes() const {
    const std::string text = header_.dump();
    const uint64_t length = text.size();
    std::string result(sizeof length + text.size() + 4 * data_.size(), '\0');
    std::memcpy(result.data(), &length, sizeof length);
    std::memcpy(result.data() + sizeof length, text.data(), text.size());
    std::memcpy(result.data() + sizeof length + text.size(), data_.data(), 4 * data_.size());
    return result;
  }

 private:
  std::mt19937 random_;
  nlohmann::json header_;
  std::vector<float> data_;
};

double inverse_root(int64_t n) { return 1.0 / std::sqrt(static_cast<double>(n)); }

// Of time steps that are log-uniform in [0.001, 0.1].
void add_step_bias(Writer& writer, const std::string& name, int64_t n) {
  std::uniform_real_distribution<double> log_step(std::log(0.001), std::log(0.1));
  writer.add(name, {n}, [&](int64_t) {
    return static_cast<float>(std::log(std::expm1(std::exp(log_step(writer.random())))));
  });
}

constexpr int64_t kState1 = 16;
constexpr int64_t kState2 = 128;
constexpr int64_t kHeadDim = 64;

void add_mamba1(Writer& writer, const std::string& mixer, int64_t d_model) {
  const int64_t inner = 2 * d_model;
  const int64_t rank = (d_model + 15) / 16;
  writer.uniform(mixer + "conv1d.weight", {inner, 1, kTaps}, inverse_root(kTaps));
  writer.uniform(mixer + "conv1d.bias", {inner}, inverse_root(kTaps));
  writer.uniform(mixer + "x_proj.weight", {rank + 2 * kState1, inner}, inverse_root(inner));
  writer.uniform(mixer + "dt_proj.weight", {inner, rank}, inverse_root(rank));
  add_step_bias(writer, mixer + "dt_proj.bias", inner);
  writer.add(mixer + "A_log", {inner, kState1}, [](int64_t i) {
    return static_cast<float>(std::log(static_cast<double>(i % kState1 + 1)));
  });
  writer.constant(mixer + "D", {inner}, 1);
}

void add_mamba2(Writer& writer, const std::string& mixer, int64_t d_model) {
  const int64_t inner = 2 * d_model;
  const int64_t heads = inner / kHeadDim;
  const int64_t mixed = inner + 2 * kState2;
  writer.uniform(mixer + "conv1d.weight", {mixed, 1, kTaps}, inverse_root(kTaps));
  writer.uniform(mixer + "conv1d.bias", {mixed}, inverse_root(kTaps));
  add_step_bias(writer, mixer + "dt_bias", heads);
  std::uniform_real_distribution<double> rate(1, 16);
  writer.add(mixer + "A_log", {heads},
             [&](int64_t) { return static_cast<float>(std::log(rate(writer.random()))); });
  writer.constant(mixer + "D", {heads}, 1);
  writer.constant(mixer + "norm.weight", {inner}, 1);
}

const char* family_name(RandomFamily family) {
  switch (family) {
    case RandomFamily::mamba1:
      return "Mamba-1";
    case RandomFamily::mamba2:
      return "Mamba-2";
    case RandomFamily::caduceus_ph:
      return "Caduceus-Ph";
    case RandomFamily::caduceus_ps:
      return "Caduceus-PS";
  }
  throw InternalError("unknown family");
}

}  // namespace

Model random_model(const RandomModelShape& shape, unsigned seed) {
  const bool caduceus =
      shape.family == RandomFamily::caduceus_ph || shape.family == RandomFamily::caduceus_ps;
  const bool rcps = shape.family == RandomFamily::caduceus_ps;
  const bool mamba2 = shape.family == RandomFamily::mamba2;
  const int64_t inner = 2 * shape.d_model;
  if (mamba2 && inner % kHeadDim != 0) {
    throw UsageError("an untrained Mamba-2 needs a width that is a multiple of 32, not " +
                     std::to_string(shape.d_model));
  }
  const int64_t in_features = mamba2 ? 2 * inner + 2 * kState2 + inner / kHeadDim : 2 * inner;
  const std::string backbone = caduceus ? "caduceus.backbone." : "backbone.";
  Writer writer(seed);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  writer.add(backbone + (rcps       ? "embeddings.word_embeddings.embedding.weight"
                         : caduceus ? "embeddings.word_embeddings.weight"
                                    : "embedding.weight"),
             {kVocab, shape.d_model}, [&](int64_t) { return normal(writer.random()); });
  writer.constant(backbone + "norm_f.weight", {shape.d_model}, 1);
  for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
    const std::string block = backbone + "layers." + std::to_string(layer) + ".";
    const std::string mixer = block + (rcps ? "mixer.submodule." : "mixer.");
    const std::string first = caduceus ? mixer + "mamba_fwd." : mixer;
    writer.constant(block + "norm.weight", {shape.d_model}, 1);
    writer.uniform(first + "in_proj.weight", {in_features, shape.d_model},
                   inverse_root(shape.d_model));
    if (mamba2) {
      add_mamba2(writer, first, shape.d_model);
    } else {
      add_mamba1(writer, first, shape.d_model);
      if (caduceus) add_mamba1(writer, mixer + "mamba_rev.", shape.d_model);
    }
    writer.uniform(first + "out_proj.weight", {shape.d_model, inner},
                   inverse_root(inner) * inverse_root(shape.n_layer));
  }
  nlohmann::json config = {{"d_model", shape.d_model},
                           {"n_layer", shape.n_layer},
                           {"vocab_size", kVocab},
                           {"rms_norm", true},
                           {"ssm_cfg", nlohmann::json::object()}};
  if (mamba2)
    config["ssm_cfg"] = {{"layer", "Mamba2"}, {"d_state", kState2}, {"headdim", kHeadDim}};
  if (caduceus) {
    config["model_type"] = "caduceus";
    config["bidirectional"] = true;
    config["bidirectional_strategy"] = "add";
    config["bidirectional_weight_tie"] = true;
    config["rcps"] = rcps;
    config["fused_add_norm"] = true;
    for (int v = 0; v < kVocab; ++v) {
      config["complement_map"][std::to_string(v)] = v >= 7 && v <= 10 ? 17 - v : v;
    }
  }
  const std::string bytes = writer.bytes();
  return Model(open_checkpoint_memory(config.dump(), std::as_bytes(std::span<const char>(bytes)),
                                      std::string("untrained ") + family_name(shape.family) + " D" +
                                          std::to_string(shape.d_model) + " x " +
                                          std::to_string(shape.n_layer)));
}

}  // namespace chromamba::mamba
