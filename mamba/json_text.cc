#include "mamba/json_text.h"

#include <cctype>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxJsonFile = uint64_t{128} << 20;

// Builds the document as nlohmann's own builder does, with our bounds. While a container is open
// its parent is not appended to, so the pointers in `open_` stay valid.
class Builder final : public nlohmann::json_sax<json> {
 public:
  Builder(const std::string& where, const JsonRules& rules) : where_(where), rules_(rules) {}

  bool null() override { return add(json(nullptr)) != nullptr; }
  bool boolean(bool value) override { return add(json(value)) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(json(value)) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(json(value)) != nullptr; }
  bool number_float(number_float_t value, const string_t& /*text*/) override {
    return add(json(value)) != nullptr;
  }
  bool string(string_t& value) override { return add(json(std::move(value))) != nullptr; }
  bool binary(binary_t& /*value*/) override { return false; }  // text never holds any
  bool start_object(std::size_t /*elements*/) override { return begin(json::object()); }
  bool start_array(std::size_t /*elements*/) override { return begin(json::array()); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }

  bool key(string_t& name) override {
    json& object = *open_.back();
    if (rules_.refuse_duplicate_keys && object.contains(name)) {
      throw DataError(where_ + ": key " + quote(name) + " occurs twice");
    }
    slot_ = &object[name];
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/,
                   const json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 3, column 7: ..."
    std::string_view text = error.what();
    const size_t bracket = text.find("] ");
    if (bracket != std::string_view::npos) text.remove_prefix(bracket + 2);
    throw DataError(where_ + ": not valid JSON: " + quote(text));
  }

  json take() { return std::move(root_); }

 private:
  json* add(json value) {
    if (++values_ > rules_.max_values) {
      throw DataError(where_ + ": more than " + std::to_string(rules_.max_values) +
                      " JSON values; this is no file of a checkpoint");
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool begin(json container) {
    if (open_.size() >= rules_.max_depth) {
      throw DataError(where_ + ": JSON nested deeper than " + std::to_string(rules_.max_depth) +
                      " levels");
    }
    open_.push_back(add(std::move(container)));
    return true;
  }

  bool end() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  const JsonRules& rules_;
  json root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;
  size_t values_ = 0;
};

bool word_character(char character) {
  return std::isalnum(static_cast<unsigned char>(character)) != 0 || character == '_';
}

// Replaces the bare words that Python's json module writes for values JSON has no words for.
std::string replace_infinities(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char character = text[i];
    if (in_string) {
      if (character == '\\' && i + 1 < text.size()) {
        out += character;
        ++i;
      } else if (character == '"') {
        in_string = false;
      }
      out += text[i];
      continue;
    }
    if (character == '"') in_string = true;
    bool replaced = false;
    if ((character == 'I' || character == 'N' || character == '-') &&
        (i == 0 || !word_character(text[i - 1]))) {
      for (const std::string_view word : {"Infinity", "-Infinity", "NaN"}) {
        const size_t end = i + word.size();
        if (text.substr(i, word.size()) != word) continue;
        if (end < text.size() && word_character(text[end])) continue;
        out.append(R"({"__float__": ")").append(word).append("\"}");
        i = end - 1;
        replaced = true;
        break;
      }
    }
    if (!replaced) out += character;
  }
  return out;
}

}  // namespace

json parse_json(std::string_view text, const std::string& where, const JsonRules& rules) {
  std::string replaced;
  if (rules.allow_infinity) {
    replaced = replace_infinities(text);
    text = replaced;
  }
  Builder builder(where, rules);
  if (!json::sax_parse(text, &builder)) throw DataError(where + ": not valid JSON");
  return builder.take();
}

json read_json_file(const std::string& path, const JsonRules& rules) {
  return parse_json(read_text(*open_file_source(path), kMaxJsonFile), path, rules);
}

}  // namespace chromamba::mamba
