// Text to a file or to standard output ("-"), plain or bgzip, through one buffer.
//
// Bytes reach the file in the order written. bgzip output is a whole number of BGZF blocks and
// ends with the end-of-file block, so tabix can index it. ResourceError for a file that cannot be
// made, a full disk or a closed pipe; it may come from write() or only from close(). The
// destructor closes without a word: call close() to know. One thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace chromamba::io {

class TextOutput {
 public:
  // An existing file is truncated: give the temporary path of a PendingFile.
  TextOutput(const std::string& path_or_dash, bool bgzip);
  ~TextOutput();
  TextOutput(TextOutput&& other) noexcept;
  TextOutput& operator=(TextOutput&& other) noexcept;

  void write(std::string_view text);

  // Room for at least n bytes (n <= 128 KiB), to be filled from the front; then commit what was
  // used. Saves a copy where lines are formatted by the million.
  char* reserve(int64_t n);
  void commit(int64_t used) { used_ += static_cast<size_t>(used); }

  void close();

 private:
  void flush(bool all);
  void put(const char* data, size_t bytes);

  std::string name_;
  int descriptor_ = -1;
  bool bgzip_ = false;
  std::vector<char> buffer_;
  std::vector<char> compressed_;
  size_t used_ = 0;
};

// Appends "# line" for each line, as the head of a text output.
void write_header_lines(TextOutput& out, const std::vector<std::string>& lines);

}  // namespace chromamba::io
