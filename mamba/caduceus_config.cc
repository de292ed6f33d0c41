#include "mamba/caduceus_config.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/byte_source.h"
#include "mamba/ssm_config.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

Directions parse_directions(const Keys& keys) {
  if (!keys.boolean("bidirectional", true)) return Directions::forward;
  const std::string strategy = keys.word("bidirectional_strategy", "add");
  if (strategy == "add") return Directions::add;
  if (strategy == "ew_multiply") return Directions::multiply;
  keys.wrong("bidirectional_strategy", json(strategy), "'add' or 'ew_multiply'");
}

// Tokens without an entry, the padding among them, are their own complement.
std::vector<int32_t> identity(int64_t vocab_size) {
  std::vector<int32_t> map(static_cast<size_t>(vocab_size));
  std::iota(map.begin(), map.end(), 0);
  return map;
}

std::string token_range(int64_t vocab_size) {
  return "a token from 0 to " + std::to_string(vocab_size - 1);
}

std::vector<int32_t> complement_of_config(const Keys& keys, const json& table, int64_t vocab_size) {
  if (!table.is_object()) keys.wrong("complement_map", table, "an object of tokens");
  std::vector<int32_t> map = identity(vocab_size);
  for (const auto& [name, value] : table.items()) {
    int64_t from = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), from);
    if (error != std::errc() || end != name.data() + name.size() || from < 0 ||
        from >= vocab_size) {
      keys.fail("key 'complement_map' has an entry " + quote(name) + ", expected " +
                token_range(vocab_size));
    }
    const auto to = value.is_number_integer() ? value.get<int64_t>() : -1;
    if (to < 0 || to >= vocab_size) {
      keys.fail("key 'complement_map' maps " + std::to_string(from) + " to " +
                quote(value.is_structured()
                          ? std::string(value.type_name())
                          : value.dump(-1, ' ', true, json::error_handler_t::replace)) +
                ", expected " + token_range(vocab_size));
    }
    map[static_cast<size_t>(from)] = static_cast<int32_t>(to);
  }
  return map;
}

std::vector<int32_t> complement_of_tensor(const Keys& keys, const TensorStore& tensors,
                                          const TensorInfo& info, int64_t vocab_size) {
  if (info.dtype_name != "I64" || info.shape.size() != 1 || info.numel > vocab_size) {
    keys.fail("tensor " + quote(info.name) + " is " + info.dtype_name + " " +
              shape_text(info.shape) + ", expected I64 [" + std::to_string(vocab_size) + "]");
  }
  std::vector<int64_t> values(static_cast<size_t>(info.numel));
  tensors.read_raw(info, values.data(), info.bytes);
  std::vector<int32_t> map = identity(vocab_size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= vocab_size) {
      keys.fail("tensor " + quote(info.name) + " maps " + std::to_string(i) + " to " +
                std::to_string(values[i]) + ", expected " + token_range(vocab_size));
    }
    map[i] = static_cast<int32_t>(values[i]);
  }
  return map;
}

// From the configuration and from the buffers beside embedding and head: where there are several
// they agree. Empty where there is none.
std::vector<int32_t> parse_complement(const Keys& keys, const TensorStore& tensors,
                                      int64_t vocab_size) {
  std::vector<int32_t> map;
  std::string source;
  const auto join = [&](std::vector<int32_t> other, const std::string& name) {
    if (map.empty()) {
      map = std::move(other);
      source = name;
      return;
    }
    const auto [one, two] = std::mismatch(map.begin(), map.end(), other.begin());
    if (one == map.end()) return;
    keys.fail(source + " maps token " + std::to_string(one - map.begin()) + " to " +
              std::to_string(*one) + ", " + name + " to " + std::to_string(*two) +
              "; they must agree");
  };
  if (const json* table = keys.find("complement_map"); table != nullptr) {
    join(complement_of_config(keys, *table, vocab_size), "key 'complement_map'");
  }
  for (const TensorInfo& info : tensors.tensors()) {
    if (!std::string_view(info.name).ends_with(".complement_map")) continue;
    join(complement_of_tensor(keys, tensors, info, vocab_size), "tensor " + quote(info.name));
  }
  for (size_t i = 0; i < map.size(); ++i) {
    const auto back = static_cast<size_t>(map[i]);
    if (static_cast<size_t>(map[back]) == i) continue;
    keys.fail(source + " maps token " + std::to_string(i) + " to " + std::to_string(back) +
              ", but " + std::to_string(back) + " to " + std::to_string(map[back]) +
              "; the complement of a complement must be the token itself");
  }
  return map;
}

