#include "pipelines/plan.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <utility>

#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

TEST_CASE("the zero state is the last grid point at least N bases before") {
  const LeftContext grid{100, false};
  CHECK(zero_state_start(0, grid) == 0);
  CHECK(zero_state_start(99, grid) == 0);
  CHECK(zero_state_start(100, grid) == 0);
  CHECK(zero_state_start(199, grid) == 0);
  CHECK(zero_state_start(200, grid) == 100);
  CHECK(zero_state_start(250, grid) == 100);
  CHECK(zero_state_start(300, grid) == 200);
  CHECK(zero_state_start(250, {0, false}) == 250);
  CHECK(zero_state_start(250, {100, true}) == 0);
  for (int64_t start = 0; start < 2000; ++start) {
    const int64_t zero = zero_state_start(start, grid);
    CHECK((zero % 100 == 0 && zero <= start));
    if (zero > 0) CHECK((start - zero >= 100 && start - zero < 200));
  }
}

TEST_CASE("regions with one starting point share a pass, the others do not") {
  const LeftContext grid{100, false};
  const std::vector<Pass> passes =
      plan_passes("c", 1000, Strand::forward, {{0, 420, 450}, {1, 210, 230}, {2, 290, 380}}, grid);
  REQUIRE(passes.size() == 2);
  CHECK(passes[0].start == 100);
  CHECK(passes[0].end == 380);
  REQUIRE(passes[0].segments.size() == 2);
  CHECK(passes[0].segments[0].region == 1);
  CHECK(passes[0].segments[1].region == 2);
  CHECK(passes[1].start == 300);
  CHECK(passes[1].end == 450);
}

TEST_CASE("a reverse plan is the forward plan of the mirrored regions, mirrored back") {
  constexpr int64_t kLength = 5000;
  std::mt19937 random(3);
  for (const LeftContext& context :
       {LeftContext{0, false}, LeftContext{300, false}, LeftContext{1000, true}}) {
    std::vector<Segment> segments;
    std::vector<Segment> mirrored;
    for (int64_t r = 0; r < 40; ++r) {
      const auto start = static_cast<int64_t>(random() % (kLength - 1));
      const int64_t end =
          std::min<int64_t>(kLength, start + 1 + static_cast<int64_t>(random() % 600));
      segments.push_back({r, start, end});
      mirrored.push_back({r, kLength - end, kLength - start});
    }
    std::vector<Pass> reverse = plan_passes("c", kLength, Strand::reverse, segments, context);
    const std::vector<Pass> forward = plan_passes("c", kLength, Strand::forward, mirrored, context);
    std::reverse(reverse.begin(), reverse.end());
    REQUIRE(reverse.size() == forward.size());
    for (size_t i = 0; i < forward.size(); ++i) {
      CHECK(reverse[i].start == kLength - forward[i].end);
      CHECK(reverse[i].end == kLength - forward[i].start);
      CHECK(reverse[i].segments.size() == forward[i].segments.size());
    }
  }
}

TEST_CASE("where a region starts from does not depend on the other regions") {
  const LeftContext grid{64, false};
  std::mt19937 random(5);
  std::vector<Segment> all;
  for (int64_t r = 0; r < 50; ++r) {
    const auto start = static_cast<int64_t>(random() % 3000);
    all.push_back({r, start, start + 1 + static_cast<int64_t>(random() % 200)});
  }
  for (const Strand strand : {Strand::forward, Strand::reverse}) {
    for (const Pass& pass : plan_passes("c", 4000, strand, all, grid)) {
      for (const Segment& segment : pass.segments) {
        const std::vector<Pass> alone = plan_passes("c", 4000, strand, {segment}, grid);
        REQUIRE(alone.size() == 1);
        CHECK(
            (strand == Strand::forward ? alone[0].start == pass.start : alone[0].end == pass.end));
        CHECK((segment.start >= pass.start && segment.end <= pass.end));
      }
    }
  }
}

TEST_CASE("a contig without bases makes one empty pass") {
  const std::vector<Pass> passes = plan_passes("c", 0, Strand::reverse, {{0, 0, 0}}, {});
  REQUIRE(passes.size() == 1);
  CHECK(passes[0].length() == 0);
}

