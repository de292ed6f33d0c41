#include "io/bedgraph.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace chromamba::io {
namespace {

// Two positions of at most 20 bytes, a float of at most 16, three tabs and a line end.
constexpr size_t kNumberBytes = 64;

}  // namespace

BedGraphWriter::BedGraphWriter(const std::string& path_or_dash, bool bgzip,
                               const std::vector<std::string>& header_lines)
    : out_(path_or_dash, bgzip) {
  write_header_lines(out_, header_lines);
}

void BedGraphWriter::add(const std::string& contig, int64_t start, const float* values, int64_t n) {
  const size_t room = contig.size() + kNumberBytes;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(values[i])) continue;
    char* const line = out_.reserve(static_cast<int64_t>(room));
    char* const limit = line + room;
    char* text = std::copy(contig.begin(), contig.end(), line);
    *text++ = '\t';
    text = std::to_chars(text, limit, start + i).ptr;
    *text++ = '\t';
    text = std::to_chars(text, limit, start + i + 1).ptr;
    *text++ = '\t';
    text = std::to_chars(text, limit, values[i]).ptr;
    *text++ = '\n';
    out_.commit(text - line);
  }
}

}  // namespace chromamba::io
