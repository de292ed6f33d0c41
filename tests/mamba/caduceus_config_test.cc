#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "mamba/config.h"
#include "mamba/json_text.h"
#include "mamba/safetensors.h"
#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;
using testing::contains;
using testing::data_error;

// Tensors by name; the values of those that are integers.
struct Tensors {
  std::map<std::string, std::vector<int64_t>> floats;  // shapes
  std::map<std::string, std::vector<int64_t>> integers;
};

ModelConfig parse(const json& config, const Tensors& tensors = {}) {
  json header = json::object();
  std::string data;
  const auto add = [&](const std::string& name, const char* type, const std::vector<int64_t>& shape,
                       const std::string& bytes) {
    header[name] = {{"dtype", type},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  };
  for (const auto& [name, shape] : tensors.floats) {
    size_t n = 1;
    for (const int64_t size : shape) n *= static_cast<size_t>(size);
    add(name, "F32", shape, std::string(4 * n, '\0'));
  }
  for (const auto& [name, values] : tensors.integers) {
    add(name, "I64", {static_cast<int64_t>(values.size())}, testing::raw_all(values));
  }
  const std::string file = testing::safetensors(header.dump(), data);
  const auto store = open_safetensors_memory(testing::as_bytes(file), "weights");
  return parse_config(config, *store, "config.json");
}

std::string failure(const json& config, const Tensors& tensors = {}) {
  return data_error([&] { parse(config, tensors); });
}

json map_of(const std::vector<int>& complement) {
  json map = json::object();
  for (size_t i = 0; i < complement.size(); ++i) map[std::to_string(i)] = complement[i];
  return map;
}

const std::vector<int> kDna = {0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11};

std::vector<int32_t> padded(std::vector<int32_t> map, int32_t size) {
  for (auto i = static_cast<int32_t>(map.size()); i < size; ++i) map.push_back(i);
  return map;
}

// As the published Caduceus checkpoints spell their configuration, with the vocabulary padded.
json published(int64_t d_model, int64_t n_layer, bool rcps) {
  return json::parse(R"({
    "_name_or_path": "", "architectures": ["CaduceusForMaskedLM"],
    "auto_map": {"AutoConfig": "configuration_caduceus.CaduceusConfig"},
    "bidirectional": true, "bidirectional_strategy": "add", "bidirectional_weight_tie": true,
    "d_model": 0, "fused_add_norm": true,
    "initializer_cfg": {"initializer_range": 0.02, "n_residuals_per_layer": 1},
    "model_type": "caduceus", "n_layer": 0, "norm_epsilon": 1e-05, "pad_vocab_size_multiple": 8,
    "rcps": false, "residual_in_fp32": false, "rms_norm": true,
    "ssm_cfg": {"bias": false, "conv_bias": true, "d_conv": 4, "d_state": 16, "dt_init": "random",
      "dt_init_floor": 0.0001, "dt_max": 0.1, "dt_min": 0.001, "dt_rank": "auto", "dt_scale": 1.0,
      "expand": 2, "use_fast_path": true},
    "torch_dtype": "float32", "transformers_version": "4.38.1", "vocab_size": 16})")
      .patch({{{"op", "replace"}, {"path", "/d_model"}, {"value", d_model}},
              {{"op", "replace"}, {"path", "/n_layer"}, {"value", n_layer}},
              {{"op", "replace"}, {"path", "/rcps"}, {"value", rcps}},
              {{"op", "add"},
               {"path", "/complement_map"},
               {"value", map_of({0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15})}}});
}

const json kSmall = {
    {"model_type", "caduceus"}, {"d_model", 32}, {"n_layer", 2}, {"vocab_size", 12}};

json with(const std::string& pointer, const json& value) {
  json config = kSmall;
  config[json::json_pointer(pointer)] = value;
  return config;
}

json equivariant() {
  json config = with("/rcps", true);
  config["complement_map"] = map_of(kDna);
  return config;
}

