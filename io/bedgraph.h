// bedGraph, one line a base: contig, start, end (0-based half-open), value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/text_output.h"

namespace chromamba::io {

// NaN is left out. A value is the shortest text that reads back to the same float. With bgzip and
// contigs in one piece, ascending, the file can be indexed with `tabix -p bed`.
// ResourceError as TextOutput. One thread at a time.
class BedGraphWriter {
 public:
  BedGraphWriter(const std::string& path_or_dash, bool bgzip,
                 const std::vector<std::string>& header_lines);
  // values[i] belongs to base start + i. Nothing is checked against a contig's length.
  void add(const std::string& contig, int64_t start, const float* values, int64_t n);
  void close() { out_.close(); }

 private:
  TextOutput out_;
};

}  // namespace chromamba::io
