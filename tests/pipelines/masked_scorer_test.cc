// Scores of alleles by masked models, against edited windows written out and run one by one.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <tuple>
#include <utility>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "mamba/sweep_engine.h"
#include "pipelines/allele_scorer.h"
#include "tests/mamba/made_caduceus.h"
#include "tests/pipelines/listed_alleles.h"
#include "tests/pipelines/memory_passes.h"
#include "tests/random_values.h"
#include "tests/test_data.h"

namespace chromamba::pipelines {
namespace {

using tests::ListedAlleles;
using tests::made_caduceus;
using tests::MadeCaduceus;
using tests::random_dna;

constexpr Strand kStrands[] = {Strand::forward, Strand::reverse};

// The same numbers summed in another order, some dozens of at most 20 each: 2^-53 of their sum, and the f32 results are
// the same bits.
constexpr double kSameSum = 1e-11;

// Names of fixtures, or of shapes that no fixture has.
const mamba::Model& model_of(const std::string& name) {
  static std::map<std::string, mamba::Model> models;
  auto found = models.find(name);
  if (found != models.end()) return found->second;
  MadeCaduceus shape;
  shape.strategy = "ew_multiply";
  shape.tied = false;
  shape.mamba2 = name == "made mamba2";
  shape.rcps = shape.mamba2;
  mamba::Model model(name.rfind("made", 0) == 0
                         ? made_caduceus(shape, 7)
                         : mamba::open_checkpoint(tests::test_data() + "/" + name));
  return models.emplace(name, std::move(model)).first->second;
}

constexpr const char* kModels[] = {"caduceus_ph", "caduceus_ps", "made mamba1", "made mamba2"};

// The scores, at their numbers.
std::vector<StrandScore> scores(AlleleScorer& scorer, const std::string& bases, Strand strand,
                                const std::vector<Allele>& alleles) {
  tests::MemoryBases source(bases);
  ListedAlleles listed(alleles);
  std::vector<StrandScore> all(alleles.size());
  std::vector<int64_t> order;
  scorer.score({"c", static_cast<int64_t>(bases.size()), &source}, strand, listed,
               [&](const StrandScore& score) {
                 order.push_back(score.number);
                 all.at(static_cast<size_t>(score.number)) = score;
               });
  REQUIRE(order.size() == alleles.size());
  for (size_t i = 0; i < order.size(); ++i) CHECK(order[i] == alleles[i].number);
  return all;
}

std::vector<StrandScore> scores(const mamba::Model& model, const AlleleScorerOptions& options,
                                const std::string& bases, Strand strand,
                                const std::vector<Allele>& alleles) {
  return scores(*make_masked_scorer(model, {}, options), bases, strand, alleles);
}

bool same_score(const StrandScore& a, const StrandScore& b) {
  return std::memcmp(&a.llr, &b.llr, sizeof a.llr) == 0 &&
         std::memcmp(&a.cosine_change, &b.cosine_change, sizeof a.cosine_change) == 0 &&
         std::memcmp(&a.l2_change, &b.l2_change, sizeof a.l2_change) == 0;
}

// Of one sequence that goes through the engine alone: its logits, or its final rows.
std::vector<float> direct(const mamba::Model& model, const std::string& letters, int64_t masked,
                          bool hidden) {
  std::vector<float> results;
  std::vector<int32_t> tokens(letters.size());
  model.tokenizer().encode(letters.data(), static_cast<int64_t>(letters.size()), tokens.data());
  if (masked >= 0) tokens[static_cast<size_t>(masked)] = model.tokenizer().mask;
  mamba::SweepSequence sequence;
  sequence.length = static_cast<int64_t>(letters.size());
  sequence.tokens = [&](int64_t start, int64_t count, int32_t* out) {
    std::copy_n(tokens.begin() + start, count, out);
  };
  const int64_t width = hidden ? mamba::SweepEngine::hidden_width(model, mamba::Halves::both)
                               : model.config().vocab_size;
  sequence.consume = [&](const mamba::SweepRows& rows) {
    const float* from = hidden ? rows.hidden : rows.logits_LV;
    results.insert(results.end(), from, from + rows.length * width);
  };
  mamba::SweepWanted wanted;
  if (hidden) wanted.layer = mamba::kFinalLayer;
  wanted.logits = !hidden;
  mamba::SweepEngine engine(model, {}, 1, {65536, int64_t{1} << 40, {}});
  engine.run({&sequence, 1}, wanted);
  return results;
}

// ln q of a letter at a base of a contig; N adds nothing.
double direct_ln_q(const mamba::Model& model, const std::string& contig, int64_t at, char letter,
                   int64_t window) {
  const mamba::Tokenizer& tokenizer = model.tokenizer();
  const std::string alphabet = "ACGT";
  const size_t index = alphabet.find(letter);
  if (index == std::string::npos) return 0;
  const int64_t start = std::max<int64_t>(0, at - (window / 2 - 1));
  const int64_t end = std::min<int64_t>(contig.size(), at + window / 2 + 1);
  const std::vector<float> logits =
      direct(model, contig.substr(start, end - start), at - start, false);
  const int32_t tokens[] = {tokenizer.a, tokenizer.c, tokenizer.g, tokenizer.t};
  const float* row = logits.data() + (at - start) * model.config().vocab_size;
  double sum = 0;
  for (const int32_t token : tokens) sum += std::exp(static_cast<double>(row[token]));
  return row[tokens[index]] - std::log(sum);
}

// A contig before and after, as the strand reads it.
struct Edit {
  std::string ref;
  std::string alt;
  int64_t start = 0;
  int64_t ref_size = 0;
  int64_t alt_size = 0;
};

Edit edit_of(const std::string& contig, Strand strand, const Allele& allele) {
  const auto size = static_cast<int64_t>(contig.size());
  Edit edit{contig, contig.substr(0, allele.start) + allele.alt + contig.substr(allele.end),
            allele.start, allele.end - allele.start, static_cast<int64_t>(allele.alt.size())};
  if (strand == Strand::reverse) {
    io::reverse_complement(edit.ref.data(), size);
    io::reverse_complement(edit.alt.data(), static_cast<int64_t>(edit.alt.size()));
    edit.start = size - allele.end;
  }
  return edit;
}

double direct_llr(const mamba::Model& model, const Edit& edit, int64_t window) {
  if (edit.ref_size == 1 && edit.alt_size == 1) {
    const auto at = static_cast<size_t>(edit.start);
    return direct_ln_q(model, edit.ref, edit.start, edit.alt[at], window) -
           direct_ln_q(model, edit.ref, edit.start, edit.ref[at], window);
  }
  double llr = 0;
  for (int64_t i = edit.start; i < edit.start + edit.alt_size; ++i) {
    llr += direct_ln_q(model, edit.alt, i, edit.alt[static_cast<size_t>(i)], window);
  }
  for (int64_t i = edit.start; i < edit.start + edit.ref_size; ++i) {
    llr -= direct_ln_q(model, edit.ref, i, edit.ref[static_cast<size_t>(i)], window);
  }
  return llr;
}

std::vector<double> direct_mean(const mamba::Model& model, const std::string& contig, int64_t at,
                                int64_t count, int64_t before, int64_t after, int64_t radius) {
  const auto size = static_cast<int64_t>(contig.size());
  const int64_t start = std::max<int64_t>(0, at - before);
  const int64_t end = std::min(size, at + after + 1);
  const std::vector<float> rows = direct(model, contig.substr(start, end - start), -1, true);
  const int64_t width = mamba::SweepEngine::hidden_width(model, mamba::Halves::both);
  std::vector<double> mean(static_cast<size_t>(width));
  const int64_t first = std::max<int64_t>(0, at - radius);
  const int64_t last = std::min(size, at + count + radius);
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t i = first; i < last; ++i) mean[d] += rows[(i - start) * width + d];
    mean[d] /= static_cast<double>(last - first);
  }
  return mean;
}

