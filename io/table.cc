#include "io/table.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

template <typename T>
std::string shortest(T value) {
  if (std::isnan(value)) return "nan";
  std::array<char, 32> text{};  // 24 bytes is the longest double
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), result.ptr};
}

}  // namespace

TableWriter::TableWriter(const std::string& path_or_dash, bool bgzip,
                         const std::vector<std::string>& header_lines,
                         std::vector<std::string> columns)
    : out_(path_or_dash, bgzip), columns_(std::move(columns)) {
  write_header_lines(out_, header_lines);
  row(columns_);
}

void TableWriter::row(const std::vector<std::string>& fields) {
  if (fields.size() != columns_.size()) {
    throw InternalError("a table row has " + std::to_string(fields.size()) + " fields; expected " +
                        std::to_string(columns_.size()));
  }
  std::string line;
  for (const std::string& field : fields) {
    if (field.find_first_of("\t\n\r") != std::string::npos) {
      throw InternalError("table field " + quote(field) + " holds a tab or a line end");
    }
    if (!line.empty() || &field != &fields.front()) line += '\t';
    line += field;
  }
  line += '\n';
  out_.write(line);
}

std::string format_fixed(double value, int decimals) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // 309 digits before the point at most.
  std::array<char, 400> text{};
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value,
                                    std::chars_format::fixed, decimals);
  if (result.ec != std::errc()) {
    throw InternalError("format_fixed: " + std::to_string(decimals) + " decimals");
  }
  std::string formatted(text.data(), result.ptr);
  if (formatted.front() == '-' && formatted.find_first_not_of("-0.") == std::string::npos) {
    formatted.erase(0, 1);
  }
  return formatted;
}

std::string format_shortest(double value) { return shortest(value); }
std::string format_shortest(float value) { return shortest(value); }

}  // namespace chromamba::io