TEST_CASE("the configuration of caduceus-ph 131k D256 x 16") {
  const ModelConfig model =
      parse(published(256, 16, false),
            {{{"caduceus.backbone.embeddings.word_embeddings.weight", {16, 1}},
              {"caduceus.backbone.layers.0.norm.weight", {1}},
              {"caduceus.backbone.norm_f.weight", {1}},
              {"caduceus.backbone.layers.0.mixer.mamba_fwd.dt_proj.weight", {1}},
              {"lm_head.weight", {16, 1}}},
             {}});
  CHECK(model.family == "caduceus");
  CHECK(model.objective == "masked");
  CHECK(model.mixer == MixerKind::mamba1);
  CHECK(model.d_model == 256);
  CHECK(model.n_layer == 16);
  CHECK(model.vocab_size == 16);
  CHECK(model.vocab_size_unpadded == 16);
  CHECK(model.d_inner == 512);
  CHECK(model.d_state == 16);
  CHECK(model.dt_rank == 16);
  CHECK(model.directions == Directions::add);
  CHECK(model.tied_directions);
  CHECK_FALSE(model.rcps);
  CHECK_FALSE(model.rcps_swaps);
  CHECK(model.tie_embeddings);
  CHECK(model.rms_norm);
  CHECK(model.complement == padded({0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11}, 16));
  CHECK(model.backbone == "caduceus.backbone.");
  CHECK(model.embedding_name == "caduceus.backbone.embeddings.word_embeddings.weight");
  CHECK(model.head_name == "lm_head.weight");
  CHECK(model.block_norm == "norm");
  CHECK(model.final_norm == "norm_f");
  CHECK(model.mixer_prefix == "mixer.");
  CHECK(model.forward_prefix == "mamba_fwd.");
  CHECK(model.reverse_prefix == "mamba_rev.");
}

TEST_CASE("the configuration of caduceus-ps 131k D256 x 16") {
  const std::vector<int64_t> buffer = {0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15};
  const ModelConfig model =
      parse(published(256, 16, true),
            {{{"caduceus.backbone.embeddings.word_embeddings.embedding.weight", {16, 1}},
              {"caduceus.backbone.layers.0.norm.weight", {1}},
              {"caduceus.backbone.norm_f.weight", {1}},
              {"caduceus.backbone.layers.0.mixer.submodule.mamba_fwd.D", {1}},
              {"lm_head.lm_head.weight", {16, 1}}},
             {{"caduceus.backbone.embeddings.word_embeddings.complement_map", buffer},
              {"lm_head.complement_map", buffer}}});
  CHECK(model.rcps);
  CHECK(model.rcps_swaps);
  CHECK(model.d_model == 256);  // of one half
  CHECK(model.embedding_name == "caduceus.backbone.embeddings.word_embeddings.embedding.weight");
  CHECK(model.head_name == "lm_head.lm_head.weight");
  CHECK(model.block_norm == "norm");
  CHECK(model.final_norm == "norm_f");
  CHECK(model.mixer_prefix == "mixer.submodule.");
  CHECK(model.complement == padded({0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11}, 16));
}

TEST_CASE("the configuration of PlantCaduceus l20, saved as the bare Caduceus") {
  json config = published(384, 20, true);
  config["architectures"] = {"Caduceus"};
  config["vocab_size"] = 8;
  config["residual_in_fp32"] = true;
  config["complement_map"] = map_of({0, 1, 2, 6, 5, 4, 3, 7});
  const ModelConfig model =
      parse(config, {{{"backbone.embeddings.word_embeddings.embedding.weight", {8, 1}},
                      {"backbone.layers.0.norm.weight", {1}},
                      {"backbone.norm_f.weight", {1}},
                      {"backbone.layers.0.mixer.submodule.mamba_fwd.D", {1}}},
                     {}});
  CHECK(model.d_model == 384);
  CHECK(model.n_layer == 20);
  CHECK(model.vocab_size == 8);
  CHECK(model.dt_rank == 24);
  CHECK(model.complement == std::vector<int32_t>{0, 1, 2, 6, 5, 4, 3, 7});
  CHECK(model.backbone == "backbone.");
  CHECK(model.embedding_name == "backbone.embeddings.word_embeddings.embedding.weight");
  CHECK(model.mixer_prefix == "mixer.submodule.");
  CHECK(model.head_name == "lm_head.lm_head.weight");
}

Tensors mamba2_tensors(int64_t heads, int64_t conv_rows) {
  const std::string mixer = "caduceus.backbone.layers.0.mixer.submodule.mamba_fwd.";
  return {{{mixer + "dt_bias", {heads}},
           {mixer + "A_log", {heads}},
           {mixer + "conv1d.weight", {conv_rows, 1, 1}}},
          {}};
}