// Some bases with N at both ends and in the middle.
std::string made_contig(int64_t size, unsigned seed) {
  std::string contig = random_dna(size, seed);
  for (const int64_t at :
       {int64_t{0}, int64_t{1}, size / 2, size / 2 + 1, size / 2 + 7, size - 3}) {
    contig[static_cast<size_t>(at)] = 'N';
  }
  return contig;
}

Allele allele(int64_t number, int64_t start, int64_t end, std::string alt) {
  return {number, start, end, std::move(alt)};
}

// What lies at ends and beside N, and random changes of each kind; ascending.
std::vector<Allele> made_alleles(int64_t size, int64_t random_ones, unsigned seed) {
  std::vector<Allele> alleles = {
      allele(0, 0, 1, "A"),
      allele(0, 0, 3, ""),
      allele(0, 0, 1, "GATTACA"),
      allele(0, 2, 3, "C"),
      allele(0, size / 2 - 1, size / 2, "G"),
      allele(0, size / 2 - 2, size / 2 + 3, "AC"),
      allele(0, size / 2, size / 2 + 1, "T"),
      allele(0, size - 1, size, "C"),
      allele(0, size - 1, size, "CGT"),
      allele(0, size - 5, size, ""),
      allele(0, 0, size, "ACGTTGCA"),
      allele(0, 0, size, ""),
  };
  std::mt19937 random(seed);
  for (int64_t i = 0; i < random_ones; ++i) {
    const int64_t longest = i % 3 == 0 ? 1 : 6;
    const int64_t count = 1 + random() % longest;
    const int64_t start = random() % (size - count + 1);
    alleles.push_back(
        allele(0, start, start + count,
               random_dna(i % 3 == 0 ? 1 : static_cast<int64_t>(random() % 7), random())));
  }
  std::stable_sort(alleles.begin(), alleles.end(),
                   [](const Allele& a, const Allele& b) { return a.start < b.start; });
  for (size_t i = 0; i < alleles.size(); ++i) alleles[i].number = static_cast<int64_t>(i);
  return alleles;
}

