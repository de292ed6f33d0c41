// The runner of models that are not causal: parts, windows, masks and stores against the engine on whole sequences.
#include "pipelines/sweeps.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
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

const mamba::Model& model_of(const std::string& name) {
  static std::map<std::string, mamba::Model> models;
  auto found = models.find(name);
  if (found == models.end()) {
    mamba::Model model(mamba::open_checkpoint(tests::test_data() + "/" + name));
    found = models.emplace(name, std::move(model)).first;
  }
  return found->second;
}

constexpr const char* kModels[] = {"caduceus_ph", "caduceus_ps"};
constexpr Strand kStrands[] = {Strand::forward, Strand::reverse};

// Some bases with a few N.
std::string made_bases(int64_t n, unsigned seed) {
  std::string bases = random_dna(n, seed);
  for (size_t at : {size_t{0}, size_t{77}, size_t{78}, size_t{600}}) {
    if (at < bases.size()) bases[at] = 'N';
  }
  return bases;
}

struct Rows {
  std::vector<float> log_p;
  std::vector<float> hidden;
};

// What the engine gives for one sequence; bases whose target is -1 have no ln p.
Rows direct(const mamba::Model& model, const std::vector<int32_t>& tokens,
            const std::vector<int32_t>& targets) {
  Rows result;
  mamba::SweepSequence sequence;
  sequence.length = static_cast<int64_t>(tokens.size());
  sequence.tokens = [&](int64_t start, int64_t count, int32_t* out) {
    std::copy_n(tokens.begin() + start, count, out);
  };
  sequence.targets = [&](int64_t start, int64_t count, int32_t* out) {
    std::copy_n(targets.begin() + start, count, out);
  };
  const int64_t width = mamba::SweepEngine::hidden_width(model, mamba::Halves::both);
  sequence.consume = [&](const mamba::SweepRows& rows) {
    result.log_p.insert(result.log_p.end(), rows.log_likelihood_L,
                        rows.log_likelihood_L + rows.length);
    result.hidden.insert(result.hidden.end(), rows.hidden, rows.hidden + rows.length * width);
  };
  mamba::SweepWanted wanted;
  wanted.layer = mamba::kFinalLayer;
  wanted.log_likelihood = true;
  mamba::SweepEngine engine(model, {}, 1, {65536, int64_t{1} << 40, {}});
  engine.run({&sequence, 1}, wanted);
  return result;
}

std::vector<int32_t> tokens_of(const mamba::Model& model, const std::string& bases) {
  std::vector<int32_t> tokens(bases.size());
  model.tokenizer().encode(bases.data(), static_cast<int64_t>(bases.size()), tokens.data());
  return tokens;
}

void turn_round(Rows& rows) {
  const size_t n = rows.log_p.size();
  const size_t width = rows.hidden.size() / n;
  std::reverse(rows.log_p.begin(), rows.log_p.end());
  for (size_t i = 0; i < n / 2; ++i) {
    std::swap_ranges(rows.hidden.begin() + i * width, rows.hidden.begin() + (i + 1) * width,
                     rows.hidden.begin() + (n - 1 - i) * width);
  }
}

// A strand of some bases, at forward coordinates. With a stride every base's ln p is from the sequence that masks all
// bases of its remainder, counted from the contig's base 0, where `first` is the number of the first base here.
Rows whole_strand(const mamba::Model& model, std::string bases, Strand strand, int64_t stride = 0,
                  int64_t first = 0) {
  const auto n = static_cast<int64_t>(bases.size());
  if (strand == Strand::reverse) io::reverse_complement(bases.data(), n);
  const std::vector<int32_t> tokens = tokens_of(model, bases);
  Rows result = direct(model, tokens, tokens);
  for (int64_t remainder = 0; remainder < stride; ++remainder) {
    std::vector<int32_t> masked = tokens;
    std::vector<size_t> here;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t base = strand == Strand::forward ? i : n - 1 - i;
      if ((first + base) % stride != remainder) continue;
      masked[static_cast<size_t>(i)] = model.tokenizer().mask;
      here.push_back(static_cast<size_t>(i));
    }
    const Rows rows = direct(model, masked, tokens);
    for (const size_t i : here) result.log_p[i] = rows.log_p[i];
  }
  if (strand == Strand::reverse) turn_round(result);
  return result;
}

