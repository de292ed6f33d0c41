// Shared by the tests of io/: a temporary folder, files of every compression, a full disk.
#pragma once

#include <htslib/bgzf.h>
#include <sys/mount.h>
#include <unistd.h>
#include <zlib.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels/base/error.h"

namespace chromamba::io::testing {

class TempFolder {
 public:
  TempFolder() {
    path_ = (std::filesystem::temp_directory_path() / "chromamba_io.XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  size_t count() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::string path_;
};

inline std::string put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// One gzip member.
inline std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  std::string copy = text;
  stream.next_in = reinterpret_cast<Bytef*>(copy.data());
  stream.avail_in = static_cast<uInt>(copy.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// BGZF blocks of at most block_bytes of text each, with the end-of-file block.
inline std::string bgzip(const std::string& text, size_t block_bytes = 0xff00) {
  std::string out;
  std::string block(BGZF_MAX_BLOCK_SIZE, '\0');
  for (size_t start = 0;; start += block_bytes) {
    const size_t n = start < text.size() ? std::min(block_bytes, text.size() - start) : 0;
    size_t bytes = block.size();
    REQUIRE(bgzf_compress(block.data(), &bytes, text.data() + (n > 0 ? start : 0), n, -1) == 0);
    out.append(block, 0, bytes);
    if (n == 0) return out;
  }
}

constexpr size_t kBgzfEofBytes = 28;

// The message of the error of class E that `call` throws; fails the test when it throws none.
// Every message must be one line.
template <typename E>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  FAIL("no error was thrown");
  return {};
}

#define CHECK_MESSAGE_HAS(message, part) CHECK_THAT(message, Catch::Matchers::Contains(part))

// A file system of a few bytes, for tests of a full disk. ok() is false where mounting is not
// permitted; the test then says so and is skipped.
class SmallDisk {
 public:
  explicit SmallDisk(int64_t bytes) {
    const std::string size = "size=" + std::to_string(bytes);
    ok_ = mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, size.c_str()) == 0;
    if (!ok_) WARN("SKIPPED: mounting a small tmpfs is not permitted: " << std::strerror(errno));
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (ok_ && umount(folder_.path().c_str()) != 0) {
      (void)umount2(folder_.path().c_str(), MNT_DETACH);
    }
  }
  bool ok() const { return ok_; }
  std::string operator/(const std::string& name) const { return folder_ / name; }
  const std::string& path() const { return folder_.path(); }

 private:
  TempFolder folder_;
  bool ok_ = false;
};

// Runs with standard input taken from a file.
class StdinFrom {
 public:
  explicit StdinFrom(const std::string& path) : saved_(dup(STDIN_FILENO)) {
    REQUIRE(std::freopen(path.c_str(), "r", stdin) != nullptr);
  }
  StdinFrom(const StdinFrom&) = delete;
  StdinFrom& operator=(const StdinFrom&) = delete;
  ~StdinFrom() {
    (void)dup2(saved_, STDIN_FILENO);
    (void)close(saved_);
  }

 private:
  int saved_;
};

}  // namespace chromamba::io::testing
