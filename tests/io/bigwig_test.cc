#include "io/bigwig.h"

#include <bigWig.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>

#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;
using testing::slurp;
using testing::TempFolder;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Closer {
  void operator()(bigWigFile_t* file) const { bwClose(file); }
};
using BigWig = std::unique_ptr<bigWigFile_t, Closer>;

BigWig open_bigwig(const std::string& path) {
  BigWig file(bwOpen(path.c_str(), nullptr, "r"));
  REQUIRE(file != nullptr);
  return file;
}

using Track = std::vector<std::pair<std::string, std::vector<float>>>;

std::vector<ContigInfo> contigs_of(const Track& track) {
  std::vector<ContigInfo> contigs;
  for (const auto& [name, values] : track) {
    contigs.push_back({name, static_cast<int64_t>(values.size())});
  }
  return contigs;
}

void write_track(const std::string& path, const Track& track, std::mt19937& random,
                 int zooms = 10) {
  BigWigWriter writer(path, contigs_of(track), zooms);
  for (const auto& [name, values] : track) {
    for (size_t at = 0; at < values.size();) {
      const size_t n = std::min<size_t>(values.size() - at, 1 + random() % 10'000);
      writer.add(name, static_cast<int64_t>(at), values.data() + at, static_cast<int64_t>(n));
      at += n;
    }
  }
  writer.close();
}

void check_track(const std::string& path, const Track& track) {
  const BigWig file = open_bigwig(path);
  REQUIRE(file->cl->nKeys == static_cast<int64_t>(track.size()));
  for (const auto& [name, values] : track) {
    INFO(name);
    if (values.empty()) continue;
    bwOverlappingIntervals_t* got =
        bwGetValues(file.get(), name.c_str(), 0, static_cast<uint32_t>(values.size()), 1);
    REQUIRE(got != nullptr);
    REQUIRE(got->l == values.size());
    size_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i]) ? !std::isnan(got->value[i]) : got->value[i] != values[i]) ++wrong;
    }
    CHECK(wrong == 0);
    bwDestroyOverlappingIntervals(got);
  }
}

