// Means of rows: the order of summation is the contract, so all is compared bit for bit.
#include "kernels/pool_rows.h"

#include <cstring>
#include <vector>

#include "tests/kernels/kernel_test.h"
#include "tests/random_values.h"

namespace chromamba::kernels {
namespace {

using tests::on_every_target;
using tests::poisoned;
using tests::random_values;
using tests::same_bits;

struct Rows {
  Rows(int64_t l, int64_t d, unsigned seed = 1)
      : length(l), width(d), stride(d + 3), values(random_values(l * (d + 3), seed)) {
    // Sizes that differ so much that another order of summation shows.
    for (size_t i = 0; i < values.size(); i += 7) values[i] *= 1e9F;
  }

  PoolRowsArgs args(const std::vector<PoolGroup>& groups) const {
    return {.length = length,
            .width = width,
            .stride = stride,
            .rows_LD = values.data(),
            .count = static_cast<int64_t>(groups.size()),
            .groups = groups.data()};
  }

  AlignedFloats mean(int64_t first, int64_t last) const {
    AlignedFloats result = poisoned(width);
    for (int64_t d = 0; d < width; ++d) {
      double sum = 0;
      for (int64_t t = first; t < last; ++t) sum += values[static_cast<size_t>(t * stride + d)];
      result[static_cast<size_t>(d)] = static_cast<float>(sum / static_cast<double>(last - first));
    }
    return result;
  }

  int64_t length, width, stride;
  AlignedFloats values;
};

TEST_CASE("pooled rows are the means of a plain loop in double") {
  // Around the steps of rows that a GPU fetches at a time, and how many of them are on their way.
  const std::vector<int64_t> lengths = {1, 2, 15, 16, 17, 111, 112, 113, 127, 128, 129, 1000};
  for (const int64_t width : {1, 15, 16, 17, 31, 32, 33, 70, 128, 257}) {
    const Rows rows(1010, width);
    on_every_target([&](auto& target) {
      std::vector<PoolGroup> groups;
      std::vector<AlignedFloats> means;
      for (size_t i = 0; i < lengths.size(); ++i) means.push_back(poisoned(width));
      for (size_t i = 0; i < lengths.size(); ++i) {  // they overlap
        PoolGroup group;
        group.row = static_cast<int64_t>(i % 10);
        group.rows = group.bases = lengths[i];
        group.mean_D = means[i].data();
        groups.push_back(group);
      }
      pool_rows(target, rows.args(groups));
      for (size_t i = 0; i < groups.size(); ++i) {
        INFO("D " << width << ", rows " << lengths[i]);
        CHECK(same_bits(means[i], rows.mean(groups[i].row, groups[i].row + groups[i].rows)));
      }
    });
  }
}

TEST_CASE("pooled rows: a group cut anywhere has the bits of the whole") {
  constexpr int64_t kWidth = 40;
  const Rows rows(700, kWidth);
  on_every_target([&](auto& target) {
    for (const int64_t step : {1, 7, 128, 300}) {
      INFO("pieces of " << step);
      // Two groups side by side, the second shorter, each with a sum of its own.
      std::vector<std::vector<double>> sums(2, std::vector<double>(kWidth, std::nan("")));
      std::vector<AlignedFloats> means(2, poisoned(kWidth));
      const int64_t ends[] = {700, 501};
      for (int64_t at = 0; at < 700; at += step) {
        std::vector<PoolGroup> groups;
        for (size_t g = 0; g < 2; ++g) {
          if (at >= ends[g]) continue;
          PoolGroup group;
          group.row = at;
          group.rows = std::min(step, ends[g] - at);
          group.bases = ends[g];
          group.sum_D = sums[g].data();
          group.begins = at == 0;
          if (at + group.rows == ends[g]) group.mean_D = means[g].data();
          groups.push_back(group);
        }
        pool_rows(target, rows.args(groups));
      }
      for (size_t g = 0; g < 2; ++g) CHECK(same_bits(means[g], rows.mean(0, ends[g])));
    }
  });
}

TEST_CASE("pooled rows keep subnormal numbers whatever the thread does with them") {
  Rows rows(3, 20);
  for (float& value : rows.values) value = 1e-40F;
  const AlignedFloats expected = rows.mean(0, 3);
  CHECK(expected[0] == 1e-40F);
  on_every_target([&](auto& target) {
    AlignedFloats mean = poisoned(20);
    PoolGroup group;
    group.rows = group.bases = 3;
    group.mean_D = mean.data();
    const std::vector<PoolGroup> groups = {group};
    {
      const ScopedFlushDenormals flush;
      pool_rows(target, rows.args(groups));
    }
    CHECK(same_bits(mean, expected));
  });
}

TEST_CASE("pooled rows: groups that cannot be are refused") {
  const Rows rows(4, 2);
  float mean[2];
  double sum[2];
  PoolGroup good;
  good.row = 1;
  good.rows = good.bases = 3;
  good.mean_D = mean;
  Exec exec;
  const auto run = [&](const PoolGroup& group) {
    const std::vector<PoolGroup> groups = {group};
    pool_rows(exec, rows.args(groups));
  };
  CHECK_NOTHROW(run(good));
  PoolGroup bad = good;
  bad.row = 2;
  CHECK_THROWS_AS(run(bad), InternalError);
  bad.row = -1;
  CHECK_THROWS_AS(run(bad), InternalError);
  bad = good;
  bad.rows = 0;
  CHECK_THROWS_AS(run(bad), InternalError);
  bad = good;
  bad.bases = 2;
  CHECK_THROWS_AS(run(bad), InternalError);
  bad = good;
  bad.begins = false;
  CHECK_THROWS_AS(run(bad), InternalError);
  bad = good;
  bad.mean_D = nullptr;
  CHECK_THROWS_AS(run(bad), InternalError);
  bad.sum_D = sum;
  CHECK_NOTHROW(run(bad));
}

}  // namespace
}  // namespace chromamba::kernels
