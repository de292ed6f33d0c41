#include "mamba/checkpoint.h"

#include <catch2/catch.hpp>
#include <string>

#include "mamba/config.h"
#include "mamba/sha256.h"
#include "mamba/tensor_loader.h"
#include "mamba/tokenizer.h"
#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using testing::contains;
using testing::data_error;
using testing::data_path;
using testing::file_text;
using testing::float_file;
using testing::TemporaryFolder;

const std::string kConfig = R"({"d_model":32,"n_layer":1,"vocab_size":12,"lim":[0.0,Infinity]})";

std::string failure(const std::string& path) {
  return data_error([&] { open_checkpoint(path); });
}

TEST_CASE("SHA-256 is that of sha256sum") {
  Sha256 nothing;
  CHECK(nothing.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 abc;
  abc.add("a", 1);
  abc.add("bc", 2);
  CHECK(abc.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 blocks;  // a million 'a' (FIPS 180-2), from a file larger than one block
  const TemporaryFolder folder;
  blocks.add(*open_file_source(folder.write("a", std::string(1'000'000, 'a'))));
  CHECK(blocks.hex() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("the fixtures as folders and as files") {
  const Checkpoint folder = open_checkpoint(data_path("mamba1_ref"));
  CHECK(folder.path == data_path("mamba1_ref"));
  CHECK(contains(folder.weights_path, "model.safetensors"));
  CHECK(folder.config["d_model"] == 64);
  CHECK_FALSE(folder.vocabulary.has_value());
  CHECK(folder.sha256.size() == 64);
  const Checkpoint file = open_checkpoint(data_path("mamba1_ref/pytorch_model.bin"));
  CHECK(file.tensors->find("backbone.norm_f.weight") != nullptr);
  CHECK(file.sha256 != folder.sha256);
  Sha256 digest;
  const std::string bytes = file_text(data_path("mamba1_ref/pytorch_model.bin"));
  digest.add(bytes.data(), bytes.size());
  CHECK(file.sha256 == digest.hex());

  const std::string weights = file_text(data_path("human-d128/model.safetensors"));
  const Checkpoint memory = open_checkpoint_memory(file_text(data_path("human-d128/config.json")),
                                                   testing::as_bytes(weights), "human-d128");
  const Checkpoint disk = open_checkpoint(data_path("human-d128") + "/");
  CHECK(memory.sha256 == disk.sha256);
  CHECK(memory.config == disk.config);
  CHECK(memory.path == "human-d128");
}

// All of a fixture's tensors by the names and shapes that its configuration implies.
int64_t load_all(const Checkpoint& checkpoint) {
  const ModelConfig config =
      parse_config(checkpoint.config, *checkpoint.tensors, checkpoint.config_path);
  TensorLoader loader(*checkpoint.tensors, checkpoint.path);
  const int64_t wide = config.d_inner;
  loader.take_tied(config.embedding_name, config.head_name, {config.vocab_size, config.d_model});
  TensorLoader backbone = loader.scope(config.backbone);
  backbone.take("norm_f.weight", {config.d_model});
  for (int64_t layer = 0; layer < config.n_layer; ++layer) {
    TensorLoader block = backbone.scope("layers." + std::to_string(layer) + ".");
    block.take("norm.weight", {config.d_model});
    TensorLoader mixer = block.scope("mixer.");
    mixer.take("in_proj.weight", {2 * wide, config.d_model});
    mixer.take_or_empty("in_proj.bias", {2 * wide}, config.proj_bias);
    mixer.take("conv1d.weight", {wide, 1, config.d_conv});
    mixer.take_or_empty("conv1d.bias", {wide}, config.conv_bias);
    mixer.take("x_proj.weight", {config.dt_rank + 2 * config.d_state, wide});
    mixer.take("dt_proj.weight", {wide, config.dt_rank});
    mixer.take("dt_proj.bias", {wide});
    mixer.take("A_log", {wide, config.d_state});
    mixer.take("D", {wide});
    mixer.take("out_proj.weight", {config.d_model, wide});
  }
  loader.finish();
  return loader.parameter_count();
}

TEST_CASE("every fixture loads completely") {
  CHECK(load_all(open_checkpoint(data_path("human-d128"))) == 935'040);
  const int64_t from_safetensors = load_all(open_checkpoint(data_path("mamba1_ref")));
  CHECK(load_all(open_checkpoint(data_path("mamba1_ref/pytorch_model.bin"))) == from_safetensors);
  CHECK(load_all(open_checkpoint(data_path("mamba1_hf"))) > 0);
  CHECK(load_all(open_checkpoint(data_path("mamba1_long"))) > 0);
}

TEST_CASE("the digest of shards is that of their bytes in name order") {
  const TemporaryFolder folder;
  const std::string one = float_file({{"a", {2}}});
  const std::string two = float_file({{"b", {3}}});
  folder.write("config.json", kConfig);
  folder.write("m-1.safetensors", one);
  folder.write("m-2.safetensors", two);
  const std::string index =
      folder.write("model.safetensors.index.json",
                   R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  const Checkpoint checkpoint = open_checkpoint(folder.path());
  CHECK(checkpoint.tensors->tensors().size() == 2);
  CHECK(checkpoint.config["lim"][1]["__float__"] == "Infinity");
  Sha256 digest;
  digest.add((one + two).data(), one.size() + two.size());
  CHECK(checkpoint.sha256 == digest.hex());
  CHECK(open_checkpoint(index).sha256 == checkpoint.sha256);
  // One file goes before shards.
  folder.write("model.safetensors", one);
  CHECK(open_checkpoint(folder.path()).tensors->tensors().size() == 1);
}

TEST_CASE("what a weights file is is decided by its content") {
  const TemporaryFolder folder;
  folder.write("config.json", kConfig);
  const std::string odd = folder.write("weights.bin", float_file({{"a", {2}}}));
  CHECK(open_checkpoint(odd).tensors->tensors().size() == 1);
  const std::string torch =
      folder.write("torch.safetensors", file_text(data_path("mamba1_ref/pytorch_model.bin")));
  CHECK(open_checkpoint(torch).tensors->tensors().size() > 40);
  // Header lengths whose first byte looks like another format's.
  for (const size_t length : {0x180U, 0x17bU}) {
    std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    header.resize(length, ' ');
    const std::string path =
        folder.write("x.dat", testing::safetensors(header, testing::raw(1.0F)));
    CHECK(open_checkpoint(path).tensors->tensors().size() == 1);
  }
  CHECK(contains(failure(folder.write("x.dat", "")), "empty"));
  CHECK(contains(failure(folder.write("x.dat", "hello")), "begins with 'hello'"));
  CHECK(contains(failure(folder.write("x.dat", "version https://git-lfs.github.com/spec/v1\n")),
                 "git lfs pull"));
  CHECK(contains(failure(folder.write("x.dat", "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19")),
                 "before version 1.6"));
  CHECK(contains(failure(folder.write("x.dat", "{\"a\": 1}")), "weight_map"));
  CHECK(contains(failure(folder.write("x.safetensors", std::string(16, '\xff'))), "header of"));
}

TEST_CASE("what is missing is named") {
  const TemporaryFolder folder;
  CHECK(contains(failure(folder.file("none")), "no such checkpoint"));
  const std::string empty = failure(folder.path());
  for (const char* name :
       {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}) {
    CHECK(contains(empty, name));
  }
  folder.write("other.pt", "x");
  CHECK(contains(failure(folder.path()), "'other.pt'"));
  folder.write("model.safetensors", float_file({{"a", {2}}}));
  CHECK(contains(failure(folder.path()), "config.json: missing"));
  folder.write("config.json", "{\"a\": 1,\n \"b\": }");
  CHECK(contains(failure(folder.path()), "line 2, column 7"));
  CHECK(contains(failure(folder.file("config.json")), "give the folder"));
  folder.write("config.json", kConfig);
  CHECK_NOTHROW(open_checkpoint(folder.path()));
  const std::string weights = float_file({});
  data_error([&] { open_checkpoint_memory("{", testing::as_bytes(weights), "built-in"); });
}

TEST_CASE("vocabularies beside the weights") {
  const TemporaryFolder folder;
  folder.write("config.json", kConfig);
  folder.write("model.safetensors", float_file({{"a", {2}}}));
  folder.write("vocab.txt", "[PAD]\r\nA\r\nC\r\nG\r\nT\r\nN\r\n");
  Checkpoint checkpoint = open_checkpoint(folder.path());
  REQUIRE(checkpoint.vocabulary.has_value());
  CHECK((*checkpoint.vocabulary)["G"] == 3);
  folder.write("vocab.json", R"({"A":2,"C":3,"G":4,"T":5,"N":6})");
  checkpoint = open_checkpoint(folder.path());
  CHECK((*checkpoint.vocabulary)["G"] == 4);
  folder.write("tokenizer.json", R"({"model":{"vocab":{"A":1,"C":2,"G":3,"T":4}},
                                     "added_tokens":[{"id":5,"content":"[UNK]"}]})");
  checkpoint = open_checkpoint(folder.path());
  ModelConfig config;
  config.vocab_size = config.vocab_size_unpadded = 8;
  const Tokenizer tokenizer = make_tokenizer(checkpoint, config);
  CHECK(tokenizer.n == 5);
  CHECK(tokenizer.t == 4);
  folder.write("tokenizer.json", R"({"model":{"vocab":[["A",0.0],["C",0.0]]}})");
  CHECK((*open_checkpoint(folder.path()).vocabulary)["C"] == 1);
  for (const char* bad :
       {"[]", "{}", R"({"model":[]})", R"({"model":{"vocab":7}})", R"({"model":{"vocab":[7]}})",
        R"({"model":{"vocab":{}},"added_tokens":[{}]})"}) {
    folder.write("tokenizer.json", bad);
    CHECK(contains(failure(folder.path()), "tokenizer.json"));
  }
}

TEST_CASE("a fast tokenizer's special tokens are among added_tokens or in its vocabulary") {
  const TemporaryFolder folder;
  folder.write("config.json", kConfig);
  folder.write("model.safetensors", float_file({{"a", {2}}}));
  ModelConfig config;
  config.vocab_size = config.vocab_size_unpadded = 8;
  const auto read = [&](const std::string& tokenizer) {
    folder.write("tokenizer.json", tokenizer);
    return make_tokenizer(open_checkpoint(folder.path()), config);
  };
  // As the tokenizer of PlantCaduceus lies on the hub: both tables name them.
  const Tokenizer both = read(R"({"version":"1.0","added_tokens":[
    {"id":0,"content":"[PAD]","special":true},{"id":1,"content":"[MASK]","special":true},
    {"id":2,"content":"[UNK]","special":true}],"normalizer":{"type":"Lowercase"},
    "model":{"type":"BPE","unk_token":"[UNK]","merges":[],
    "vocab":{"[PAD]":0,"[MASK]":1,"[UNK]":2,"a":3,"c":4,"g":5,"t":6}}})");
  CHECK(both.a == 3);
  CHECK(both.t == 6);
  CHECK(both.n == 2);
  CHECK(both.mask == 1);
  const Tokenizer added = read(R"({"added_tokens":[{"id":1,"content":"[MASK]"},
    {"id":2,"content":"[UNK]"}],"model":{"vocab":{"a":3,"c":4,"g":5,"t":6}}})");
  CHECK(added.mask == 1);
  CHECK(added.n == 2);
}

TEST_CASE("the context of training is in the tokenizer's settings") {
  const TemporaryFolder folder;
  folder.write("config.json", kConfig);
  folder.write("model.safetensors", float_file({{"a", {2}}}));
  const auto bases = [&] {
    const Checkpoint checkpoint = open_checkpoint(folder.path());
    CHECK(checkpoint.model_max_length == parse_config(checkpoint).trained_bases);
    return checkpoint.model_max_length;
  };
  CHECK(bases() == 0);
  folder.write("tokenizer_config.json", R"({"model_max_length":131072})");
  CHECK(bases() == 131'072);
  folder.write("config.json", R"({"d_model":32,"n_layer":1,"vocab_size":12,"seq_len":1024})");
  CHECK(parse_config(open_checkpoint(folder.path())).trained_bases == 1024);
  folder.write("config.json", kConfig);
  for (const char* unknown :
       {R"({"model_max_length":1000000000000000019884624838656})", R"({"model_max_length":-1})",
        R"({"model_max_length":null})", R"({"model_max_length":"8k"})", "{}", "[]"}) {
    folder.write("tokenizer_config.json", unknown);
    CHECK(bases() == 0);
  }
  folder.write("tokenizer_config.json", "{");
  CHECK(contains(failure(folder.path()), "tokenizer_config.json"));
}

}  // namespace
}  // namespace chromamba::mamba
