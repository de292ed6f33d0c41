// Typed access to the settings of one config.json, and the bounds of what they may ask for. Part of
// parse_config (config.h): include that one from elsewhere.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "mamba/tensor_store.h"

namespace chromamba::mamba {

// Far above any published model, and low enough that the product of three sizes fits 63 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 10'000;
constexpr int64_t kMaxState = 4096;
constexpr int64_t kMaxGroups = 4096;
constexpr int64_t kMaxExpand = 64;
constexpr int64_t kMinTaps = 2;  // the convolution kernel's range
constexpr int64_t kMaxTaps = 8;

// One object of the config. A null counts as absent, as in Transformers. Every failure is a DataError
// with the file, the key and what was found. The object must outlive it.
class Keys {
 public:
  Keys(const nlohmann::json& object, std::string where, std::string prefix = "")
      : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  const nlohmann::json* find(const char* key) const;
  bool has(const char* key) const { return find(key) != nullptr; }

  // A whole number in [low, high]; 2.0 is one. Without a fallback the key must be there.
  int64_t integer(const char* key, std::optional<int64_t> fallback, int64_t low,
                  int64_t high) const;
  bool boolean(const char* key, bool fallback) const;
  double epsilon(const char* key, double fallback) const;
  // [low, high]; either may be infinite (json_text.h).
  std::pair<double, double> range(const char* key, std::pair<double, double> fallback) const;
  std::string word(const char* key, const std::string& fallback) const;
  // What Python takes for true: not false, 0 or empty.
  bool truthy(const char* key) const;

  [[noreturn]] void missing(const char* key) const;
  [[noreturn]] void wrong(const char* key, const nlohmann::json& value,
                          const std::string& wanted) const;
  // `what` begins the sentence "... is not a model this version runs".
  [[noreturn]] void refuse(const std::string& what) const;
  [[noreturn]] void fail(const std::string& message) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
  std::string prefix_;
};

// The first tensor whose name ends so, or has the part, or nullptr.
const TensorInfo* find_ending(const TensorStore& tensors, std::string_view ending);
const TensorInfo* find_part(const TensorStore& tensors, std::string_view part);

}  // namespace chromamba::mamba
