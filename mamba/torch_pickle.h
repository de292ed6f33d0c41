// Checkpoints written by torch.save: a zip archive with a pickle (data.pkl) and one entry of raw
// bytes per storage.
//
// A pickle is a program; ours is read by an interpreter that knows only the instructions and the
// names that torch.save uses for a dictionary of tensors. It imports nothing, calls nothing and
// builds nothing but dictionaries, lists, tuples, strings, numbers and views of storages. Any
// other name (os.system, builtins.eval, ...) or instruction is a DataError that says which and
// where. Memory is bounded by the file's size and fixed limits; nothing recurses.
//
// Tensors may be views: strides, offsets and shared storages (tied weights) are followed and
// checked against the storage. A dictionary {'state_dict': ...} or {'model': ...} is unwrapped.
// Files from before torch 1.6 (no zip) and big-endian ones are refused.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "mamba/tensor_store.h"

namespace chromamba::mamba {

std::unique_ptr<TensorStore> open_torch_checkpoint(const std::string& path);

// The bytes must outlive the store. `name` stands for the file in messages.
std::unique_ptr<TensorStore> open_torch_checkpoint_memory(std::span<const std::byte> bytes,
                                                          std::string name);

}  // namespace chromamba::mamba
