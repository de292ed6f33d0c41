// Scores of haplotypes against what full runs of the edited and the unedited contig give.
#include "pipelines/haplotype_scorer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "mamba/checkpoint.h"
#include "tests/io/support.h"
#include "tests/mamba/fixture.h"
#include "tests/pipelines/memory_passes.h"
#include "tests/random_values.h"
#include "tests/test_data.h"

namespace chromamba::pipelines {
namespace {

using io::testing::message_of;
using io::testing::put;
using io::testing::TempFolder;
using tests::MemoryBases;
using tests::random_dna;
using tests::test_devices;

using Scores = std::vector<std::vector<HaplotypeScore>>;

mamba::Model model_of(const std::string& name) {
  return mamba::Model(mamba::open_checkpoint(tests::test_data() + "/" + name));
}

LeftContext full_context() { return {0, true}; }

AlleleScorerOptions options_of(const LeftContext& context, int64_t right, int64_t chunk = 0) {
  AlleleScorerOptions options;
  options.left_context = context;
  options.right_context = right;
  options.chunk_size = chunk;
  options.threads = 2;
  return options;
}

Scores run_scorer(const mamba::Model& model, const std::string& contig,
                  const std::vector<HaplotypeBlock>& blocks, const AlleleScorerOptions& options,
                  const mamba::ComputeDevice& device = {}) {
  MemoryBases bases(contig);
  HaplotypeScorer scorer(model, device, options);
  return scorer.score({"c", static_cast<int64_t>(contig.size()), &bases}, blocks);
}

// The sum of ln p over bases [start, end) of a text that is read from base `zero` on.
double full_sum(const mamba::Model& model, const std::string& text, int64_t zero, int64_t start,
                int64_t end) {
  mamba::Engine engine(model, mamba::ComputeDevice{}, 1);
  const int64_t n = end - zero;
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::vector<float> log_p(static_cast<size_t>(n));
  model.tokenizer().encode(text.data() + zero, n, tokens.data());
  mamba::SequenceState state = engine.new_sequence();
  mamba::Chunk chunk;
  chunk.state = &state;
  chunk.tokens_L = tokens.data();
  chunk.length = n;
  chunk.log_likelihood_L = log_p.data();
  engine.forward({&chunk, 1});
  double sum = 0;
  for (int64_t i = start - zero; i < n; ++i) {
    const float value = log_p[static_cast<size_t>(i)];
    if (!std::isnan(value)) sum += static_cast<double>(value);
  }
  return sum;
}

// By the definition: edits the text, turns it round for the reverse strand, and runs both texts from the zero state.
double brute_force(const mamba::Model& model, const std::string& contig,
                   const HaplotypeBlock& block, const std::vector<Change>& changes, Strand strand,
                   const LeftContext& context, int64_t right) {
  std::string edited = contig;
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
    edited.replace(static_cast<size_t>(change->start),
                   static_cast<size_t>(change->end - change->start), change->alt);
  }
  const auto length = static_cast<int64_t>(contig.size());
  const int64_t grown = static_cast<int64_t>(edited.size()) - length;
  std::string reference = contig;
  int64_t start = block.start;
  int64_t end = std::min(block.end + right, length);
  if (strand == Strand::reverse) {
    io::reverse_complement(edited.data(), static_cast<int64_t>(edited.size()));
    io::reverse_complement(reference.data(), length);
    start = length - block.end;
    end = std::min(length - block.start + right, length);
  }
  const int64_t zero = zero_state_start(start, context);
  return full_sum(model, edited, zero, start, end + grown) -
         full_sum(model, reference, zero, start, end);
}

// Changes within [start, end) that do not touch, the first and the last base among them.
std::vector<Change> random_changes(const std::string& contig, int64_t start, int64_t end,
                                   int64_t spacing, std::mt19937& random) {
  std::vector<Change> changes;
  for (int64_t at = start; at < end; at += 1 + random() % static_cast<unsigned>(spacing)) {
    const int64_t replaced = std::min<int64_t>(random() % 7, end - at);
    std::string alt = random_dna(random() % 7, random());
    if (replaced == 1 && alt == contig.substr(static_cast<size_t>(at), 1)) alt += "G";
    changes.push_back({at, at + replaced, alt});
    at += replaced;
  }
  return changes;
}

HaplotypeBlock random_block(const std::string& contig, int64_t start, int64_t end, int64_t spacing,
                            unsigned seed, size_t haplotypes = 2) {
  std::mt19937 random(seed);
  HaplotypeBlock block;
  block.contig = "c";
  block.start = start;
  block.end = end;
  block.haplotypes.resize(haplotypes);
  for (Haplotype& haplotype : block.haplotypes) {
    haplotype.changes = random_changes(contig, start, end, spacing, random);
  }
  return block;
}

bool same(const Scores& a, const Scores& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& p, const auto& q) {
      return p.forward == q.forward && p.reverse == q.reverse;
    });
  });
}

