#include "tests/mamba/published_checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>

#include "tests/mamba/checkpoint_bytes.h"
#include "tests/mamba/pickle_bytes.h"

namespace chromamba::mamba::testing {
namespace {

using nlohmann::json;

// Deterministic, of each name its own, never zero; A_log, D and the norms as in a model that was just
// initialised.
std::vector<float> values_of(const std::string& name, int64_t n) {
  const std::string_view view = name;
  uint32_t seed = 2166136261U;  // FNV-1a
  for (const char letter : view) seed = (seed ^ static_cast<unsigned char>(letter)) * 16777619U;
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    float& value = values[static_cast<size_t>(i)];
    if (view.ends_with("A_log")) {
      value = std::log(1.0F + static_cast<float>(i % 16));
    } else if (view.ends_with(".D") || view.find("norm") != std::string_view::npos) {
      value = 1.0F + 0.01F * static_cast<float>(i % 7);
    } else {
      uint32_t bits = seed + static_cast<uint32_t>(i) * 2654435761U;
      bits ^= bits >> 15;
      value = 0.1F * (static_cast<float>(bits % 1009) - 504.5F) / 1009.0F;
    }
  }
  return values;
}

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

std::string bytes_of(const PublishedTensor& tensor, const std::string& dtype) {
  const std::vector<float> values =
      values_of(tensor.same_as.empty() ? tensor.name : tensor.same_as, elements(tensor.shape));
  std::string bytes;
  bytes.reserve(values.size() * (dtype == "F32" ? 4 : 2));
  for (const float value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    if (dtype == "F32") {
      bytes += raw(value);
    } else if (dtype == "BF16") {
      bytes += raw(static_cast<uint16_t>(bits >> 16));
    } else {
      // F16 of a number whose exponent it has, cut; smaller ones are zero.
      const int32_t exponent = static_cast<int32_t>(bits >> 23 & 0xff) - 127 + 15;
      const uint32_t half =
          exponent < 1 ? 0 : static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff);
      bytes += raw(static_cast<uint16_t>(half | (bits >> 16 & 0x8000)));
    }
  }
  return bytes;
}

// What one mixer owns beside in_proj and out_proj.
void add_own_tensors(const json& config, bool second, const std::string& mixer,
                     PublishedModel& model) {
  const json& ssm = config["ssm_cfg"];
  const int64_t width = config["d_model"];
  const int64_t inner = width * ssm.value("expand", 2);
  const int64_t states = ssm.value("d_state", second ? 128 : 16);
  const int64_t taps = ssm.value("d_conv", 4);
  const auto add = [&](const std::string& name, const std::vector<int64_t>& shape) {
    model.tensors.push_back({mixer + name, shape, ""});
  };
  if (second) {
    const int64_t heads = inner / ssm.value("headdim", 64);
    const int64_t conv = inner + 2 * states;
    add("conv1d.weight", {conv, 1, taps});
    add("conv1d.bias", {conv});
    add("dt_bias", {heads});
    add("A_log", {heads});
    add("D", {heads});
    add("norm.weight", {inner});
    return;
  }
  const int64_t rank = (width + 15) / 16;
  add("conv1d.weight", {inner, 1, taps});
  add("conv1d.bias", {inner});
  add("x_proj.weight", {rank + 2 * states, inner});
  add("dt_proj.weight", {inner, rank});
  add("dt_proj.bias", {inner});
  add("A_log", {inner, states});
  add("D", {inner});
}

