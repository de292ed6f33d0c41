// Pooled taps are the means of the rows that a tap gives, bit for bit, however a sequence is cut.
#include <algorithm>
#include <random>
#include <set>

#include "kernels/base/error.h"
#include "tests/mamba/fixture.h"

namespace chromamba::mamba {
namespace {

using tests::Fixture;
using tests::ModelOutputs;
using tests::poisoned;
using tests::same_bits;

using Groups = std::vector<BaseGroup>;

bool in_order(const BaseGroup& a, const BaseGroup& b) {
  return a.start != b.start ? a.start < b.start : a.end < b.end;
}

// Groups of all lengths that overlap, some of them twice, in bases [from, to).
Groups random_groups(int64_t from, int64_t to, int count, unsigned seed) {
  std::mt19937 random(seed);
  Groups groups = {{from, to}};
  const std::vector<int64_t> lengths = {1, 2, 3, 100, 256, 512, 700, 5000};
  for (int i = 0; i < count; ++i) {
    BaseGroup group;
    group.start = from + static_cast<int64_t>(random()) % (to - from);
    group.end = std::min(to, group.start + lengths[random() % lengths.size()]);
    groups.push_back(group);
    if (i % 5 == 0) groups.push_back(group);
  }
  std::sort(groups.begin(), groups.end(), in_order);
  return groups;
}

Groups overlapping(const Groups& groups, int64_t from, int64_t to) {
  Groups result;
  for (const BaseGroup& group : groups) {
    if (group.start < to && group.end > from) result.push_back(group);
  }
  return result;
}

AlignedFloats means_by_hand(const AlignedFloats& rows, int64_t width, const Groups& groups) {
  AlignedFloats means;
  for (const BaseGroup& group : groups) {
    for (int64_t d = 0; d < width; ++d) {
      double sum = 0;
      for (int64_t t = group.start; t < group.end; ++t) {
        sum += rows[static_cast<size_t>(t * width + d)];
      }
      means.push_back(static_cast<float>(sum / static_cast<double>(group.end - group.start)));
    }
  }
  return means;
}

// A sequence on its way through an engine, and the means it has so far.
struct Run {
  Run(Engine& engine, const std::vector<int32_t>& bases, const Groups& wanted, int64_t d)
      : tokens(bases),
        groups(wanted),
        width(d),
        state(engine.new_sequence()),
        means(poisoned(static_cast<int64_t>(wanted.size()) * d)) {}

  int64_t left() const { return static_cast<int64_t>(tokens.size()) - at; }

  Chunk chunk(int64_t length, int64_t layer) {
    here = overlapping(groups, at, at + length);
    buffer = poisoned(static_cast<int64_t>(here.size()) * width);
    Chunk result;
    result.state = &state;
    result.tokens_L = tokens.data() + at;
    result.length = length;
    result.pooled = {layer, here, buffer.data()};
    at += length;
    return result;
  }

  // Takes over the rows of groups that have ended; the others must not have been touched.
  void collect() {
    for (size_t i = 0, from = 0; i < here.size(); ++i) {
      const AlignedFloats mean(buffer.begin() + static_cast<int64_t>(i) * width,
                               buffer.begin() + static_cast<int64_t>(i + 1) * width);
      if (here[i].end > at) {
        CHECK(same_bits(mean, poisoned(width)));
        continue;
      }
      // The first of its kind that has no mean yet.
      from = static_cast<size_t>(
          std::find(groups.begin() + static_cast<int64_t>(from), groups.end(), here[i]) -
          groups.begin());
      REQUIRE(from < groups.size());
      std::copy(mean.begin(), mean.end(), means.begin() + static_cast<int64_t>(from) * width);
      ++from;
    }
  }

