#include "mamba/config.h"

#include <catch2/catch.hpp>
#include <limits>
#include <nlohmann/json.hpp>

#include "mamba/json_text.h"
#include "mamba/safetensors.h"
#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;
using testing::contains;
using testing::data_error;
using testing::data_path;

using Shapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;

ModelConfig parse(const std::string& text, const Shapes& shapes = {}) {
  const std::string file = testing::float_file(shapes);
  const auto store = open_safetensors_memory(testing::as_bytes(file), "weights");
  return parse_config(parse_json(text, "f", {.allow_infinity = true}), *store, "config.json");
}

std::string failure(const std::string& text, const Shapes& shapes = {}) {
  return data_error([&] { parse(text, shapes); });
}

ModelConfig parse_fixture(const std::string& name) {
  const auto store = open_safetensors(data_path(name + "/model.safetensors"));
  const std::string path = data_path(name + "/config.json");
  return parse_config(read_json_file(path, {}), *store, path);
}

TEST_CASE("the configurations of the fixtures") {
  const ModelConfig ssm = parse_fixture("mamba1_ref");
  CHECK(ssm.family == "mamba_ssm");
  CHECK(ssm.objective == "causal");
  CHECK(ssm.d_model == 64);
  CHECK(ssm.n_layer == 4);
  CHECK(ssm.vocab_size == 16);
  CHECK(ssm.vocab_size_unpadded == 12);
  CHECK(ssm.d_state == 16);
  CHECK(ssm.d_conv == 4);
  CHECK(ssm.d_inner == 128);
  CHECK(ssm.dt_rank == 4);
  CHECK(ssm.rms_norm);
  CHECK(ssm.norm_eps == 1e-5);
  CHECK(ssm.conv_bias);
  CHECK_FALSE(ssm.proj_bias);
  CHECK(ssm.tie_embeddings);
  CHECK(ssm.backbone == "backbone.");
  CHECK(ssm.embedding_name == "backbone.embedding.weight");

  const ModelConfig hf = parse_fixture("mamba1_hf");
  CHECK(hf.family == "hf_mamba");
  CHECK(hf.d_model == 48);
  CHECK(hf.n_layer == 3);
  CHECK(hf.vocab_size == 16);
  CHECK(hf.dt_rank == 3);
  CHECK(hf.d_inner == 96);
  CHECK(hf.embedding_name == "backbone.embeddings.weight");
  CHECK(parse_fixture("human-d128").n_layer == 8);

  for (const char* name : {"mamba2_ref", "mamba2_hf"}) {
    const ModelConfig second = parse_fixture(name);
    CHECK(second.mixer == MixerKind::mamba2);
    CHECK(second.family == (std::string(name) == "mamba2_ref" ? "mamba_ssm" : "hf_mamba2"));
    CHECK(second.objective == "causal");
    CHECK(second.d_state == 32);
    CHECK(second.d_inner == 128);
    CHECK(second.n_heads == 8);
    CHECK(second.head_dim == 16);
    CHECK(second.n_groups == 1);
    CHECK(second.dt_min == 0.0);
    CHECK(second.dt_max == std::numeric_limits<double>::infinity());
    CHECK(second.tie_embeddings == (second.family == "mamba_ssm"));
  }
}

TEST_CASE("mamba_ssm settings and defaults") {
  const ModelConfig model = parse(R"({"d_model":33,"n_layer":2,"vocab_size":17,"rms_norm":false,
    "norm_epsilon":1e-6,"tie_embeddings":false,"pad_vocab_size_multiple":5,"unknown":[1],
    "time_step_limit":[0.0,Infinity],"attn_layer_idx":[],"d_intermediate":0,
    "ssm_cfg":{"layer":"Mamba1","d_state":8,"d_conv":3,"expand":4,"dt_rank":7,"conv_bias":false,
    "bias":true,"dt_min":0.1}})");
  CHECK(model.vocab_size == 20);
  CHECK_FALSE(model.rms_norm);
  CHECK(model.norm_eps == 1e-6);
  CHECK_FALSE(model.tie_embeddings);
  CHECK(model.d_state == 8);
  CHECK(model.d_conv == 3);
  CHECK(model.d_inner == 132);
  CHECK(model.dt_rank == 7);
  CHECK_FALSE(model.conv_bias);
  CHECK(model.proj_bias);
  const ModelConfig plain = parse(R"({"d_model":33,"n_layer":2,"vocab_size":16,"ssm_cfg":null})");
  CHECK(plain.dt_rank == 3);  // ceil(33 / 16)
  CHECK(plain.vocab_size == 16);
}