SweepOptions in_memory() {
  SweepOptions options;
  options.stream.log_likelihood = true;
  options.stream.layer = mamba::kFinalLayer;
  options.stream.chunk_size = 65536;
  options.rows_bytes = int64_t{1} << 40;
  return options;
}

// The rows of every pass, by its number, checked to arrive in order and without gaps; what a pass does not have is NaN.
std::vector<Rows> collect(const mamba::Model& model, std::vector<PassInput> inputs,
                          const SweepOptions& options, int threads = 2) {
  const int64_t width = mamba::SweepEngine::hidden_width(model, options.halves);
  std::vector<Rows> all;
  int64_t expected_at = 0;
  const Consumer consume = [&](const Part& part) {
    const Pass& pass = *part.pass;
    const bool forward = pass.strand == Strand::forward;
    if (part.first) {
      REQUIRE(part.pass_index == static_cast<int64_t>(all.size()));
      expected_at = forward ? pass.start : pass.end;
      Rows& rows = all.emplace_back();
      rows.log_p.assign(static_cast<size_t>(pass.contig_length), std::nanf(""));
      rows.hidden.assign(static_cast<size_t>(pass.contig_length * width), std::nanf(""));
    }
    REQUIRE((forward ? part.start : part.start + part.length) == expected_at);
    expected_at += forward ? part.length : -part.length;
    if (part.last) REQUIRE(expected_at == (forward ? pass.end : pass.start));
    Rows& rows = all.back();
    if (part.length > 0 && options.stream.log_likelihood) {
      std::copy_n(part.log_likelihood, part.length, rows.log_p.begin() + part.start);
    }
    if (part.length > 0 && options.stream.layer) {
      std::copy_n(part.hidden_LD, part.length * width, rows.hidden.begin() + part.start * width);
    }
  };
  sweep_passes(model, {}, threads, from_list(std::move(inputs)), consume, options);
  return all;
}

TEST_CASE("whole contigs are what the engine gives, whatever the blocks and stores") {
  const std::string bases = made_bases(1501, 5);
  for (const char* name : kModels) {
    const mamba::Model& model = model_of(name);
    for (const Strand strand : kStrands) {
      const Rows expected = whole_strand(model, bases, strand);
      for (const int64_t block : {65536, 256, 700}) {
        for (const bool in_file : {false, true}) {
          INFO(name << ", strand " << int(strand) << ", blocks of " << block << ", file "
                    << in_file);
          SweepOptions options = in_memory();
          options.stream.chunk_size = block;
          if (in_file) options.rows_bytes = 0;
          const std::vector<Rows> rows =
              collect(model, {whole_pass("c", bases, strand)}, options, in_file ? 1 : 2);
          REQUIRE(rows.size() == 1);
          CHECK(same_bits(rows[0].log_p, expected.log_p));
          CHECK(same_bits(rows[0].hidden, expected.hidden));
        }
      }
    }
  }
}

TEST_CASE("every base but N has a likelihood, the first one too") {
  const std::string bases = made_bases(300, 6);
  const Rows rows =
      collect(model_of("caduceus_ph"), {whole_pass("c", bases, Strand::forward)}, in_memory())[0];
  for (size_t i = 0; i < bases.size(); ++i) {
    CHECK(std::isnan(rows.log_p[i]) == (bases[i] == 'N'));
  }
}

