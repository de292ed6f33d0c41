#include "mamba/config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

// Far above any published model, and low enough that the product of three sizes fits 63 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 10'000;
constexpr int64_t kMaxState = 4096;
constexpr int64_t kMaxGroups = 4096;
constexpr int64_t kMaxExpand = 64;
constexpr int64_t kMinTaps = 2;  // the convolution kernel's range
constexpr int64_t kMaxTaps = 8;

// One object of the config, with typed access. A null counts as absent, as in Transformers.
class Keys {
 public:
  Keys(const json& object, std::string where, std::string prefix = "")
      : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  bool has(const char* key) const { return find(key) != nullptr; }

  int64_t integer(const char* key, std::optional<int64_t> fallback, int64_t low,
                  int64_t high) const {
    const json* value = find(key);
    if (value == nullptr) {
      if (!fallback.has_value()) missing(key);
      return *fallback;
    }
    const std::string wanted =
        "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
    int64_t number = 0;
    if (value->is_number_unsigned()) {
      const auto wide = value->get<uint64_t>();
      number = wide > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(wide);
    } else if (value->is_number_integer()) {
      number = value->get<int64_t>();
    } else if (value->is_number_float() &&
               std::trunc(value->get<double>()) == value->get<double>() &&
               std::abs(value->get<double>()) < 0x1p53) {
      number = static_cast<int64_t>(value->get<double>());  // 2.0
    } else {
      wrong(key, *value, wanted);
    }
    if (number < low || number > high) wrong(key, *value, wanted);
    return number;
  }

  bool boolean(const char* key, bool fallback) const {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) wrong(key, *value, "true or false");
    return value->get<bool>();
  }

  double epsilon(const char* key, double fallback) const {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(value->get<double>() > 0.0) || value->get<double>() > 1.0) {
      wrong(key, *value, "a small positive number");
    }
    return value->get<double>();
  }

  // [low, high]; either may be infinite (json_text.h).
  std::pair<double, double> range(const char* key, std::pair<double, double> fallback) const {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    const std::string wanted = "two numbers in rising order";
    if (!value->is_array() || value->size() != 2) wrong(key, *value, wanted);
    double ends[2] = {};
    for (size_t i = 0; i < 2; ++i) {
      const json& end = (*value)[i];
      const json infinity = {{"__float__", i == 0 ? "-Infinity" : "Infinity"}};
      if (end.is_number()) {
        ends[i] = end.get<double>();
      } else if (end == infinity) {
        ends[i] = i == 0 ? -std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::infinity();
      } else {
        wrong(key, end, wanted);
      }
    }
    if (!(ends[0] <= ends[1])) {
      throw DataError(where_ + ": key '" + prefix_ + key + "' is " +
                      quote("[" + std::to_string(ends[0]) + ", " + std::to_string(ends[1]) + "]") +
                      ", expected " + wanted);
    }
    return {ends[0], ends[1]};
  }

  std::string word(const char* key, const std::string& fallback) const {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) wrong(key, *value, "a string");
    return value->get<std::string>();
  }

  [[noreturn]] void missing(const char* key) const {
    throw DataError(where_ + ": key '" + prefix_ + key +
                    "' is missing; is this the config.json of "
                    "the model?");
  }

  [[noreturn]] void wrong(const char* key, const json& value, const std::string& wanted) const {
    // A container could be huge; its type says enough.
    const std::string found = value.is_structured()
                                  ? std::string(value.type_name())
                                  : value.dump(-1, ' ', true, json::error_handler_t::replace);
    throw DataError(where_ + ": key '" + prefix_ + key + "' is " + quote(found) + ", expected " +
                    wanted);
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw DataError(where_ + ": " + what +
                    " is not a model this version runs (it runs: Mamba-1, Mamba-2, Caduceus)");
  }

 private:
  const json& object_;
  std::string where_;
  std::string prefix_;
};

bool truthy(const json* value) {
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number()) return value->get<double>() != 0.0;
  return !value->empty();
}