TEST_CASE("Hugging Face settings and defaults") {
  const ModelConfig model = parse(R"({"model_type":"mamba","hidden_size":32,"num_hidden_layers":2,
    "vocab_size":13,"state_size":8,"conv_kernel":2,"expand":3,"time_step_rank":"auto",
    "use_bias":true,"use_conv_bias":false,"layer_norm_epsilon":0.001,"tie_word_embeddings":false,
    "intermediate_size":96,"d_model":999})");
  CHECK(model.family == "hf_mamba");
  CHECK(model.vocab_size == 13);
  CHECK(model.d_conv == 2);
  CHECK(model.d_inner == 96);
  CHECK(model.dt_rank == 2);
  CHECK(model.proj_bias);
  CHECK_FALSE(model.conv_bias);
  CHECK(model.norm_eps == 0.001);
  CHECK_FALSE(model.tie_embeddings);
  const std::string base =
      R"({"model_type":"mamba","hidden_size":32,"num_hidden_layers":2,"vocab_size":13)";
  CHECK(parse(base + "}").tie_embeddings);
  CHECK(contains(failure(base + R"(,"intermediate_size":65})"), "'intermediate_size' is '65'"));
  CHECK(contains(failure(base + R"(,"hidden_act":"gelu"})"), "gelu"));
}

TEST_CASE("mamba_ssm settings and defaults of Mamba-2") {
  const ModelConfig model = parse(R"({"d_model":32,"n_layer":2,"vocab_size":12,"ssm_cfg":
    {"layer":"Mamba2","d_state":24,"d_conv":3,"expand":3,"headdim":12,"d_ssm":96,"ngroups":4,
    "D_has_hdim":true,"rmsnorm":false,"norm_before_gate":true,"dt_limit":[0.001,0.5],"bias":true,
    "conv_bias":false,"chunk_size":64}})");
  CHECK(model.family == "mamba_ssm");
  CHECK(model.mixer == MixerKind::mamba2);
  CHECK(model.d_state == 24);
  CHECK(model.d_conv == 3);
  CHECK(model.d_inner == 96);
  CHECK(model.head_dim == 12);
  CHECK(model.n_heads == 8);
  CHECK(model.n_groups == 4);
  CHECK(model.gated_norm_groups == 4);
  CHECK(model.D_per_channel);
  CHECK_FALSE(model.gated_norm);
  CHECK(model.norm_before_gate);
  CHECK(model.dt_min == 0.001);
  CHECK(model.dt_max == 0.5);
  CHECK(model.proj_bias);
  CHECK_FALSE(model.conv_bias);

  const std::string base = R"({"d_model":768,"n_layer":2,"vocab_size":50277,"norm_epsilon":1e-3,)"
                           R"("ssm_cfg":{"layer":"Mamba2")";
  const ModelConfig plain = parse(base + R"(,"d_ssm":null,"dt_limit":[0.0,Infinity]}})");
  CHECK(plain.d_state == 128);
  CHECK(plain.d_conv == 4);
  CHECK(plain.d_inner == 1536);
  CHECK(plain.head_dim == 64);
  CHECK(plain.n_heads == 24);
  CHECK(plain.n_groups == 1);
  CHECK(plain.gated_norm_groups == 1);
  CHECK_FALSE(plain.D_per_channel);
  CHECK(plain.gated_norm);
  CHECK_FALSE(plain.norm_before_gate);
  CHECK(plain.dt_min == 0.0);
  CHECK(plain.dt_max == std::numeric_limits<double>::infinity());
  CHECK_FALSE(plain.proj_bias);
  CHECK(plain.conv_bias);
  CHECK(plain.norm_eps == 1e-3);
  CHECK(plain.gated_norm_eps == 1e-5);
  CHECK(parse(base + "}}").dt_max == std::numeric_limits<double>::infinity());

  const auto refused = [&](const std::string& rest) { return failure(base + rest + "}}"); };
  CHECK(contains(refused(R"(,"d_ssm":768)"), "key 'ssm_cfg.d_ssm' is '768', expected 1536"));
  CHECK(contains(refused(R"(,"headdim":100)"),
                 "'ssm_cfg.headdim' is '100', expected a divisor of the inner width 1536"));
  CHECK(contains(refused(R"(,"ngroups":5)"), "'ssm_cfg.ngroups' is '5', expected a divisor of"));
  CHECK(contains(refused(R"(,"ngroups":0)"), "'ssm_cfg.ngroups'"));
  CHECK(contains(refused(R"(,"headdim":"64")"), "'ssm_cfg.headdim'"));
  CHECK(contains(refused(R"(,"D_has_hdim":1)"), "'ssm_cfg.D_has_hdim'"));
  for (const char* limit : {"7", "[0]", "[0,1,2]", R"([0,"Infinity"])", "[Infinity,Infinity]",
                            "[0,NaN]", "[1,0.5]", "[0,-Infinity]", "[-2,-1]"}) {
    CAPTURE(limit);
    CHECK(contains(refused(std::string(R"(,"dt_limit":)") + limit), "'ssm_cfg.dt_limit' is '"));
  }
  // What lies below all steps limits none.
  CHECK(parse(base + R"(,"dt_limit":[-1,2]}})").dt_min == 0.0);
  CHECK(parse(base + R"(,"dt_limit":[{"__float__":"-Infinity"},2]}})").dt_min == 0.0);
  CHECK(parse(base + R"(,"dt_limit":[0,0]}})").dt_max == 0.0);
}

