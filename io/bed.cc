#include "io/bed.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "io/input_stream.h"
#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

// Columns we look at; the rest of the line is never split.
constexpr size_t kColumns = 6;

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> fields;
  const bool tabs = line.find('\t') != std::string_view::npos;
  const char separator = tabs ? '\t' : ' ';
  // With spaces, several in a row count as one, and those at the ends as none.
  for (size_t start = 0; fields.size() < kColumns;) {
    const size_t end = std::min(line.find(separator, start), line.size());
    if (tabs || end > start) fields.push_back(line.substr(start, end - start));
    if (end == line.size()) break;
    start = end + 1;
  }
  return fields;
}

bool is_skipped(std::string_view line) {
  if (line.find_first_not_of(" \t") == std::string_view::npos || line.front() == '#') return true;
  const std::string_view word = line.substr(0, line.find_first_of(" \t"));
  return word == "track" || word == "browser";
}

}  // namespace

std::vector<Region> read_bed(const std::string& path, const std::vector<ContigInfo>& contigs) {
  std::unordered_map<std::string_view, int64_t> lengths;
  lengths.reserve(contigs.size());
  for (const ContigInfo& contig : contigs) lengths.emplace(contig.name, contig.length);

  std::vector<Region> regions;
  LineReader lines(path);
  std::string line;
  while (lines.next(line)) {
    if (is_skipped(line)) continue;
    const auto fail = [&lines](const std::string& what) {
      throw DataError(lines.display_name() + ": line " + std::to_string(lines.line_number()) +
                      ": " + what);
    };
    const std::vector<std::string_view> fields = split(line);
    if (fields.size() < 3) {
      fail("found " + std::to_string(fields.size()) + " column" + (fields.size() == 1 ? "" : "s") +
           " in " + quote(line) + "; expected at least contig, start and end");
    }
    const auto position = [&fail](std::string_view text, const char* which) {
      int64_t value = 0;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      if (text.empty() || result.ec != std::errc() || result.ptr != text.data() + text.size()) {
        fail(std::string(which) + " is " + quote(text) + "; expected a whole number");
      }
      if (value < 0) fail(std::string(which) + " " + std::to_string(value) + " is negative");
      return value;
    };
    Region region;
    region.contig = std::string(fields[0]);
    region.start = position(fields[1], "start");
    region.end = position(fields[2], "end");
    const auto contig = lengths.find(fields[0]);
    if (contig == lengths.end()) {
      fail("contig " + quote(fields[0]) + " is not among the " + std::to_string(contigs.size()) +
           " contigs of the input");
    }
    const std::string span = quote(region.contig) + " " + std::to_string(region.start) + "-" +
                             std::to_string(region.end);
    if (region.start == region.end) fail("region " + span + " is empty (start equals end)");
    if (region.start > region.end) fail("region " + span + " has its start after its end");
    if (region.end > contig->second) {
      fail("region " + span + " ends beyond the contig (length " + std::to_string(contig->second) +
           ")");
    }
    if (fields.size() > 3) region.name = std::string(fields[3]);
    if (fields.size() > 5) {
      if (fields[5] != "+" && fields[5] != "-" && fields[5] != ".") {
        fail("strand is " + quote(fields[5]) + "; expected +, - or .");
      }
      region.strand = fields[5].front();
    }
    regions.push_back(std::move(region));
  }
  if (regions.empty()) {
    throw DataError(lines.display_name() + ": holds no regions; expected BED lines");
  }
  return regions;
}

}  // namespace chromamba::io