// Caduceus, its config given. `second`: around Mamba-2; `bare`: saved without head and prefix.
PublishedModel caduceus(const std::string& name, const json& config, bool second, bool bare,
                        int64_t card_parameters) {
  PublishedModel model{name, config, {}, {}, card_parameters};
  const bool rcps = config["rcps"];
  const bool tied = config["bidirectional_weight_tie"];
  const int64_t width = config["d_model"];
  const int64_t vocab = config["vocab_size"];  // stated with its padding
  const json& ssm = config["ssm_cfg"];
  const int64_t inner = width * ssm.value("expand", 2);
  const int64_t in_rows =
      second ? 2 * inner + 2 * ssm.value("d_state", 128) + inner / ssm.value("headdim", 64)
             : 2 * inner;
  const std::string backbone = bare ? "backbone." : "caduceus.backbone.";
  const std::string table = backbone + "embeddings.word_embeddings.";
  const std::string embedding = table + (rcps ? "embedding.weight" : "weight");
  const std::string wrapped = rcps && !config.value("fused_add_norm", true) ? ".submodule" : "";

  model.tensors.push_back({embedding, {vocab, width}, ""});
  if (!bare) {
    model.tensors.push_back(
        {rcps ? "lm_head.lm_head.weight" : "lm_head.weight", {vocab, width}, embedding});
  }
  model.tensors.push_back({backbone + "norm_f" + wrapped + ".weight", {width}, ""});
  for (int64_t layer = 0; layer < config["n_layer"].get<int64_t>(); ++layer) {
    const std::string block = backbone + "layers." + std::to_string(layer) + ".";
    const std::string mixer = block + (rcps ? "mixer.submodule." : "mixer.");
    model.tensors.push_back({block + "norm" + wrapped + ".weight", {width}, ""});
    for (const char* direction : {"mamba_fwd.", "mamba_rev."}) {
      const bool other = tied && std::string_view(direction) == "mamba_rev.";
      const auto add = [&](const std::string& matrix, const std::vector<int64_t>& shape) {
        model.tensors.push_back(
            {mixer + direction + matrix, shape, other ? mixer + "mamba_fwd." + matrix : ""});
      };
      add("in_proj.weight", {in_rows, width});
      add("out_proj.weight", {width, inner});
      add_own_tensors(config, second, mixer + direction, model);
    }
  }
  if (rcps) {
    std::vector<int64_t> map(static_cast<size_t>(vocab));
    for (const auto& [from, to] : config["complement_map"].items()) map[std::stoul(from)] = to;
    model.buffers.emplace_back(table + "complement_map", map);
    if (!bare) model.buffers.emplace_back("lm_head.complement_map", map);
  }
  return model;
}

json mapped(const std::vector<int>& complement) {
  json map;
  for (size_t i = 0; i < complement.size(); ++i) map[std::to_string(i)] = complement[i];
  return map;
}

// The keys of the hub's configurations that matter; theirs state the vocabulary with its padding.
json config_of(int64_t d_model, int64_t n_layer, int64_t vocab, bool rcps) {
  return {{"architectures", {"CaduceusForMaskedLM"}},
          {"model_type", "caduceus"},
          {"d_model", d_model},
          {"n_layer", n_layer},
          {"vocab_size", vocab},
          {"pad_vocab_size_multiple", 8},
          {"bidirectional", true},
          {"bidirectional_strategy", "add"},
          {"bidirectional_weight_tie", true},
          {"complement_map", vocab == 8
                                 ? mapped({0, 1, 2, 6, 5, 4, 3, 7})
                                 : mapped({0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15})},
          {"fused_add_norm", true},
          {"initializer_cfg", {{"initializer_range", 0.02}}},
          {"norm_epsilon", 1e-5},
          {"rcps", rcps},
          {"residual_in_fp32", false},
          {"rms_norm", true},
          {"ssm_cfg",
           {{"bias", false},
            {"conv_bias", true},
            {"d_conv", 4},
            {"d_state", 16},
            {"dt_rank", "auto"},
            {"expand", 2},
            {"use_fast_path", true}}},
          {"torch_dtype", "float32"},
          {"transformers_version", "4.38.1"}};
}

json plantcad2_config(int64_t d_model, int64_t n_layer) {
  json config = config_of(d_model, n_layer, 8, true);
  config["ssm_cfg"] = {{"d_state", 64}, {"d_conv", 4}, {"expand", 2}};
  return config;
}

}  // namespace