TEST_CASE("short contigs together are those one by one, in their order") {
  const mamba::Model& model = model_of("caduceus_ps");
  std::vector<PassInput> inputs;
  const std::vector<int64_t> lengths = {3, 0, 150, 151, 1, 0, 0, 700, 10, 256, 257, 1};
  std::vector<Rows> expected;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const std::string bases = random_dna(lengths[i], static_cast<unsigned>(i));
    inputs.push_back(whole_pass("c", bases, kStrands[i % 2]));
    expected.push_back(collect(model, {inputs.back()}, in_memory())[0]);
  }
  for (const int64_t rows_bytes : {int64_t{0}, int64_t{300000}, int64_t{1} << 40}) {
    for (const int64_t sequences : {1, 3, 4096}) {
      SweepOptions options = in_memory();
      options.stream.chunk_size = 256;
      options.rows_bytes = rows_bytes;
      options.sequences = sequences;
      options.mask_stride = 0;
      const std::vector<Rows> rows = collect(model, inputs, options);
      REQUIRE(rows.size() == expected.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        CHECK(same_bits(rows[i].log_p, expected[i].log_p));
        CHECK(same_bits(rows[i].hidden, expected[i].hidden));
      }
    }
  }
}

TEST_CASE("masked bases are read from the sequence that masks their remainder") {
  const std::string bases = made_bases(701, 7);
  for (const char* name : kModels) {
    const mamba::Model& model = model_of(name);
    for (const Strand strand : kStrands) {
      for (const int64_t stride : {1, 2, 5, 1000}) {
        if (stride == 1000 && (strand == Strand::reverse || model.config().rcps)) continue;
        const std::string text = stride == 1000 ? bases.substr(0, 130) : bases;
        const Rows expected = whole_strand(model, text, strand, stride);
        for (const bool in_file : {false, true}) {
          INFO(name << ", strand " << int(strand) << ", stride " << stride << ", file " << in_file);
          SweepOptions options = in_memory();
          options.stream.layer.reset();
          options.mask_stride = stride;
          if (in_file) options.rows_bytes = 0;
          if (in_file) options.stream.chunk_size = 256;
          const Pass pass = whole_pass("c", text, strand).pass;
          CHECK(sweep_load(pass, {}, stride).bases ==
                pass.length() * std::min(stride, pass.length()));
          const StreamOptions& stream = options.stream;
          std::atomic<int64_t> done{0};
          options.stream.bases_done = &done;
          CHECK(stream.log_likelihood);
          const Rows rows = collect(model, {whole_pass("c", text, strand)}, options)[0];
          CHECK(same_bits(rows.log_p, expected.log_p));
          CHECK(done == pass.length() * std::min(stride, pass.length()));
        }
      }
    }
  }
}

TEST_CASE("a region's masks are those of its contig, and no more than it needs") {
  const mamba::Model& model = model_of("caduceus_ph");
  const std::string bases = random_dna(900, 8);
  for (const Strand strand : kStrands) {
    const std::vector<Pass> passes =
        plan_reads("c", 900, strand, {{0, 403, 406}, {1, 500, 501}}, {{100, false}, true, {}});
    REQUIRE(passes.size() == 2);
    for (const Pass& pass : passes) {
      const Rows expected = whole_strand(
          model, bases.substr(static_cast<size_t>(pass.start), static_cast<size_t>(pass.length())),
          strand, 7, pass.start);
      CHECK(sweep_load(pass, {}, 7).bases ==
            pass.length() * (pass.segments[0].end - pass.segments[0].start));
      SweepOptions options = in_memory();
      options.mask_stride = 7;
      options.stream.layer.reset();
      const Rows rows = collect(model, {{pass, std::make_shared<MemoryBases>(bases)}}, options)[0];
      for (const Segment& segment : pass.segments) {
        for (int64_t at = segment.start; at < segment.end; ++at) {
          CHECK(rows.log_p[static_cast<size_t>(at)] ==
                expected.log_p[static_cast<size_t>(at - pass.start)]);
        }
      }
    }
  }
}

