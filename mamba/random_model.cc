#include "mamba/random_model.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

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

}  // namespace

Model random_model(const RandomModelShape& shape, unsigned seed) {
  const int64_t inner = 2 * shape.d_model;
  const int64_t rank = (shape.d_model + 15) / 16;
  const bool second = shape.mixer == MixerKind::mamba2;
  const int64_t states = shape.d_state > 0 ? shape.d_state : second ? 128 : 16;
  // Heads of 64 channels, or one where there are fewer.
  const int64_t head_dim = inner % 64 == 0 ? 64 : inner;
  const int64_t heads = second ? inner / head_dim : 0;
  const int64_t mixed = second ? inner + 2 * states : inner;
  const auto inverse_root = [](int64_t n) { return 1.0 / std::sqrt(static_cast<double>(n)); };
  Writer writer(seed);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  writer.add("backbone.embedding.weight", {kVocab, shape.d_model},
             [&](int64_t) { return normal(writer.random()); });
  writer.constant("backbone.norm_f.weight", {shape.d_model}, 1);
  for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
    const std::string block = "backbone.layers." + std::to_string(layer) + ".";
    const std::string mixer = block + "mixer.";
    writer.constant(block + "norm.weight", {shape.d_model}, 1);
    writer.uniform(mixer + "in_proj.weight", {inner + mixed + heads, shape.d_model},
                   inverse_root(shape.d_model));
    writer.uniform(mixer + "conv1d.weight", {mixed, 1, kTaps}, inverse_root(kTaps));
    writer.uniform(mixer + "conv1d.bias", {mixed}, inverse_root(kTaps));
    // softplus(bias) is log-uniform in [0.001, 0.1].
    std::uniform_real_distribution<double> log_step(std::log(0.001), std::log(0.1));
    const auto step_bias = [&](int64_t) {
      return static_cast<float>(std::log(std::expm1(std::exp(log_step(writer.random())))));
    };
    if (second) {
      writer.add(mixer + "dt_bias", {heads}, step_bias);
      std::uniform_real_distribution<float> rate(1, 16);
      writer.add(mixer + "A_log", {heads},
                 [&](int64_t) { return std::log(rate(writer.random())); });
      writer.constant(mixer + "D", {heads}, 1);
      writer.constant(mixer + "norm.weight", {inner}, 1);
    } else {
      writer.uniform(mixer + "x_proj.weight", {rank + 2 * states, inner}, inverse_root(inner));
      writer.uniform(mixer + "dt_proj.weight", {inner, rank}, inverse_root(rank));
      writer.add(mixer + "dt_proj.bias", {inner}, step_bias);
      writer.add(mixer + "A_log", {inner, states}, [&](int64_t i) {
        return static_cast<float>(std::log(static_cast<double>(i % states + 1)));
      });
      writer.constant(mixer + "D", {inner}, 1);
    }
    writer.uniform(mixer + "out_proj.weight", {shape.d_model, inner},
                   inverse_root(inner) * inverse_root(shape.n_layer));
  }
  nlohmann::json ssm = {{"d_state", states}};
  if (second) {
    ssm["layer"] = "Mamba2";
    ssm["headdim"] = head_dim;
  }
  const nlohmann::json config = {{"d_model", shape.d_model},
                                 {"n_layer", shape.n_layer},
                                 {"vocab_size", kVocab},
                                 {"rms_norm", true},
                                 {"ssm_cfg", ssm}};
  const std::string bytes = writer.bytes();
  return Model(open_checkpoint_memory(config.dump(), std::as_bytes(std::span<const char>(bytes)),
                                      (second ? "untrained Mamba-2 D" : "untrained D") +
                                          std::to_string(shape.d_model) + " x " +
                                          std::to_string(shape.n_layer)));
}

}  // namespace chromamba::mamba