// Names follow the tensors. Saved as the model for masked tokens they begin with "caduceus.backbone.",
// as the bare Caduceus with "backbone."; the wrappers that make a module RC-equivariant put
// "submodule." (mixer, unfused norms), "embedding." and "lm_head." into the names.
void find_names(const TensorStore& tensors, ModelConfig& model) {
  constexpr std::string_view kFirstLayer = "layers.0.";
  constexpr std::string_view kModel = "caduceus.";
  constexpr std::string_view kBackbone = "backbone.";
  const TensorInfo* layer = find_part(tensors, std::string(kFirstLayer) + "mixer.");
  std::string root = std::string(kModel);
  model.backbone = root + std::string(kBackbone);
  if (layer != nullptr) {
    model.backbone = layer->name.substr(0, layer->name.find(kFirstLayer));
    root = model.backbone;
    if (root.ends_with(kBackbone)) root.resize(root.size() - kBackbone.size());
  }
  if (root.ends_with(kModel)) root.resize(root.size() - kModel.size());

  const auto has = [&](const std::string& name) { return tensors.find(name) != nullptr; };
  // `wrapped` where the file has it, or is of a kind that should and has neither.
  const auto choose = [&](const std::string& before, const std::string& wrapped,
                          const std::string& plain, bool expected) {
    if (has(before + wrapped)) return wrapped;
    return has(before + plain) || !expected ? plain : wrapped;
  };
  const std::string block = model.backbone + std::string(kFirstLayer);
  const bool wrapped_norms = model.rcps && !model.rcps_swaps;
  const auto norm = [&](const std::string& before, const std::string& name) {
    const std::string chosen =
        choose(before, name + ".submodule.weight", name + ".weight", wrapped_norms);
    return chosen.substr(0, chosen.size() - std::string_view(".weight").size());
  };
  model.embedding_name =
      model.backbone + choose(model.backbone, "embeddings.word_embeddings.embedding.weight",
                              "embeddings.word_embeddings.weight", model.rcps);
  model.head_name = root + choose(root, "lm_head.lm_head.weight", "lm_head.weight", model.rcps);
  model.block_norm = norm(block, "norm");
  model.final_norm = norm(model.backbone, "norm_f");
  model.mixer_prefix = model.rcps ? "mixer.submodule." : "mixer.";
  model.forward_prefix = "mamba_fwd.";
  if (model.directions != Directions::forward) model.reverse_prefix = "mamba_rev.";
}

// The published code saves a mixer with a wrapper around it where rcps is set, and nowhere else; and it
// cannot make an RC-equivariant model without its map of complements.
void require_agreement(const Keys& keys, const TensorStore& tensors, const ModelConfig& model) {
  const TensorInfo* mixer = find_part(tensors, model.backbone + "layers.0.mixer.");
  const bool wrapped = mixer != nullptr &&
                       find_part(tensors, model.backbone + "layers.0.mixer.submodule.") != nullptr;
  if (mixer != nullptr && wrapped != model.rcps) {
    keys.fail(std::string("key 'rcps' is ") + (model.rcps ? "true" : "false or missing") +
              ", but the weights, with a tensor " + quote(mixer->name) + ", are those of a model " +
              (wrapped ? "that is reverse-complement equivariant" : "that is not"));
  }
  // The norms have wrappers where they are not fused. Plain ones are run either way.
  const TensorInfo* norm = find_part(tensors, model.backbone + "layers.0.norm.submodule.");
  if (norm != nullptr && model.rcps_swaps) {
    keys.fail("key 'fused_add_norm' is true or missing, but the weights, with a tensor " +
              quote(norm->name) +
              ", are those of a model without; the two are different functions");
  }
  if (model.rcps && model.complement.empty()) {
    keys.fail(
        "key 'complement_map' is missing: a model with 'rcps' needs it, or a tensor of that name");
  }
}

}  // namespace

bool is_caduceus(const Keys& keys, const TensorStore& tensors) {
  const std::string type = keys.word("model_type", "");
  if (type == "caduceus") return true;
  if (find_part(tensors, ".mixer.mamba_fwd.") != nullptr ||
      find_part(tensors, ".mixer.submodule.mamba_fwd.") != nullptr) {
    return true;
  }
  return type.empty() && (keys.truthy("bidirectional") || keys.truthy("rcps"));
}

void parse_caduceus(const Keys& keys, const Keys& ssm, const TensorStore& tensors,
                    ModelConfig& model) {
  model.family = "caduceus";
  model.objective = "masked";
  model.d_model = keys.integer("d_model", std::nullopt, 1, kMaxWidth);
  model.n_layer = keys.integer("n_layer", std::nullopt, 1, kMaxLayers);
  set_vocabulary(keys, model);
  model.rms_norm = keys.boolean("rms_norm", true);
  model.norm_eps = keys.epsilon("norm_epsilon", 1e-5);
  model.directions = parse_directions(keys);
  model.tied_directions =
      keys.boolean("bidirectional_weight_tie", true) && model.directions != Directions::forward;
  model.rcps = keys.boolean("rcps", false);
  model.rcps_swaps = keys.boolean("fused_add_norm", true) && model.rcps;
  // The published tie_weights() asks Transformers' key only where the head is a plain one.
  model.tie_embeddings = keys.boolean("tie_word_embeddings", true) || model.rcps;
  if (model.rcps && model.d_model % 2 != 0) {
    keys.wrong("d_model", nlohmann::json(model.d_model),
               "an even width: 'rcps' is set, and no published model of that kind has an odd one");
  }
  model.complement = parse_complement(keys, tensors, model.vocab_size);
  parse_ssm(ssm, tensors, model);
  find_names(tensors, model);
  require_agreement(keys, tensors, model);
}

}  // namespace chromamba::mamba