std::vector<PublishedModel> published_models() {
  std::vector<PublishedModel> models;
  models.push_back(caduceus("caduceus-ph_seqlen-131k_d_model-256_n_layer-16",
                            config_of(256, 16, 16, false), false, false, 7'725'312));
  models.push_back(caduceus("caduceus-ps_seqlen-131k_d_model-256_n_layer-16",
                            config_of(256, 16, 16, true), false, false, 7'725'312));
  models.push_back(caduceus("caduceus-ph_seqlen-1k_d_model-256_n_layer-4_lr-8e-3",
                            config_of(256, 4, 16, false), false, false, 1'934'592));
  models.push_back(caduceus("caduceus-ph_seqlen-1k_d_model-118_n_layer-4_lr-8e-3",
                            config_of(118, 4, 16, false), false, false, 470'702));
  json plant = config_of(384, 20, 8, true);
  plant["architectures"] = {"Caduceus"};
  models.push_back(caduceus("PlantCaduceus_l20", plant, false, true, 20'870'016));
  return models;
}

std::vector<PublishedModel> small_models() {
  std::vector<PublishedModel> models;
  models.push_back(caduceus("small Ph", config_of(24, 2, 16, false), false, false, 0));
  models.push_back(caduceus("small PS", config_of(24, 2, 16, true), false, false, 0));
  json unfused = config_of(24, 2, 16, true);
  unfused["fused_add_norm"] = false;
  models.push_back(caduceus("small unfused PS", unfused, false, false, 0));
  json untied = config_of(24, 2, 16, false);
  untied["bidirectional_weight_tie"] = false;
  untied["bidirectional_strategy"] = "ew_multiply";
  models.push_back(caduceus("small Ph of two in_proj", untied, false, false, 0));
  models.push_back(caduceus("small PlantCaduceus", config_of(24, 2, 8, true), false, true, 0));
  models.push_back(caduceus("small PlantCAD2", plantcad2_config(64, 2), true, false, 0));
  return models;
}

int64_t unique_parameters(const PublishedModel& model) {
  int64_t sum = 0;
  for (const PublishedTensor& tensor : model.tensors) {
    if (tensor.same_as.empty()) sum += elements(tensor.shape);
  }
  return sum;
}

namespace {

bool is_tied_to(const PublishedModel& model, const std::string& name) {
  return std::any_of(model.tensors.begin(), model.tensors.end(),
                     [&](const PublishedTensor& tensor) { return tensor.same_as == name; });
}

std::string safetensors_of(const std::vector<PublishedTensor>& tensors, const PublishedModel& model,
                           const std::string& dtype, const json& metadata, bool with_buffers) {
  json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string data;
  const auto add = [&](const std::string& name, const std::string& type, const json& shape,
                       const std::string& bytes) {
    header[name] = {{"dtype", type},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  };
  for (const PublishedTensor& tensor : tensors) {
    add(tensor.name, dtype, tensor.shape, bytes_of(tensor, dtype));
  }
  if (with_buffers) {
    for (const auto& [name, values] : model.buffers) {
      add(name, "I64", {values.size()}, raw_all(values));
    }
  }
  return safetensors(header.dump(), data);
}

}  // namespace

std::string safetensors_file(const PublishedModel& model, Ties ties, const std::string& dtype) {
  std::vector<PublishedTensor> stored;
  json metadata = {{"format", "pt"}};
  for (const PublishedTensor& tensor : model.tensors) {
    const bool tied = !tensor.same_as.empty();
    if (tied && ties == Ties::aliased) metadata[tensor.name] = tensor.same_as;
    if (tied && (ties == Ties::first || ties == Ties::aliased)) continue;
    if (ties == Ties::second && is_tied_to(model, tensor.name)) continue;
    stored.push_back(tensor);
  }
  return safetensors_of(stored, model, dtype, metadata, true);
}

std::string torch_file(const PublishedModel& model) {
  std::vector<ZipEntry> entries;
  std::vector<std::pair<std::string, std::string>> values;
  std::vector<std::pair<std::string, std::string>> storages;  // tensor, key
  const auto add = [&](const std::string& name, const std::string& type, const std::string& key,
                       const std::vector<int64_t>& shape) {
    std::vector<int64_t> stride(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;) stride[i - 1] = stride[i] * shape[i];
    values.emplace_back(name, tensor(storage(type, key, elements(shape)), 0, shape, stride));
  };
  for (const PublishedTensor& one : model.tensors) {
    if (!one.same_as.empty()) continue;
    storages.emplace_back(one.name, std::to_string(storages.size()));
    entries.push_back({"m/data/" + storages.back().second, bytes_of(one, "F32")});
  }
  for (const PublishedTensor& one : model.tensors) {
    const std::string& owner = one.same_as.empty() ? one.name : one.same_as;
    const auto found = std::find_if(storages.begin(), storages.end(),
                                    [&](const auto& entry) { return entry.first == owner; });
    add(one.name, "FloatStorage", found->second, one.shape);
  }
  for (const auto& [name, map] : model.buffers) {
    const std::string key = std::to_string(entries.size());
    entries.push_back({"m/data/" + key, raw_all(map)});
    add(name, "LongStorage", key, {static_cast<int64_t>(map.size())});
  }
  entries.push_back({"m/data.pkl", program(state(values))});
  entries.push_back({"m/byteorder", "little"});
  entries.push_back({"m/version", "3\n"});
  return zip(entries);
}

std::vector<std::pair<std::string, std::string>> shard_files(const PublishedModel& model,
                                                             size_t shards) {
  std::vector<std::vector<PublishedTensor>> parts(shards);
  json weight_map;
  const auto file_name = [&](size_t part) {
    return "model-" + std::to_string(part) + ".safetensors";
  };
  size_t next = 0;
  for (const PublishedTensor& tensor : model.tensors) {
    if (!tensor.same_as.empty()) continue;
    const size_t part = next++ % shards;
    parts[part].push_back(tensor);
    weight_map[tensor.name] = file_name(part);
  }
  for (const auto& [name, map] : model.buffers) weight_map[name] = file_name(0);
  std::vector<std::pair<std::string, std::string>> files;
  for (size_t part = 0; part < shards; ++part) {
    files.emplace_back(file_name(part),
                       safetensors_of(parts[part], model, "F32", {{"format", "pt"}}, part == 0));
  }
  files.emplace_back("model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
  return files;
}

}  // namespace chromamba::mamba::testing