AlleleScorerOptions with_window(int64_t window) {
  AlleleScorerOptions options;
  options.window = window;
  return options;
}

TEST_CASE("alleles score what their edited windows give one by one") {
  const std::string contig = made_contig(90, 3);
  const std::vector<Allele> alleles = made_alleles(90, 18, 4);
  for (const char* name : kModels) {
    for (const Strand strand : kStrands) {
      for (const int64_t window : {2, 3, 20, 1000}) {
        const mamba::Model& model = model_of(name);
        const std::vector<StrandScore> found =
            scores(model, with_window(window), contig, strand, alleles);
        for (size_t i = 0; i < alleles.size(); ++i) {
          const Allele& a = alleles[i];
          INFO(name << ", strand " << int(strand) << ", window " << window << ": " << a.start << "-"
                    << a.end << " " << a.alt);
          CHECK(std::fabs(found[i].llr - direct_llr(model, edit_of(contig, strand, a), window)) <=
                kSameSum);
          CHECK(std::isnan(found[i].cosine_change));
          CHECK(std::isnan(found[i].l2_change));
        }
      }
    }
  }
}

TEST_CASE("alleles lie anywhere on a long contig") {
  const std::string contig = random_dna(150000, 20);
  std::vector<Allele> alleles;
  for (const int64_t at : {65510, 65520, 65535, 65536, 65560, 131000, 131072, 149990}) {
    const auto number = static_cast<int64_t>(alleles.size());
    alleles.push_back(allele(number, at, at + 1 + number % 3, "AC"));
  }
  const mamba::Model& model = model_of("made mamba1");
  for (const Strand strand : kStrands) {
    std::vector<Allele> ordered = alleles;
    if (strand == Strand::reverse) std::reverse(ordered.begin(), ordered.end());
    const std::vector<StrandScore> found = scores(model, with_window(24), contig, strand, ordered);
    for (const Allele& a : alleles) {
      INFO("strand " << int(strand) << ": " << a.start);
      const double expected = direct_llr(model, edit_of(contig, strand, a), 24);
      CHECK(std::fabs(found[static_cast<size_t>(a.number)].llr - expected) <= kSameSum);
    }
  }
}

