// Tab-separated tables for people, R and pandas: '#' lines, one line of column names, rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/text_output.h"

namespace chromamba::io {

// ResourceError as TextOutput. InternalError: a row of another width than the columns, a field
// with a tab or a line end. One thread at a time.
class TableWriter {
 public:
  TableWriter(const std::string& path_or_dash, bool bgzip,
              const std::vector<std::string>& header_lines, std::vector<std::string> columns);
  void row(const std::vector<std::string>& fields);
  void close() { out_.close(); }

 private:
  TextOutput out_;
  std::vector<std::string> columns_;
};

// A number with a fixed count of decimals: the same text on every machine. "nan", "inf", "-inf";
// a value that rounds to zero has no sign.
std::string format_fixed(double value, int decimals = 6);

// The shortest text that reads back to the same number.
std::string format_shortest(double value);
std::string format_shortest(float value);

}  // namespace chromamba::io
