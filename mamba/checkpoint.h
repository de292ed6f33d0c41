// A model checkpoint as the hubs serve it: configuration, weights, and the vocabulary if there is
// one. Opening reads the listing of the tensors and the digest of the files, not the values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "mamba/tensor_store.h"

namespace chromamba::mamba {

// NOLINTNEXTLINE(bugprone-exception-escape): json's invariant checks, in its own move
struct Checkpoint {
  std::string path;  // as the user gave it, or the name of a model in memory
  nlohmann::json config;
  std::string config_path;   // for messages
  std::string weights_path;  // the weights file, or the index of the shards
  std::unique_ptr<TensorStore> tensors;
  // Of the weights file, as `sha256sum` prints it; of shards, of their bytes one after the other in
  // the order of the file names.
  std::string sha256;
  // {"token": id, ...} from tokenizer.json, vocab.json or vocab.txt, and which one it was.
  std::optional<nlohmann::json> vocabulary;
  std::string vocabulary_path;
  // `model_max_length` of tokenizer_config.json: the context in training, where that is noted.
  // 0: not known.
  int64_t model_max_length = 0;
};

// A folder holding config.json and model.safetensors, model.safetensors.index.json with its shards,
// or pytorch_model.bin (the first of these that exists), or one of those weights files under any
// name with config.json beside it; what a file is is decided by its content. DataError when
// something is missing or malformed.
Checkpoint open_checkpoint(const std::string& folder_or_file);

// The same from memory; the weights (safetensors) must outlive the result.
Checkpoint open_checkpoint_memory(const std::string& config_text,
                                  std::span<const std::byte> weights, const std::string& name);

}  // namespace chromamba::mamba