TEST_CASE("one window over everything is exact") {
  const std::string bases = made_bases(900, 9);
  for (const char* name : kModels) {
    const mamba::Model& model = model_of(name);
    const Rows expected = whole_strand(model, bases, Strand::forward);
    for (const int64_t size : {900, 901, 5000}) {
      SweepOptions options = in_memory();
      options.windows = {size, size / 8};
      const Rows rows = collect(model, {whole_pass("c", bases, Strand::forward)}, options)[0];
      CHECK(same_bits(rows.log_p, expected.log_p));
      CHECK(same_bits(rows.hidden, expected.hidden));
    }
  }
}

// For every base the window, of those of its contig, whose ends are furthest; a contig's ends are none.
std::vector<std::pair<int64_t, int64_t>> best_windows(int64_t length, const Windows& windows) {
  std::vector<std::pair<int64_t, int64_t>> best(static_cast<size_t>(length));
  std::vector<int64_t> room(best.size(), -1);
  for (int64_t start = 0;; start += windows.size - windows.overlap) {
    const int64_t end = std::min(start + windows.size, length);
    for (int64_t at = start; at < end; ++at) {
      const int64_t left = start == 0 ? length : at - start;
      const int64_t right = end == length ? length : end - 1 - at;
      const auto i = static_cast<size_t>(at);
      // With a tie the later one: cuts are at the lower half.
      if (std::min(left, right) < room[i]) continue;
      room[i] = std::min(left, right);
      best[i] = {start, end};
    }
    if (end == length) return best;
  }
}

TEST_CASE("a base comes from the window in which it lies furthest from the ends") {
  const std::string bases = made_bases(1000, 10);
  const mamba::Model& model = model_of("caduceus_ph");
  for (const Strand strand : kStrands) {
    for (const Windows windows : {Windows{300, 37}, Windows{256, 0}, Windows{100, 80}}) {
      const auto best = best_windows(1000, windows);
      std::map<std::pair<int64_t, int64_t>, Rows> computed;
      SweepOptions options = in_memory();
      options.windows = windows;
      const Rows rows = collect(model, {whole_pass("c", bases, strand)}, options)[0];
      const auto width = static_cast<size_t>(model.config().d_model);
      for (size_t i = 0; i < best.size(); ++i) {
        auto found = computed.find(best[i]);
        if (found == computed.end()) {
          const auto start = static_cast<size_t>(best[i].first);
          const auto size = static_cast<size_t>(best[i].second) - start;
          found = computed.emplace(best[i], whole_strand(model, bases.substr(start, size), strand))
                      .first;
        }
        const size_t row = i - static_cast<size_t>(best[i].first);
        INFO("base " << i << ", window " << best[i].first << " to " << best[i].second);
        REQUIRE((std::isnan(rows.log_p[i]) ? bases[i] == 'N'
                                           : rows.log_p[i] == found->second.log_p[row]));
        REQUIRE(std::equal(rows.hidden.begin() + i * width, rows.hidden.begin() + (i + 1) * width,
                           found->second.hidden.begin() + row * width));
      }
    }
  }
}

