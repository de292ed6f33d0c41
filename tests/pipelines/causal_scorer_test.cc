// Scores of alleles against what full runs of the edited and the unedited contig give.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "mamba/checkpoint.h"
#include "pipelines/allele_scorer.h"
#include "tests/mamba/fixture.h"
#include "tests/pipelines/listed_alleles.h"
#include "tests/pipelines/memory_passes.h"
#include "tests/random_values.h"
#include "tests/test_data.h"

namespace chromamba::pipelines {
namespace {

using tests::ListedAlleles;
using tests::MemoryBases;
using tests::random_dna;

constexpr Strand kStrands[] = {Strand::forward, Strand::reverse};

const mamba::Model& fixture_model(const std::string& name) {
  static std::map<std::string, mamba::Model> models;
  auto found = models.find(name);
  if (found == models.end()) {
    mamba::Model model(mamba::open_checkpoint(tests::test_data() + "/" + name));
    found = models.emplace(name, std::move(model)).first;
  }
  return found->second;
}

std::string reversed(std::string bases) {
  io::reverse_complement(bases.data(), static_cast<int64_t>(bases.size()));
  return bases;
}

// In the order in which a strand meets them.
std::vector<Allele> in_order(std::vector<Allele> alleles, Strand strand) {
  std::stable_sort(alleles.begin(), alleles.end(), [&](const Allele& a, const Allele& b) {
    return strand == Strand::forward ? a.start < b.start : a.end > b.end;
  });
  return alleles;
}

struct Score {
  double llr = 0;
  float cosine = 0;
  float l2 = 0;
  double allele_delta = 0;
  std::vector<float> right_delta;
};
using Scores = std::map<int64_t, Score>;

Scores run_scorer(AlleleScorer& scorer, const std::string& contig,
                  const std::vector<Allele>& alleles, Strand strand) {
  Scores scores;
  MemoryBases bases(contig);
  ListedAlleles source(in_order(alleles, strand));
  scorer.score({"contig", static_cast<int64_t>(contig.size()), &bases}, strand, source,
               [&](const StrandScore& score) {
                 const auto [at, fresh] = scores.emplace(
                     score.number, Score{score.llr,
                                         score.cosine_change,
                                         score.l2_change,
                                         score.allele_delta,
                                         {score.right_delta.begin(), score.right_delta.end()}});
                 CHECK(fresh);
               });
  CHECK(scores.size() == alleles.size());
  return scores;
}

bool same(const Scores& a, const Scores& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.llr == y.second.llr &&
           tests::same_bits(x.second.right_delta, y.second.right_delta) &&
           std::isnan(x.second.cosine) == std::isnan(y.second.cosine) &&
           (std::isnan(x.second.cosine) ||
            (x.second.cosine == y.second.cosine && x.second.l2 == y.second.l2));
  });
}

struct Run {
  std::vector<float> log_p;
  std::vector<float> rows;  // [bases, D]
};

// A contig as one sequence from `zero` on; values before it are NaN.
Run full_run(mamba::Engine& engine, const mamba::Model& model, const std::string& bases,
             int64_t zero) {
  Run run;
  const int64_t width = model.config().d_model;
  run.log_p.assign(bases.size(), std::nanf(""));
  run.rows.assign(bases.size() * static_cast<size_t>(width), 0.0F);
  const int64_t count = static_cast<int64_t>(bases.size()) - zero;
  if (count <= 0) return run;
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  model.tokenizer().encode(bases.data() + zero, count, tokens.data());
  mamba::SequenceState state = engine.new_sequence();
  mamba::Chunk chunk;
  chunk.state = &state;
  chunk.tokens_L = tokens.data();
  chunk.length = count;
  chunk.log_likelihood_L = run.log_p.data() + zero;
  chunk.taps.push_back({mamba::kFinalLayer, run.rows.data() + zero * width});
  engine.forward({&chunk, 1});
  return run;
}

double sum(const std::vector<float>& values, int64_t start, int64_t end) {
  double total = 0;
  for (int64_t i = start; i < std::min(end, static_cast<int64_t>(values.size())); ++i) {
    if (!std::isnan(values[static_cast<size_t>(i)])) total += values[static_cast<size_t>(i)];
  }
  return total;
}

