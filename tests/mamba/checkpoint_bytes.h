// Builds small checkpoint files byte by byte, right ones and wrong ones.
#pragma once

#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "mamba/tensor_store.h"
#include "tests/test_data.h"

namespace chromamba::mamba::testing {

inline std::string data_path(const std::string& name) {
  return chromamba::tests::test_data() + "/" + name;
}

// Little-endian bytes of a number.
template <typename Number>
std::string raw(Number value) {
  static_assert(std::is_trivially_copyable_v<Number>);
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <typename Number>
std::string raw_all(const std::vector<Number>& values) {
  std::string bytes;
  for (const Number value : values) bytes += raw(value);
  return bytes;
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string safetensors(const std::string& header, const std::string& data) {
  return raw<uint64_t>(header.size()) + header + data;
}

inline uint32_t crc32(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0xedb88320U : 0U);
  }
  return ~crc;
}

struct ZipEntry {
  std::string name;
  std::string bytes;
  int64_t declared = -1;  // uncompressed size to claim instead of the true one
  uint16_t method = 0;
};

inline std::string zip(const std::vector<ZipEntry>& entries) {
  std::string file;
  std::string directory;
  for (const ZipEntry& entry : entries) {
    const auto stored = static_cast<uint32_t>(entry.bytes.size());
    const auto size = entry.declared < 0 ? stored : static_cast<uint32_t>(entry.declared);
    const std::string common = raw<uint16_t>(20) + raw<uint16_t>(0) + raw(entry.method) +
                               raw<uint32_t>(0x00210000) + raw(crc32(entry.bytes)) + raw(stored) +
                               raw(size) + raw(static_cast<uint16_t>(entry.name.size())) +
                               raw<uint16_t>(0);
    directory += "PK\x01\x02" + raw<uint16_t>(20) + common + raw<uint16_t>(0) + raw<uint16_t>(0) +
                 raw<uint16_t>(0) + raw<uint32_t>(0) + raw(static_cast<uint32_t>(file.size())) +
                 entry.name;
    file += "PK\x03\x04" + common + entry.name + entry.bytes;
  }
  const auto count = static_cast<uint16_t>(entries.size());
  return file + directory + "PK\x05\x06" + raw<uint32_t>(0) + raw(count) + raw(count) +
         raw(static_cast<uint32_t>(directory.size())) + raw(static_cast<uint32_t>(file.size())) +
         raw<uint16_t>(0);
}

// Runs `action`, which must throw a DataError, and returns its message: one line.
template <typename Action>
std::string data_error(const Action& action) {
  try {
    action();
  } catch (const DataError& error) {
    std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 1000);
    return message;
  }
  FAIL("no DataError");
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline std::vector<float> floats(const TensorStore& store, const std::string& name) {
  const TensorInfo* info = store.find(name);
  REQUIRE(info != nullptr);
  std::vector<float> values(static_cast<size_t>(info->numel), -12345.0F);
  store.read_f32(*info, values.data());
  return values;
}

// Reads every tensor of a store both ways.
inline void read_everything(const TensorStore& store) {
  for (const TensorInfo& info : store.tensors()) {
    std::vector<std::byte> bytes(info.bytes);
    store.read_raw(info, bytes.data(), bytes.size());
    if (info.dtype == DType::other) continue;
    std::vector<float> values(static_cast<size_t>(info.numel));
    store.read_f32(info, values.data());
  }
}

inline std::string file_text(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE(stream.good());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// A folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "chromamba_XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream stream(file(name), std::ios::binary);
    stream << content;
    stream.close();
    REQUIRE(stream.good());
    return file(name);
  }

 private:
  std::string path_;
};

// A store of float tensors that all hold 0, 1, 2, ... times 0.5; `shapes` is JSON-like, {"a", {2, 3}}.
inline std::string float_file(
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& shapes,
    const std::string& metadata = "") {
  std::string header = "{";
  std::string data;
  if (!metadata.empty()) header += "\"__metadata__\":" + metadata;
  for (const auto& [name, shape] : shapes) {
    int64_t numel = 1;
    for (const int64_t extent : shape) numel *= extent;
    const size_t begin = data.size();
    for (int64_t i = 0; i < numel; ++i) data += raw(0.5F * static_cast<float>(i));
    if (header.size() > 1) header += ",";
    header += "\"" + name + "\":{\"dtype\":\"F32\",\"shape\":" + shape_text(shape) +
              ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(data.size()) +
              "]}";
  }
  return safetensors(header + "}", data);
}

}  // namespace chromamba::mamba::testing
