#include "mamba/ssm_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "mamba/byte_source.h"

namespace chromamba::mamba {

using nlohmann::json;

int64_t parse_dt_rank(const Keys& keys, const char* key, const ModelConfig& model) {
  const json* value = keys.find(key);
  if (value == nullptr || *value == "auto") return (model.d_model + 15) / 16;
  if (!value->is_number()) keys.wrong(key, *value, "'auto' or a whole number");
  return keys.integer(key, std::nullopt, 1, kMaxWidth);
}

void set_vocabulary(const Keys& keys, ModelConfig& model) {
  model.vocab_size_unpadded = keys.integer("vocab_size", std::nullopt, 1, kMaxVocabulary);
  const int64_t multiple = keys.integer("pad_vocab_size_multiple", 8, 1, kMaxVocabulary);
  model.vocab_size = (model.vocab_size_unpadded + multiple - 1) / multiple * multiple;
}

void set_inner(const Keys& keys, ModelConfig& model) {
  model.d_inner = model.expand * model.d_model;
  if (model.d_inner > kMaxWidth) {
    keys.wrong("expand", json(model.expand),
               "an inner width (expand times model width) of at most " + std::to_string(kMaxWidth));
  }
}

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

void set_dt_limits(const Keys& keys, const char* key, ModelConfig& model) {
  const auto [low, high] = keys.range(key, {model.dt_min, model.dt_max});
  if (high < 0.0) keys.wrong(key, *keys.find(key), "an upper limit of at least 0");
  model.dt_min = std::max(low, 0.0);  // softplus has no values below
  model.dt_max = high;
}

namespace {

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

// Heads and groups of a Mamba-2 mixer whose configuration leaves them out, from the shapes of its
// first layer: A_log has a row per head, conv1d one per channel of x and of Bmat and Cmat.
void infer_mamba2_sizes(const Keys& ssm, const TensorStore& tensors, ModelConfig& model) {
  const auto rows_of = [&](const char* ending) -> const TensorInfo* {
    const TensorInfo* info = find_ending(tensors, ending);
    return info == nullptr || info->shape.empty() ? nullptr : info;
  };
  const auto unfit = [&](const TensorInfo& info, const std::string& wanted) {
    ssm.fail("tensor " + quote(info.name) + " has shape " + shape_text(info.shape) + ", expected " +
             wanted + " (inner width " + std::to_string(model.d_inner) + ")");
  };
  if (const TensorInfo* heads = rows_of(".A_log"); heads != nullptr && !ssm.has("headdim")) {
    const int64_t rows = heads->shape[0];
    if (rows < 1 || model.d_inner % rows != 0) unfit(*heads, "a number of heads that divides E");
    model.head_dim = model.d_inner / rows;
  }
  const bool state_given = ssm.has("d_state");
  const bool groups_given = ssm.has("ngroups");
  const TensorInfo* conv = rows_of(".conv1d.weight");
  if (conv == nullptr || (state_given && groups_given)) return;
  const int64_t both = conv->shape[0] - model.d_inner;
  if (both < 2 || both % 2 != 0) unfit(*conv, "E + 2 * groups * states rows");
  const int64_t product = both / 2;  // groups * states
  if (!state_given && (groups_given || product % model.d_state != 0)) {
    model.d_state = product / model.n_groups;
  }
  if (!groups_given) model.n_groups = product / model.d_state;
  if (model.n_groups * model.d_state != product || model.d_state > kMaxState ||
      model.n_groups > kMaxGroups) {
    unfit(*conv, "E + 2 * groups * states rows with " + std::to_string(model.d_state) +
                     " states and " + std::to_string(model.n_groups) + " groups");
  }
}

}  // namespace

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
  if (!ssm.has("layer")) infer_mamba2_sizes(ssm, tensors, model);
  if (ssm.integer("d_ssm", model.d_inner, 1, kMaxWidth) != model.d_inner) {
    ssm.wrong("d_ssm", *ssm.find("d_ssm"),
              std::to_string(model.d_inner) +
                  " (expand times d_model): a mixer with an MLP beside the state space is not run");
  }
  set_heads(ssm, "headdim", "ngroups", model);
  model.D_per_channel = ssm.boolean("D_has_hdim", false);
  model.gated_norm = ssm.boolean("rmsnorm", true);
  model.norm_before_gate = ssm.boolean("norm_before_gate", false);
  set_dt_limits(ssm, "dt_limit", model);
  model.gated_norm_groups = model.n_groups;
  model.gated_norm_eps = 1e-5;  // the class fixes it
}

}  // namespace chromamba::mamba