std::vector<double> mean_rows(const std::vector<float>& rows, int64_t width, int64_t start,
                              int64_t end) {
  std::vector<double> mean(static_cast<size_t>(width), 0.0);
  start = std::max<int64_t>(start, 0);
  end = std::min(end, static_cast<int64_t>(rows.size()) / width);
  for (int64_t i = start; i < end; ++i) {
    for (int64_t d = 0; d < width; ++d) {
      mean[static_cast<size_t>(d)] +=
          rows[static_cast<size_t>(i * width + d)] / static_cast<double>(end - start);
    }
  }
  return mean;
}

Score brute_force(mamba::Engine& engine, const mamba::Model& model, const std::string& contig,
                  const Allele& allele, Strand strand, const AlleleScorerOptions& options,
                  const Run& unedited, int64_t zero) {
  const bool forward = strand == Strand::forward;
  std::string edited = contig;
  edited.replace(static_cast<size_t>(allele.start), static_cast<size_t>(allele.end - allele.start),
                 allele.alt);
  const Run run = full_run(engine, model, forward ? edited : reversed(edited), zero);
  const int64_t start = forward ? allele.start : static_cast<int64_t>(contig.size()) - allele.end;
  const int64_t ref_end = start + allele.end - allele.start;
  const int64_t alt_end = start + static_cast<int64_t>(allele.alt.size());
  Score score;
  score.llr = sum(run.log_p, start, alt_end + options.right_context) -
              sum(unedited.log_p, start, ref_end + options.right_context);
  score.allele_delta = sum(run.log_p, start, alt_end) - sum(unedited.log_p, start, ref_end);
  const int64_t width = model.config().d_model;
  const int64_t radius = options.embedding_radius;
  const int64_t first = std::max(zero, start - radius);
  const std::vector<double> a = mean_rows(run.rows, width, first, alt_end + radius);
  const std::vector<double> b = mean_rows(unedited.rows, width, first, ref_end + radius);
  double ab = 0;
  double aa = 0;
  double bb = 0;
  double distance = 0;
  for (size_t d = 0; d < a.size(); ++d) {
    ab += a[d] * b[d];
    aa += a[d] * a[d];
    bb += b[d] * b[d];
    distance += (a[d] - b[d]) * (a[d] - b[d]);
  }
  score.cosine = static_cast<float>(1 - ab / std::sqrt(aa * bb));
  score.l2 = static_cast<float>(std::sqrt(distance));
  return score;
}

// Random changes of every kind; the first and last bases, and bases beside N, more often than chance would.
std::vector<Allele> random_alleles(const std::string& contig, size_t count, unsigned seed) {
  std::mt19937 random(seed);
  const auto length = static_cast<int64_t>(contig.size());
  std::vector<int64_t> places = {0, 1, 2, length - 1, length - 2, length - 3};
  for (int64_t i = 1; i < length; ++i) {
    if (contig[static_cast<size_t>(i)] != 'N' && contig[static_cast<size_t>(i - 1)] == 'N') {
      places.push_back(i);
    }
    if (contig[static_cast<size_t>(i)] == 'N' && contig[static_cast<size_t>(i - 1)] != 'N') {
      places.push_back(i - 1);
    }
  }
  std::vector<Allele> alleles;
  while (alleles.size() < count) {
    Allele allele;
    allele.number = static_cast<int64_t>(alleles.size());
    allele.start = alleles.size() < places.size()
                       ? places[alleles.size()]
                       : static_cast<int64_t>(random() % static_cast<unsigned>(length));
    const auto kind = random() % 4;
    int64_t replaced = 1;
    size_t alt = 1;
    if (kind == 1) replaced = 1 + static_cast<int64_t>(random() % 20);       // deletion or delins
    if (kind == 2) alt = 1 + random() % 20;                                  // insertion
    if (kind == 3) replaced = static_cast<int64_t>(alt = 2 + random() % 4);  // MNV
    allele.end = std::min(allele.start + replaced, length);
    allele.alt = random_dna(static_cast<int64_t>(alt), static_cast<unsigned>(random()));
    if (kind == 1 && random() % 4 == 0) allele.alt.clear();
    alleles.push_back(std::move(allele));
  }
  return alleles;
}

std::string made_contig(int64_t length, unsigned seed) {
  std::string contig = random_dna(length, seed);
  for (const int64_t at : {length / 3, length / 3 + 1, length / 2, length - 5}) {
    if (at >= 0 && at < length && length > 20) contig[static_cast<size_t>(at)] = 'N';
  }
  return contig;
}