TEST_CASE("with a context on both sides a pass ends on the grid too") {
  const ReadPlan plan{{100, false}, true, {}};
  const auto extent = [&](int64_t start, int64_t end, const ReadPlan& how) {
    const std::vector<Pass> passes = plan_reads("c", 1050, Strand::forward, {{0, start, end}}, how);
    REQUIRE(passes.size() == 1);
    return std::pair(passes[0].start, passes[0].end);
  };
  CHECK(extent(420, 450, plan) == std::pair<int64_t, int64_t>(300, 600));
  CHECK(extent(400, 500, plan) == std::pair<int64_t, int64_t>(300, 600));
  CHECK(extent(400, 501, plan) == std::pair<int64_t, int64_t>(300, 700));
  CHECK(extent(0, 1, plan) == std::pair<int64_t, int64_t>(0, 200));
  CHECK(extent(900, 950, plan) == std::pair<int64_t, int64_t>(800, 1050));
  CHECK(extent(0, 1050, plan) == std::pair<int64_t, int64_t>(0, 1050));
  CHECK(extent(420, 450, {{0, false}, true, {}}) == std::pair<int64_t, int64_t>(420, 450));
  CHECK(extent(420, 450, {{100, true}, true, {}}) == std::pair<int64_t, int64_t>(0, 1050));
  CHECK(extent(420, 450, {{INT64_MAX / 2, false}, true, {}}) ==
        std::pair<int64_t, int64_t>(0, 1050));
}

TEST_CASE("regions share a pass of two sides only where both its ends are theirs") {
  const ReadPlan plan{{100, false}, true, {}};
  for (const Strand strand : {Strand::forward, Strand::reverse}) {
    const std::vector<Pass> passes = plan_reads(
        "c", 1000, strand, {{0, 480, 490}, {1, 410, 420}, {2, 410, 520}, {3, 415, 416}}, plan);
    REQUIRE(passes.size() == 2);
    const Pass& lower = passes[strand == Strand::forward ? 0 : 1];
    CHECK(lower.strand == strand);
    CHECK((lower.start == 300 && lower.end == 600));
    REQUIRE(lower.segments.size() == 3);
    CHECK((lower.segments[0].region == 1 && lower.segments[2].region == 0));
    CHECK(lower.longest_segment == 10);
  }
}

TEST_CASE("windows of a pass lie on the contig's grid and cover it once") {
  std::mt19937 random(17);
  for (const Windows windows :
       {Windows{100, 0}, Windows{100, 12}, Windows{100, 99}, Windows{7, 3}, Windows{1, 0}}) {
    for (const int64_t length : {1, 6, 7, 8, 99, 100, 101, 188, 189, 1000}) {
      const auto start = static_cast<int64_t>(random() % static_cast<unsigned>(length));
      const int64_t end = start + 1 + static_cast<int64_t>(random()) % (length - start);
      const ReadPlan plan{{}, true, windows};
      const int64_t step = windows.size - windows.overlap;
      std::vector<Window> whole;
      const Pass all = plan_reads("c", length, Strand::forward, {{0, 0, length}}, plan).at(0);
      CHECK((all.start == 0 && all.end == length));
      for (int64_t i = 0; i < window_count(all, windows); ++i) {
        whole.push_back(window_at(all, windows, i));
      }
      CHECK(static_cast<int64_t>(whole.size()) ==
            (length <= windows.size ? 1 : (length - windows.size + step - 1) / step + 1));
      for (const Strand strand : {Strand::forward, Strand::reverse}) {
        const std::vector<Pass> passes = plan_reads("c", length, strand, {{0, start, end}}, plan);
        REQUIRE(passes.size() == 1);
        const Pass& pass = passes[0];
        const int64_t count = window_count(pass, windows);
        int64_t at = strand == Strand::forward ? pass.start : pass.end;
        for (int64_t i = 0; i < count; ++i) {
          const Window window = window_at(pass, windows, i);
          REQUIRE(window.start % step == 0);
          REQUIRE(window.end == std::min(length, window.start + windows.size));
          REQUIRE((window.start <= window.kept_start && window.kept_end <= window.end));
          REQUIRE(window.kept_start < window.kept_end);
          REQUIRE((strand == Strand::forward ? window.kept_start : window.kept_end) == at);
          at = strand == Strand::forward ? window.kept_end : window.kept_start;
          // Inside the region the cuts are those of the whole contig.
          const Window& same = whole.at(static_cast<size_t>(window.start / step));
          REQUIRE(same.start == window.start);
          REQUIRE(std::max(start, same.kept_start) == std::max(start, window.kept_start));
          REQUIRE(std::min(end, same.kept_end) == std::min(end, window.kept_end));
          REQUIRE((same.kept_start < end && same.kept_end > start));
        }
        CHECK(at == (strand == Strand::forward ? pass.end : pass.start));
      }
    }
  }
}

