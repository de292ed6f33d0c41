#include "io/pending_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <thread>
#include <vector>

#include "io/fasta.h"
#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;
using testing::put;
using testing::slurp;
using testing::TempFolder;

TEST_CASE("folder_of", "[pending_file]") {
  CHECK(folder_of("a/b.h5") == "a");
  CHECK(folder_of("b.h5") == ".");
  CHECK(folder_of("/b.h5") == "/");
  CHECK(folder_of("/a/b/c") == "/a/b");
}

TEST_CASE("an output appears whole or not at all", "[pending_file]") {
  TempFolder folder;
  const std::string path = put(folder / "out.txt", "old");
  REQUIRE(chmod(path.c_str(), 0640) == 0);
  {
    PendingFile abandoned(path);
    CHECK(folder_of(abandoned.temporary_path()) == folder.path());
    CHECK(abandoned.temporary_path().find("/.out.txt.") != std::string::npos);
    put(abandoned.temporary_path(), "half");
    CHECK(slurp(path) == "old");
  }
  CHECK(slurp(path) == "old");
  CHECK(folder.count() == 1);

  PendingFile first(path);
  const PendingFile second(path);
  CHECK(first.temporary_path() != second.temporary_path());
  put(first.temporary_path(), "new");
  PendingFile moved = std::move(first);
  moved.commit();
  CHECK(slurp(path) == "new");
  struct stat status {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0640);
  CHECK_THROWS_AS(moved.commit(), InternalError);
}

TEST_CASE("outputs that cannot be", "[pending_file]") {
  TempFolder folder;
  CHECK_THROWS_AS(PendingFile(folder.path()), UsageError);
  CHECK_THROWS_AS(PendingFile(folder / "none/"), UsageError);
  CHECK_THROWS_AS(PendingFile(""), UsageError);
  CHECK_MESSAGE_HAS(message_of<ResourceError>([&] { PendingFile file(folder / "none/out"); }),
                    "none");
  PendingFile lost(folder / "x");
  std::filesystem::remove(lost.temporary_path());
  CHECK_THROWS_AS(lost.commit(), ResourceError);
  PendingFile long_name(folder / std::string(250, 'n'));
  long_name.commit();
  CHECK(std::filesystem::exists(folder / std::string(250, 'n')));
}

TEST_CASE("links and devices", "[pending_file]") {
  TempFolder folder;
  std::filesystem::create_directory(folder / "sub");
  put(folder / "sub/real", "old");
  std::filesystem::create_symlink("sub/real", folder / "link");
  PendingFile through(folder / "link");
  put(through.temporary_path(), "new");
  through.commit();
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(slurp(folder / "sub/real") == "new");

  PendingFile null("/dev/null");
  CHECK(null.temporary_path() == "/dev/null");
  null.commit();
  CHECK(std::filesystem::is_character_file("/dev/null"));
  REQUIRE(mkfifo((folder / "fifo").c_str(), 0600) == 0);
  { const PendingFile fifo(folder / "fifo"); }
  CHECK(std::filesystem::is_fifo(folder / "fifo"));
}

TEST_CASE("scratch space", "[pending_file]") {
  TempFolder folder;
  ScratchFile scratch(folder.path());
  CHECK(folder.count() == 0);
  scratch.write(1'000'000, "there", 5);
  scratch.write(0, "here", 4);
  char text[6] = {};
  scratch.read(1'000'000, text, 5);
  CHECK(std::string(text) == "there");
  scratch.read(2, text, 5);
  CHECK(std::string(text, 5) == std::string("re\0\0\0", 5));
  CHECK_THROWS_AS(scratch.read(1'000'001, text, 5), InternalError);
  CHECK_THROWS_AS(ScratchFile(folder / "none"), ResourceError);
  CHECK(free_disk_bytes(folder.path()) > 0);
  CHECK_THROWS_AS(free_disk_bytes(folder / "none"), ResourceError);
}

TEST_CASE("scratch space on a full disk", "[pending_file]") {
  const testing::SmallDisk disk(1 << 20);
  if (!disk.ok()) return;
  CHECK(free_disk_bytes(disk.path()) <= 1 << 20);
  ScratchFile scratch(disk.path());
  const std::vector<char> block(100'000, 'x');
  const std::string message = message_of<ResourceError>([&] {
    for (int64_t i = 0; i < 20; ++i) scratch.write(i * 100'000, block.data(), 100'000);
  });
  CHECK_MESSAGE_HAS(message, disk.path());
  CHECK_MESSAGE_HAS(message, "No space left");
}

TEST_CASE("standard input spooled can be read again and again", "[pending_file]") {
  TempFolder folder;
  std::string text = ">a\n";
  for (int i = 0; i < 100'000; ++i) text += "ACGTTGCAAC\n";
  for (const std::string& bytes : {text, testing::bgzip(text)}) {
    // Through a pipe, as in real life.
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const int saved = dup(STDIN_FILENO);
    REQUIRE(dup2(ends[0], STDIN_FILENO) >= 0);
    std::thread feeder([&] {
      for (size_t done = 0; done < bytes.size();) {
        const ssize_t n = write(ends[1], bytes.data() + done, bytes.size() - done);
        if (n <= 0) break;
        done += static_cast<size_t>(n);
      }
      close(ends[1]);
    });
    const InputSpool first(folder.path());
    feeder.join();
    close(ends[0]);
    dup2(saved, STDIN_FILENO);
    close(saved);
    CHECK(first.bytes() == static_cast<int64_t>(bytes.size()));
    CHECK(folder.count() == 0);
    FastaReader one(first.path());
    CHECK(one.next_contig());
    char base = 0;
    CHECK(one.read(&base, 1) == 1);
    for (int i = 0; i < 2; ++i) CHECK(scan_fasta(first.path()).bases == 1'000'000);
    CHECK(one.read(&base, 1) == 1);
    CHECK(base == 'C');
  }
}

}  // namespace
}  // namespace chromamba::io
