#include "mamba/config_keys.h"

#include <cmath>
#include <limits>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {

using nlohmann::json;

const json* Keys::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

int64_t Keys::integer(const char* key, std::optional<int64_t> fallback, int64_t low,
                      int64_t high) const {
  const json* value = find(key);
  if (value == nullptr) {
    if (!fallback.has_value()) missing(key);
    return *fallback;
  }
  const std::string wanted =
      "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  int64_t number = 0;
  if (value->is_number_unsigned()) {
    const auto wide = value->get<uint64_t>();
    number = wide > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(wide);
  } else if (value->is_number_integer()) {
    number = value->get<int64_t>();
  } else if (value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>() &&
             std::abs(value->get<double>()) < 0x1p53) {
    number = static_cast<int64_t>(value->get<double>());  // 2.0
  } else {
    wrong(key, *value, wanted);
  }
  if (number < low || number > high) wrong(key, *value, wanted);
  return number;
}

bool Keys::boolean(const char* key, bool fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) wrong(key, *value, "true or false");
  return value->get<bool>();
}

double Keys::epsilon(const char* key, double fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !(value->get<double>() > 0.0) || value->get<double>() > 1.0) {
    wrong(key, *value, "a small positive number");
  }
  return value->get<double>();
}

std::pair<double, double> Keys::range(const char* key, std::pair<double, double> fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  const std::string wanted = "two numbers in rising order";
  if (!value->is_array() || value->size() != 2) wrong(key, *value, wanted);
  double ends[2] = {};
  for (size_t i = 0; i < 2; ++i) {
    const json& end = (*value)[i];
    const json infinity = {{"__float__", i == 0 ? "-Infinity" : "Infinity"}};
    if (end.is_number()) {
      ends[i] = end.get<double>();
    } else if (end == infinity) {
      ends[i] = i == 0 ? -std::numeric_limits<double>::infinity()
                       : std::numeric_limits<double>::infinity();
    } else {
      wrong(key, end, wanted);
    }
  }
  if (!(ends[0] <= ends[1])) {
    throw DataError(where_ + ": key '" + prefix_ + key + "' is " +
                    quote("[" + std::to_string(ends[0]) + ", " + std::to_string(ends[1]) + "]") +
                    ", expected " + wanted);
  }
  return {ends[0], ends[1]};
}

std::string Keys::word(const char* key, const std::string& fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) wrong(key, *value, "a string");
  return value->get<std::string>();
}

bool Keys::truthy(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number()) return value->get<double>() != 0.0;
  return value->is_string() ? !value->get_ref<const std::string&>().empty() : !value->empty();
}

void Keys::missing(const char* key) const {
  fail("key '" + prefix_ + key + "' is missing; is this the config.json of the model?");
}

void Keys::wrong(const char* key, const json& value, const std::string& wanted) const {
  // A container could be huge; its type says enough.
  const std::string found = value.is_structured()
                                ? std::string(value.type_name())
                                : value.dump(-1, ' ', true, json::error_handler_t::replace);
  fail("key '" + prefix_ + key + "' is " + quote(found) + ", expected " + wanted);
}

void Keys::refuse(const std::string& what) const {
  fail(what + " is not a model this version runs (it runs: Mamba-1, Mamba-2, Caduceus)");
}

void Keys::fail(const std::string& message) const { throw DataError(where_ + ": " + message); }

const TensorInfo* find_ending(const TensorStore& tensors, std::string_view ending) {
  for (const TensorInfo& info : tensors.tensors()) {
    if (std::string_view(info.name).ends_with(ending)) return &info;
  }
  return nullptr;
}

const TensorInfo* find_part(const TensorStore& tensors, std::string_view part) {
  for (const TensorInfo& info : tensors.tensors()) {
    if (info.name.find(part) != std::string::npos) return &info;
  }
  return nullptr;
}

}  // namespace chromamba::mamba
