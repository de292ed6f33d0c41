#include "tests/mamba/published_checkpoint.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "mamba/checkpoint.h"
#include "mamba/config.h"
#include "mamba/tensor_loader.h"
#include "mamba/tokenizer.h"
#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using testing::contains;
using testing::data_error;
using testing::published_models;
using testing::PublishedModel;
using testing::safetensors_file;
using testing::small_models;
using testing::TemporaryFolder;
using testing::Ties;

constexpr Ties kAllTies[] = {Ties::both, Ties::first, Ties::second, Ties::aliased};

// Takes every tensor by the names and sizes that the configuration implies; nothing may be left. This walks
// the names of config.h without the model's code.
int64_t load_all(const Checkpoint& checkpoint) {
  const ModelConfig config = parse_config(checkpoint);
  TensorLoader loader(*checkpoint.tensors, checkpoint.path);
  const int64_t wide = config.d_inner;
  loader.take_tied(config.embedding_name, config.head_name, {config.vocab_size, config.d_model});
  TensorLoader backbone = loader.scope(config.backbone);
  backbone.take(config.final_norm + ".weight", {config.d_model});
  const int64_t both = config.n_groups * config.d_state;
  const bool second = config.mixer == MixerKind::mamba2;
  const int64_t in_rows = second ? 2 * wide + 2 * both + config.n_heads : 2 * wide;
  for (int64_t layer = 0; layer < config.n_layer; ++layer) {
    TensorLoader block = backbone.scope("layers." + std::to_string(layer) + ".");
    block.take(config.block_norm + ".weight", {config.d_model});
    TensorLoader mixers = block.scope(config.mixer_prefix);
    std::vector<std::string> directions = {config.forward_prefix};
    if (config.directions != Directions::forward) directions.push_back(config.reverse_prefix);
    for (const std::string& direction : directions) {
      for (const auto& [matrix, shape] : {std::pair<std::string, std::vector<int64_t>>{
                                              "in_proj.weight", {in_rows, config.d_model}},
                                          {"out_proj.weight", {config.d_model, wide}}}) {
        if (config.tied_directions) {
          mixers.take_tied(config.forward_prefix + matrix, config.reverse_prefix + matrix, shape);
        } else {
          mixers.take(direction + matrix, shape);
        }
      }
      TensorLoader mixer = mixers.scope(direction);
      const int64_t conv = second ? wide + 2 * both : wide;
      mixer.take("conv1d.weight", {conv, 1, config.d_conv});
      mixer.take_or_empty("conv1d.bias", {conv}, config.conv_bias);
      if (second) {
        mixer.take("dt_bias", {config.n_heads});
        mixer.take("A_log", {config.n_heads});
        mixer.take("D", {config.n_heads});
        mixer.take("norm.weight", {wide});
      } else {
        mixer.take("x_proj.weight", {config.dt_rank + 2 * config.d_state, wide});
        mixer.take("dt_proj.weight", {wide, config.dt_rank});
        mixer.take("dt_proj.bias", {wide});
        mixer.take("A_log", {wide, config.d_state});
        mixer.take("D", {wide});
      }
    }
  }
  loader.finish();
  return loader.parameter_count();
}

Checkpoint in_memory(const PublishedModel& model, const std::string& file) {
  return open_checkpoint_memory(model.config.dump(), testing::as_bytes(file), model.name);
}

TEST_CASE("unique parameters of the published models are those on their cards") {
  for (const PublishedModel& model : published_models()) {
    INFO(model.name);
    CHECK(testing::unique_parameters(model) == model.card_parameters);
    const std::string file = safetensors_file(model, Ties::first);
    CHECK(load_all(in_memory(model, file)) == model.card_parameters);
  }
}

TEST_CASE("tied tensors of a Caduceus checkpoint under either name, both, or an alias") {
  for (const PublishedModel& model : small_models()) {
    for (const Ties ties : kAllTies) {
      INFO(model.name << ", ties " << static_cast<int>(ties));
      const std::string file = safetensors_file(model, ties);
      CHECK(load_all(in_memory(model, file)) == testing::unique_parameters(model));
    }
  }
}

TEST_CASE("every type and container of a Caduceus checkpoint") {
  for (const PublishedModel& model : small_models()) {
    INFO(model.name);
    const int64_t parameters = testing::unique_parameters(model);
    for (const char* dtype : {"F32", "F16", "BF16"}) {
      const std::string file = safetensors_file(model, Ties::first, dtype);
      CHECK(load_all(in_memory(model, file)) == parameters);
    }
    const auto write_config = [&](const TemporaryFolder& folder) {
      folder.write("config.json", model.config.dump());
      folder.write("tokenizer_config.json", R"({"model_max_length":131072})");
    };
    const TemporaryFolder shards;
    write_config(shards);
    for (const auto& [name, bytes] : testing::shard_files(model, 3)) shards.write(name, bytes);
    CHECK(load_all(open_checkpoint(shards.path())) == parameters);
    CHECK(parse_config(open_checkpoint(shards.path())).trained_bases == 131'072);

    const TemporaryFolder torch;
    write_config(torch);
    torch.write("pytorch_model.bin", testing::torch_file(model));
    const Checkpoint checkpoint = open_checkpoint(torch.path());
    CHECK(load_all(checkpoint) == parameters);
    // One configuration, whatever the container.
    const std::string file = safetensors_file(model, Ties::first);
    const ModelConfig one = parse_config(checkpoint);
    const ModelConfig other = parse_config(in_memory(model, file));
    CHECK(one.embedding_name == other.embedding_name);
    CHECK(one.mixer_prefix == other.mixer_prefix);
    CHECK(one.mixer == other.mixer);
    CHECK(one.complement == other.complement);
    const Tokenizer tokenizer = make_tokenizer(checkpoint, one);
    CHECK(tokenizer.mask >= 0);
    CHECK(tokenizer.complement == one.complement);
  }
}

TEST_CASE("a Caduceus checkpoint without one of its tensors") {
  const PublishedModel whole = small_models()[1];
  for (size_t i = 0; i < whole.tensors.size(); ++i) {
    PublishedModel model = whole;
    const std::string name = model.tensors[i].name;
    const bool tied = !model.tensors[i].same_as.empty();
    model.tensors.erase(model.tensors.begin() + static_cast<std::ptrdiff_t>(i));
    const bool other = std::any_of(model.tensors.begin(), model.tensors.end(),
                                   [&](const auto& tensor) { return tensor.same_as == name; });
    INFO(name);
    const std::string file = safetensors_file(model, Ties::both);
    const Checkpoint checkpoint = in_memory(model, file);
    if (tied || other) {
      CHECK(load_all(checkpoint) == testing::unique_parameters(whole));
    } else {
      CHECK(contains(data_error([&] { load_all(checkpoint); }), "'" + name + "' is missing"));
    }
  }
}

TEST_CASE("tied directions that differ are no tied model") {
  PublishedModel model = small_models()[0];
  const std::string reverse = "caduceus.backbone.layers.1.mixer.mamba_rev.out_proj.weight";
  for (testing::PublishedTensor& tensor : model.tensors) {
    if (tensor.name == reverse) tensor.same_as.clear();  // values of its own
  }
  const std::string file = safetensors_file(model, Ties::both);
  const std::string message = data_error([&] { load_all(in_memory(model, file)); });
  CHECK(contains(message, "'" + reverse + "' differ, but config.json ties them"));
  CHECK(contains(message, "bidirectional_weight_tie"));
}

}  // namespace
}  // namespace chromamba::mamba
