#include "mamba/tensor_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/half.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {

static_assert(std::endian::native == std::endian::little,
              "checkpoints are little-endian and copied as they are");

namespace {

struct NamedSize {
  const char* name;
  int64_t bytes;
};

constexpr NamedSize kTypes[] = {
    {"F32", 4},     {"F16", 2},     {"BF16", 2}, {"F64", 8}, {"I64", 8}, {"U64", 8},
    {"I32", 4},     {"U32", 4},     {"I16", 2},  {"U16", 2}, {"I8", 1},  {"U8", 1},
    {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1}, {"C64", 8},
};

}  // namespace

const std::map<std::string, std::string>& TensorStore::metadata() const {
  static const std::map<std::string, std::string> kEmpty;
  return kEmpty;
}

const TensorInfo* TensorStore::find(const std::string& name) const {
  const std::vector<TensorInfo>& all = tensors();
  const auto found = std::lower_bound(
      all.begin(), all.end(), name,
      [](const TensorInfo& info, const std::string& key) { return info.name < key; });
  return found != all.end() && found->name == name ? &*found : nullptr;
}

size_t TensorStore::index_of(const TensorInfo& info) const {
  const TensorInfo* own = find(info.name);
  if (own == nullptr || own->bytes != info.bytes) {
    throw InternalError("tensor " + quote(info.name) + " is not one of this checkpoint");
  }
  return static_cast<size_t>(own - tensors().data());
}

void TensorStore::read_raw(const TensorInfo& info, void* out, size_t bytes) const {
  if (bytes != info.bytes) {
    throw InternalError("tensor " + quote(info.name) + " has " + std::to_string(info.bytes) +
                        " bytes, not " + std::to_string(bytes));
  }
  const size_t index = index_of(info);
  if (info.numel > 0) read_elements(index, 0, info.numel, out);
}

void TensorStore::read_part(const TensorInfo& info, int64_t first, int64_t count, void* out) const {
  const size_t index = index_of(info);
  if (first < 0 || count < 0 || first > info.numel || count > info.numel - first) {
    throw InternalError("tensor " + quote(info.name) + ": elements " + std::to_string(first) +
                        " + " + std::to_string(count) + " of " + std::to_string(info.numel));
  }
  if (count > 0) read_elements(index, first, count, out);
}

void TensorStore::read_f32(const TensorInfo& info, float* out) const {
  if (info.dtype == DType::other) {
    throw DataError(info.file + ": tensor " + quote(info.name) + " is " + info.dtype_name +
                    "; weights must be F32, F16 or BF16");
  }
  const size_t index = index_of(info);
  if (info.numel == 0) return;
  if (info.dtype == DType::f32) {
    read_elements(index, 0, info.numel, out);
    return;
  }
  // Blocks that stay in the first cache level between reading and widening.
  constexpr int64_t kBlock = 8192;
  std::vector<uint16_t> block(static_cast<size_t>(std::min(kBlock, info.numel)));
  for (int64_t first = 0; first < info.numel; first += kBlock) {
    const int64_t count = std::min(kBlock, info.numel - first);
    read_elements(index, first, count, block.data());
    float* to = out + first;
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t bits = block[static_cast<size_t>(i)];
      to[i] = info.dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
  }
}

int64_t dtype_bytes(const std::string& dtype_name) {
  for (const NamedSize& type : kTypes) {
    if (dtype_name == type.name) return type.bytes;
  }
  return 0;
}

DType dtype_from_name(const std::string& dtype_name) {
  if (dtype_name == "F32") return DType::f32;
  if (dtype_name == "F16") return DType::f16;
  if (dtype_name == "BF16") return DType::bf16;
  return DType::other;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  constexpr size_t kShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    if (i == kShown) {
      text += "... " + std::to_string(shape.size()) + " dimensions";
      break;
    }
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

bool set_sizes(TensorInfo& info) {
  int64_t numel = 1;
  for (const int64_t extent : info.shape) {
    if (extent < 0 || __builtin_mul_overflow(numel, extent, &numel)) return false;
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(numel, dtype_bytes(info.dtype_name), &bytes)) return false;
  info.numel = numel;
  info.bytes = static_cast<uint64_t>(bytes);
  return true;
}

}  // namespace chromamba::mamba
