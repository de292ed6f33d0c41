// Passes over bases in memory, for the tests of the runners.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "pipelines/stream.h"

namespace chromamba::tests {

class MemoryBases : public pipelines::BaseSource {
 public:
  explicit MemoryBases(std::string bases, int64_t fail_at = -1)
      : bases_(std::move(bases)), fail_at_(fail_at) {}
  void read(int64_t start, int64_t n, char* out) override {
    if (fail_at_ >= 0 && start <= fail_at_ && fail_at_ < start + n) throw DataError("broken here");
    bases_.copy(out, static_cast<size_t>(n), static_cast<size_t>(start));
  }

 private:
  std::string bases_;
  int64_t fail_at_;
};

inline pipelines::PassInput whole_pass(const std::string& name, const std::string& bases,
                                       pipelines::Strand strand, int64_t fail_at = -1) {
  const auto n = static_cast<int64_t>(bases.size());
  return {{name, n, strand, 0, n, {{0, 0, n}}, n}, std::make_shared<MemoryBases>(bases, fail_at)};
}

inline pipelines::NextPass from_list(std::vector<pipelines::PassInput> inputs) {
  auto shared = std::make_shared<std::vector<pipelines::PassInput>>(std::move(inputs));
  return [shared, i = size_t{0}]() mutable -> std::optional<pipelines::PassInput> {
    if (i == shared->size()) return std::nullopt;
    return (*shared)[i++];
  };
}

}  // namespace chromamba::tests