TEST_CASE("embeddings change by what means over edited windows do") {
  const std::string contig = made_contig(90, 5);
  const std::vector<Allele> alleles = made_alleles(90, 12, 6);
  AlleleScorerOptions options = with_window(0);
  options.embedding_change = true;
  for (const char* name : {"caduceus_ph", "caduceus_ps"}) {
    for (const Strand strand : kStrands) {
      for (const auto& [window, radius] :
           {std::pair<int64_t, int64_t>{2, 3}, {20, 0}, {20, 4}, {500, 8}}) {
        options.window = window;
        options.embedding_radius = radius;
        const mamba::Model& model = model_of(name);
        const std::vector<StrandScore> found = scores(model, options, contig, strand, alleles);
        for (size_t i = 0; i < alleles.size(); ++i) {
          const Edit edit = edit_of(contig, strand, alleles[i]);
          INFO(name << ", strand " << int(strand) << ", window " << window << ", radius " << radius
                    << ": " << alleles[i].start << "-" << alleles[i].end << " " << alleles[i].alt);
          CHECK(std::fabs(found[i].llr - direct_llr(model, edit, window)) <= kSameSum);
          if (edit.alt.empty() || (edit.alt_size == 0 && radius == 0)) {
            CHECK(std::isnan(found[i].cosine_change));
            CHECK(std::isnan(found[i].l2_change));
            continue;
          }
          const int64_t longer = std::max(edit.ref_size, edit.alt_size);
          const int64_t before = std::max(window / 2 - 1, radius);
          const int64_t after = std::max(window / 2, longer - 1 + radius);
          const std::vector<double> ref =
              direct_mean(model, edit.ref, edit.start, edit.ref_size, before, after, radius);
          const std::vector<double> alt =
              direct_mean(model, edit.alt, edit.start, edit.alt_size, before, after, radius);
          double product = 0;
          double square = 0;
          double ref_square = 0;
          double alt_square = 0;
          for (size_t d = 0; d < ref.size(); ++d) {
            product += ref[d] * alt[d];
            ref_square += ref[d] * ref[d];
            alt_square += alt[d] * alt[d];
            square += (alt[d] - ref[d]) * (alt[d] - ref[d]);
          }
          const double cosine = 1 - product / std::sqrt(ref_square * alt_square);
          CHECK(found[i].cosine_change == Approx(cosine).epsilon(1e-6).margin(1e-12));
          CHECK(found[i].l2_change == Approx(std::sqrt(square)).epsilon(1e-6));
        }
      }
    }
  }
}

TEST_CASE("scores are the same bits whatever the batches, the order and the company") {
  const std::string contig = made_contig(150, 8);
  const std::vector<Allele> alleles = made_alleles(150, 30, 9);
  std::vector<Allele> shuffled = alleles;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(10));
  AlleleScorerOptions options = with_window(40);
  options.embedding_change = true;
  for (const char* name : {"caduceus_ph", "caduceus_ps"}) {
    for (const Strand strand : kStrands) {
      const mamba::Model& model = model_of(name);
      const std::vector<StrandScore> expected = scores(model, options, contig, strand, alleles);
      const auto check = [&](const std::vector<StrandScore>& found, const std::string& how) {
        for (size_t i = 0; i < alleles.size(); ++i) {
          INFO(name << ", strand " << int(strand) << ", " << how << ", allele " << i);
          CHECK(same_score(found[i], expected[i]));
        }
      };
      for (const int64_t block : {1, 40, 700, 100000}) {
        AlleleScorerOptions other = options;
        other.chunk_size = block;
        other.threads = 2;
        check(scores(model, other, contig, strand, alleles), "blocks of " + std::to_string(block));
      }
      const std::unique_ptr<AlleleScorer> scorer = make_masked_scorer(model, {}, options);
      check(scores(*scorer, contig, strand, shuffled), "shuffled");
      // A scorer keeps nothing of the contig before.
      (void)scores(*scorer, random_dna(150, 11), strand, alleles);
      check(scores(*scorer, contig, strand, alleles), "after another contig");
      for (size_t i = 0; i < alleles.size(); ++i) {
        Allele alone = alleles[i];
        alone.number = 0;
        CHECK(same_score(scores(*scorer, contig, strand, {alone})[0], expected[i]));
      }
    }
  }
}