TEST_CASE("Mamba-1 or Mamba-2: the layer key, else the tensors") {
  const std::string silent = R"({"d_model":64,"n_layer":1,"vocab_size":12})";
  const Shapes first = {{"backbone.layers.0.mixer.dt_proj.weight", {1}}};
  const Shapes second = {{"backbone.layers.0.mixer.dt_bias", {1}}};
  CHECK(parse(silent, first).mixer == MixerKind::mamba1);
  CHECK(parse(silent, second).mixer == MixerKind::mamba2);
  CHECK(parse(silent, second).d_state == 128);
  const auto layer = [](const std::string& name) {
    return R"({"d_model":64,"n_layer":1,"vocab_size":12,"ssm_cfg":{"layer":")" + name + "\"}}";
  };
  CHECK(parse(layer("Mamba1"), first).mixer == MixerKind::mamba1);
  CHECK(parse(layer("Mamba2"), second).mixer == MixerKind::mamba2);
  CHECK(contains(failure(layer("Mamba1"), second), "expected 'Mamba2', since the weights have"));
  CHECK(contains(failure(layer("Mamba2"), first), "'backbone.layers.0.mixer.dt_proj.weight'"));
}

TEST_CASE("Hugging Face settings and defaults of Mamba-2") {
  const ModelConfig model = parse(R"({"model_type":"mamba2","hidden_size":32,"num_hidden_layers":2,
    "vocab_size":13,"num_heads":8,"head_dim":12,"n_groups":4,"state_size":24,"conv_kernel":3,
    "expand":3,"use_bias":true,"use_conv_bias":false,"layer_norm_epsilon":0.001,
    "time_step_limit":[0.001,0.5],"tie_word_embeddings":true,"time_step_rank":"auto",
    "rms_norm":true,"norm_before_gate":true,"chunk_size":256})");
  CHECK(model.family == "hf_mamba2");
  CHECK(model.mixer == MixerKind::mamba2);
  CHECK(model.d_inner == 96);
  CHECK(model.n_heads == 8);
  CHECK(model.head_dim == 12);
  CHECK(model.n_groups == 4);
  CHECK(model.gated_norm_groups == 1);
  CHECK(model.d_state == 24);
  CHECK(model.d_conv == 3);
  CHECK(model.proj_bias);
  CHECK_FALSE(model.conv_bias);
  CHECK(model.norm_eps == 0.001);
  CHECK(model.gated_norm_eps == 0.001);
  CHECK(model.gated_norm);
  CHECK_FALSE(model.norm_before_gate);
  CHECK(model.dt_min == 0.001);
  CHECK(model.dt_max == 0.5);
  CHECK(model.tie_embeddings);

  const std::string base =
      R"({"model_type":"mamba2","hidden_size":4096,"num_hidden_layers":64,"vocab_size":32768)";
  const ModelConfig plain = parse(base + "}");
  CHECK(plain.n_heads == 128);
  CHECK(plain.head_dim == 64);
  CHECK(plain.n_groups == 8);
  CHECK(plain.d_state == 128);
  CHECK_FALSE(plain.tie_embeddings);
  CHECK(plain.dt_max == std::numeric_limits<double>::infinity());
  for (const char* infinity : {"Infinity", R"({"__float__":"Infinity"})"}) {
    CHECK(parse(base + R"(,"time_step_limit":[0.0,)" + infinity + "]}").dt_max ==
          std::numeric_limits<double>::infinity());
  }
  CHECK(contains(failure(base + R"(,"num_heads":64})"),
                 "'num_heads' is '64', expected num_heads times head_dim (64) to be 8192"));
  CHECK(contains(failure(base + R"(,"n_groups":3})"), "'n_groups' is '3'"));
  CHECK(contains(failure(base + R"(,"hidden_act":"gelu"})"), "gelu"));
  CHECK(contains(failure(R"({"model_type":"mamba2","hidden_size":64})"), "'num_hidden_layers'"));
}

