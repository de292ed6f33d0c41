// Bytes of an input file, decompressed: plain, gzip (several members too) or bgzip, or "-" for
// standard input. The kind is read from the first bytes, never from the name.
//
// Sequential only, bounded memory. One thread at a time per object; with threads > 1 bgzip blocks
// are inflated by a pool of that size. Errors are DataError: missing or unreadable file, a
// directory, compression we do not read (bzip2, xz, zstd), a stream that ends early, a bad
// checksum, bytes after the end of the compressed data, bgzip without its end-of-file block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct hFILE;  // htslib's

namespace chromamba::io {

// An input opened by open_input(), nothing read: what InputStream and htslib's own readers (through
// release()) start from.
struct CloseInputFile {
  void operator()(hFILE* file) const;
};
using InputFile = std::unique_ptr<hFILE, CloseInputFile>;

// Opens a path or "-" and nothing that looks like a URL. DataError for a missing or unreadable file
// and for a directory.
InputFile open_input(const std::string& path, const std::string& display_name);

// What messages call an input: `chosen`, or the path, "standard input" for "-".
std::string input_display_name(const std::string& path, const std::string& chosen);

enum class Compression { none, gzip, bgzf };

class InputStream {
 public:
  // display_name is what messages call the file; empty: the path, "standard input" for "-".
  explicit InputStream(const std::string& path, int threads = 1,
                       const std::string& display_name = {});
  InputStream(InputFile file, int threads, std::string display_name);
  ~InputStream();
  InputStream(InputStream&&) noexcept;
  InputStream& operator=(InputStream&&) noexcept;

  // Up to n bytes into out; fewer than n only near the end, 0 at the end.
  int64_t read(char* out, int64_t n);

  Compression compression() const;
  const std::string& display_name() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Lines of an InputStream, without LF or CRLF; a last line without LF counts.
class LineReader {
 public:
  explicit LineReader(const std::string& path);
  // False at the end. A line beyond 1 MiB is a DataError (no text format read here has such).
  bool next(std::string& line);
  int64_t line_number() const { return line_number_; }  // of the last line given, from 1
  const std::string& display_name() const { return stream_.display_name(); }

 private:
  InputStream stream_;
  std::string buffer_;
  size_t position_ = 0;
  int64_t line_number_ = 0;
};

// What a file seems to be, from its first (decompressed) bytes: "looks like BAM", or the bytes in
// hexadecimal. For messages only.
std::string describe_content(std::string_view first_bytes);

// Stops htslib from writing to stderr. Called by everything in io/ that uses it.
void silence_htslib();

}  // namespace chromamba::io
