// Random-access bytes of a checkpoint file or of a block of memory, and how messages quote what
// was found in them.
//
// Files are read with pread rather than mapped: a file that shrinks or a network disk that fails
// while we read is then an error message instead of SIGBUS, and every byte is copied once anyway
// when it is widened to float. Reading is safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace chromamba::mamba {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }

  // Copies bytes [offset, offset + bytes) to `out`. DataError when they lie outside the source.
  void read(uint64_t offset, void* out, size_t bytes) const;

 protected:
  ByteSource(std::string name, uint64_t size) : name_(std::move(name)), size_(size) {}

 private:
  virtual void do_read(uint64_t offset, void* out, size_t bytes) const = 0;

  std::string name_;
  uint64_t size_;
};

// A regular file. DataError when it cannot be opened or is a folder, pipe or device (a pipe would
// block us for ever).
std::unique_ptr<ByteSource> open_file_source(const std::string& path);

// Memory that the caller keeps alive for as long as the source.
std::unique_ptr<ByteSource> memory_source(std::span<const std::byte> bytes, std::string name);

// The whole source as text; DataError when it is longer than `max_bytes`.
std::string read_text(const ByteSource& source, uint64_t max_bytes);

// Untrusted text for a one-line message: in single quotes, control and non-ASCII bytes as \xNN,
// cut after 120 bytes.
std::string quote(std::string_view text);

}  // namespace chromamba::mamba
