#include "io/bedgraph.h"

#include <fcntl.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

#include "io/input_stream.h"
#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;
using testing::slurp;
using testing::TempFolder;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("bedGraph lines", "[bedgraph]") {
  TempFolder folder;
  const std::string path = folder / "a.bedgraph";
  BedGraphWriter writer(path, false, {"chromamba score", "two\nlines"});
  const float values[] = {-0.5F, kNaN, -1.25e-10F, 3.0F};
  writer.add("chr1", 9, values, 4);
  writer.add("chr2", 5'000'000'000, values, 1);
  writer.close();
  CHECK(slurp(path) ==
        "# chromamba score\n# two lines\n"
        "chr1\t9\t10\t-0.5\nchr1\t11\t12\t-1.25e-10\nchr1\t12\t13\t3\n"
        "chr2\t5000000000\t5000000001\t-0.5\n");
}

TEST_CASE("values read back to the same float, plain and bgzip", "[bedgraph]") {
  TempFolder folder;
  std::mt19937 random(4);
  std::vector<float> values(200'000);
  for (float& value : values) {
    const uint32_t bits = random();
    std::memcpy(&value, &bits, sizeof value);
  }
  for (const bool compressed : {false, true}) {
    const std::string path = folder / "a";
    BedGraphWriter writer(path, compressed, {});
    for (size_t i = 0; i < values.size(); i += 999) {
      writer.add("c", static_cast<int64_t>(i), values.data() + i,
                 static_cast<int64_t>(std::min<size_t>(999, values.size() - i)));
    }
    writer.close();
    LineReader lines(path);
    std::string line;
    size_t at = 0;
    while (lines.next(line)) {
      while (at < values.size() && std::isnan(values[at])) ++at;
      REQUIRE(at < values.size());
      const size_t tab = line.rfind('\t');
      CHECK(line.substr(0, tab) == "c\t" + std::to_string(at) + "\t" + std::to_string(at + 1));
      const float value = std::strtof(line.c_str() + tab + 1, nullptr);
      CHECK(std::bit_cast<uint32_t>(value) == std::bit_cast<uint32_t>(values[at]));
      ++at;
    }
    while (at < values.size() && std::isnan(values[at])) ++at;
    CHECK(at == values.size());
    if (compressed) {
      CHECK(InputStream(path).compression() == Compression::bgzf);
      std::string command = "tabix -p bed ";
      command.append(path).append(" && tabix ").append(path).append(" c:101-101 | grep -q .");
      if (std::system("command -v tabix >/dev/null") == 0 && !std::isnan(values[100])) {
        CHECK(std::system(command.c_str()) == 0);
      } else {
        WARN("SKIPPED: tabix is not installed");
      }
    }
  }
}

TEST_CASE("bedGraph on a full disk or to nowhere", "[bedgraph]") {
  TempFolder folder;
  CHECK_THROWS_AS(BedGraphWriter(folder / "none/a", false, {}), ResourceError);
  CHECK_THROWS_AS(BedGraphWriter(folder.path(), false, {}), ResourceError);
  const testing::SmallDisk disk(1 << 20);
  if (!disk.ok()) return;
  std::mt19937 random(4);
  std::vector<float> values(300'000);
  for (float& value : values) value = static_cast<float>(random());
  for (const bool compressed : {false, true}) {
    const std::string message = message_of<ResourceError>([&] {
      BedGraphWriter writer(disk / "a", compressed, {});
      writer.add("c", 0, values.data(), static_cast<int64_t>(values.size()));
      writer.close();
    });
    CHECK_MESSAGE_HAS(message, "No space left");
    std::filesystem::remove(disk / "a");
  }
  // Only close() can tell: the last buffer does not fit.
  testing::put(disk / "ballast", std::string((1 << 20) - 8192, 'x'));
  BedGraphWriter writer(disk / "b", false, {});
  writer.add("c", 0, values.data(), 2000);
  CHECK_THROWS_AS(writer.close(), ResourceError);
}

TEST_CASE("standard output", "[bedgraph]") {
  TempFolder folder;
  const std::string path = folder / "out";
  std::fflush(stdout);
  const int saved = dup(STDOUT_FILENO);
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  REQUIRE(dup2(file, STDOUT_FILENO) >= 0);
  {
    BedGraphWriter writer("-", false, {});
    const float value = 1;
    writer.add("c", 0, &value, 1);
    writer.close();
  }
  dup2(saved, STDOUT_FILENO);
  close(saved);
  close(file);
  CHECK(slurp(path) == "c\t0\t1\t1\n");
}

// Not run by default. Prints lines a second.
TEST_CASE("speed of bedGraph", "[.speed]") {
  std::mt19937 random(4);
  std::vector<float> values(10'000'000);
  for (float& value : values) value = -std::log(1.0F + static_cast<float>(random() % 1'000'000));
  TempFolder folder;
  for (const bool compressed : {false, true}) {
    const auto start = std::chrono::steady_clock::now();
    BedGraphWriter writer(compressed ? folder / "a" : "/dev/null", compressed, {});
    writer.add("chr20", 0, values.data(), static_cast<int64_t>(values.size()));
    writer.close();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    WARN((compressed ? "bgzip: " : "plain: ") << 10.0 / seconds.count() << " M lines/s");
  }
}

}  // namespace
}  // namespace chromamba::io
