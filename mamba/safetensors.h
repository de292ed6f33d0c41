// The safetensors format (https://github.com/huggingface/safetensors, "Format"): eight bytes of
// header length, a JSON header naming type, shape and place of every tensor, then the data.
//
// Opening checks everything the format promises: a header of at most 100 MB inside the file, one
// JSON object without repeated keys, known types, sizes that agree with the shapes, and data that
// is covered exactly once, without holes. Anything else is a DataError that names the file and
// the tensor. Values are little-endian.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mamba/tensor_store.h"

namespace chromamba::mamba {

std::unique_ptr<TensorStore> open_safetensors(const std::string& path);

// The bytes must outlive the store. `name` stands for the file in messages.
std::unique_ptr<TensorStore> open_safetensors_memory(std::span<const std::byte> bytes,
                                                     std::string name);

// Several files listed by an index ({"weight_map": {tensor: file name}}). The files must lie in
// `folder` itself, and hold exactly the tensors that the index places in them.
std::unique_ptr<TensorStore> open_safetensors_shards(const std::string& folder,
                                                     const std::string& index_path);

// Paths of the shards an index names, in the order of their names; each once.
std::vector<std::string> safetensors_shard_paths(const std::string& folder,
                                                 const std::string& index_path);

}  // namespace chromamba::mamba
