#include "mamba/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "kernels/base/error.h"

namespace chromamba::mamba {
namespace {

std::string errno_text(int code) { return std::generic_category().message(code); }

class FileSource final : public ByteSource {
 public:
  FileSource(std::string path, int fd, uint64_t size)
      : ByteSource(std::move(path), size), fd_(fd) {}
  ~FileSource() override { close(fd_); }

 private:
  void do_read(uint64_t offset, void* out, size_t bytes) const override {
    auto* cursor = static_cast<std::byte*>(out);
    while (bytes > 0) {
      const ssize_t got = pread(fd_, cursor, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw ResourceError(name() + ": cannot read: " + errno_text(errno));
      if (got == 0) {
        throw DataError(name() + ": ends at byte " + std::to_string(offset) + ", but had " +
                        std::to_string(size()) + " bytes when opened; was it replaced meanwhile?");
      }
      cursor += got;
      offset += static_cast<uint64_t>(got);
      bytes -= static_cast<size_t>(got);
    }
  }

  int fd_;
};

class MemorySource final : public ByteSource {
 public:
  MemorySource(std::span<const std::byte> bytes, std::string name)
      : ByteSource(std::move(name), bytes.size()), bytes_(bytes) {}

 private:
  void do_read(uint64_t offset, void* out, size_t bytes) const override {
    if (bytes > 0) std::memcpy(out, bytes_.data() + offset, bytes);
  }

  std::span<const std::byte> bytes_;
};

}  // namespace

void ByteSource::read(uint64_t offset, void* out, size_t bytes) const {
  if (offset > size_ || bytes > size_ - offset) {
    throw DataError(name_ + ": truncated: " + std::to_string(bytes) + " bytes wanted at byte " +
                    std::to_string(offset) + ", but the file has " + std::to_string(size_));
  }
  do_read(offset, out, bytes);
}

std::unique_ptr<ByteSource> open_file_source(const std::string& path) {
  // O_NONBLOCK so that opening a named pipe returns; it changes nothing for regular files.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw DataError(path + ": cannot open: " + errno_text(errno));
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd);
    throw DataError(path + ": not a regular file; checkpoints are read from files on disk");
  }
  return std::make_unique<FileSource>(path, fd, static_cast<uint64_t>(status.st_size));
}

std::unique_ptr<ByteSource> memory_source(std::span<const std::byte> bytes, std::string name) {
  return std::make_unique<MemorySource>(bytes, std::move(name));
}

std::string read_text(const ByteSource& source, uint64_t max_bytes) {
  if (source.size() > max_bytes) {
    throw DataError(source.name() + ": " + std::to_string(source.size()) +
                    " bytes is too large for a file of this kind (limit " +
                    std::to_string(max_bytes) + ")");
  }
  std::string text(source.size(), '\0');
  source.read(0, text.data(), text.size());
  return text;
}

std::string quote(std::string_view text) {
  constexpr size_t kShown = 120;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "'";
  for (const char character : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte < 0x20 || byte >= 0x7f) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += character;
    }
  }
  out += text.size() > kShown ? "...'" : "'";
  return out;
}

}  // namespace chromamba::mamba
