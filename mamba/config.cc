#include "mamba/config.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"
#include "mamba/caduceus_config.h"
#include "mamba/checkpoint.h"
#include "mamba/config_keys.h"
#include "mamba/ssm_config.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

constexpr int64_t kMaxContext = int64_t{1} << 40;  // beyond is Transformers' 1e30: not known

// Layers that are something else than a Mamba mixer.
void refuse_hybrids(const Keys& keys) {
  for (const char* key :
       {"attn_layer_idx", "attention_layers_idx", "attn_layer_indices", "attn_layer_period"}) {
    if (keys.truthy(key)) {
      keys.refuse(std::string("a hybrid with attention layers ('") + key + "' is set)");
    }
  }
  for (const char* key : {"d_intermediate", "mlp_intermediate_size"}) {
    if (keys.truthy(key)) {
      keys.refuse(std::string("a model with MLP blocks ('") + key + "' is not 0)");
    }
  }
  for (const char* key : {"num_experts", "num_local_experts"}) {
    if (keys.truthy(key)) {
      keys.refuse(std::string("a mixture of experts ('") + key + "' is not 0)");
    }
  }
  for (const char* key : {"layers_block_type", "layer_types", "block_types"}) {
    const json* kinds = keys.find(key);
    if (kinds == nullptr) continue;
    if (!kinds->is_array()) keys.wrong(key, *kinds, "a list of the layers' kinds");
    for (const json& kind : *kinds) {
      const std::string name = kind.is_string() ? kind.get<std::string>() : kind.type_name();
      if (!name.starts_with("mamba")) {
        keys.refuse("a hybrid with layers of kind " + quote(name) + " ('" + key + "')");
      }
    }
  }
  if (const std::string pattern = keys.word("hybrid_override_pattern", "");
      pattern.find_first_not_of('M') != std::string::npos) {
    keys.refuse("a hybrid with layers " + quote(pattern) + " ('hybrid_override_pattern')");
  }
}

// What would run as something else than a stack of Mamba blocks in one direction.
void refuse_other_families(const Keys& keys) {
  const std::string type = keys.word("model_type", "");
  if (!type.empty() && type != "mamba" && type != "mamba2" && type != "mamba_ssm") {
    keys.refuse("model_type " + quote(type));
  }
  for (const char* key : {"bidirectional", "rcps"}) {
    if (keys.truthy(key)) {
      keys.refuse(std::string("a bidirectional model ('") + key + "' is set) that is not Caduceus");
    }
  }
}

// Context in training, where a configuration notes it. Nothing depends on it: what is no sensible
// length is not known rather than an error.
int64_t trained_bases(const Keys& keys) {
  for (const char* key : {"max_position_embeddings", "seq_len", "seqlen", "max_seq_len"}) {
    const json* value = keys.find(key);
    if (value == nullptr || !value->is_number_integer()) continue;
    const auto bases = value->get<int64_t>();
    if (bases > 0 && bases <= kMaxContext) return bases;
  }
  return 0;
}

void parse_mamba_ssm(const Keys& keys, const Keys& ssm, const TensorStore& tensors,
                     ModelConfig& model) {
  model.family = "mamba_ssm";
  model.d_model = keys.integer("d_model", std::nullopt, 1, kMaxWidth);
  model.n_layer = keys.integer("n_layer", std::nullopt, 1, kMaxLayers);
  set_vocabulary(keys, model);
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
  set_dt_limits(keys, "time_step_limit", model);
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
  const json empty = json::object();
  const Keys ssm_keys(ssm == nullptr ? empty : *ssm, where, "ssm_cfg.");
  refuse_hybrids(keys);

  ModelConfig model;
  model.trained_bases = trained_bases(keys);
  if (is_caduceus(keys, tensors)) {
    parse_caduceus(keys, ssm_keys, tensors, model);
    return model;
  }
  refuse_other_families(keys);
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
    parse_mamba_ssm(keys, ssm_keys, tensors, model);
  }
  find_names(tensors, model);
  return model;
}

ModelConfig parse_config(const Checkpoint& checkpoint) {
  ModelConfig model = parse_config(checkpoint.config, *checkpoint.tensors, checkpoint.config_path);
  if (model.trained_bases == 0) model.trained_bases = checkpoint.model_max_length;
  return model;
}

}  // namespace chromamba::mamba
