#include "pipelines/score_table.h"

#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "kernels/base/error.h"
#include "tests/io/support.h"

namespace chromamba::pipelines {
namespace {

using io::testing::message_of;
using io::testing::TempFolder;

// Rows of 5 floats: 390 a block of 8 KiB.
constexpr int kColumns = 5;
constexpr int64_t kManyRows = 10000;

float value_of(int64_t number, int column) {
  return static_cast<float>(number) + static_cast<float>(column) / 8;
}

AlleleStatus status_of(int64_t number) { return static_cast<AlleleStatus>(number % 10); }

TEST_CASE("rows come into being scored and NaN", "[score_table]") {
  ScoreTable table(2, 1 << 20, "/no/such/folder");
  CHECK(table.size() == 0);
  table.set(3, 1, -0.5F);
  CHECK(table.size() == 4);
  CHECK(table.get(3, 1) == -0.5F);
  CHECK(std::isnan(table.get(3, 0)));
  CHECK(std::isnan(table.get(0, 1)));
  CHECK(table.status(3) == AlleleStatus::scored);
  table.set_status(4, AlleleStatus::breakend);
  CHECK(table.size() == 5);
  CHECK(table.status(4) == AlleleStatus::breakend);
  CHECK(table.get(3, 1) == -0.5F);
}

TEST_CASE("a table without columns holds statuses", "[score_table]") {
  TempFolder folder;
  ScoreTable table(0, 0, folder.path());
  for (int64_t i = 0; i < 100000; ++i) table.set_status(i, status_of(i));
  for (int64_t i = 0; i < 100000; ++i) REQUIRE(table.status(i) == status_of(i));
}

TEST_CASE("values are the same from memory and from a file, in any order", "[score_table]") {
  TempFolder folder;
  const int64_t memory = GENERATE(0, 100'000, 1 << 30);
  const std::string order = GENERATE("up", "down", "random");
  std::vector<int64_t> numbers(kManyRows);
  for (int64_t i = 0; i < kManyRows; ++i) numbers[static_cast<size_t>(i)] = i;
  std::mt19937 random(7);
  if (order == "down") std::reverse(numbers.begin(), numbers.end());
  if (order == "random") std::shuffle(numbers.begin(), numbers.end(), random);

  ScoreTable table(kColumns, memory, folder.path());
  for (const int64_t number : numbers) table.set_status(number, status_of(number));
  for (int column = 0; column < kColumns - 1; ++column) {
    for (const int64_t number : numbers) table.set(number, column, value_of(number, column));
  }
  CHECK(table.size() == kManyRows);
  CHECK(folder.count() == 0);  // unlinked
  std::shuffle(numbers.begin(), numbers.end(), random);
  for (const int64_t number : numbers) {
    REQUIRE(table.status(number) == status_of(number));
    for (int column = 0; column < kColumns - 1; ++column) {
      REQUIRE(table.get(number, column) == value_of(number, column));
    }
    REQUIRE(std::isnan(table.get(number, kColumns - 1)));
  }
}

TEST_CASE("writes and reads mixed at random agree with a map", "[score_table]") {
  TempFolder folder;
  ScoreTable table(1, 0, folder.path());
  std::map<int64_t, float> expected;
  std::mt19937 random(11);
  for (int i = 0; i < 100000; ++i) {
    // Gaps stay: blocks that nobody touched before they are read.
    const int64_t number = static_cast<int64_t>(random() % 40) * 1000 + random() % 50;
    if (random() % 2 == 0) {
      const auto value = static_cast<float>(i);
      table.set(number, 0, value);
      expected[number] = value;
    } else if (number < table.size()) {
      const auto known = expected.find(number);
      const float value = table.get(number, 0);
      REQUIRE((known == expected.end() ? std::isnan(value) : value == known->second));
    }
  }
  CHECK(std::isnan(table.get(500, 0)));
}

TEST_CASE("what a table refuses", "[score_table]") {
  ScoreTable table(2, 0, "/no/such/folder");
  table.set(0, 0, 1);
  CHECK(message_of<InternalError>([&] { (void)table.get(1, 0); }) == "ScoreTable: allele 1 of 1");
  CHECK_THROWS_AS(table.status(1), InternalError);
  CHECK_THROWS_AS(table.set(-1, 0, 1), InternalError);
  CHECK_THROWS_AS(table.set(0, 2, 1), InternalError);
  CHECK_THROWS_AS(table.get(0, -1), InternalError);
  const auto fill = [&] {
    for (int64_t i = 0; i < 100000; ++i) table.set(i, 0, 1);
  };
  CHECK(message_of<ResourceError>(fill).find("/no/such/folder") != std::string::npos);
}

}  // namespace
}  // namespace chromamba::pipelines
