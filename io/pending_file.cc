#include "io/pending_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

std::string cause() { return std::strerror(errno); }

// An unlinked file for reading and writing.
int open_unlinked(const std::string& folder) {
  int descriptor = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    // File systems without O_TMPFILE (NFS, older overlays).
    std::string name = folder + "/.chromamba.XXXXXX";
    descriptor = mkostemp(name.data(), O_CLOEXEC);
    if (descriptor >= 0) (void)unlink(name.c_str());
  }
  if (descriptor < 0) {
    throw ResourceError("cannot make a scratch file in folder " + folder + ": " + cause() +
                        "; choose a folder that exists and can be written");
  }
  return descriptor;
}

void write_all(int descriptor, int64_t offset, const char* data, int64_t bytes,
               const std::string& folder) {
  while (bytes > 0) {
    const ssize_t written = pwrite(descriptor, data, static_cast<size_t>(bytes), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      throw ResourceError("cannot write " + std::to_string(bytes) +
                          " bytes to a scratch file in folder " + folder + ": " + cause() +
                          "; make room or choose another folder");
    }
    data += written;
    offset += written;
    bytes -= written;
  }
}

}  // namespace

std::string folder_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool is_special_file(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat status_a {};
  struct stat status_b {};
  if (stat(a.c_str(), &status_a) == 0 && stat(b.c_str(), &status_b) == 0) {
    return status_a.st_dev == status_b.st_dev && status_a.st_ino == status_b.st_ino;
  }
  std::error_code ignored;
  namespace fs = std::filesystem;
  return fs::weakly_canonical(fs::absolute(a, ignored), ignored) ==
         fs::weakly_canonical(fs::absolute(b, ignored), ignored);
}