// On the CPU a run from a kept state gives the bits of a whole one; sums are taken in another order of additions.
constexpr double kMargin = 1e-9;
// A GPU's operations come in another order too: sums of rounding errors of 1e-6 or so a base.
constexpr double kDeviceMargin = 2e-3;

void check_scores(const mamba::Model& model, const std::string& contig,
                  const std::vector<HaplotypeBlock>& blocks, const LeftContext& context,
                  int64_t right, const Scores& scores, double margin = kMargin) {
  REQUIRE(scores.size() == blocks.size());
  int64_t zeros = 0;
  int64_t changed = 0;
  for (size_t b = 0; b < blocks.size(); ++b) {
    REQUIRE(scores[b].size() == blocks[b].haplotypes.size());
    for (size_t h = 0; h < scores[b].size(); ++h) {
      const std::vector<Change>& changes = blocks[b].haplotypes[h].changes;
      INFO("block " << b << " from " << blocks[b].start << " to " << blocks[b].end << ", haplotype "
                    << h << ", " << changes.size() << " changes");
      CHECK(scores[b][h].forward ==
            Approx(brute_force(model, contig, blocks[b], changes, Strand::forward, context, right))
                .margin(margin));
      CHECK(scores[b][h].reverse ==
            Approx(brute_force(model, contig, blocks[b], changes, Strand::reverse, context, right))
                .margin(margin));
      if (changes.empty()) continue;
      ++changed;
      // A deletion can be worth nothing, where nothing is read before it.
      if (std::fabs(scores[b][h].forward) < 2 * margin) ++zeros;
    }
  }
  CHECK(zeros <= changed / 10);
}

// A contig with a run of N, and blocks of every kind: at its ends, over all of it, nested, beginning at the same
// base, with haplotypes that are alike, that are the reference, or that are three.
struct Case {
  std::string contig = random_dna(2000, 1) + std::string(40, 'N') + random_dna(1460, 2);
  std::vector<HaplotypeBlock> blocks;
  Case() {
    const auto n = static_cast<int64_t>(contig.size());
    blocks.push_back(random_block(contig, 0, n, 200, 1));
    blocks.push_back(random_block(contig, 0, 1, 1, 2));
    blocks.push_back(random_block(contig, n - 1, n, 1, 3));
    blocks.push_back(random_block(contig, 700, 1300, 50, 4));
    blocks.push_back(random_block(contig, 700, 720, 10, 5, 3));
    blocks.push_back(random_block(contig, 2045, 2100, 20, 6));
    blocks.push_back(random_block(contig, 1900, 2000, 20, 7));
    blocks.push_back(random_block(contig, 900, 905, 1, 8));
    blocks.back().haplotypes[1] = blocks.back().haplotypes[0];
    blocks.push_back(random_block(contig, 3000, 3010, 2, 9));
    blocks.back().haplotypes[0].changes.clear();
    for (int64_t at = 1000; at < 1030; ++at) {
      blocks.push_back(random_block(contig, at, at + 3, 2, static_cast<unsigned>(at), 1));
    }
  }
};