TEST_CASE("the configuration of PlantCAD2: Mamba-2 by its tensors") {
  json config = published(768, 24, true);
  config["vocab_size"] = 8;
  config["complement_map"] = map_of({0, 1, 2, 6, 5, 4, 3, 7});
  config["ssm_cfg"] = {{"d_state", 64}, {"d_conv", 4}, {"expand", 2}};
  const ModelConfig model = parse(config, mamba2_tensors(12, 1536 + 2 * 64));
  CHECK(model.mixer == MixerKind::mamba2);
  CHECK(model.d_inner == 1536);
  CHECK(model.n_heads == 12);
  CHECK(model.head_dim == 128);
  CHECK(model.n_groups == 1);
  CHECK(model.gated_norm_groups == 1);
  CHECK(model.d_state == 64);
  CHECK(model.gated_norm);
  CHECK(model.gated_norm_eps == 1e-5);
  CHECK(model.objective == "masked");

  const ModelConfig groups = parse(config, mamba2_tensors(24, 1536 + 2 * 4 * 64));
  CHECK(groups.head_dim == 64);
  CHECK(groups.n_groups == 4);
  CHECK(groups.gated_norm_groups == 4);

  config["ssm_cfg"] = nullptr;
  const ModelConfig silent = parse(config, mamba2_tensors(24, 1536 + 2 * 128));
  CHECK(silent.d_state == 128);
  CHECK(silent.n_groups == 1);
  CHECK(parse(config, mamba2_tensors(24, 1536 + 2 * 64)).d_state == 64);
  CHECK(parse(config, mamba2_tensors(24, 1536 + 2 * 64)).n_groups == 1);
  config["ssm_cfg"] = {{"ngroups", 2}};
  CHECK(parse(config, mamba2_tensors(24, 1536 + 2 * 2 * 32)).d_state == 32);
  config["ssm_cfg"] = {{"headdim", 128}};
  CHECK(parse(config, mamba2_tensors(12, 1536 + 2 * 128)).head_dim == 128);

  // Sizes that fit no mixer.
  config["ssm_cfg"] = {{"d_state", 64}};
  CHECK(contains(failure(config, mamba2_tensors(7, 1536 + 128)),
                 "A_log' has shape [7], expected a number of heads that divides E"));
  CHECK(contains(failure(config, mamba2_tensors(24, 1536)), "conv1d.weight' has shape [1536, 1"));
  CHECK(contains(failure(config, mamba2_tensors(24, 1536 + 2 * 63)), "64 states and 0 groups"));
  CHECK(contains(failure(config, mamba2_tensors(24, 1536 + 2 * 96)), "64 states and 1 groups"));
  CHECK(contains(failure(config, mamba2_tensors(24, 1536 + 2 * 5 * 64)),
                 "'ssm_cfg.ngroups' is '5', expected a divisor"));
}

TEST_CASE("the configurations of the Caduceus fixtures") {
  for (const bool rcps : {false, true}) {
    const std::string folder = testing::data_path(rcps ? "caduceus_ps" : "caduceus_ph");
    const auto store = open_safetensors(folder + "/model.safetensors");
    const std::string path = folder + "/config.json";
    const ModelConfig model = parse_config(read_json_file(path, {}), *store, path);
    CHECK(model.family == "caduceus");
    CHECK(model.rcps == rcps);
    CHECK(model.rcps_swaps == rcps);
    CHECK(model.tied_directions);
    CHECK(model.vocab_size_unpadded == 12);
    CHECK(model.complement == padded({0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11}, 16));
    CHECK(store->find(model.embedding_name) != nullptr);
    CHECK(store->find(model.backbone + "layers.2." + model.mixer_prefix + model.reverse_prefix +
                      "A_log") != nullptr);
  }
}

TEST_CASE("defaults of the published code") {
  const ModelConfig model = parse(kSmall);
  CHECK(model.family == "caduceus");
  CHECK(model.vocab_size == 16);
  CHECK(model.vocab_size_unpadded == 12);
  CHECK(model.directions == Directions::add);
  CHECK(model.tied_directions);
  CHECK_FALSE(model.rcps);
  CHECK_FALSE(model.rcps_swaps);
  CHECK(model.norm_eps == 1e-5);
  CHECK(model.rms_norm);
  CHECK(model.tie_embeddings);
  CHECK(model.complement.empty());
  CHECK(model.d_state == 16);
  CHECK(model.dt_rank == 2);
  CHECK(model.embedding_name == "caduceus.backbone.embeddings.word_embeddings.weight");
  CHECK(model.head_name == "lm_head.weight");
  CHECK(model.mixer_prefix == "mixer.");
  CHECK(parse(equivariant()).rcps_swaps);
  CHECK(parse(with("/complement_map", nullptr)).complement.empty());
}