TEST_CASE("the reverse strand is the reverse complement's forward strand") {
  const std::string contig = made_contig(120, 12);
  const std::vector<Allele> alleles = made_alleles(120, 20, 13);
  const Edit mirror = edit_of(contig, Strand::reverse, alleles.front());
  std::vector<Allele> mirrored = alleles;
  for (Allele& a : mirrored) {
    std::tie(a.start, a.end) = std::pair(120 - a.end, 120 - a.start);
    io::reverse_complement(a.alt.data(), static_cast<int64_t>(a.alt.size()));
  }
  AlleleScorerOptions options = with_window(30);
  options.embedding_change = true;
  const mamba::Model& model = model_of("caduceus_ph");
  const auto reverse = scores(model, options, contig, Strand::reverse, alleles);
  const auto forward = scores(model, options, mirror.ref, Strand::forward, mirrored);
  const auto other = scores(model, options, contig, Strand::forward, alleles);
  int64_t different = 0;
  for (size_t i = 0; i < alleles.size(); ++i) {
    CHECK(same_score(reverse[i], forward[i]));
    different += same_score(reverse[i], other[i]) ? 0 : 1;
  }
  CHECK(different > 20);
}

TEST_CASE("a change and its undoing have opposite scores") {
  const std::string contig = random_dna(100, 14);
  const mamba::Model& model = model_of("caduceus_ph");
  for (const Strand strand : kStrands) {
    for (const Allele& a :
         {allele(0, 50, 51, contig[50] == 'A' ? "C" : "A"), allele(0, 50, 53, "GGG"),
          allele(0, 50, 51, "TTTT"), allele(0, 3, 9, "C"), allele(0, 95, 100, "A")}) {
      const std::string edited = contig.substr(0, a.start) + a.alt + contig.substr(a.end);
      const Allele back = allele(0, a.start, a.start + static_cast<int64_t>(a.alt.size()),
                                 contig.substr(a.start, a.end - a.start));
      const double llr = scores(model, with_window(32), contig, strand, {a})[0].llr;
      CHECK(llr != 0);
      CHECK(scores(model, with_window(32), edited, strand, {back})[0].llr == -llr);
    }
  }
}