int64_t free_disk_bytes(const std::string& folder) {
  struct statvfs status {};
  if (statvfs(folder.c_str(), &status) != 0) {
    throw ResourceError("cannot tell the free space of folder " + folder + ": " + cause());
  }
  return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

PendingFile::PendingFile(std::string final_path)
    : final_path_(std::move(final_path)), target_path_(final_path_) {
  if (final_path_.empty()) throw UsageError("the name of an output file is empty");
  struct stat status {};
  const bool exists = stat(final_path_.c_str(), &status) == 0;
  if ((exists && S_ISDIR(status.st_mode)) || final_path_.back() == '/') {
    throw UsageError("output " + final_path_ + " is a directory; expected the name of a file");
  }
  if (exists && !S_ISREG(status.st_mode)) {
    direct_ = true;
    temporary_path_ = final_path_;
    return;
  }
  // Links are followed one by one, so that one whose target does not exist yet leads there too.
  std::error_code error;
  constexpr int kMaxLinks = 40;  // as Linux follows
  for (int links = 0; std::filesystem::is_symlink(target_path_, error); ++links) {
    const std::filesystem::path next = std::filesystem::read_symlink(target_path_, error);
    if (error || links == kMaxLinks) {
      throw ResourceError("cannot write output " + final_path_ +
                          ": the symbolic link cannot be followed");
    }
    target_path_ =
        next.is_absolute() ? next.string() : folder_of(target_path_) + "/" + next.string();
  }
  const std::string folder = folder_of(target_path_);
  // A file name may have 255 bytes; this leaves room for the pid and the counter.
  constexpr size_t kBaseBytes = 200;
  const size_t slash = target_path_.find_last_of('/');
  std::string base = slash == std::string::npos ? target_path_ : target_path_.substr(slash + 1);
  if (base.size() > kBaseBytes) base.resize(kBaseBytes);
  static std::atomic<int64_t> counter{0};
  constexpr mode_t kMode = 0666;  // less the umask, as for any new file
  int descriptor = -1;
  do {
    temporary_path_ = (folder == "/" ? "/." : folder + "/.") + base + "." +
                      std::to_string(getpid()) + "." + std::to_string(counter++) + ".tmp";
    descriptor = open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
  } while (descriptor < 0 && errno == EEXIST);  // left by a killed process that had our pid
  if (descriptor < 0) {
    throw ResourceError("cannot write output " + final_path_ + ": no file can be made in folder " +
                        folder + ": " + cause());
  }
  constexpr mode_t kPermissionBits = 07777;
  if (exists) (void)fchmod(descriptor, status.st_mode & kPermissionBits);
  (void)close(descriptor);
  open_ = true;
}

PendingFile::~PendingFile() { discard(); }

PendingFile::PendingFile(PendingFile&& other) noexcept
    : final_path_(std::move(other.final_path_)),
      target_path_(std::move(other.target_path_)),
      temporary_path_(std::move(other.temporary_path_)),
      synced_(other.synced_),
      direct_(other.direct_),
      open_(std::exchange(other.open_, false)) {}

PendingFile& PendingFile::operator=(PendingFile&& other) noexcept {
  if (this != &other) {
    discard();
    final_path_ = std::move(other.final_path_);
    target_path_ = std::move(other.target_path_);
    temporary_path_ = std::move(other.temporary_path_);
    direct_ = other.direct_;
    synced_ = other.synced_;
    open_ = std::exchange(other.open_, false);
  }
  return *this;
}

void PendingFile::discard() noexcept {
  if (open_) (void)unlink(temporary_path_.c_str());
  open_ = false;
}

void PendingFile::sync() {
  if (direct_ || synced_) return;
  if (!open_) throw InternalError("output " + final_path_ + " was committed twice");
  const int descriptor = open(temporary_path_.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = descriptor >= 0 && fsync(descriptor) == 0;
  const std::string sync_cause = cause();
  if (descriptor >= 0) (void)close(descriptor);
  if (!synced) {
    throw ResourceError("cannot finish output " + final_path_ + ": " + sync_cause);
  }
  synced_ = true;
}

void PendingFile::commit() {
  if (direct_) return;
  sync();
  if (!open_) throw InternalError("output " + final_path_ + " was committed twice");
  if (rename(temporary_path_.c_str(), target_path_.c_str()) != 0) {
    throw ResourceError("cannot rename " + temporary_path_ + " to " + final_path_ + ": " + cause());
  }
  open_ = false;
  // Makes the new name durable. Some file systems cannot sync a folder; the data is safe anyway.
  const int folder = open(folder_of(target_path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    (void)fsync(folder);
    (void)close(folder);
  }
}

ScratchFile::ScratchFile(std::string folder)
    : folder_(std::move(folder)), descriptor_(open_unlinked(folder_)) {}

ScratchFile::~ScratchFile() {
  if (descriptor_ >= 0) (void)close(descriptor_);
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : folder_(std::move(other.folder_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

ScratchFile& ScratchFile::operator=(ScratchFile&& other) noexcept {
  std::swap(folder_, other.folder_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void ScratchFile::write(int64_t offset, const void* data, int64_t bytes) {
  write_all(descriptor_, offset, static_cast<const char*>(data), bytes, folder_);
}

void ScratchFile::read(int64_t offset, void* data, int64_t bytes) const {
  char* out = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = pread(descriptor_, out, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw ResourceError("cannot read a scratch file in folder " + folder_ + ": " + cause());
    }
    if (got == 0) {
      throw InternalError("scratch file in folder " + folder_ + " read beyond its end, at byte " +
                          std::to_string(offset));
    }
    out += got;
    offset += got;
    bytes -= got;
  }
}

bool is_read_once(const std::string& path) {
  if (path == "-") return true;
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return false;  // whoever opens it says what is wrong
  return S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode) || S_ISCHR(status.st_mode);
}

InputSpool::InputSpool(const std::string& folder, const std::string& input,
                       const std::function<void()>& poll)
    : descriptor_(open_unlinked(folder)) {
  const bool standard = input == "-";
  const std::string name = standard ? "standard input" : input;
  int source = STDIN_FILENO;
  try {
    if (!standard) {
      source = open(input.c_str(), O_RDONLY | O_CLOEXEC);
      if (source < 0) throw DataError(input + ": cannot be opened: " + cause());
    }
    // Each open() of this name gives a new file position, although the file has no other name.
    path_ = "/proc/self/fd/" + std::to_string(descriptor_);
    if (access(path_.c_str(), R_OK) != 0) {
      throw ResourceError("cannot reread " + name + ": " + path_ + ": " + cause() +
                          "; give the input as a file");
    }
    std::vector<char> block(size_t{1} << 20);
    for (;;) {
      if (poll) poll();
      const ssize_t got = ::read(source, block.data(), block.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw DataError(name + ": cannot be read: " + cause());
      if (got == 0) break;
      write_all(descriptor_, bytes_, block.data(), got, folder);
      bytes_ += got;
    }
  } catch (...) {
    if (source > STDIN_FILENO) (void)close(source);
    (void)close(descriptor_);
    throw;
  }
  if (!standard) (void)close(source);
}

InputSpool::~InputSpool() {
  if (descriptor_ >= 0) (void)close(descriptor_);
}

InputSpool::InputSpool(InputSpool&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      path_(std::move(other.path_)),
      bytes_(other.bytes_) {}

InputSpool& InputSpool::operator=(InputSpool&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace chromamba::io