TEST_CASE("directions and what they share") {
  CHECK(parse(with("/bidirectional_strategy", nullptr)).directions == Directions::add);
  CHECK(parse(with("/bidirectional_strategy", "ew_multiply")).directions == Directions::multiply);
  CHECK_FALSE(parse(with("/bidirectional_weight_tie", false)).tied_directions);
  const ModelConfig forward = parse(with("/bidirectional", false));
  CHECK(forward.directions == Directions::forward);
  CHECK_FALSE(forward.tied_directions);
  CHECK(forward.forward_prefix == "mamba_fwd.");
  CHECK(forward.reverse_prefix.empty());
  CHECK(forward.objective == "masked");
  CHECK(contains(failure(with("/bidirectional_strategy", "concat")),
                 "'bidirectional_strategy' is '\"concat\"', expected 'add' or 'ew_multiply'"));
  CHECK(contains(failure(with("/bidirectional_strategy", 1)), "'bidirectional_strategy'"));
  for (const char* key :
       {"bidirectional", "bidirectional_weight_tie", "rcps", "fused_add_norm", "rms_norm"}) {
    CHECK(contains(failure(with(std::string("/") + key, "yes")),
                   "key '" + std::string(key) + "' is '\"yes\"', expected true or false"));
  }
  CHECK_FALSE(parse(with("/tie_word_embeddings", false)).tie_embeddings);
  json tied = equivariant();
  tied["tie_word_embeddings"] = false;
  CHECK(parse(tied).tie_embeddings);
}

TEST_CASE("a Caduceus model is known by its type, its tensors or its keys") {
  json plain = kSmall;
  plain.erase("model_type");
  CHECK(parse(plain).family == "mamba_ssm");
  CHECK(parse(plain, {{{"backbone.layers.1.mixer.mamba_fwd.D", {1}}}, {}}).family == "caduceus");
  CHECK(parse(plain, {{{"layers.1.mixer.submodule.mamba_fwd.D", {1}}}, {}}).family == "caduceus");
  plain["bidirectional"] = true;
  CHECK(parse(plain).family == "caduceus");
  plain.erase("bidirectional");
  plain["rcps"] = true;
  CHECK(contains(failure(plain), "'complement_map' is missing"));  // of a Caduceus model
}

TEST_CASE("names of wrapped and bare models follow the tensors") {
  // Unfused norms of an RC-equivariant model have a wrapper of their own.
  json unfused = equivariant();
  unfused["fused_add_norm"] = false;
  const ModelConfig wrapped = parse(unfused);
  CHECK_FALSE(wrapped.rcps_swaps);
  CHECK(wrapped.block_norm == "norm.submodule");
  CHECK(wrapped.final_norm == "norm_f.submodule");
  CHECK(wrapped.mixer_prefix == "mixer.submodule.");
  const ModelConfig found =
      parse(unfused, {{{"caduceus.backbone.layers.0.norm.weight", {1}},
                       {"caduceus.backbone.norm_f.weight", {1}},
                       {"caduceus.backbone.layers.0.mixer.submodule.mamba_fwd.D", {1}}},
                      {}});
  CHECK(found.block_norm == "norm");
  CHECK(found.final_norm == "norm_f");

  const ModelConfig backbone = parse(kSmall, {{{"layers.0.mixer.mamba_fwd.D", {1}}}, {}});
  CHECK(backbone.backbone.empty());
  CHECK(backbone.embedding_name == "embeddings.word_embeddings.weight");
  CHECK(backbone.head_name == "lm_head.weight");
  // A training checkpoint, with the trainer's own prefix.
  const ModelConfig trainer =
      parse(kSmall, {{{"model.caduceus.backbone.layers.0.mixer.mamba_fwd.D", {1}}}, {}});
  CHECK(trainer.backbone == "model.caduceus.backbone.");
  CHECK(trainer.head_name == "model.lm_head.weight");
}

TEST_CASE("rcps goes with wrapped mixers and a map of complements") {
  const Tensors wrapped = {{{"caduceus.backbone.layers.0.mixer.submodule.mamba_fwd.D", {1}}}, {}};
  const Tensors plain = {{{"backbone.layers.0.mixer.mamba_fwd.D", {1}}}, {}};
  CHECK(parse(equivariant(), wrapped).mixer_prefix == "mixer.submodule.");
  CHECK(contains(failure(kSmall, wrapped),
                 "key 'rcps' is false or missing, but the weights, with a tensor "
                 "'caduceus.backbone.layers.0.mixer.submodule.mamba_fwd.D', are"));
  CHECK(contains(failure(equivariant(), plain),
                 "key 'rcps' is true, but the weights, with a tensor "
                 "'backbone.layers.0.mixer.mamba_fwd.D', are"));

  Tensors unfused = wrapped;
  unfused.floats["caduceus.backbone.layers.0.norm.submodule.weight"] = {1};
  CHECK(contains(failure(equivariant(), unfused),
                 "key 'fused_add_norm' is true or missing, but the weights, with a tensor "
                 "'caduceus.backbone.layers.0.norm.submodule.weight', are"));
  json separate = equivariant();
  separate["fused_add_norm"] = false;
  CHECK(parse(separate, unfused).block_norm == "norm.submodule");

  json odd = equivariant();
  odd["d_model"] = 49;
  CHECK(contains(failure(odd, wrapped), "'d_model' is '49', expected an even width"));
  CHECK(contains(failure(with("/rcps", true)),
                 "key 'complement_map' is missing: a model with 'rcps'"));
  CHECK(parse(with("/rcps", true), {{}, {{"lm_head.complement_map", {0, 1, 2, 3}}}}).rcps);
}