TEST_CASE("overlapping regions are named, neighbours are fine") {
  const auto region = [](const char* contig, int64_t start, int64_t end) {
    io::Region r;
    r.contig = contig;
    r.start = start;
    r.end = end;
    return r;
  };
  CHECK_NOTHROW(
      require_disjoint({region("a", 10, 20), region("a", 0, 10), region("b", 5, 15)}, "x"));
  CHECK_THROWS_AS(require_disjoint({region("a", 0, 100), region("a", 10, 20)}, "x"), DataError);
  // The overlap is with a region further back than the one before.
  CHECK_THROWS_AS(
      require_disjoint({region("a", 0, 100), region("a", 10, 20), region("a", 50, 60)}, "x"),
      DataError);
  CHECK_THROWS_WITH(
      require_disjoint({region("a", 0, 100), region("a", 99, 120)}, "out.bw"),
      Catch::Contains("a:1-100") && Catch::Contains("a:100-120") && Catch::Contains("out.bw"));
}

// The groups of a part as the definition has them: a walk over every base of every segment.
std::vector<std::pair<mamba::BaseGroup, GroupRow>> groups_by_hand(const Pass& pass, int64_t bin,
                                                                  int64_t start, int64_t end) {
  std::vector<std::pair<mamba::BaseGroup, GroupRow>> groups;
  const bool reverse = pass.strand == Strand::reverse;
  for (size_t s = 0; s < pass.segments.size(); ++s) {
    const Segment& segment = pass.segments[s];
    for (int64_t from = segment.start, row = 0; from < segment.end; ++row) {
      const int64_t to = bin < segment.end - from ? from + bin : segment.end;
      if (from < end && to > start) {
        groups.push_back(
            {reverse ? mamba::BaseGroup{pass.end - to, pass.end - from}
                     : mamba::BaseGroup{from - pass.start, to - pass.start},
             {static_cast<int64_t>(s), row, reverse ? from == segment.start : to == segment.end}});
      }
      from = to;
    }
  }
  return groups;
}

TEST_CASE("groups are the bins of all segments that a part meets, in the order they are read") {
  const std::vector<Segment> segments = {{0, 3, 103},  {1, 3, 103},   {2, 40, 41},  {3, 50, 50},
                                         {4, 60, 300}, {5, 299, 300}, {6, 350, 430}};
  for (const Strand strand : {Strand::forward, Strand::reverse}) {
    const std::vector<Pass> passes = plan_passes("c", 500, strand, segments, {0, true});
    REQUIRE(passes.size() == 1);
    const Pass& pass = passes[0];
    for (const int64_t bin : {int64_t{1}, int64_t{2}, int64_t{7}, int64_t{100}, kWholeSegment}) {
      for (int64_t start = pass.start; start < pass.end; start += 3) {
        for (int64_t end = start + 1; end <= pass.end; end += 17) {
          const GroupPlan plan = plan_groups(pass, bin, start, end);
          REQUIRE(plan.bases.size() == plan.rows.size());
          const auto expected = groups_by_hand(pass, bin, start, end);
          REQUIRE(plan.bases.size() == expected.size());
          REQUIRE(count_groups(pass, bin, start, end) == static_cast<int64_t>(expected.size()));
          for (size_t i = 0; i < plan.bases.size(); ++i) {
            if (i > 0) {
              const mamba::BaseGroup& before = plan.bases[i - 1];
              REQUIRE((before.start < plan.bases[i].start ||
                       (before.start == plan.bases[i].start && before.end <= plan.bases[i].end)));
            }
            REQUIRE(std::count_if(expected.begin(), expected.end(), [&](const auto& group) {
                      return group.first == plan.bases[i] &&
                             group.second.segment == plan.rows[i].segment &&
                             group.second.row == plan.rows[i].row &&
                             group.second.last == plan.rows[i].last;
                    }) == 1);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace chromamba::pipelines
