// The runner: order and completeness of parts, strands, and that a failure of any stage ends all.
#include "pipelines/stream.h"

#include <catch2/catch.hpp>
#include <csignal>
#include <map>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "tests/pipelines/memory_passes.h"
#include "tests/random_values.h"
#include "tests/test_data.h"

namespace chromamba::pipelines {
namespace {

using tests::from_list;
using tests::MemoryBases;
using tests::random_dna;
using tests::same_bits;
using tests::whole_pass;

const mamba::Model& tiny_model() {
  static const mamba::Model model(mamba::open_checkpoint(tests::test_data() + "/mamba1_long"));
  return model;
}

// ln p and final hidden rows of every pass, checked to arrive in order and without gaps.
struct Collected {
  std::map<int64_t, std::vector<float>> log_p;
  std::map<int64_t, std::vector<float>> hidden;
};

Collected collect(std::vector<PassInput> inputs, int64_t chunk_size, int threads = 2) {
  const mamba::Model& model = tiny_model();
  const int64_t width = model.config().d_model;
  Collected all;
  int64_t next_index = 0;
  int64_t expected_at = 0;
  const Consumer consume = [&](const Part& part) {
    if (part.first) {
      REQUIRE(part.pass_index == next_index++);
      expected_at = part.pass->strand == Strand::forward ? part.pass->start : part.pass->end;
      all.log_p[part.pass_index].resize(static_cast<size_t>(part.pass->contig_length));
      all.hidden[part.pass_index].resize(static_cast<size_t>(part.pass->contig_length * width));
    }
    if (part.pass->strand == Strand::forward) {
      REQUIRE(part.start == expected_at);
      expected_at += part.length;
      if (part.last) REQUIRE(expected_at == part.pass->end);
    } else {
      REQUIRE(part.start + part.length == expected_at);
      expected_at -= part.length;
      if (part.last) REQUIRE(expected_at == part.pass->start);
    }
    std::copy_n(part.log_likelihood, part.length, all.log_p[part.pass_index].begin() + part.start);
    std::copy_n(part.hidden_LD, part.length * width,
                all.hidden[part.pass_index].begin() + part.start * width);
  };
  mamba::Engine engine(model, kernels::Backend::cpu, threads);
  StreamOptions options;
  options.log_likelihood = true;
  options.layer = mamba::kFinalLayer;
  options.chunk_size = chunk_size;
  stream_passes(engine, model, from_list(std::move(inputs)), consume, options);
  return all;
}

TEST_CASE("passes of all lengths arrive in order, the same for any chunk size") {
  std::vector<PassInput> inputs;
  const std::vector<int64_t> lengths = {0, 1, 700, 255, 0, 256, 3000, 5, 1};
  for (size_t i = 0; i < lengths.size(); ++i) {
    const std::string bases = random_dna(lengths[i], static_cast<unsigned>(i));
    inputs.push_back(whole_pass("c", bases, i % 2 == 0 ? Strand::forward : Strand::reverse));
  }
  const Collected whole = collect(inputs, 1 << 16, 1);
  REQUIRE(whole.log_p.size() == lengths.size());
  for (const int64_t chunk : {100, 256, 999}) {
    const Collected parts = collect(inputs, chunk);
    for (size_t i = 0; i < lengths.size(); ++i) {
      INFO("pass " << i << ", chunk " << chunk);
      const auto index = static_cast<int64_t>(i);
      CHECK(same_bits(parts.log_p.at(index), whole.log_p.at(index)));
      CHECK(same_bits(parts.hidden.at(index), whole.hidden.at(index)));
    }
  }
}

TEST_CASE("the reverse strand is the forward pass over the reverse complement, mirrored") {
  const std::string bases = random_dna(1500, 9);
  std::string complement = bases;
  io::reverse_complement(complement.data(), static_cast<int64_t>(complement.size()));
  const Collected both = collect(
      {whole_pass("c", bases, Strand::reverse), whole_pass("c", complement, Strand::forward)}, 400);
  std::vector<float> mirrored = both.log_p.at(1);
  std::reverse(mirrored.begin(), mirrored.end());
  CHECK(same_bits(both.log_p.at(0), mirrored));
  const int64_t width = tiny_model().config().d_model;
  for (int64_t t = 0; t < 1500; ++t) {
    REQUIRE(std::equal(both.hidden.at(0).begin() + t * width,
                       both.hidden.at(0).begin() + (t + 1) * width,
                       both.hidden.at(1).begin() + (1499 - t) * width));
  }
}

// Rows by region and bin, as a pass over `bases` with these segments gives them.
using PooledRows = std::map<std::pair<int64_t, int64_t>, std::vector<float>>;

PooledRows pooled(const std::string& bases, Strand strand, const std::vector<Segment>& segments,
                  int64_t bin, int64_t chunk_size, int64_t* longest_part = nullptr) {
  const mamba::Model& model = tiny_model();
  const int64_t width = model.config().d_model;
  PooledRows rows;
  std::map<int64_t, int64_t> ended;
  const Consumer consume = [&](const Part& part) {
    REQUIRE(part.hidden_LD == nullptr);
    if (longest_part != nullptr) *longest_part = std::max(*longest_part, part.length);
    for (size_t i = 0; i < part.pooled.size(); ++i) {
      const GroupRow& at = part.pooled[i].at;
      if (i > 0) REQUIRE(part.pooled[i - 1].at.segment <= at.segment);
      const Segment& segment = part.pass->segments[static_cast<size_t>(at.segment)];
      const auto key = std::pair(segment.region, at.row);
      REQUIRE(rows.count(key) == 0);
      REQUIRE(ended.count(segment.region) == 0);
      if (at.last) ended[segment.region] = at.row;
      rows[key].assign(part.pooled[i].mean_D, part.pooled[i].mean_D + width);
    }
  };
  std::vector<PassInput> inputs;
  const auto n = static_cast<int64_t>(bases.size());
  for (Pass& pass : plan_passes("c", n, strand, segments, {0, true})) {
    inputs.push_back({std::move(pass), std::make_shared<MemoryBases>(bases)});
  }
  mamba::Engine engine(model, kernels::Backend::cpu, 2);
  StreamOptions options;
  options.layer = mamba::kFinalLayer;
  options.bin = bin;
  options.chunk_size = chunk_size;
  stream_passes(engine, model, from_list(std::move(inputs)), consume, options);
  return rows;
}

TEST_CASE("pooled rows are the means of the rows, in the order the strand is read") {
  const std::string bases = random_dna(4000, 11);
  const std::vector<Segment> segments = {{0, 0, 4000},    {1, 100, 1900},  {2, 100, 1900},
                                         {3, 1000, 1001}, {4, 1500, 1500}, {5, 3000, 3999}};
  const int64_t width = tiny_model().config().d_model;
  for (const Strand strand : {Strand::forward, Strand::reverse}) {
    const std::vector<float> rows = collect({whole_pass("c", bases, strand)}, 1 << 16).hidden.at(0);
    for (const int64_t bin : {int64_t{2}, int64_t{7}, int64_t{128}, kWholeSegment}) {
      PooledRows expected;
      for (const Segment& segment : segments) {
        for (int64_t from = segment.start, k = 0; from < segment.end; ++k) {
          const int64_t to = bin < segment.end - from ? from + bin : segment.end;
          std::vector<float>& mean = expected[{segment.region, k}];
          for (int64_t d = 0; d < width; ++d) {
            double sum = 0;
            for (int64_t i = 0; i < to - from; ++i) {
              const int64_t base = strand == Strand::forward ? from + i : to - 1 - i;
              sum += rows[static_cast<size_t>(base * width + d)];
            }
            mean.push_back(static_cast<float>(sum / static_cast<double>(to - from)));
          }
          from = to;
        }
      }
      for (const int64_t chunk : {100, 999, 1 << 16}) {
        INFO("bin " << bin << ", chunk " << chunk);
        const PooledRows actual = pooled(bases, strand, segments, bin, chunk);
        REQUIRE(actual.size() == expected.size());
        for (const auto& [key, mean] : expected) CHECK(same_bits(actual.at(key), mean));
      }
    }
  }
}

TEST_CASE("regions that overlap many times over are taken in smaller parts, with the same rows") {
  const std::string bases = random_dna(3000, 12);
  std::vector<Segment> segments;
  for (int64_t i = 0; i < 20; ++i) segments.push_back({i, i, 3000 - i});
  int64_t longest = 0;
  const PooledRows rows = pooled(bases, Strand::reverse, segments, 2, 1 << 16);
  const PooledRows parts = pooled(bases, Strand::reverse, segments, 2, 3000, &longest);
  CHECK(longest < 3000);
  CHECK(rows == parts);
  CHECK(pooled(bases, Strand::reverse, {segments[7]}, 2, 3000).at({7, 100}) == rows.at({7, 100}));
}

TEST_CASE("a failure in reading, computing or writing ends the run with its error") {
  const mamba::Model& model = tiny_model();
  const std::string bases = random_dna(5000, 1);
  StreamOptions options;
  options.log_likelihood = true;
  options.chunk_size = 300;
  const Consumer ignore = [](const Part&) {};
  for (int repeat = 0; repeat < 5; ++repeat) {
    mamba::Engine engine(model, kernels::Backend::cpu, 2);
    for (const int64_t fail_at : {0, 2500, 4999}) {
      CHECK_THROWS_AS(stream_passes(engine, model,
                                    from_list({whole_pass("c", bases, Strand::forward, fail_at)}),
                                    ignore, options),
                      DataError);
    }
    const Consumer full_disk = [](const Part& part) {
      if (part.start > 1000) throw ResourceError("disk full");
    };
    CHECK_THROWS_AS(
        stream_passes(engine, model, from_list({whole_pass("c", bases, Strand::forward)}),
                      full_disk, options),
        ResourceError);
    const NextPass broken = []() -> std::optional<PassInput> { throw DataError("no file"); };
    CHECK_THROWS_AS(stream_passes(engine, model, broken, ignore, options), DataError);
  }
}

TEST_CASE("a signal stops the run between chunks") {
  const mamba::Model& model = tiny_model();
  std::atomic<int> signal{0};
  StreamOptions options;
  options.log_likelihood = true;
  options.chunk_size = 256;
  options.stop = &signal;
  int parts = 0;
  const Consumer consume = [&](const Part&) {
    if (++parts == 3) signal = SIGTERM;
  };
  mamba::Engine engine(model, kernels::Backend::cpu, 1);
  try {
    stream_passes(engine, model,
                  from_list({whole_pass("c", random_dna(100000, 2), Strand::forward)}), consume,
                  options);
    FAIL("not stopped");
  } catch (const Interrupted& error) {
    CHECK(error.signal_number() == SIGTERM);
    CHECK(parts < 20);
  }
}

}  // namespace
}  // namespace chromamba::pipelines