TEST_CASE("windows that alleles share are run once") {
  const std::string contig = random_dna(300, 15);
  const mamba::Model& model = model_of("caduceus_ps");
  std::atomic<int64_t> done{0};
  AlleleScorerOptions options = with_window(64);
  options.bases_done = &done;
  const auto bases_of = [&](const std::vector<Allele>& alleles) {
    done = 0;
    (void)scores(model, options, contig, Strand::forward, alleles);
    return done.load();
  };
  const auto snv = [](int64_t number, const char* base) { return allele(number, 100, 101, base); };
  CHECK(bases_of({snv(0, "A"), snv(1, "C"), snv(2, "G"), snv(3, "T"), snv(4, "A")}) == 64);
  CHECK(bases_of({snv(0, "A"), allele(1, 101, 102, "C")}) == 2 * 64);
  CHECK(bases_of({allele(0, 0, 1, "A")}) == 33);  // the contig begins there
  CHECK(bases_of({allele(0, 299, 300, "A")}) == 32);
  // Three of the reference, two of each allele.
  const Allele delins[] = {allele(0, 100, 103, "AC"), allele(1, 100, 103, "CA")};
  CHECK(bases_of({delins[0], delins[1], allele(2, 101, 102, "T")}) == 7 * 64);
  // Nothing of N.
  CHECK(bases_of({allele(0, 100, 101, "N")}) == 64);
  CHECK(bases_of({allele(0, 100, 102, "NN")}) == 2 * 64);

  // In batches of one window too.
  options.chunk_size = 1;
  CHECK(bases_of({snv(0, "A"), snv(1, "C"), delins[0], delins[1]}) == 7 * 64);
  options.embedding_change = true;
  // A masked one, one of the reference, three of the alleles.
  CHECK(bases_of({snv(0, "A"), snv(1, "C"), snv(2, "G")}) == 5 * 64);
}

TEST_CASE("long alleles go through in many batches") {
  const std::string contig = random_dna(1200, 16);
  const mamba::Model& model = model_of("made mamba1");
  const std::vector<Allele> alleles = {
      allele(0, 20, 21, "G"), allele(1, 20, 21, contig[20] + random_dna(420, 17)),
      allele(2, 300, 831, "C"), allele(3, 300, 831, ""), allele(4, 900, 901, "A")};
  AlleleScorerOptions options = with_window(24);
  options.longest = 531;
  for (const Strand strand : kStrands) {
    std::vector<StrandScore> first;
    for (const int64_t block : {256, 0}) {
      options.chunk_size = block;
      const std::vector<StrandScore> found = scores(model, options, contig, strand, alleles);
      if (first.empty()) first = found;
      for (size_t i = 0; i < alleles.size(); ++i) CHECK(same_score(found[i], first[i]));
    }
    for (size_t i = 0; i < alleles.size(); ++i) {
      const double expected = direct_llr(model, edit_of(contig, strand, alleles[i]), 24);
      CHECK(std::fabs(first[i].llr - expected) <= 1e-14 * 20 * 1000);
    }
  }
  options.longest = 530;
  CHECK_THROWS_AS(scores(model, options, contig, Strand::forward, {allele(0, 300, 831, "C")}),
                  InternalError);
}

TEST_CASE("alleles that wait for one window are bounded") {
  const std::string contig = random_dna(100, 18);
  tests::MemoryBases source(contig);
  class Endless : public AlleleSource {
   public:
    bool next(Allele& allele) override {
      allele = {given, 50, 51, "ACGT"[given % 4] == 'A' ? "A" : "C"};
      return ++given <= 200000;
    }
    int64_t given = 0;
  };
  Endless alleles;
  int64_t taken = 0;
  int64_t most_waiting = 0;
  make_masked_scorer(model_of("made mamba1"), {}, with_window(16))
      ->score({"c", 100, &source}, Strand::forward, alleles, [&](const StrandScore& score) {
        CHECK(score.number == taken);
        most_waiting = std::max(most_waiting, alleles.given - taken);
        ++taken;
      });
  CHECK(taken == 200000);
  CHECK(most_waiting <= 65536);
}