void check_brute_force(const std::string& name, const mamba::ComputeDevice& device,
                       const std::string& contig, const std::vector<Allele>& alleles,
                       const AlleleScorerOptions& options, double allowed) {
  const mamba::Model& model = fixture_model(name);
  const std::unique_ptr<AlleleScorer> scorer = make_causal_scorer(model, device, options);
  mamba::Engine engine(model, device, 2);
  for (const Strand strand : kStrands) {
    const Scores scores = run_scorer(*scorer, contig, alleles, strand);
    const bool forward = strand == Strand::forward;
    std::map<int64_t, Run> unedited;  // by where they begin
    double worst = 0;
    for (const Allele& allele : alleles) {
      INFO(name << ": allele " << allele.start << "-" << allele.end << " " << allele.alt
                << (forward ? "" : ", reverse strand"));
      const int64_t place =
          forward ? allele.start : static_cast<int64_t>(contig.size()) - allele.end;
      const int64_t zero = zero_state_start(place, options.left_context);
      if (unedited.count(zero) == 0) {
        unedited[zero] = full_run(engine, model, forward ? contig : reversed(contig), zero);
      }
      const Score wanted =
          brute_force(engine, model, contig, allele, strand, options, unedited.at(zero), zero);
      const Score& got = scores.at(allele.number);
      REQUIRE(std::isfinite(got.llr));
      worst = std::max(worst, std::fabs(got.llr - wanted.llr));
      CHECK(std::fabs(got.llr - wanted.llr) <= allowed);
      if (options.embedding_change) {
        CHECK(got.cosine == Approx(wanted.cosine).margin(2e-5));
        CHECK(got.l2 == Approx(wanted.l2).epsilon(1e-3).margin(1e-5));
      }
      if (options.per_base) {
        CHECK(std::fabs(got.allele_delta - wanted.allele_delta) <= allowed);
        double total = got.allele_delta;
        for (const float delta : got.right_delta) total += std::isnan(delta) ? 0.0F : delta;
        CHECK(static_cast<int64_t>(got.right_delta.size()) == options.right_context);
        CHECK(total == Approx(got.llr).margin(1e-4));
      }
    }
    std::printf("%s, %s, %s: %zu alleles, worst |error| %.1e\n", name.c_str(),
                device.cuda ? "GPU" : "CPU", forward ? "forward" : "reverse", alleles.size(),
                worst);
  }
}

AlleleScorerOptions full_context(int64_t right) {
  AlleleScorerOptions options;
  options.left_context.full = true;
  options.right_context = right;
  options.threads = 2;
  return options;
}

TEST_CASE("500 random alleles score as full runs of the edited contigs do") {
  for (const mamba::ComputeDevice& device : tests::test_devices()) {
    // On the CPU the bits are those of the full runs; sums differ in their order alone.
    const double allowed = device.cuda ? 1e-3 : 1e-9;
    unsigned seed = 0;
    for (const int64_t length : {1500, 700, 300, 40, 3}) {
      const std::string contig = made_contig(length, ++seed);
      const std::vector<Allele> alleles = random_alleles(contig, length < 100 ? 25 : 150, seed);
      check_brute_force("mamba1_ref", device, contig, alleles, full_context(64), allowed);
    }
    const std::string contig = made_contig(600, 9);
    check_brute_force("mamba2_ref", device, contig, random_alleles(contig, 30, 9),
                      full_context(256), allowed);
    check_brute_force("mamba1_ref", device, contig, random_alleles(contig, 30, 10), full_context(0),
                      allowed);
  }
}

TEST_CASE("left context begins on the grid") {
  for (const int64_t context : {0, 1, 50, 128}) {
    AlleleScorerOptions options = full_context(30);
    options.left_context = {context, false};
    const std::string contig = made_contig(700, 4);
    check_brute_force("mamba1_ref", {}, contig, random_alleles(contig, 40, 5), options, 1e-9);
  }
}

TEST_CASE("changes of embeddings and of each base agree with full runs") {
  for (const mamba::ComputeDevice& device : tests::test_devices()) {
    const std::string contig = made_contig(500, 14);
    const std::vector<Allele> alleles = random_alleles(contig, 40, 15);
    for (const int64_t right : {0, 3, 100}) {
      AlleleScorerOptions options = full_context(right);
      options.embedding_change = true;
      options.per_base = true;
      check_brute_force("mamba1_ref", device, contig, alleles, options, device.cuda ? 1e-3 : 1e-9);
    }
  }
}