TEST_CASE("a haplotype's score is the difference of two full runs") {
  const Case made;
  for (const mamba::ComputeDevice& device : test_devices({kernels::DType::f32})) {
    for (const char* name : {"mamba1_ref", "mamba2_ref"}) {
      const mamba::Model model = model_of(name);
      for (const LeftContext& context :
           {full_context(), LeftContext{256, false}, LeftContext{0, false}}) {
        INFO(name << ", " << (device.cuda ? "GPU" : "CPU") << ", left context " << context.bases);
        const int64_t right = context.full ? 100 : 17;
        const Scores scores =
            run_scorer(model, made.contig, made.blocks, options_of(context, right), device);
        check_scores(model, made.contig, made.blocks, context, right, scores,
                     device.cuda ? kDeviceMargin : kMargin);
        CHECK(scores[7][0].forward == scores[7][1].forward);
        CHECK(scores[8][0].forward == 0);
        CHECK(scores[8][0].reverse == 0);
      }
    }
  }
}

TEST_CASE("no chunk size, memory, number of threads or other block changes a bit of a score") {
  const Case made;
  const mamba::Model model = model_of("mamba1_ref");
  for (mamba::ComputeDevice device : test_devices({kernels::DType::f32})) {
    for (const LeftContext& context : {full_context(), LeftContext{128, false}}) {
      AlleleScorerOptions options = options_of(context, 64);
      const Scores expected = run_scorer(model, made.contig, made.blocks, options, device);
      for (const int64_t chunk : {1, 7, 255, 256, 1000, 100000}) {
        if (chunk == 1 && (context.full || device.cuda)) continue;
        INFO((device.cuda ? "GPU" : "CPU") << ", chunk " << chunk);
        options.chunk_size = chunk;
        CHECK(same(run_scorer(model, made.contig, made.blocks, options, device), expected));
      }
      options.chunk_size = 0;
      for (size_t b = 0; b < made.blocks.size(); b += 4) {
        CHECK(
            same(run_scorer(model, made.contig, {made.blocks[b]}, options, device), {expected[b]}));
      }
      if (device.cuda) continue;
      options.threads = 1;
      options.memory = 4 * 2 * 4 * mamba::Engine::state_bytes(model, device);  // four sequences
      CHECK(same(run_scorer(model, made.contig, made.blocks, options, device), expected));
    }
  }
}

TEST_CASE("a block of one variant has the variant's own score") {
  const std::string contig = random_dna(1500, 3);
  const mamba::Model model = model_of("mamba1_ref");
  const Allele allele{0, 700, 703, "ACGTAC"};
  HaplotypeBlock block{"c", 700, 703, "", {{{{700, 703, "ACGTAC"}}, {}}}};
  const AlleleScorerOptions options = options_of({512, false}, 30);
  const Scores scores = run_scorer(model, contig, {block}, options);
  struct OneAllele : AlleleSource {
    explicit OneAllele(Allele one) : allele(std::move(one)) {}
    bool next(Allele& to) override {
      to = allele;
      return !std::exchange(done, true);
    }
    Allele allele;
    bool done = false;
  };
  const auto scorer = make_causal_scorer(model, {}, options);
  MemoryBases bases(contig);
  for (const Strand strand : {Strand::forward, Strand::reverse}) {
    OneAllele source(allele);
    scorer->score({"c", 1500, &bases}, strand, source, [&](const StrandScore& score) {
      const double ours = strand == Strand::forward ? scores[0][0].forward : scores[0][0].reverse;
      CHECK(ours == Approx(score.llr).margin(1e-9));
    });
  }
}