TEST_CASE("complement_map: the key, the buffers, both") {
  const auto embedding = [](const std::vector<int64_t>& values) {
    return Tensors{{}, {{"caduceus.backbone.embeddings.word_embeddings.complement_map", values}}};
  };
  const std::vector<int64_t> buffer(kDna.begin(), kDna.end());
  const std::vector<int32_t> dna = padded({0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11}, 16);
  const json mapped = with("/complement_map", map_of(kDna));
  CHECK(parse(mapped).complement == dna);
  CHECK(parse(kSmall, embedding(buffer)).complement == dna);
  CHECK(parse(mapped, embedding(buffer)).complement == dna);

  std::vector<int64_t> other = {0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 10, 11};
  CHECK(contains(failure(mapped, embedding(other)),
                 "key 'complement_map' maps token 7 to 10, tensor "
                 "'caduceus.backbone.embeddings.word_embeddings.complement_map' to 7"));
  Tensors two = embedding(buffer);
  two.integers["lm_head.complement_map"] = other;
  CHECK(contains(failure(kSmall, two), "'lm_head.complement_map' to 7; they must agree"));

  const auto map_failure = [](const json& map) { return failure(with("/complement_map", map)); };
  CHECK(contains(map_failure({{"0", 1}, {"1", 2}, {"2", 0}}), "maps token 0 to 1, but 1 to 2"));
  CHECK(contains(map_failure({{"3", 4}}), "maps token 3 to 4, but 4 to 4"));
  CHECK(contains(map_failure({{"A", 1}}), "has an entry 'A', expected a token from 0 to 15"));
  for (const char* name : {"", "-1", "16", " 1", "1 ", "0x1", "99999999999999999999"}) {
    CHECK(contains(map_failure({{name, 1}}), "has an entry '" + std::string(name) + "'"));
  }
  for (const json& value : {json(-1), json(16), json("7"), json(1.5), json(true), json(nullptr),
                            json::array(), json(UINT64_MAX)}) {
    CHECK(contains(map_failure({{"3", value}}), "'complement_map' maps 3 to '"));
  }
  CHECK(contains(map_failure(json::array({0, 1})), "'complement_map' is 'array'"));
  CHECK(contains(map_failure("none"), "'complement_map' is '\"none\"'"));

  CHECK(contains(failure(kSmall, embedding({0, 16})), "maps 1 to 16, expected a token from 0"));
  CHECK(contains(failure(kSmall, embedding({-1})), "maps 0 to -1"));
  CHECK(contains(failure(kSmall, embedding(std::vector<int64_t>(17, 0))),
                 "is I64 [17], expected I64 [16]"));
  CHECK(contains(failure(kSmall, {{{"lm_head.complement_map", {16}}}, {}}),
                 "'lm_head.complement_map' is F32 [16], expected I64 [16]"));
}

TEST_CASE("wrong values of Caduceus are refused by key and value") {
  for (const char* key : {"d_model", "n_layer", "vocab_size"}) {
    json missing = kSmall;
    missing.erase(key);
    CHECK(contains(failure(missing), "'" + std::string(key) + "' is missing"));
    for (const json& value : {json(0), json(-1), json(1.5), json("32"), json(true), json::array(),
                              json(INT64_MAX), json(1e300)}) {
      CHECK(contains(failure(with(std::string("/") + key, value)),
                     "config.json: key '" + std::string(key) + "' is '"));
    }
  }
  CHECK(contains(failure(with("/ssm_cfg/expand", 1 << 20)), "'ssm_cfg.expand'"));
  CHECK(contains(failure(with("/ssm_cfg", "auto")), "'ssm_cfg' is '\"auto\"', expected an object"));
  CHECK(contains(failure(with("/attn_layer_idx", json::array({1}))), "attention"));
  CHECK(contains(failure(with("/norm_epsilon", -1)), "norm_epsilon"));
}

}  // namespace
}  // namespace chromamba::mamba