TEST_CASE("scores depend neither on chunks, memory, threads nor on other alleles") {
  const mamba::Model& model = fixture_model("mamba1_ref");
  const std::string contig = made_contig(2500, 24);
  std::vector<Allele> alleles = random_alleles(contig, 120, 25);
  // Many at one place, more letters than wait at a time.
  for (int i = 0; i < 12; ++i) {
    Allele allele{static_cast<int64_t>(alleles.size()), 1000, 1001,
                  random_dna(900, static_cast<unsigned>(i))};
    alleles.push_back(allele);
  }
  for (const mamba::ComputeDevice& device : tests::test_devices({kernels::DType::bf16})) {
    AlleleScorerOptions options = full_context(100);
    options.per_base = true;
    options.embedding_change = true;
    options.left_context = {600, false};
    const auto score = [&](int64_t chunk, int64_t memory, int threads,
                           const std::vector<Allele>& list, Strand strand) {
      AlleleScorerOptions changed = options;
      changed.chunk_size = chunk;
      changed.memory = memory;
      changed.threads = threads;
      const std::unique_ptr<AlleleScorer> scorer = make_causal_scorer(model, device, changed);
      return run_scorer(*scorer, contig, list, strand);
    };
    for (const Strand strand : kStrands) {
      const Scores whole = score(0, options.memory, 1, alleles, strand);
      const int64_t states = mamba::Engine::state_bytes(model, device);
      CHECK(same(score(100, options.memory, 2, alleles, strand), whole));
      CHECK(same(score(1000, 8 * states, 3, alleles, strand), whole));  // one site at a time
      CHECK(same(score(777, 40 * states, 2, alleles, strand), whole));  // five
      for (const size_t one : {size_t{0}, size_t{50}, alleles.size() - 1}) {
        const Scores alone = score(0, options.memory, 1, {alleles[one]}, strand);
        CHECK(same(alone, {*whole.find(alleles[one].number)}));
      }
    }
  }
}

TEST_CASE(
    "an allele that is the reference scores nothing, and each strand the other's mirror image") {
  const mamba::Model& model = fixture_model("mamba1_ref");
  const std::string contig = random_dna(800, 34);
  const std::unique_ptr<AlleleScorer> scorer = make_causal_scorer(model, {}, full_context(50));
  const std::vector<Allele> same_bases = {{0, 300, 310, contig.substr(300, 10)}};
  for (const Strand strand : kStrands) {
    CHECK(run_scorer(*scorer, contig, same_bases, strand).at(0).llr == 0.0);
  }
  const std::vector<Allele> alleles = random_alleles(contig, 30, 35);
  std::vector<Allele> mirrored = alleles;
  for (Allele& allele : mirrored) {
    const int64_t start = 800 - allele.end;
    allele.end = 800 - allele.start;
    allele.start = start;
    allele.alt = reversed(allele.alt);
  }
  const Scores forward = run_scorer(*scorer, contig, alleles, Strand::forward);
  const Scores reverse = run_scorer(*scorer, reversed(contig), mirrored, Strand::reverse);
  CHECK(same(forward, reverse));
}

TEST_CASE("a scorer counts what it runs, stops when asked, and refuses too little memory") {
  const mamba::Model& model = fixture_model("mamba1_ref");
  const std::string contig = random_dna(1000, 44);
  std::atomic<int64_t> bases{0};
  AlleleScorerOptions options = full_context(20);
  options.bases_done = &bases;
  const std::unique_ptr<AlleleScorer> scorer = make_causal_scorer(model, {}, options);
  run_scorer(*scorer, contig, {{0, 500, 501, "ACG"}, {1, 600, 602, "A"}}, Strand::forward);
  // The reference up to the last allele's right context; of each allele all but the last base.
  CHECK(bases == 622 + (3 + 20 - 1) + (1 + 20 - 1));

  const std::atomic<int> stop{15};
  options.stop = &stop;
  const std::unique_ptr<AlleleScorer> stopped = make_causal_scorer(model, {}, options);
  CHECK_THROWS_AS(run_scorer(*stopped, contig, {{0, 500, 501, "A"}}, Strand::forward), Interrupted);

  options.memory = mamba::Engine::state_bytes(model, {});
  CHECK_THROWS_AS(make_causal_scorer(model, {}, options), ResourceError);
}

}  // namespace
}  // namespace chromamba::pipelines
