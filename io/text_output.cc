#include "io/text_output.h"

#include <fcntl.h>
#include <htslib/bgzf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

// 256 KiB: a write call every ~10,000 lines, and still in L2.
constexpr size_t kBufferBytes = size_t{1} << 18;
constexpr int64_t kLongestReserve = int64_t{1} << 17;  // a 64-KiB name and its numbers
// Per-base numbers hardly compress better at higher levels; 3 writes 3.8 million bedGraph lines a
// second on one core, the default (6) 0.9 million.
constexpr int kBgzfLevel = 3;

}  // namespace

TextOutput::TextOutput(const std::string& path_or_dash, bool bgzip)
    : name_(path_or_dash == "-" ? "standard output" : path_or_dash), bgzip_(bgzip) {
  constexpr mode_t kMode = 0666;
  descriptor_ = path_or_dash == "-"
                    ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
                    : open(path_or_dash.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (descriptor_ < 0) {
    throw ResourceError("cannot open " + name_ + " for writing: " + std::strerror(errno));
  }
  buffer_.resize(kBufferBytes);
  if (bgzip_) compressed_.resize(BGZF_MAX_BLOCK_SIZE);
}

TextOutput::~TextOutput() {
  try {
    close();
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch): who wants to know calls close()
    // The descriptor is closed either way.
  }
}

TextOutput::TextOutput(TextOutput&& other) noexcept
    : name_(std::move(other.name_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      bgzip_(other.bgzip_),
      buffer_(std::move(other.buffer_)),
      compressed_(std::move(other.compressed_)),
      used_(std::exchange(other.used_, 0)) {}

TextOutput& TextOutput::operator=(TextOutput&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(bgzip_, other.bgzip_);
  std::swap(buffer_, other.buffer_);
  std::swap(compressed_, other.compressed_);
  std::swap(used_, other.used_);
  return *this;
}

void TextOutput::put(const char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, data, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const std::string cause = std::strerror(errno);
      used_ = 0;  // nothing is tried again
      (void)::close(std::exchange(descriptor_, -1));
      throw ResourceError("cannot write to " + name_ + ": " + cause);
    }
    data += written;
    bytes -= static_cast<size_t>(written);
  }
}

// Writes what is in the buffer; with all == false, a bgzip remainder below one block may stay.
void TextOutput::flush(bool all) {
  if (!bgzip_) {
    put(buffer_.data(), std::exchange(used_, 0));
    return;
  }
  size_t done = 0;
  while (used_ - done >= BGZF_BLOCK_SIZE || (all && done < used_)) {
    const size_t block = std::min<size_t>(BGZF_BLOCK_SIZE, used_ - done);
    size_t bytes = compressed_.size();
    if (bgzf_compress(compressed_.data(), &bytes, buffer_.data() + done, block, kBgzfLevel) != 0) {
      throw InternalError("bgzf_compress failed on " + std::to_string(block) + " bytes for " +
                          name_);
    }
    put(compressed_.data(), bytes);
    done += block;
  }
  std::memmove(buffer_.data(), buffer_.data() + done, used_ - done);
  used_ -= done;
}

char* TextOutput::reserve(int64_t n) {
  if (n > kLongestReserve || descriptor_ < 0) {
    throw InternalError("TextOutput: " + std::to_string(n) + " bytes reserved for " + name_ +
                        (descriptor_ < 0 ? ", which is closed" : ""));
  }
  if (buffer_.size() - used_ < static_cast<size_t>(n)) flush(false);
  return buffer_.data() + used_;
}

void TextOutput::write(std::string_view text) {
  while (!text.empty()) {
    const size_t piece = std::min<size_t>(text.size(), kLongestReserve);
    std::memcpy(reserve(static_cast<int64_t>(piece)), text.data(), piece);
    used_ += piece;
    text.remove_prefix(piece);
  }
}

void TextOutput::close() {
  if (descriptor_ < 0) return;
  flush(true);
  if (bgzip_) {
    size_t bytes = compressed_.size();
    if (bgzf_compress(compressed_.data(), &bytes, nullptr, 0, kBgzfLevel) != 0) {
      throw InternalError("bgzf_compress failed on the end-of-file block of " + name_);
    }
    put(compressed_.data(), bytes);
  }
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    throw ResourceError("cannot finish writing " + name_ + ": " + std::strerror(errno));
  }
}

void write_header_lines(TextOutput& out, const std::vector<std::string>& lines) {
  for (std::string line : lines) {
    // A command line may hold line ends; a comment must not.
    std::replace(line.begin(), line.end(), '\n', ' ');
    out.write("# " + line + "\n");
  }
}

}  // namespace chromamba::io