std::vector<float> random_values(std::mt19937& random, size_t n, unsigned nan_one_in) {
  std::vector<float> values(n);
  for (float& value : values) {
    value = nan_one_in > 0 && random() % nan_one_in == 0
                ? kNaN
                : -static_cast<float>(random() % 100'000) / 7777.0F;
  }
  return values;
}

TEST_CASE("bigWig values come back through libBigWig, contigs in any order", "[bigwig]") {
  TempFolder folder;
  std::mt19937 random(8);
  Track track;
  for (const char* name : {"chr2", "chr10", "chr1", "chrX_a_very_long_name", "M", "empty", "chr20",
                           "all_nan", "one"}) {
    track.emplace_back(name, random_values(random, 1 + random() % 60'000, 1 + random() % 3000));
  }
  track[5].second.clear();
  track[7].second.assign(5000, kNaN);
  track[8].second.assign(1, -2.5F);
  for (const int zooms : {10, 3, 0}) {
    const std::string path = folder / "a.bw";
    write_track(path, track, random, zooms);
    check_track(path, track);
  }
}

TEST_CASE("bigWig averages from zoom levels agree with the values", "[bigwig]") {
  TempFolder folder;
  std::mt19937 random(21);
  const Track track = {{"b", random_values(random, 1'000'000, 50)},
                       {"a", random_values(random, 300'001, 0)}};
  const std::string path = folder / "a.bw";
  write_track(path, track, random);
  check_track(path, track);
  const BigWig file = open_bigwig(path);
  CHECK(file->hdr->nLevels == 8);  // 32 * 4^7 = 524,288 <= 1,000,000
  uint64_t covered = 0;
  double sum = 0;
  for (const auto& [name, values] : track) {
    for (const float value : values) {
      if (std::isnan(value)) continue;
      ++covered;
      sum += static_cast<double>(value);
    }
    // 262,144 bases a bin: read from the level of that width or finer.
    const auto end = static_cast<uint32_t>(values.size() / 262'144 * 262'144);
    const uint32_t bins = end / 262'144;
    double* means = bwStats(file.get(), name.c_str(), 0, end, bins, mean);
    double* most = bwStats(file.get(), name.c_str(), 0, end, bins, max);
    REQUIRE(means != nullptr);
    for (uint32_t bin = 0; bin < bins; ++bin) {
      double total = 0;
      double count = 0;
      float top = -1e9F;
      for (size_t i = bin * size_t{262'144}; i < (bin + 1) * size_t{262'144}; ++i) {
        if (std::isnan(values[i])) continue;
        total += static_cast<double>(values[i]);
        top = std::max(top, values[i]);
        count += 1;
      }
      // Zoom sums are floats: 2^-24 relative for each of the records added.
      CHECK(means[bin] == Approx(total / count).epsilon(1e-5));
      CHECK(most[bin] == Approx(static_cast<double>(top)));
    }
    std::free(means);
    std::free(most);
  }
  CHECK(file->hdr->nBasesCovered == covered);
  CHECK(file->hdr->sumData == Approx(sum));
}

TEST_CASE("bigWig with no values, with few, and with many contigs", "[bigwig]") {
  TempFolder folder;
  std::mt19937 random(2);
  const std::string path = folder / "a.bw";
  for (const Track& track : {Track{{"a", std::vector<float>(1000, kNaN)}}, Track{{"a", {}}},
                             Track{{"a", {1.0F}}}, Track{{"a", {}}, {"b", {kNaN, 2.0F}}}}) {
    write_track(path, track, random);
    check_track(path, track);
  }
  // Two and three levels in the tree of names (256 children a node), names out of order.
  for (const size_t n : {256U, 257U, 5000U, 70'000U}) {
    Track track;
    for (size_t i = 0; i < n; ++i) {
      track.emplace_back(std::string("s").append(std::to_string(i * 7919 % n)),
                         std::vector<float>{float(i), kNaN});
    }
    write_track(path, track, random);
    const BigWig file = open_bigwig(path);
    REQUIRE(file->cl->nKeys == static_cast<int64_t>(n));
    std::map<std::string, size_t> ids;
    for (size_t i = 0; i < n; ++i) ids[file->cl->chrom[i]] = i;
    for (size_t i = 0; i < n; ++i) CHECK(ids[track[i].first] == i);
    for (size_t i = 0; i < n; i += n / 100) {
      bwOverlappingIntervals_t* got = bwGetValues(file.get(), track[i].first.c_str(), 0, 2, 0);
      REQUIRE(got != nullptr);
      REQUIRE(got->l == 1);
      CHECK(got->value[0] == float(i));
      bwDestroyOverlappingIntervals(got);
    }
  }
}

TEST_CASE("the tree of names is sorted, for readers that search it", "[bigwig]") {
  TempFolder folder;
  std::mt19937 random(2);
  const std::string path = folder / "a.bw";
  write_track(path, {{"chr2", {1.0F}}, {"chr10", {1.0F}}, {"chr1", {1.0F}}}, random);
  const std::string bytes = slurp(path);
  uint64_t tree = 0;
  std::memcpy(&tree, bytes.data() + 8, sizeof tree);
  constexpr size_t kTreeHeader = 32;
  constexpr size_t kNodeHeader = 4;
  std::string keys;
  for (size_t i = 0; i < 3; ++i) {  // 5 bytes of name, 8 of id and length
    keys += bytes.substr(tree + kTreeHeader + kNodeHeader + i * 13, 5).c_str();
    keys += ' ';
  }
  CHECK(keys == "chr1 chr10 chr2 ");
}

TEST_CASE("a long contig", "[bigwig]") {
  TempFolder folder;
  const std::string path = folder / "a.bw";
  constexpr int64_t kLength = 63'025'520;
  BigWigWriter writer(path, {{"chr20", kLength}, {"chr0", 10}});
  std::vector<float> block(65'536);
  const auto value = [](int64_t i) { return static_cast<float>(i % 1000) / -8.0F; };
  for (int64_t at = 0; at < kLength; at += 65'536) {
    const int64_t n = std::min<int64_t>(65'536, kLength - at);
    for (int64_t i = 0; i < n; ++i) block[static_cast<size_t>(i)] = value(at + i);
    writer.add("chr20", at, block.data(), n);
  }
  writer.add("chr0", 0, block.data(), 10);
  writer.close();
  const BigWig file = open_bigwig(path);
  CHECK(file->hdr->nBasesCovered == kLength + 10);
  for (const uint32_t at : {0U, 4095U, 4096U, 31'000'000U, 63'025'000U}) {
    bwOverlappingIntervals_t* got = bwGetValues(file.get(), "chr20", at, at + 500, 1);
    REQUIRE(got != nullptr);
    REQUIRE(got->l == 500);
    size_t wrong = 0;
    for (uint32_t i = 0; i < 500; ++i) wrong += got->value[i] == value(at + i) ? 0 : 1;
    CHECK(wrong == 0);
    bwDestroyOverlappingIntervals(got);
  }
}

TEST_CASE("bigWig misuse", "[bigwig]") {
  TempFolder folder;
  const std::string path = folder / "a.bw";
  CHECK_THROWS_AS(BigWigWriter(path, {}), DataError);
  CHECK_MESSAGE_HAS(message_of<DataError>([&] {
                      BigWigWriter writer(path, {{"a", 4'294'967'296}});
                    }),
                    "4294967295");
  { const BigWigWriter writer(path, {{"a", 4'294'967'295}}); }
  CHECK_THROWS_AS(BigWigWriter(path, {{"a", 1}, {"a", 2}}), DataError);
  CHECK_THROWS_AS(BigWigWriter(folder / "none/a.bw", {{"a", 1}}), ResourceError);
  BigWigWriter writer(path, {{"a", 100}, {"b", 100}, {"c", 100}});
  const std::vector<float> values(100, 1.0F);
  writer.add("a", 10, values.data(), 20);
  CHECK_THROWS_AS(writer.add("a", 29, values.data(), 1), InternalError);
  CHECK_THROWS_AS(writer.add("a", 90, values.data(), 11), InternalError);
  CHECK_THROWS_AS(writer.add("d", 0, values.data(), 1), InternalError);
  writer.add("c", 99, values.data(), 1);
  CHECK_THROWS_AS(writer.add("b", 0, values.data(), 1), InternalError);
  writer.close();
  CHECK_THROWS_AS(writer.add("c", 99, values.data(), 1), InternalError);
  // Not closed: not a bigWig file.
  {
    BigWigWriter left(path, {{"a", 100}});
    left.add("a", 0, values.data(), 100);
  }
  CHECK(bwIsBigWig(path.c_str(), nullptr) == 0);
}

TEST_CASE("bigWig on a full disk", "[bigwig]") {
  std::mt19937 random(6);
  const std::vector<float> values = random_values(random, 2'000'000, 0);
  for (const int64_t size : {64 << 10, 256 << 10, 1 << 20, 5 << 20, 6 << 20}) {
    const testing::SmallDisk disk(size);
    if (!disk.ok()) return;
    INFO("disk of " << size);
    const std::string message = message_of<ResourceError>([&] {
      BigWigWriter writer(disk / "a.bw", {{"a", 2'000'000}});
      writer.add("a", 0, values.data(), 2'000'000);
      writer.close();
    });
    CHECK_MESSAGE_HAS(message, "No space left");
    CHECK(bwIsBigWig((disk / "a.bw").c_str(), nullptr) == 0);
  }
}

}  // namespace
}  // namespace chromamba::io
