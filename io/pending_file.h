// Files that appear whole or not at all, scratch space, and the room left on a disk.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace chromamba::io {

// The folder that holds path: "a/b.h5" -> "a", "b.h5" -> ".", "/b" -> "/".
std::string folder_of(const std::string& path);

// True for what exists and is neither a regular file nor a folder: a pipe, a device.
bool is_special_file(const std::string& path);

// True when both paths are one file, whatever links and dots they contain. Paths that do not exist
// yet are compared by name.
bool same_file(const std::string& a, const std::string& b);

// Bytes that this user may still write in the file system of folder. Quotas are not seen.
// ResourceError when the folder does not exist.
int64_t free_disk_bytes(const std::string& folder);

// An output under a temporary name in the same folder, renamed by commit(); a reader never sees a
// half file under the real name. Without commit() the temporary file is removed and what was under
// the real name before stays. A symbolic link keeps pointing to where it did: its target is
// replaced. An existing fifo or device (/dev/null) is written to directly.
// ResourceError: folder missing or not writable, failing disk. UsageError: path is a directory.
// One thread at a time.
class PendingFile {
 public:
  explicit PendingFile(std::string final_path);
  ~PendingFile();
  PendingFile(PendingFile&& other) noexcept;
  PendingFile& operator=(PendingFile&& other) noexcept;

  // An empty file that exists already: open it by this name to write.
  const std::string& temporary_path() const { return temporary_path_; }
  const std::string& final_path() const { return final_path_; }

  // Call after the writer closed the file. sync() does what can fail of commit(), so that a job with
  // several outputs syncs all before the first appears under its name.
  void sync();
  // sync(), rename, fsync of the folder.
  void commit();

 private:
  void discard() noexcept;

  std::string final_path_;
  std::string target_path_;  // final_path_ with links resolved
  std::string temporary_path_;
  bool synced_ = false;
  bool direct_ = false;  // temporary_path_ is the real, non-regular file
  bool open_ = false;    // there is a temporary file to commit or remove
};

// Bytes at any offset in an unlinked file: the space is given back when the object goes, even when
// the process is killed. Bytes never written read as zero up to the highest byte written; reading
// beyond that is an InternalError. ResourceError names the folder when the disk is full or fails.
// write and read may be called by several threads at once for different byte ranges.
class ScratchFile {
 public:
  explicit ScratchFile(std::string folder);
  ~ScratchFile();
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&& other) noexcept;

  void write(int64_t offset, const void* data, int64_t bytes);
  void read(int64_t offset, void* data, int64_t bytes) const;

 private:
  std::string folder_;
  int descriptor_ = -1;
};

// True for input that can be read only once: "-" (standard input), a pipe, a socket, a terminal.
bool is_read_once(const std::string& path);

// Such input, copied byte for byte into an unlinked file of folder, so that it can be read several
// times and sought in. path() opens it afresh each time, within this process only and for as long
// as the object lives. Reads to the end of the input in the constructor.
class InputSpool {
 public:
  // `poll` is called before every block, and when a signal ends the wait for one; it may throw.
  explicit InputSpool(const std::string& folder, const std::string& input = "-",
                      const std::function<void()>& poll = {});
  ~InputSpool();
  InputSpool(InputSpool&& other) noexcept;
  InputSpool& operator=(InputSpool&& other) noexcept;

  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }

 private:
  int descriptor_ = -1;
  std::string path_;
  int64_t bytes_ = 0;
};

}  // namespace chromamba::io