// Everything that would run as something else than a stack of Mamba blocks.
void refuse_other_families(const Keys& keys, const TensorStore& tensors) {
  const std::string type = keys.word("model_type", "");
  if (!type.empty() && type != "mamba" && type != "mamba2" && type != "mamba_ssm") {
    keys.refuse("model_type " + quote(type));
  }
  for (const char* key : {"bidirectional", "rcps"}) {
    if (truthy(keys.find(key))) keys.refuse(std::string("a Caduceus model ('") + key + "' is set)");
  }
  for (const char* key : {"attn_layer_idx", "attention_layers_idx", "attn_layer_indices"}) {
    if (truthy(keys.find(key))) {
      keys.refuse(std::string("a hybrid with attention layers ('") + key + "' is not empty)");
    }
  }
  for (const char* key : {"d_intermediate", "mlp_intermediate_size"}) {
    if (truthy(keys.find(key))) {
      keys.refuse(std::string("a model with MLP blocks ('") + key + "' is not 0)");
    }
  }
  for (const TensorInfo& info : tensors.tensors()) {
    const std::string_view name = info.name;
    if (name.find(".mamba_fwd.") != std::string_view::npos ||
        name.find(".mamba_rev.") != std::string_view::npos) {
      keys.refuse("Caduceus (it has a tensor " + quote(name) + ")");
    }
  }
}

int64_t parse_dt_rank(const Keys& keys, const char* key, const ModelConfig& model) {
  const json* value = keys.find(key);
  if (value == nullptr || *value == "auto") return (model.d_model + 15) / 16;
  if (!value->is_number()) keys.wrong(key, *value, "'auto' or a whole number");
  return keys.integer(key, std::nullopt, 1, kMaxWidth);
}

void set_inner(const Keys& keys, ModelConfig& model) {
  model.d_inner = model.expand * model.d_model;
  if (model.d_inner > kMaxWidth) {
    keys.wrong("expand", json(model.expand),
               "an inner width (expand times model width) of at most " + std::to_string(kMaxWidth));
  }
}

// The first tensor whose name ends so, or nullptr.
const TensorInfo* find_ending(const TensorStore& tensors, std::string_view ending) {
  for (const TensorInfo& info : tensors.tensors()) {
    if (std::string_view(info.name).ends_with(ending)) return &info;
  }
  return nullptr;
}

// ssm_cfg.layer where it is given, as in the mamba_ssm package. Configurations that wrap its mixers
// leave it out; only Mamba-2 has a dt_bias of its own, only Mamba-1 a dt_proj.
MixerKind mixer_kind(const Keys& ssm, const TensorStore& tensors) {
  const TensorInfo* bias = find_ending(tensors, ".dt_bias");
  const TensorInfo* proj = find_ending(tensors, ".dt_proj.weight");
  const json* layer = ssm.find("layer");
  if (layer == nullptr) {
    return bias != nullptr && proj == nullptr ? MixerKind::mamba2 : MixerKind::mamba1;
  }
  if (*layer != "Mamba1" && *layer != "Mamba2") {
    ssm.refuse("ssm_cfg.layer " + quote(layer->is_string() ? layer->get<std::string>()
                                                           : std::string(layer->type_name())));
  }
  const bool second = *layer == "Mamba2";
  if (const TensorInfo* other = second ? proj : bias; other != nullptr) {
    ssm.wrong("layer", *layer,
              std::string(second ? "'Mamba1'" : "'Mamba2'") + ", since the weights have a tensor " +
                  quote(other->name));
  }
  return second ? MixerKind::mamba2 : MixerKind::mamba1;
}

// The heads of Mamba-2, once d_inner, head_dim and n_groups are known.
void set_heads(const Keys& keys, const char* head_key, const char* group_key, ModelConfig& model) {
  if (model.d_inner % model.head_dim != 0) {
    keys.wrong(head_key, json(model.head_dim),
               "a divisor of the inner width " + std::to_string(model.d_inner));
  }
  model.n_heads = model.d_inner / model.head_dim;
  if (model.n_heads % model.n_groups != 0) {
    keys.wrong(group_key, json(model.n_groups),
               "a divisor of the number of heads " + std::to_string(model.n_heads));
  }
}

