// Hands the tensors of a checkpoint to the model, by name, and keeps the books: what is missing,
// misshapen or not finite is a DataError that names the tensor, and so is what nobody took.
//
//   TensorLoader tensors(*checkpoint.tensors, checkpoint.path);
//   TensorLoader mixer = tensors.scope("backbone.layers.0.mixer.");
//   AlignedFloats weight = mixer.take("in_proj.weight", {2 * E, D});
//   tensors.finish();
//
// Shapes are compared before anything is allocated, so a configuration that asks for absurd sizes
// fails on the file's real ones. A name that the file lacks is looked up in its metadata,
// where safetensors files note under which other name a shared tensor was stored. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/aligned.h"
#include "mamba/tensor_store.h"

namespace chromamba::mamba {

class TensorLoader {
 public:
  // The store must outlive the loader and its scopes. `where` begins every message.
  TensorLoader(const TensorStore& store, std::string where);

  // The same store and books under a longer prefix.
  TensorLoader scope(const std::string& prefix) const;

  // Whether the file has the tensor, under this name or an alias.
  bool has(const std::string& name) const;

  // The values in row-major order, widened to f32; the tensor counts as used.
  AlignedFloats take(const std::string& name, const std::vector<int64_t>& shape);

  // As take() when `expected`; otherwise empty. A tensor that is there though it is not expected
  // stays unused, so that finish() names it.
  AlignedFloats take_or_empty(const std::string& name, const std::vector<int64_t>& shape,
                              bool expected);

  // One tensor under two names (a head tied to the embedding). Either may be missing; when the file
  // has both they must hold the same values, or else it is not the tied model it claims to be.
  AlignedFloats take_tied(const std::string& primary, const std::string& alias,
                          const std::vector<int64_t>& shape);

  // A tensor that is known and not needed.
  void ignore(const std::string& name);

  // DataError when the file has tensors that were neither taken nor ignored. Maps of complements
  // (integers) may stay behind.
  void finish() const;

  // Elements of all tensors taken; one tensor taken under two names counts once.
  int64_t parameter_count() const;

 private:
  struct Books;

  const TensorInfo* resolve(const std::string& name) const;
  AlignedFloats read(const TensorInfo& info, const std::vector<int64_t>& shape) const;

  std::shared_ptr<Books> books_;
  std::string prefix_;
};

}  // namespace chromamba::mamba
