#include "io/bed.h"

#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;
using testing::put;
using testing::TempFolder;

const std::vector<ContigInfo> kContigs = {{"chr1", 1000}, {"chr2", 50}, {"track1", 10}};

TEST_CASE("BED lines", "[bed]") {
  TempFolder folder;
  const std::string text =
      "# comment\nbrowser position chr1\ntrack name=x\n\n"
      "chr1\t0\t10\n"
      "chr2\t5\t50\tname one\t0\t-\r\n"
      "  \t \n"
      "chr1 7   9 spaced 3 + more columns\n"
      "track1\t1\t2\t\t\t.\n"
      "chr1\t0\t10";
  for (const std::string& bytes :
       {text, testing::gzip(text), testing::bgzip(text), testing::bgzip(text, 7)}) {
    const std::vector<Region> regions = read_bed(put(folder / "a.bed", bytes), kContigs);
    REQUIRE(regions.size() == 5);
    CHECK((regions[0].contig == "chr1" && regions[0].start == 0 && regions[0].end == 10));
    CHECK((regions[0].name.empty() && regions[0].strand == '.'));
    CHECK((regions[1].contig == "chr2" && regions[1].start == 5 && regions[1].end == 50));
    CHECK((regions[1].name == "name one" && regions[1].strand == '-'));
    CHECK((regions[2].contig == "chr1" && regions[2].start == 7 && regions[2].end == 9));
    CHECK((regions[2].name == "spaced" && regions[2].strand == '+'));
    CHECK((regions[3].contig == "track1" && regions[3].strand == '.'));
    CHECK((regions[4].start == 0 && regions[4].end == 10));
  }
  const testing::StdinFrom input(put(folder / "in", text));
  CHECK(read_bed("-", kContigs).size() == 5);
}

TEST_CASE("BED lines that are wrong name file and line", "[bed]") {
  TempFolder folder;
  const auto error = [&](const std::string& line) {
    const std::string path = put(folder / "bad.bed", "chr1\t0\t5\n#\n" + line + "\n");
    std::string message = message_of<DataError>([&] { (void)read_bed(path, kContigs); });
    CHECK_MESSAGE_HAS(message, path + ": line 3: ");
    return message;
  };
  CHECK_MESSAGE_HAS(error("chr1\t5"), "2 columns");
  CHECK_MESSAGE_HAS(error("chr1"), "1 column ");
  CHECK_MESSAGE_HAS(error("chr1\t10\t5"), "start after its end");
  CHECK_MESSAGE_HAS(error("chr1\t5\t5"), "empty");
  CHECK_MESSAGE_HAS(error("chr1\t-5\t5"), "negative");
  CHECK_MESSAGE_HAS(error("chr1\tx\t5"), "'x'");
  CHECK_MESSAGE_HAS(error("chr1\t1\t5.5"), "'5.5'");
  CHECK_MESSAGE_HAS(error("chr1\t1\t"), "end is ''");
  CHECK_MESSAGE_HAS(error("chr1\t1\t99999999999999999999"), "whole number");
  CHECK_MESSAGE_HAS(error("chr1\t1\t1001"), "length 1000");
  CHECK_MESSAGE_HAS(error("chr9\t1\t5"), "'chr9' is not among");
  CHECK_MESSAGE_HAS(error("chr1\t1\t5\tn\t0\tx"), "strand is 'x'");
}

TEST_CASE("BED files without regions", "[bed]") {
  TempFolder folder;
  for (const char* text : {"", "\n\n", "# only\ntrack x\n"}) {
    const std::string path = put(folder / "empty.bed", text);
    CHECK_MESSAGE_HAS(message_of<DataError>([&] { (void)read_bed(path, kContigs); }), "no regions");
  }
  CHECK_THROWS_AS(read_bed(folder / "none.bed", kContigs), DataError);
  const std::string long_line = put(folder / "long.bed", std::string(3'000'000, 'x'));
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { (void)read_bed(long_line, kContigs); }),
                    "longer than 1 MiB");
}

}  // namespace
}  // namespace chromamba::io