TEST_CASE("names in the checkpoint follow the tensors") {
  const std::string ssm = R"({"d_model":1,"n_layer":1,"vocab_size":1})";
  CHECK(parse(ssm, {{"backbone.embeddings.weight", {1}}}).embedding_name ==
        "backbone.embeddings.weight");
  CHECK(parse(ssm, {{"lm_head.weight", {1}}}).embedding_name == "backbone.embedding.weight");
  const ModelConfig bare = parse(R"({"hidden_size":1,"num_hidden_layers":1,"vocab_size":1})",
                                 {{"embeddings.weight", {1}}, {"layers.0.norm.weight", {1}}});
  CHECK(bare.backbone.empty());
  CHECK(bare.embedding_name == "embeddings.weight");
}

TEST_CASE("wrong values are refused by key and value") {
  const json base = {{"d_model", 32}, {"n_layer", 2}, {"vocab_size", 12}};
  const auto with = [&](const std::string& key, const json& value) {
    json changed = base;
    changed[json::json_pointer(key)] = value;
    return failure(changed.dump());
  };
  const json bad_numbers = {0,         -1,         1.5,  "32", true, json::array(), json::object(),
                            INT64_MAX, UINT64_MAX, 1e300};
  for (const char* key :
       {"d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple", "ssm_cfg/d_state",
        "ssm_cfg/d_conv", "ssm_cfg/expand", "ssm_cfg/dt_rank"}) {
    for (const json& value : bad_numbers) {
      CAPTURE(key, value.dump());
      std::string dotted = key;
      if (const size_t slash = dotted.find('/'); slash != std::string::npos) dotted[slash] = '.';
      const std::string message = with(std::string("/") + key, value);
      CHECK(contains(message, "config.json: key '" + dotted + "' is '"));
    }
  }
  for (const char* key : {"rms_norm", "tie_embeddings", "ssm_cfg/conv_bias", "ssm_cfg/bias"}) {
    CHECK(contains(with(std::string("/") + key, "yes"), "expected true or false"));
  }
  CHECK(contains(with("/norm_epsilon", 0), "norm_epsilon"));
  CHECK(contains(with("/norm_epsilon", "x"), "norm_epsilon"));
  CHECK(contains(with("/ssm_cfg/d_conv", 9), "from 2 to 8"));
  CHECK(contains(with("/ssm_cfg/d_conv", 1), "from 2 to 8"));
  CHECK(contains(with("/n_layer", 10'001), "10000"));
  CHECK(contains(with("/ssm_cfg", json::array({1})), "'ssm_cfg'"));
  CHECK(contains(with("/ssm_cfg/dt_rank", "big"), "'auto'"));
  CHECK(contains(with("/model_type", 7), "'model_type'"));
  CHECK(contains(failure(R"({"d_model":1048576,"n_layer":1,"vocab_size":12})"), "inner width"));
  CHECK(contains(failure(R"({"n_layer":2,"vocab_size":12})"), "d_model"));
  CHECK(contains(failure(R"({"d_model":32,"vocab_size":12})"), "'n_layer' is missing"));
  CHECK(contains(failure("[]"), "expected an object"));
  CHECK(contains(failure("{}"), "Mamba"));
}

TEST_CASE("families that are not run are refused by name") {
  const json base = {{"d_model", 32}, {"n_layer", 2}, {"vocab_size", 12}};
  const auto with = [&](const std::string& key, const json& value) {
    json changed = base;
    changed[json::json_pointer(key)] = value;
    std::string message = failure(changed.dump());
    CHECK(contains(message,
                   "is not a model this version runs (it runs: Mamba-1, Mamba-2, Caduceus)"));
    return message;
  };
  for (const char* type : {"bert", "falcon_mamba", "jamba", "zamba2", "nemotron_h"}) {
    CHECK(contains(with("/model_type", type), "model_type '" + std::string(type) + "'"));
  }
  CHECK(contains(with("/ssm_cfg/layer", "Mamba3"), "ssm_cfg.layer 'Mamba3'"));
  CHECK(contains(with("/ssm_cfg/layer", json::array()), "ssm_cfg.layer 'array'"));
  for (const char* key : {"attn_layer_idx", "attention_layers_idx", "attn_layer_indices"}) {
    CHECK(contains(with(std::string("/") + key, json::array({3})),
                   "a hybrid with attention layers ('" + std::string(key) + "' is set)"));
  }
  CHECK(contains(with("/attn_layer_period", 8), "attention"));
  CHECK(contains(with("/d_intermediate", 64), "MLP"));
  CHECK(contains(with("/mlp_intermediate_size", 64), "MLP"));
  CHECK(contains(with("/num_experts", 16), "experts"));
  CHECK(contains(with("/layers_block_type", json::array({"mamba", "attention"})),
                 "layers of kind 'attention' ('layers_block_type')"));
  CHECK(contains(with("/layer_types", json::array({7})), "layers of kind 'number'"));
  CHECK(contains(with("/hybrid_override_pattern", "MM*-"), "layers 'MM*-'"));
  json wrong = base;
  wrong["layer_types"] = "mamba";
  CHECK(contains(failure(wrong.dump()), "'layer_types' is '\"mamba\"', expected a list"));
  CHECK_NOTHROW(parse(R"({"d_model":32,"n_layer":2,"vocab_size":12,"layer_types":["mamba2"],
                          "hybrid_override_pattern":"MM","num_experts":0,"attn_cfg":{}})"));

  json named = base;
  named["model_type"] = "mamba";
  CHECK_NOTHROW(parse(named.dump()));
  named["bidirectional"] = false;
  named["rcps"] = false;
  CHECK(parse(named.dump()).family == "mamba_ssm");
  for (const char* key : {"bidirectional", "rcps"}) {
    json both = named;
    both[key] = true;
    CHECK(contains(failure(both.dump()), "a bidirectional model ('" + std::string(key) + "'"));
  }
}

TEST_CASE("the context of training where a configuration notes it") {
  const auto bases = [](const std::string& rest) {
    return parse(R"({"d_model":32,"n_layer":2,"vocab_size":12)" + rest + "}").trained_bases;
  };
  CHECK(bases("") == 0);
  CHECK(bases(R"(,"seq_len":8192)") == 8192);
  CHECK(bases(R"(,"seqlen":131072)") == 131'072);
  CHECK(bases(R"(,"max_position_embeddings":1024)") == 1024);
  for (const char* unknown : {"1e30", "0", "-5", "null", "\"8k\"", "[1]", "1000000000000000000"}) {
    CHECK(bases(R"(,"seq_len":)" + std::string(unknown)) == 0);
  }
}

}  // namespace
}  // namespace chromamba::mamba
