// Pieces of the pickles that torch.save writes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba::testing {

// append() rather than "x" + string: GCC 12 warns about the latter (its bug 105651).
inline std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& part : parts) all.append(part);
  return all;
}
inline std::string text(const std::string& value) {
  return joined({"X", raw(static_cast<uint32_t>(value.size())), value});
}
inline std::string global(const std::string& module, const std::string& name) {
  return joined({"c", module, "\n", name, "\n"});
}
inline std::string long_number(int64_t value) { return joined({"\x8a\x08", raw(value)}); }
inline std::string tuple(const std::vector<int64_t>& values) {
  std::string bytes = "(";
  for (const int64_t value : values) bytes += long_number(value);
  return bytes + "t";
}
inline std::string storage(const std::string& type, const std::string& key, int64_t numel) {
  return joined({"(", text("storage"), global("torch", type), text(key), text("cpu"),
                 long_number(numel), "tQ"});
}
inline const std::string kOrdered = "ccollections\nOrderedDict\n)R";
inline std::string tensor(const std::string& from, int64_t offset, const std::vector<int64_t>& size,
                          const std::vector<int64_t>& stride) {
  return joined({global("torch._utils", "_rebuild_tensor_v2"), "(", from, long_number(offset),
                 tuple(size), tuple(stride), "\x89", kOrdered, "tR"});
}
inline std::string program(const std::string& body) { return joined({"\x80\x02", body, "."}); }
inline std::string state(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string body = kOrdered + "(";
  for (const auto& [name, value] : entries) body += text(name) + value;
  return body + "u";
}

}  // namespace chromamba::mamba::testing