// A fixture with the largest weights that a file may hold in its head.
mamba::Model overflowing_model() {
  const std::string folder = tests::test_data() + "/caduceus_ph/";
  const auto text_of = [&](const char* file) {
    std::ifstream in(folder + file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  static std::string bytes;  // the checkpoint reads from them
  bytes = text_of("model.safetensors");
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
  const std::vector<float> largest(64, std::numeric_limits<float>::max());
  for (const auto& [name, entry] : header.items()) {
    if (name.find("embeddings") == std::string::npos && name.find("lm_head") != 0) continue;
    const auto begin = entry["data_offsets"][0].get<size_t>();
    const auto end = entry["data_offsets"][1].get<size_t>();
    for (size_t at = begin; at + 4 <= end; at += 4) {
      std::memcpy(bytes.data() + 8 + header_size + at, largest.data(), 4);
    }
  }
  return mamba::Model(mamba::open_checkpoint_memory(
      text_of("config.json"), std::as_bytes(std::span<const char>(bytes)), "overflowing"));
}

TEST_CASE("a signal stops a batch that is under way") {
  const std::string contig = random_dna(100, 21);
  tests::MemoryBases source(contig);
  class Last : public AlleleSource {
   public:
    bool next(Allele& allele) override {
      if (given) signal = 15;
      allele = {0, 50, 51, "A"};
      return !std::exchange(given, true);
    }
    std::atomic<int> signal{0};
    bool given = false;
  };
  Last alleles;
  AlleleScorerOptions options = with_window(32);
  options.stop = &alleles.signal;
  int64_t scored = 0;
  const auto scorer = make_masked_scorer(model_of("caduceus_ph"), {}, options);
  CHECK_THROWS_AS(scorer->score({"c", 100, &source}, Strand::forward, alleles,
                                [&](const StrandScore&) { ++scored; }),
                  Interrupted);
  CHECK(scored == 0);
}

TEST_CASE("what cannot be scored is said") {
  const mamba::Model& model = model_of("caduceus_ph");
  const std::string contig = random_dna(5000, 19);
  const auto score_with = [&](const mamba::Model& which, const AlleleScorerOptions& options) {
    return scores(which, options, contig, Strand::forward, {allele(0, 2500, 2501, "A")});
  };
  AlleleScorerOptions options = with_window(1);
  CHECK_THROWS_AS(score_with(model, options), UsageError);
  options = with_window(512);
  options.per_base = true;
  CHECK_THROWS_AS(score_with(model, options), UsageError);
  options = with_window(512);
  options.embedding_radius = -1;
  CHECK_THROWS_AS(score_with(model, options), UsageError);

  options = with_window(512);
  options.memory = 1 << 20;
  CHECK_THROWS_AS(score_with(model, options), ResourceError);
  options.memory = 17 << 20;
  CHECK(score_with(model, options).size() == 1);
  std::vector<Allele> many;  // whose rows are more than that
  for (int64_t i = 0; i < 200; ++i) many.push_back(allele(i, 1000 + i, 1001 + i, "A"));
  CHECK(scores(model, options, contig, Strand::forward, many).size() == 200);
  options.window = 5000;
  CHECK_THROWS_WITH(score_with(model, options),
                    Catch::Contains("4,999 bases") && Catch::Contains("lower --window"));
  options.window = std::numeric_limits<int64_t>::max();
  CHECK_THROWS_AS(score_with(model, options), ResourceError);
  options = with_window(std::numeric_limits<int64_t>::max());
  options.embedding_change = true;
  options.embedding_radius = std::numeric_limits<int64_t>::max();
  CHECK(score_with(model, options).size() == 1);

  const std::atomic<int> signal{2};
  options = with_window(512);
  options.stop = &signal;
  CHECK_THROWS_AS(score_with(model, options), Interrupted);
  for (const Allele& bad : {allele(0, -1, 1, "A"), allele(0, 5, 5, "A"), allele(0, 4999, 5001, "A"),
                            allele(0, 5000, 5001, "A")}) {
    CHECK_THROWS_AS(scores(model, with_window(512), contig, Strand::forward, {bad}), InternalError);
  }

  mamba::Checkpoint unmasked = made_caduceus({}, 1);
  unmasked.vocabulary = {{"A", 7}, {"C", 8}, {"G", 9}, {"T", 10}, {"N", 11}};
  unmasked.vocabulary_path = "vocab.json";
  CHECK_THROWS_AS(score_with(mamba::Model(unmasked), with_window(512)), DataError);
  CHECK_THROWS_AS(score_with(overflowing_model(), with_window(512)), DataError);
}

}  // namespace
}  // namespace chromamba::pipelines