// The arguments of mamba_ssm's Mamba and Mamba2 classes. d_model is known.
void parse_ssm(const Keys& ssm, const TensorStore& tensors, ModelConfig& model) {
  model.mixer = mixer_kind(ssm, tensors);
  const bool second = model.mixer == MixerKind::mamba2;
  model.d_state = ssm.integer("d_state", second ? 128 : 16, 1, kMaxState);
  model.d_conv = ssm.integer("d_conv", 4, kMinTaps, kMaxTaps);
  model.expand = ssm.integer("expand", 2, 1, kMaxExpand);
  model.conv_bias = ssm.boolean("conv_bias", true);
  model.proj_bias = ssm.boolean("bias", false);
  set_inner(ssm, model);
  if (!second) {
    model.dt_rank = parse_dt_rank(ssm, "dt_rank", model);
    return;
  }
  model.head_dim = ssm.integer("headdim", 64, 1, kMaxWidth);
  model.n_groups = ssm.integer("ngroups", 1, 1, kMaxGroups);
  if (ssm.integer("d_ssm", model.d_inner, 1, kMaxWidth) != model.d_inner) {
    ssm.wrong("d_ssm", *ssm.find("d_ssm"),
              std::to_string(model.d_inner) +
                  " (expand times d_model): a mixer with an MLP beside the state space is not run");
  }
  set_heads(ssm, "headdim", "ngroups", model);
  model.D_per_channel = ssm.boolean("D_has_hdim", false);
  model.gated_norm = ssm.boolean("rmsnorm", true);
  model.norm_before_gate = ssm.boolean("norm_before_gate", false);
  std::tie(model.dt_min, model.dt_max) = ssm.range("dt_limit", {model.dt_min, model.dt_max});
  model.gated_norm_groups = model.n_groups;
  model.gated_norm_eps = 1e-5;  // the class fixes it
}

void parse_mamba_ssm(const Keys& keys, const Keys& ssm, const TensorStore& tensors,
                     ModelConfig& model) {
  model.family = "mamba_ssm";
  model.d_model = keys.integer("d_model", std::nullopt, 1, kMaxWidth);
  model.n_layer = keys.integer("n_layer", std::nullopt, 1, kMaxLayers);
  model.vocab_size_unpadded = keys.integer("vocab_size", std::nullopt, 1, kMaxVocabulary);
  const int64_t multiple = keys.integer("pad_vocab_size_multiple", 8, 1, kMaxVocabulary);
  model.vocab_size = (model.vocab_size_unpadded + multiple - 1) / multiple * multiple;
  model.rms_norm = keys.boolean("rms_norm", true);
  model.norm_eps = keys.epsilon("norm_epsilon", 1e-5);
  model.tie_embeddings = keys.boolean("tie_embeddings", true);
  parse_ssm(ssm, tensors, model);
}

void parse_hf_mamba(const Keys& keys, ModelConfig& model) {
  model.family = "hf_mamba";
  model.mixer = MixerKind::mamba1;
  model.tie_embeddings = keys.boolean("tie_word_embeddings", true);
  model.d_state = keys.integer("state_size", 16, 1, kMaxState);
  model.dt_rank = parse_dt_rank(keys, "time_step_rank", model);
}

// Transformers' Mamba2 reads neither rms_norm nor norm_before_gate: its gated norm is always there,
// after the gate, over the full width whatever n_groups is.
void parse_hf_mamba2(const Keys& keys, ModelConfig& model) {
  model.family = "hf_mamba2";
  model.mixer = MixerKind::mamba2;
  model.tie_embeddings = keys.boolean("tie_word_embeddings", false);
  model.d_state = keys.integer("state_size", 128, 1, kMaxState);
  model.head_dim = keys.integer("head_dim", 64, 1, kMaxWidth);
  model.n_groups = keys.integer("n_groups", 8, 1, kMaxGroups);
  model.n_heads = keys.integer("num_heads", 128, 1, kMaxWidth);
  if (model.n_heads * model.head_dim != model.d_inner) {
    keys.wrong("num_heads", json(model.n_heads),
               "num_heads times head_dim (" + std::to_string(model.head_dim) + ") to be " +
                   std::to_string(model.d_inner) + " (expand times hidden_size)");
  }
  set_heads(keys, "head_dim", "n_groups", model);
  std::tie(model.dt_min, model.dt_max) =
      keys.range("time_step_limit", {model.dt_min, model.dt_max});
  model.gated_norm_groups = 1;
  model.gated_norm_eps = model.norm_eps;
}