TEST_CASE("windows do not depend on the regions that are asked for, nor on stores") {
  const mamba::Model& model = model_of("caduceus_ps");
  const std::string bases = made_bases(1400, 11);
  const Windows windows{200, 50};
  SweepOptions options = in_memory();
  options.windows = windows;
  options.mask_stride = 3;
  options.stream.layer.reset();
  const Rows whole = collect(model, {whole_pass("c", bases, Strand::forward)}, options)[0];
  const std::vector<Segment> segments = {{0, 0, 3},      {1, 174, 176},   {2, 175, 300},
                                         {3, 700, 1100}, {4, 1399, 1400}, {5, 820, 821}};
  const std::vector<Pass> passes =
      plan_reads("c", 1400, Strand::forward, segments, {{}, true, windows});
  CHECK(passes.size() == 3);
  options.rows_bytes = 100000;
  options.stream.chunk_size = 256;
  std::vector<PassInput> inputs;
  for (const Pass& pass : passes) inputs.push_back({pass, std::make_shared<MemoryBases>(bases)});
  const std::vector<Rows> rows = collect(model, inputs, options);
  for (size_t p = 0; p < passes.size(); ++p) {
    for (const Segment& segment : passes[p].segments) {
      for (auto at = static_cast<size_t>(segment.start); at < static_cast<size_t>(segment.end);
           ++at) {
        INFO("pass " << p << ", base " << at);
        REQUIRE((std::isnan(rows[p].log_p[at]) ? bases[at] == 'N'
                                               : rows[p].log_p[at] == whole.log_p[at]));
      }
    }
  }
}

// Means by region and bin.
using PooledRows = std::map<std::pair<int64_t, int64_t>, std::vector<float>>;

PooledRows pooled(const mamba::Model& model, const std::string& bases, Strand strand,
                  const std::vector<Segment>& segments, const SweepOptions& options) {
  const int64_t width = mamba::SweepEngine::hidden_width(model, options.halves);
  PooledRows rows;
  const Consumer consume = [&](const Part& part) {
    REQUIRE(part.hidden_LD == nullptr);
    for (const PooledRow& row : part.pooled) {
      const Segment& segment = part.pass->segments[static_cast<size_t>(row.at.segment)];
      const auto key = std::pair(segment.region, row.at.row);
      REQUIRE(rows.count(key) == 0);
      rows[key].assign(row.mean_D, row.mean_D + width);
    }
  };
  std::vector<PassInput> inputs;
  const auto n = static_cast<int64_t>(bases.size());
  for (Pass& pass : plan_reads("c", n, strand, segments, {{0, true}, true, options.windows})) {
    inputs.push_back({std::move(pass), std::make_shared<MemoryBases>(bases)});
  }
  sweep_passes(model, {}, 2, from_list(std::move(inputs)), consume, options);
  return rows;
}

TEST_CASE("pooled rows of sweeps are the means of the rows, in the order the strand is read") {
  const std::string bases = random_dna(1500, 12);
  const std::vector<Segment> segments = {
      {0, 0, 1500}, {1, 100, 900}, {2, 100, 900}, {3, 500, 501}, {4, 1000, 1499}};
  for (const char* name : kModels) {
    const mamba::Model& model = model_of(name);
    for (const Windows windows : {Windows{}, Windows{600, 50}}) {
      for (const Strand strand : kStrands) {
        SweepOptions options = in_memory();
        options.stream.log_likelihood = false;
        options.windows = windows;
        options.halves = mamba::Halves::mean;
        const auto width =
            static_cast<size_t>(mamba::SweepEngine::hidden_width(model, options.halves));
        const Rows rows = collect(model, {whole_pass("c", bases, strand)}, options)[0];
        for (const int64_t bin : {int64_t{7}, int64_t{128}, kWholeSegment}) {
          PooledRows expected;
          for (const Segment& segment : segments) {
            for (int64_t from = segment.start, k = 0; from < segment.end; ++k) {
              const int64_t to = bin < segment.end - from ? from + bin : segment.end;
              std::vector<float>& mean = expected[{segment.region, k}];
              for (size_t d = 0; d < width; ++d) {
                double sum = 0;
                for (int64_t i = 0; i < to - from; ++i) {
                  const int64_t base = strand == Strand::forward ? from + i : to - 1 - i;
                  sum += rows.hidden[static_cast<size_t>(base) * width + d];
                }
                mean.push_back(static_cast<float>(sum / static_cast<double>(to - from)));
              }
              from = to;
            }
          }
          for (const int64_t block : {256, 65536}) {
            INFO(name << ", bin " << bin << ", blocks of " << block);
            options.stream.bin = bin;
            options.stream.chunk_size = block;
            options.rows_bytes = block == 256 ? 0 : int64_t{1} << 40;
            const PooledRows actual = pooled(model, bases, strand, segments, options);
            REQUIRE(actual.size() == expected.size());
            for (const auto& [key, mean] : expected) CHECK(same_bits(actual.at(key), mean));
          }
        }
      }
    }
  }
}

