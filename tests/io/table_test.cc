#include "io/table.h"

#include <cmath>
#include <limits>

#include "io/input_stream.h"
#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::slurp;
using testing::TempFolder;

TEST_CASE("tables", "[table]") {
  TempFolder folder;
  const std::string path = folder / "a.tsv";
  TableWriter table(path, false, {"made by a test"}, {"contig", "length"});
  table.row({"chr1", "10"});
  table.row({"", ""});
  CHECK_THROWS_AS(table.row({"chr1"}), InternalError);
  CHECK_THROWS_AS(table.row({"chr1", "1\t2"}), InternalError);
  CHECK_THROWS_AS(table.row({"chr1\n", "1"}), InternalError);
  table.close();
  table.close();
  CHECK(slurp(path) == "# made by a test\ncontig\tlength\nchr1\t10\n\t\n");
}

TEST_CASE("compressed tables end with the BGZF end-of-file block", "[table]") {
  TempFolder folder;
  const std::string path = folder / "a.tsv.gz";
  TableWriter table(path, true, {}, {"x"});
  for (int i = 0; i < 100'000; ++i) table.row({std::to_string(i)});
  table.close();
  const std::string bytes = slurp(path);
  const std::string end = testing::bgzip("");
  CHECK(bytes.substr(bytes.size() - end.size()) == end);
  InputStream back(path);
  std::string text(1'000'000, '\0');
  int64_t n = 0;
  int64_t got = 0;
  while ((got = back.read(text.data() + n, 1'000'000 - n)) > 0) n += got;
  text.resize(static_cast<size_t>(n));
  CHECK(text.size() == 2 + 588'890);
  CHECK(text.substr(text.size() - 6) == "99999\n");
}

TEST_CASE("numbers as text", "[table]") {
  CHECK(format_fixed(1.0) == "1.000000");
  CHECK(format_fixed(-1.2345678) == "-1.234568");
  CHECK(format_fixed(0.5, 0) == "0");
  CHECK(format_fixed(-0.0000001) == "0.000000");
  CHECK(format_fixed(-0.0) == "0.000000");
  CHECK(format_fixed(-0.01, 2) == "-0.01");
  CHECK(format_fixed(1e300, 1).size() == 303);
  CHECK(format_fixed(std::nan("")) == "nan");
  CHECK(format_fixed(-std::numeric_limits<double>::infinity()) == "-inf");
  CHECK(format_shortest(0.1) == "0.1");
  CHECK(format_shortest(0.1F) == "0.1");
  CHECK(format_shortest(std::nan("")) == "nan");
  CHECK(format_shortest(-std::numeric_limits<float>::quiet_NaN()) == "nan");
}

}  // namespace
}  // namespace chromamba::io