  const std::vector<int32_t>& tokens;
  Groups groups;
  int64_t width;
  SequenceState state;
  AlignedFloats means;
  int64_t at = 0;
  Groups here;
  AlignedFloats buffer;
};

std::vector<ComputeDevice> pooling_devices() {
  std::vector<ComputeDevice> devices =
      tests::test_devices({kernels::DType::f32, kernels::DType::bf16});
  for (size_t i = 0, n = devices.size(); i < n; ++i) {
    if (!devices[i].cuda) continue;
    ComputeDevice small = devices[i];
    small.pass_rows = 1024;  // groups go on from pass to pass, on both lanes
    devices.push_back(small);
  }
  return devices;
}

TEST_CASE(
    "the pieces of a walk cover every group in order, and no two groups of a piece share a sum") {
  std::mt19937 random(9);
  const Groups groups = random_groups(0, 5000, 100, 4);
  GroupWalk walk;
  std::multiset<std::pair<int64_t, int64_t>> ended;
  for (int64_t position = 0; position < 5000;) {
    const int64_t end = std::min<int64_t>(5000, position + 1 + random() % 900);
    const Groups here = overlapping(groups, position, end);
    walk.begin_chunk(here, position, end - position);
    while (position < end) {
      const int64_t piece = std::min<int64_t>(end, position + 1 + random() % 300);
      std::set<int64_t> slots;
      for (const GroupPart& part : walk.next_piece(piece)) {
        const BaseGroup& group = here[static_cast<size_t>(part.group)];
        CHECK(part.bases == group.end - group.start);
        CHECK(part.start == std::max(position, group.start));
        CHECK(part.end == std::min(piece, group.end));
        CHECK(part.begins == (part.start == group.start));
        CHECK(part.ends == (part.end == group.end));
        CHECK((part.slot >= 0) == !(part.begins && part.ends));
        if (part.slot >= 0) {
          CHECK(part.slot < walk.slots());
          CHECK(slots.insert(part.slot).second);
        }
        if (part.ends) ended.insert({group.start, group.end});
      }
      position = piece;
    }
  }
  CHECK_FALSE(walk.has_open());
  CHECK(ended.size() == groups.size());
  for (const BaseGroup& group : groups) CHECK(ended.count({group.start, group.end}) > 0);
  CHECK(walk.slots() < 60);  // they are given out again
}

TEST_CASE("pooled means are those of the rows, whatever the chunks, threads and batch mates") {
  const Fixture fixture("mamba1_long");
  const int64_t width = fixture.model.config().d_model;
  std::vector<std::vector<int32_t>> bases;
  std::vector<Groups> groups;
  // Groups everywhere; only at the end, so that many chunks have none; and none at all.
  for (const int64_t length : {9000, 7001, 3000}) {
    bases.emplace_back(fixture.tokens.begin() + length, fixture.tokens.begin() + 2 * length);
  }
  groups.push_back(random_groups(0, 9000, 150, 1));
  groups.push_back(random_groups(6000, 7001, 40, 2));
  groups.emplace_back();
  for (const ComputeDevice& device : pooling_devices()) {
    for (const int64_t layer : {int64_t{0}, int64_t{2}, kFinalLayer}) {
      std::vector<AlignedFloats> expected;
      for (size_t s = 0; s < bases.size(); ++s) {
        const ModelOutputs rows(fixture.model, bases[s], device, 1, 1 << 20, {layer});
        expected.push_back(means_by_hand(rows.hidden[0], width, groups[s]));
      }
      // Chunks of so many bases, 0: of random sizes.
      for (const int64_t chunk : {1 << 20, 0, 256, 511, 4000}) {
        INFO(tests::label(device) << ", pass " << device.pass_rows << ", layer " << layer
                                  << ", chunk " << chunk);
        std::mt19937 random(static_cast<unsigned>(layer + 5));
        Engine engine(fixture.model, device, chunk % 2 == 0 ? 3 : 1);
        std::vector<Run> runs;
        for (size_t s = 0; s < bases.size(); ++s) {
          runs.emplace_back(engine, bases[s], groups[s], width);
        }
        while (std::any_of(runs.begin(), runs.end(), [](const Run& r) { return r.left() > 0; })) {
          std::vector<Chunk> chunks;
          for (Run& run : runs) {
            const int64_t n = chunk > 0 ? chunk : 1 + static_cast<int64_t>(random() % 1500);
            if (run.left() > 0) chunks.push_back(run.chunk(std::min(n, run.left()), layer));
          }
          engine.forward(chunks);
          for (Run& run : runs) run.collect();
        }
        for (size_t s = 0; s < runs.size(); ++s) CHECK(same_bits(runs[s].means, expected[s]));
      }
    }
  }
}

TEST_CASE("pooling changes no other output, and no output changes pooling") {
  const Fixture fixture("mamba1_ref");
  const int64_t width = fixture.model.config().d_model;
  const auto n = static_cast<int64_t>(fixture.tokens.size());
  const Groups groups = random_groups(0, n, 30, 3);
  for (const ComputeDevice& device : pooling_devices()) {
    INFO(tests::label(device));
    const ModelOutputs alone(fixture.model, fixture.tokens, device, 2, n, {1, 2, kFinalLayer});
    for (size_t i = 0; i < 3; ++i) {
      Engine engine(fixture.model, device, 2);
      Run run(engine, fixture.tokens, groups, width);
      Chunk chunk = run.chunk(n, std::vector<int64_t>{1, 2, kFinalLayer}[i]);
      AlignedFloats log_p = poisoned(n);
      AlignedFloats rows = poisoned(n * width);
      chunk.log_likelihood_L = log_p.data();
      chunk.taps.push_back({2, rows.data()});
      engine.forward({&chunk, 1});
      run.collect();
      CHECK(same_bits(run.means, means_by_hand(alone.hidden[i], width, groups)));
      CHECK(same_bits(log_p, alone.log_likelihood));
      CHECK(same_bits(rows, alone.hidden[1]));
    }
  }
}

TEST_CASE("more groups than a GPU has room for at a time") {
  const Fixture fixture("mamba1_long");
  const int64_t width = fixture.model.config().d_model;
  // Every run of bases among the first 250 and a few more, in passes whose workspace has room for 15,000.
  const std::vector<int32_t> tokens(fixture.tokens.begin(), fixture.tokens.begin() + 1200);
  Groups groups = {{100, 1200}};
  for (int64_t start = 0; start < 250; ++start) {
    for (int64_t end = start + 1; end <= 250; ++end) groups.push_back({start, end});
  }
  std::sort(groups.begin(), groups.end(), in_order);
  for (ComputeDevice device : tests::test_devices()) {
    INFO(tests::label(device));
    device.pass_rows = 512;
    const ModelOutputs rows(fixture.model, tokens, device, 1, 1200, {kFinalLayer});
    Engine engine(fixture.model, device, 2);
    Run run(engine, tokens, groups, width);
    Chunk chunk = run.chunk(1200, kFinalLayer);
    engine.forward({&chunk, 1});
    run.collect();
    CHECK(same_bits(run.means, means_by_hand(rows.hidden[0], width, groups)));
  }
}

TEST_CASE("groups that do not follow from those of the chunk before are refused") {
  const Fixture fixture("mamba1_ref");
  for (const ComputeDevice& device : tests::test_devices()) {
    INFO(tests::label(device));
    // The groups of a chunk of 100 bases, and of the 100 after it.
    const auto run = [&](const std::vector<Groups>& calls, bool drop_pooled = false) {
      Engine engine(fixture.model, device, 1);
      SequenceState state = engine.new_sequence();
      AlignedFloats means = poisoned(10 * fixture.model.config().d_model);
      for (size_t i = 0; i < calls.size(); ++i) {
        Chunk chunk;
        chunk.state = &state;
        chunk.tokens_L = fixture.tokens.data() + 100 * i;
        chunk.length = 100;
        if (!drop_pooled || i == 0) chunk.pooled = {kFinalLayer, calls[i], means.data()};
        engine.forward({&chunk, 1});
      }
    };
    CHECK_NOTHROW(run({{{0, 20}, {10, 15}, {50, 120}}, {{50, 120}, {100, 101}}}));
    CHECK_THROWS_AS(run({{{10, 20}, {5, 30}}}), InternalError);  // descending
    CHECK_THROWS_AS(run({{{5, 30}, {5, 20}}}), InternalError);   // the same
    CHECK_THROWS_AS(run({{{100, 120}}}), InternalError);         // beyond the chunk
    CHECK_THROWS_AS(run({{{20, 20}}}), InternalError);           // no bases
    CHECK_THROWS_AS(run({{}, {{90, 120}}}), InternalError);      // began unseen
    CHECK_THROWS_AS(run({{{50, 120}}, {}}), InternalError);      // left open
    CHECK_THROWS_AS(run({{{50, 120}}, {{50, 121}}}), InternalError);
    CHECK_THROWS_AS(run({{{50, 120}}, {}}, true), InternalError);
  }
  Engine engine(fixture.model, ComputeDevice{}, 1);
  std::vector<SequenceState> states(2);
  std::vector<Chunk> chunks(2);
  for (size_t i = 0; i < 2; ++i) {
    states[i] = engine.new_sequence();
    chunks[i].state = &states[i];
    chunks[i].tokens_L = fixture.tokens.data();
    chunks[i].length = 10;
    chunks[i].pooled = PooledTap{static_cast<int64_t>(i), {}, nullptr};
  }
  CHECK_THROWS_AS(engine.forward(chunks), InternalError);  // two layers in one call
}

}  // namespace
}  // namespace chromamba::mamba
