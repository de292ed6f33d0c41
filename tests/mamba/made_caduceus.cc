#include "tests/mamba/made_caduceus.h"

#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <vector>

#include "tests/random_values.h"

namespace chromamba::tests {
namespace {

using nlohmann::json;

constexpr int64_t kVocab = 12;
constexpr int64_t kPaddedVocab = 16;

int64_t complement(int64_t id) { return id >= 7 && id <= 10 ? 17 - id : id; }

json made_config(const MadeCaduceus& shape) {
  json ssm = {{"d_state", shape.d_state},
              {"d_conv", shape.d_conv},
              {"expand", shape.expand},
              {"conv_bias", shape.conv_bias},
              {"bias", shape.proj_bias}};
  if (shape.mamba2) {
    if (shape.headdim_in_config) ssm["headdim"] = shape.headdim;
    ssm["ngroups"] = shape.ngroups;
    ssm["D_has_hdim"] = shape.D_per_channel;
    ssm["rmsnorm"] = shape.gated_norm;
    ssm["norm_before_gate"] = shape.norm_before_gate;
    ssm["chunk_size"] = 64;
    if (shape.dt_limit) ssm["dt_limit"] = {shape.dt_limit->first, shape.dt_limit->second};
  } else {
    ssm["dt_rank"] = "auto";
    ssm["dt_min"] = 0.001;
    ssm["dt_max"] = 0.1;
    ssm["use_fast_path"] = true;
  }
  json complements;
  for (int64_t id = 0; id < kVocab; ++id) complements[std::to_string(id)] = complement(id);
  return {{"model_type", "caduceus"},
          {"architectures", {"CaduceusForMaskedLM"}},
          {"d_model", shape.d_model},
          {"n_layer", shape.n_layer},
          {"vocab_size", kVocab},
          {"pad_vocab_size_multiple", 8},
          {"ssm_cfg", ssm},
          {"rms_norm", shape.rms_norm},
          {"norm_epsilon", 1e-5},
          {"residual_in_fp32", false},
          {"fused_add_norm", shape.fused_add_norm},
          {"bidirectional", shape.bidirectional},
          {"bidirectional_strategy", shape.strategy},
          {"bidirectional_weight_tie", shape.tied},
          {"rcps", shape.rcps},
          {"complement_map", complements}};
}

bool ends_with(const std::string& name, const std::string& end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

// Of the sizes that trained weights have: see the header.
AlignedFloats made_values(const std::string& name, const std::vector<int64_t>& shape,
                          unsigned seed) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  unsigned name_seed = 2166136261U ^ seed;  // FNV-1a, the same on every machine
  for (const char letter : name) {
    name_seed = (name_seed ^ static_cast<unsigned char>(letter)) * 16777619U;
  }
  const bool step_bias = ends_with(name, "dt_proj.bias") || ends_with(name, "dt_bias");
  if (step_bias || ends_with(name, "A_log")) {
    std::mt19937 random(name_seed);
    std::uniform_real_distribution<double> uniform(0, 1);
    AlignedFloats values(static_cast<size_t>(n));
    for (float& value : values) {
      const double share = uniform(random);
      // A step Δ is softplus(bias + what the row adds).
      const double step = 0.001 * std::pow(300.0, share);
      value = static_cast<float>(step_bias ? std::log(std::expm1(step)) : 2 * share);
    }
    return values;
  }
  const bool norm_weight = name.find("norm") != std::string::npos && ends_with(name, "weight");
  if (norm_weight || ends_with(name, ".D")) return random_values(n, name_seed, 1.0F, 0.2F);
  if (ends_with(name, "bias")) return random_values(n, name_seed, 0.0F, 0.1F);
  if (name.find("embeddings") != std::string::npos) return random_values(n, name_seed, 0.0F, 0.4F);
  const float fan_in = static_cast<float>(n / shape.front());
  // Steps of Mamba-1 differ from base to base by a factor of 1.3 or so, those of Mamba-2 as well (below).
  const float scale = ends_with(name, "dt_proj.weight") ? 0.3F : 1.0F;
  return random_values(n, name_seed, 0.0F, scale / std::sqrt(fan_in));
}

class Maker {
 public:
  Maker(const MadeCaduceus& shape, unsigned seed)
      : shape_(shape), seed_(seed), inner_(shape.expand * shape.d_model) {
    const std::string backbone = "caduceus.backbone.";
    const std::string table =
        backbone + "embeddings.word_embeddings." + (shape.rcps ? "embedding.weight" : "weight");
    add(table, {kPaddedVocab, shape.d_model});
    if (shape.head_stored) {
      tensors_[shape.rcps ? "lm_head.lm_head.weight" : "lm_head.weight"] = tensors_[table];
    }
    add_norm(backbone + "norm_f");
    for (int64_t k = 0; k < shape.n_layer; ++k) {
      const std::string block = backbone + "layers." + std::to_string(k) + ".";
      add_norm(block + "norm");
      const std::string mixer = block + (shape.rcps ? "mixer.submodule." : "mixer.");
      add_mixer(mixer + "mamba_fwd.");
      if (!shape.bidirectional) continue;
      add_mixer(mixer + "mamba_rev.");
      if (shape.tied) share_projections(mixer + "mamba_fwd.", mixer + "mamba_rev.");
    }
  }

