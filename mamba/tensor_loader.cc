#include "mamba/tensor_loader.h"

#include <cmath>
#include <cstddef>
#include <map>
#include <new>
#include <set>
#include <string_view>
#include <utility>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {

struct TensorLoader::Books {
  const TensorStore& store;
  std::string where;
  std::set<std::string> used;  // names as they are in the file
  int64_t parameters = 0;
};

namespace {

// The published Caduceus saves the map of complements beside the weights; parse_config reads it.
bool is_buffer(const TensorInfo& info) {
  return info.dtype == DType::other && std::string_view(info.name).ends_with(".complement_map");
}

}  // namespace

TensorLoader::TensorLoader(const TensorStore& store, std::string where)
    : books_(std::make_shared<Books>(Books{store, std::move(where), {}, 0})) {}

TensorLoader TensorLoader::scope(const std::string& prefix) const {
  TensorLoader longer = *this;
  longer.prefix_ += prefix;
  return longer;
}

const TensorInfo* TensorLoader::resolve(const std::string& name) const {
  const std::map<std::string, std::string>& aliases = books_->store.metadata();
  std::string at = prefix_ + name;
  std::set<std::string> seen;
  while (true) {
    if (const TensorInfo* info = books_->store.find(at); info != nullptr) return info;
    const auto alias = aliases.find(at);
    if (alias == aliases.end()) return nullptr;
    if (!seen.insert(at).second) {
      throw DataError(books_->where + ": tensor " + quote(prefix_ + name) +
                      " is missing, and its alias in __metadata__ leads in a circle by way of " +
                      quote(at));
    }
    at = alias->second;
  }
}

bool TensorLoader::has(const std::string& name) const { return resolve(name) != nullptr; }

AlignedFloats TensorLoader::read(const TensorInfo& info, const std::vector<int64_t>& shape) const {
  const std::string& where = books_->where;
  if (info.shape != shape) {
    throw DataError(where + ": tensor " + quote(info.name) + " has shape " +
                    shape_text(info.shape) + ", expected " + shape_text(shape) +
                    " from config.json; the two do not belong together");
  }
  if (info.dtype == DType::other) {
    throw DataError(where + ": tensor " + quote(info.name) + " is " + info.dtype_name +
                    "; weights must be F32, F16 or BF16");
  }
  AlignedFloats values;
  try {
    values.resize(static_cast<size_t>(info.numel));
  } catch (const std::bad_alloc&) {
    throw ResourceError(where + ": no memory for tensor " + quote(info.name) + " " +
                        shape_text(info.shape));
  }
  books_->store.read_f32(info, values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw DataError(where + ": tensor " + quote(info.name) + " " + shape_text(info.shape) +
                      " holds " + std::to_string(values[i]) + " at element " + std::to_string(i) +
                      "; weights must be finite numbers");
    }
  }
  if (books_->used.insert(info.name).second) books_->parameters += info.numel;
  return values;
}

AlignedFloats TensorLoader::take(const std::string& name, const std::vector<int64_t>& shape) {
  const TensorInfo* info = resolve(name);
  if (info == nullptr) {
    throw DataError(books_->where + ": tensor " + quote(prefix_ + name) +
                    " is missing, expected with shape " + shape_text(shape) + " from config.json");
  }
  return read(*info, shape);
}

AlignedFloats TensorLoader::take_or_empty(const std::string& name,
                                          const std::vector<int64_t>& shape, bool expected) {
  return expected ? take(name, shape) : AlignedFloats();
}

AlignedFloats TensorLoader::take_tied(const std::string& primary, const std::string& alias,
                                      const std::vector<int64_t>& shape) {
  const TensorInfo* first = resolve(primary);
  const TensorInfo* second = resolve(alias);
  if (first == nullptr && second == nullptr) {
    throw DataError(books_->where + ": tensor " + quote(prefix_ + primary) +
                    " is missing (and so is " + quote(prefix_ + alias) +
                    ", which would do), expected with shape " + shape_text(shape) +
                    " from config.json");
  }
  AlignedFloats values = read(first != nullptr ? *first : *second, shape);
  if (first == nullptr || second == nullptr || first == second) return values;
  const int64_t counted = books_->parameters;
  const AlignedFloats other = read(*second, shape);
  books_->parameters = counted;
  if (values != other) {
    throw DataError(books_->where + ": tensors " + quote(first->name) + " and " +
                    quote(second->name) +
                    " differ, but config.json ties them (tie_embeddings, tie_word_embeddings, "
                    "bidirectional_weight_tie); set it to false if the model was trained with two");
  }
  return values;
}

void TensorLoader::ignore(const std::string& name) {
  if (const TensorInfo* info = resolve(name); info != nullptr) books_->used.insert(info->name);
}

void TensorLoader::finish() const {
  const TensorInfo* first = nullptr;
  int64_t extra = 0;
  for (const TensorInfo& info : books_->store.tensors()) {
    if (books_->used.count(info.name) > 0 || is_buffer(info)) continue;
    if (extra++ == 0) first = &info;
  }
  if (first == nullptr) return;
  throw DataError(books_->where + ": " + std::to_string(extra) +
                  (extra == 1 ? " tensor has" : " tensors have") +
                  " no place in the model of config.json, the first " + quote(first->name) + " " +
                  shape_text(first->shape));
}

int64_t TensorLoader::parameter_count() const { return books_->parameters; }

}  // namespace chromamba::mamba