TEST_CASE("from a file to scores") {
  const TempFolder folder;
  const std::string contig = random_dna(600, 4);
  const auto base = [&](int64_t position) { return contig.substr(position - 1, 1); };
  const auto other = [&](int64_t position) { return base(position) == "A" ? "C" : "A"; };
  std::string text =
      "##fileformat=VCFv4.3\n##contig=<ID=c>\n##contig=<ID=none>\n"
      "##FORMAT=<ID=GT,Number=1,Type=String,Description=\"x\">\n"
      "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS\n";
  const auto add = [&](const std::string& name, int64_t position, const std::string& genotype) {
    text += name + "\t" + std::to_string(position) + "\t.\t" + base(position) + "\t" +
            other(position) + "\t.\t.\t.\tGT\t" + genotype + "\n";
  };
  add("c", 100, "0|1");
  add("c", 150, "1/1");
  add("c", 200, "1|0");
  add("none", 100, "0|1");
  io::VariantReader reader(put(folder / "in.vcf", text));
  io::FastaIndex index(put(folder / "ref.fa", ">c\n" + contig + "\n"));
  AlleleResolver resolver(index, "ref.fa", "in.vcf");
  MemoryBases bases(contig);
  const ContigBases reference{"c", 600, &bases};
  HaplotypeReader haplotypes(
      reader, reader.sample_index("S"), [&](const io::VariantRecord& record) {
        ResolvedRecord resolved = resolver.resolve(record);
        return SampleVariant{resolved.contig < 0 ? nullptr : &reference, std::move(resolved)};
      });
  const mamba::Model model = model_of("mamba1_ref");
  AlleleScorerOptions options = options_of(full_context(), 50);
  std::atomic<int64_t> bases_done{0};
  options.bases_done = &bases_done;
  HaplotypeScorer scorer(model, {}, options);
  int64_t blocks = 0;
  score_haplotypes(haplotypes, scorer,
                   [&](const HaplotypeBlock& block, const std::vector<HaplotypeScore>& scores) {
                     REQUIRE(scores.size() == 2);
                     if (++blocks == 1) {
                       check_scores(model, contig,
                                    {{"c",
                                      99,
                                      200,
                                      "",
                                      {{{{149, 150, other(150)}, {199, 200, other(200)}}, {}},
                                       {{{99, 100, other(100)}, {149, 150, other(150)}}, {}}}}},
                                    full_context(), 50, {scores});
                       return;
                     }
                     CHECK(block.contig == "none");
                     for (const HaplotypeScore& score : scores) {
                       CHECK(std::isnan(score.forward));
                       CHECK(std::isnan(score.reverse));
                     }
                   });
  CHECK(blocks == 2);
  // Before the block, to its first base, and three sequences from there; then the other strand.
  CHECK(bases_done == 100 + 3 * (101 + 50) + 401 + 3 * (101 + 50));
}

TEST_CASE("what haplotypes cannot be scored with") {
  const Case made;
  CHECK_THAT(message_of<UsageError>(
                 [&] { HaplotypeScorer scorer(model_of("caduceus_ph"), {}, options_of({}, 10)); }),
             Catch::Contains("causal"));
  const mamba::Model model = model_of("mamba1_ref");
  AlleleScorerOptions options = options_of(full_context(), 10);
  const int64_t state = mamba::Engine::state_bytes(model, {});
  options.memory = 15 * state;
  CHECK_THROWS_AS(HaplotypeScorer(model, {}, options), ResourceError);
  options.memory = 16 * state;
  CHECK_THAT(message_of<ResourceError>(
                 [&] { (void)run_scorer(model, made.contig, {made.blocks[0]}, options); }),
             Catch::Contains("3 sequences"));
  options.memory = 24 * state;
  CHECK_NOTHROW(run_scorer(model, made.contig, {made.blocks[1]}, options));
  const std::atomic<int> stop{15};
  options.stop = &stop;
  CHECK_THROWS_AS(run_scorer(model, made.contig, {made.blocks[1]}, options), Interrupted);
}

}  // namespace
}  // namespace chromamba::pipelines
