// The named tensors of one checkpoint, whatever file format they came in.
//
// A store is read-only once it is open and holds names, types and shapes; the values are read on
// demand. Everything in the listing has been checked against the file: a tensor that is listed
// can be read. All members may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace chromamba::mamba {

// `other`: a type that weights do not come in (I64, U8, F64, ...). Listed by name, read raw only.
enum class DType { f32, f16, bf16, other };

struct TensorInfo {
  std::string name;
  DType dtype = DType::other;
  std::string dtype_name;      // as safetensors spells it: F32, BF16, I64, ...
  std::vector<int64_t> shape;  // empty for a scalar
  std::string file;            // the file, or the shard, that holds it
  int64_t numel = 0;
  uint64_t bytes = 0;  // numel times the size of an element
};

class TensorStore {
 public:
  TensorStore() = default;
  virtual ~TensorStore() = default;
  TensorStore(const TensorStore&) = delete;
  TensorStore& operator=(const TensorStore&) = delete;

  virtual const std::vector<TensorInfo>& tensors() const = 0;  // sorted by name

  // The string map a safetensors file carries as __metadata__; empty for other formats.
  virtual const std::map<std::string, std::string>& metadata() const;

  // The tensor of that name, or nullptr. Valid as long as the store.
  const TensorInfo* find(const std::string& name) const;

  // Writes info.numel floats to `out`, widened exactly. DataError for a tensor of type `other`.
  void read_f32(const TensorInfo& info, float* out) const;

  // Writes the elements in row-major order as they are stored (little-endian) to `out`.
  // InternalError unless `bytes` is info.bytes or the tensor is not one of this store.
  void read_raw(const TensorInfo& info, void* out, size_t bytes) const;

  // Elements [first, first + count), as stored, in row-major order. InternalError outside it.
  void read_part(const TensorInfo& info, int64_t first, int64_t count, void* out) const;

 private:
  // As read_part, for tensor number `index`; the range is valid and not empty.
  virtual void read_elements(size_t index, int64_t first, int64_t count, void* out) const = 0;

  size_t index_of(const TensorInfo& info) const;
};

// The size of one element, or 0 when the type is not a known one. Names as in safetensors.
int64_t dtype_bytes(const std::string& dtype_name);
DType dtype_from_name(const std::string& dtype_name);

// "[16, 64]"
std::string shape_text(const std::vector<int64_t>& shape);

// Fills numel and bytes from shape and dtype_name; false when a dimension is negative or a
// product does not fit 63 bits.
bool set_sizes(TensorInfo& info);

}  // namespace chromamba::mamba