TEST_CASE("halves of an RC-equivariant model's rows: those of the whole, and of the other strand") {
  const mamba::Model& model = model_of("caduceus_ps");
  const std::string bases = made_bases(400, 13);
  std::string complement = bases;
  io::reverse_complement(complement.data(), 400);
  const auto width = static_cast<size_t>(model.config().d_model);
  const auto rows_of = [&](const std::string& text, mamba::Halves halves) {
    SweepOptions options = in_memory();
    options.halves = halves;
    return collect(model, {whole_pass("c", text, Strand::forward)}, options)[0].hidden;
  };
  const std::vector<float> both = rows_of(bases, mamba::Halves::both);
  const std::vector<float> forward = rows_of(bases, mamba::Halves::forward);
  const std::vector<float> reverse = rows_of(bases, mamba::Halves::reverse);
  const std::vector<float> mean = rows_of(bases, mamba::Halves::mean);
  const std::vector<float> mirrored = rows_of(complement, mamba::Halves::mean);
  REQUIRE(both.size() == 2 * forward.size());
  for (size_t t = 0; t < 400; ++t) {
    for (size_t d = 0; d < width; ++d) {
      REQUIRE(both[2 * t * width + d] == forward[t * width + d]);
      REQUIRE(both[2 * t * width + 2 * width - 1 - d] == reverse[t * width + d]);
      REQUIRE(mean[t * width + d] == 0.5F * (forward[t * width + d] + reverse[t * width + d]));
      REQUIRE(mean[t * width + d] == mirrored[(399 - t) * width + d]);
    }
  }
}

TEST_CASE("a failure in reading, computing or writing ends the sweeps with its error") {
  const mamba::Model& model = model_of("caduceus_ph");
  const std::string bases = random_dna(5000, 1);
  SweepOptions options = in_memory();
  options.stream.chunk_size = 300;
  const Consumer ignore = [](const Part&) {};
  for (const int64_t fail_at : {0, 2500, 4999}) {
    CHECK_THROWS_AS(
        sweep_passes(model, {}, 2, from_list({whole_pass("c", bases, Strand::reverse, fail_at)}),
                     ignore, options),
        DataError);
  }
  const Consumer full_disk = [](const Part& part) {
    if (part.start > 1000) throw ResourceError("disk full");
  };
  CHECK_THROWS_AS(sweep_passes(model, {}, 2, from_list({whole_pass("c", bases, Strand::forward)}),
                               full_disk, options),
                  ResourceError);
  const NextPass broken = []() -> std::optional<PassInput> { throw DataError("no file"); };
  CHECK_THROWS_AS(sweep_passes(model, {}, 2, broken, ignore, options), DataError);
  options.rows_bytes = 0;
  options.scratch_folder = "no/such/folder";
  CHECK_THROWS_WITH(sweep_passes(model, {}, 2, from_list({whole_pass("c", bases, Strand::forward)}),
                                 ignore, options),
                    Catch::Contains("no/such/folder"));
}

TEST_CASE("a signal stops a sweep before its end") {
  const mamba::Model& model = model_of("caduceus_ph");
  std::atomic<int> signal{SIGTERM};
  SweepOptions options = in_memory();
  options.stream.stop = &signal;
  CHECK_THROWS_AS(
      sweep_passes(
          model, {}, 1, from_list({whole_pass("c", random_dna(300, 2), Strand::forward)}),
          [](const Part&) {}, options),
      Interrupted);
}

}  // namespace
}  // namespace chromamba::pipelines
