// Reads the JSON files of a checkpoint. Untrusted: nesting depth and number of values are bounded,
// and every failure is a DataError with the file's name and the position.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace chromamba::mamba {

struct JsonRules {
  bool refuse_duplicate_keys = false;  // otherwise the last one counts, as in Python
  // Python writes bare Infinity, -Infinity and NaN, which are not JSON. When allowed they become
  // {"__float__": "Infinity"} and so on, the form that newer Transformers write themselves.
  bool allow_infinity = false;
  // Deeper than any checkpoint file goes, shallow enough for any recursive reader behind us.
  size_t max_depth = 64;
  // A vocabulary of 100,000 words with its merges has about 300,000 values. Bounds the memory of
  // the document (some 100 bytes a value) when a file is made of nothing but brackets.
  size_t max_values = 4'000'000;
};

nlohmann::json parse_json(std::string_view text, const std::string& where, const JsonRules& rules);

nlohmann::json read_json_file(const std::string& path, const JsonRules& rules);

}  // namespace chromamba::mamba
