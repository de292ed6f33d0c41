#include "io/region.h"

#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;

const std::vector<ContigInfo> kContigs = {{"chr20", 6'000'000}, {"chr1", 500},  {"HLA:01:02", 100},
                                          {"odd:1-10", 50},     {"odd", 90},    {"empty", 0},
                                          {"with,comma", 30},   {"{brace", 20}, {"a-b", 10}};

void check_region(const std::string& text, const std::string& contig, int64_t start, int64_t end) {
  INFO(text);
  const Region region = parse_region(text, kContigs);
  CHECK(region.contig == contig);
  CHECK(region.start == start);
  CHECK(region.end == end);
  CHECK(region.strand == '.');
}

TEST_CASE("region syntax", "[region]") {
  check_region("chr20", "chr20", 0, 6'000'000);
  check_region("chr20:1-5,000,000", "chr20", 0, 5'000'000);
  check_region("chr20:100-", "chr20", 99, 6'000'000);
  check_region("chr20:100", "chr20", 99, 6'000'000);
  check_region("chr20:5-5", "chr20", 4, 5);
  check_region("chr20:-7", "chr20", 0, 7);
  check_region("chr1:500-500", "chr1", 499, 500);
  check_region("HLA:01:02", "HLA:01:02", 0, 100);
  check_region("HLA:01:02:3-4", "HLA:01:02", 2, 4);
  check_region("{HLA:01:02}:3-4", "HLA:01:02", 2, 4);
  check_region("{HLA:01:02}", "HLA:01:02", 0, 100);
  check_region("{odd:1-10}", "odd:1-10", 0, 50);
  check_region("{odd}:1-10", "odd", 0, 10);
  check_region("odd:2-10", "odd", 1, 10);
  check_region("with,comma:2", "with,comma", 1, 30);
  check_region("a-b:2-3", "a-b", 1, 3);
}

TEST_CASE("regions that do not fit the contigs", "[region]") {
  const auto error = [](const std::string& text) {
    INFO(text);
    return message_of<DataError>([&] { (void)parse_region(text, kContigs); });
  };
  CHECK(error("chr1:1-999") == "region 'chr1:1-999' ends beyond 'chr1' (length 500)");
  CHECK_MESSAGE_HAS(error("chr1:501"), "starts beyond 'chr1' (length 500)");
  CHECK_MESSAGE_HAS(error("chr1:501-502"), "starts beyond");
  CHECK_MESSAGE_HAS(error("chr1:0-10"), "position 0");
  CHECK_MESSAGE_HAS(error("chr1:1-0"), "position 0");
  CHECK_MESSAGE_HAS(error("chr1:20-10"), "after its end");
  CHECK_MESSAGE_HAS(error("chr2"), "'chr2' is not among");
  CHECK_MESSAGE_HAS(error("chr2:1-10"), "'chr2' is not among");
  CHECK_MESSAGE_HAS(error("{chr1:1-10}"), "not among");
  CHECK_MESSAGE_HAS(error("odd:1-10"), "braces");
  CHECK_MESSAGE_HAS(error("empty"), "no bases");
  CHECK_THROWS_AS(parse_region("chr1", {}), DataError);
}

TEST_CASE("text that is no region", "[region]") {
  for (const char* text : {"", "chr1:", "chr1:x", "chr1:1-x", "chr1:1-2-3", "chr1:-", "{chr1",
                           "{chr1}x", "{chr1}:", "chr1:+5", "chr1:1 -5", "chr1:,5", "chr1:5,",
                           "chr1:99999999999999999999", "chr1:--5"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_region(text, kContigs), UsageError);
  }
}

}  // namespace
}  // namespace chromamba::io
