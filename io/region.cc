#include "io/region.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

const ContigInfo* find_contig(const std::vector<ContigInfo>& contigs, std::string_view name) {
  const auto found = std::find_if(contigs.begin(), contigs.end(),
                                  [name](const ContigInfo& contig) { return contig.name == name; });
  return found == contigs.end() ? nullptr : &*found;
}

// A 1-based position with optional commas between digits; nothing when it is not one.
std::optional<int64_t> parse_position(std::string_view text) {
  std::string digits;
  for (const char c : text) {
    if (c != ',') digits += c;
  }
  if (digits.empty() || text.front() == ',' || text.back() == ',') return std::nullopt;
  if (digits.front() < '0' || digits.front() > '9') return std::nullopt;
  int64_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (result.ec != std::errc() || result.ptr != digits.data() + digits.size()) return std::nullopt;
  return value;
}

struct Range {
  int64_t first = 1;  // 1-based, inclusive
  std::optional<int64_t> last;
};

// "100-200", "100-", "-200", "100"; nothing when the text is none of them.
std::optional<Range> parse_range(std::string_view text) {
  Range range;
  const size_t dash = text.find('-');
  const std::string_view first = text.substr(0, dash);
  if (first.empty() && (dash == std::string_view::npos || dash + 1 == text.size())) {
    return std::nullopt;
  }
  if (!first.empty()) {
    const auto position = parse_position(first);
    if (!position) return std::nullopt;
    range.first = *position;
  }
  if (dash != std::string_view::npos && dash + 1 < text.size()) {
    range.last = parse_position(text.substr(dash + 1));
    if (!range.last) return std::nullopt;
  }
  return range;
}

}  // namespace

Region parse_region(const std::string& text, const std::vector<ContigInfo>& contigs) {
  const std::string what = "region " + quote(text);
  const std::string syntax = "; expected CONTIG, CONTIG:START-END or {CONTIG}:START-END";
  if (text.empty()) throw UsageError(what + " is empty" + syntax);

  std::string_view name = text;
  std::string_view range_text;
  const ContigInfo* contig = nullptr;
  if (text.front() == '{') {
    const size_t brace = text.rfind('}');
    if (brace == std::string::npos || (brace + 1 < text.size() && text[brace + 1] != ':')) {
      throw UsageError(what + " has an unmatched '{'" + syntax);
    }
    name = std::string_view(text).substr(1, brace - 1);
    if (brace + 1 < text.size()) {
      range_text = std::string_view(text).substr(brace + 2);
      if (range_text.empty()) throw UsageError(what + " has nothing after ':'" + syntax);
    }
    contig = find_contig(contigs, name);
  } else {
    contig = find_contig(contigs, text);
    const size_t colon = text.rfind(':');
    if (colon != std::string::npos) {
      const std::string_view before = std::string_view(text).substr(0, colon);
      const std::string_view after = std::string_view(text).substr(colon + 1);
      const ContigInfo* shorter = find_contig(contigs, before);
      const bool is_range = parse_range(after).has_value();
      if (contig != nullptr && shorter != nullptr && is_range) {
        throw DataError(what + " is both a contig's name and a range of contig " + quote(before) +
                        "; put the contig's name between braces: {" + text + "} or {" +
                        std::string(before) + "}:" + std::string(after));
      }
      if (contig == nullptr && (shorter != nullptr || is_range)) {
        name = before;
        range_text = after;
        contig = shorter;
        if (range_text.empty()) throw UsageError(what + " has nothing after ':'" + syntax);
      }
    }
  }
  if (contig == nullptr) {
    throw DataError(what + ": contig " + quote(name) + " is not among the " +
                    std::to_string(contigs.size()) + " contigs of the input" +
                    (contigs.empty() ? std::string()
                                     : ", the first of which is " + quote(contigs.front().name)));
  }
  const std::string length =
      quote(contig->name) + " (length " + std::to_string(contig->length) + ")";
  if (contig->length == 0) throw DataError(what + ": contig " + length + " has no bases");
  Range range;
  if (!range_text.empty()) {
    const auto parsed = parse_range(range_text);
    if (!parsed) {
      throw UsageError(what + ": " + quote(range_text) + " is not a range of positions" + syntax);
    }
    range = *parsed;
  }
  const int64_t last = range.last.value_or(contig->length);
  if (range.first < 1 || last < 1) {
    throw DataError(what + " has position 0 on " + length + "; positions are counted from 1");
  }
  if (range.first > contig->length) throw DataError(what + " starts beyond " + length);
  if (range.first > last) {
    throw DataError(what + " starts after its end on " + length + "; expected START <= END");
  }
  if (last > contig->length) throw DataError(what + " ends beyond " + length);
  return Region{contig->name, range.first - 1, last, text, '.'};
}

}  // namespace chromamba::io