  // The bytes of a safetensors file.
  std::string file() const {
    json header = {{"__metadata__", {{"format", "pt"}}}};
    std::string data;
    const auto add_bytes = [&](const std::string& name, const char* dtype,
                               const std::vector<int64_t>& shape, const void* bytes, size_t size) {
      header[name] = {
          {"dtype", dtype}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + size}}};
      data.append(static_cast<const char*>(bytes), size);
    };
    if (shape_.rcps) {  // the published modules keep it as a buffer
      std::vector<int64_t> complements;
      for (int64_t id = 0; id < kPaddedVocab; ++id) complements.push_back(complement(id));
      for (const char* name : {"caduceus.backbone.embeddings.word_embeddings.complement_map",
                               "lm_head.complement_map"}) {
        add_bytes(name, "I64", {kPaddedVocab}, complements.data(), 8 * complements.size());
      }
    }
    for (const auto& [name, tensor] : tensors_) {
      add_bytes(name, "F32", tensor.shape, tensor.values.data(), 4 * tensor.values.size());
    }
    const std::string text = header.dump();
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data;
  }

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    AlignedFloats values;
  };

  void add(const std::string& name, const std::vector<int64_t>& shape) {
    tensors_[name] = {shape, made_values(name, shape, seed_)};
  }

  void add_norm(const std::string& name) {
    const std::string inside = shape_.rcps && !shape_.fused_add_norm ? name + ".submodule" : name;
    add(inside + ".weight", {shape_.d_model});
    if (!shape_.rms_norm) add(inside + ".bias", {shape_.d_model});
  }

  void add_projection(const std::string& name, int64_t out, int64_t in) {
    add(name + ".weight", {out, in});
    if (shape_.proj_bias) add(name + ".bias", {out});
  }

  void add_mixer(const std::string& mixer) {
    add_projection(mixer + "out_proj", shape_.d_model, inner_);
    if (shape_.mamba2) {
      const int64_t heads = inner_ / shape_.headdim;
      const int64_t convolved = inner_ + 2 * shape_.ngroups * shape_.d_state;
      add_projection(mixer + "in_proj", inner_ + convolved + heads, shape_.d_model);
      AlignedFloats& in_proj = tensors_[mixer + "in_proj.weight"].values;
      for (size_t i = in_proj.size() - static_cast<size_t>(heads * shape_.d_model);
           i < in_proj.size(); ++i) {
        in_proj[i] *= 0.3F;  // the rows that give dt
      }
      add_convolution(mixer, convolved);
      add(mixer + "A_log", {heads});
      add(mixer + "dt_bias", {heads});
      add(mixer + "D", {shape_.D_per_channel ? inner_ : heads});
      if (shape_.gated_norm) add(mixer + "norm.weight", {inner_});
      return;
    }
    const int64_t rank = (shape_.d_model + 15) / 16;
    add_projection(mixer + "in_proj", 2 * inner_, shape_.d_model);
    add_convolution(mixer, inner_);
    add(mixer + "x_proj.weight", {rank + 2 * shape_.d_state, inner_});
    add(mixer + "dt_proj.weight", {inner_, rank});
    add(mixer + "dt_proj.bias", {inner_});
    add(mixer + "A_log", {inner_, shape_.d_state});
    add(mixer + "D", {inner_});
  }

  void add_convolution(const std::string& mixer, int64_t channels) {
    add(mixer + "conv1d.weight", {channels, 1, shape_.d_conv});
    if (shape_.conv_bias) add(mixer + "conv1d.bias", {channels});
  }

  // One set of values, under the names that the file is to have.
  void share_projections(const std::string& forward, const std::string& reverse) {
    for (const char* name :
         {"in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias"}) {
      if (tensors_.count(forward + name) == 0) continue;
      tensors_[reverse + name] = tensors_[forward + name];
      if (shape_.tied_storage == TiedStorage::forward_name) tensors_.erase(reverse + name);
      if (shape_.tied_storage == TiedStorage::reverse_name) tensors_.erase(forward + name);
    }
  }

  MadeCaduceus shape_;
  unsigned seed_;
  int64_t inner_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

mamba::Checkpoint made_caduceus(const MadeCaduceus& shape, unsigned seed) {
  // The store reads from these bytes as long as it lives: they stay for the rest of the test run.
  static std::vector<std::unique_ptr<std::string>> files;
  files.push_back(std::make_unique<std::string>(Maker(shape, seed).file()));
  return mamba::open_checkpoint_memory(made_config(shape).dump(),
                                       std::as_bytes(std::span<const char>(*files.back())),
                                       "made caduceus");
}

}  // namespace chromamba::tests