void parse_hugging_face(const Keys& keys, const TensorStore& tensors, ModelConfig& model) {
  const std::string type = keys.word("model_type", "");
  const bool second =
      type == "mamba2" || (type.empty() && find_ending(tensors, ".dt_bias") != nullptr);
  model.d_model = keys.integer("hidden_size", std::nullopt, 1, kMaxWidth);
  model.n_layer = keys.integer("num_hidden_layers", std::nullopt, 1, kMaxLayers);
  model.vocab_size = keys.integer("vocab_size", std::nullopt, 1, kMaxVocabulary);
  model.vocab_size_unpadded = model.vocab_size;
  model.rms_norm = true;  // MambaRMSNorm, whatever else the file says
  model.norm_eps = keys.epsilon("layer_norm_epsilon", 1e-5);
  model.d_conv = keys.integer("conv_kernel", 4, kMinTaps, kMaxTaps);
  model.expand = keys.integer("expand", 2, 1, kMaxExpand);
  model.conv_bias = keys.boolean("use_conv_bias", true);
  model.proj_bias = keys.boolean("use_bias", false);
  set_inner(keys, model);
  if (keys.integer("intermediate_size", model.d_inner, 1, INT64_MAX) != model.d_inner) {
    keys.wrong("intermediate_size", *keys.find("intermediate_size"),
               std::to_string(model.d_inner) + " (expand times hidden_size)");
  }
  const std::string activation = keys.word("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {  // two names of one function
    keys.wrong("hidden_act", json(activation), "'silu'");
  }
  if (second) {
    parse_hf_mamba2(keys, model);
  } else {
    parse_hf_mamba(keys, model);
  }
}

// The published packages save `backbone.embedding` or `backbone.embeddings` and read either; a
// backbone saved on its own lacks the prefix.
void find_names(const TensorStore& tensors, ModelConfig& model) {
  const bool ssm_first = model.family == "mamba_ssm";
  const std::string own = ssm_first ? "embedding.weight" : "embeddings.weight";
  const std::string other = ssm_first ? "embeddings.weight" : "embedding.weight";
  const bool bare = tensors.find("layers.0.norm.weight") != nullptr &&
                    tensors.find("backbone.layers.0.norm.weight") == nullptr;
  model.backbone = bare ? "" : "backbone.";
  const bool use_other = tensors.find(model.backbone + own) == nullptr &&
                         tensors.find(model.backbone + other) != nullptr;
  model.embedding_name = model.backbone + (use_other ? other : own);
}

}  // namespace

ModelConfig parse_config(const json& config, const TensorStore& tensors, const std::string& where) {
  if (!config.is_object()) {
    throw DataError(where + ": expected an object of settings, found " + config.type_name());
  }
  const Keys keys(config, where);
  const json* ssm = keys.find("ssm_cfg");
  if (ssm != nullptr && !ssm->is_object()) keys.wrong("ssm_cfg", *ssm, "an object");
  refuse_other_families(keys, tensors);

  ModelConfig model;
  model.objective = "causal";
  // Some hub configs carry both dialects; model_type says which one is meant.
  const std::string type = keys.word("model_type", "");
  const bool hugging_face =
      keys.has("hidden_size") && (type == "mamba" || type == "mamba2" || !keys.has("d_model"));
  if (hugging_face) {
    parse_hugging_face(keys, tensors, model);
  } else {
    if (!keys.has("d_model")) {
      throw DataError(where +
                      ": neither 'd_model' (mamba_ssm) nor 'hidden_size' (Hugging Face mamba) is "
                      "set; is this the config.json of a Mamba model?");
    }
    const json empty = json::object();
    parse_mamba_ssm(keys, Keys(ssm == nullptr ? empty : *ssm, where, "ssm_cfg."), tensors, model);
  }
  find_names(tensors, model);
  return model;
}

}  // namespace chromamba::mamba
