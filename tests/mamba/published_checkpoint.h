// Checkpoints in memory with the configuration, the names and the shapes of published models, and small
// made-up values. The shapes are written down here from the published code, apart from ours.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace chromamba::mamba::testing {

struct PublishedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string same_as;  // the name of the tensor it is tied to: one parameter under two names
};

struct PublishedModel {
  std::string name;
  nlohmann::json config;
  std::vector<PublishedTensor> tensors;
  // I64 buffers: maps of complements.
  std::vector<std::pair<std::string, std::vector<int64_t>>> buffers;
  int64_t card_parameters = 0;  // what its authors state; 0: a model of ours in that form
};

// Every model whose count is known, then small ones of the other forms.
std::vector<PublishedModel> published_models();
// The form of each family at a width that takes no time.
std::vector<PublishedModel> small_models();

// Elements of all tensors, those under two names once.
int64_t unique_parameters(const PublishedModel& model);

// How tied tensors are stored: both, one of the names (the first is that of the embedding or of the
// forward direction), or one with the other in the file's metadata.
enum class Ties { both, first, second, aliased };

// `dtype` is F32, F16 or BF16.
std::string safetensors_file(const PublishedModel& model, Ties ties,
                             const std::string& dtype = "F32");
// As torch.save writes it: tied tensors are views of one storage.
std::string torch_file(const PublishedModel& model);

// As save_pretrained writes several files: {file name, content}, the index among them.
std::vector<std::pair<std::string, std::string>> shard_files(const PublishedModel& model,
                                                             size_t shards);

}  // namespace chromamba::mamba::testing
