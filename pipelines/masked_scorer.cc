#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "mamba/sweep_engine.h"
#include "pipelines/job.h"
#include "pipelines/scorer_parts.h"
#include "pipelines/sweeps.h"

namespace chromamba::pipelines {
namespace {

// Windows of one call of the engine, at most; and the memory for their states, as passes.cc has it.
constexpr int64_t kMostWindows = 4096;
constexpr int64_t kMaxStateBytes = int64_t{64} << 20;
// Bases of alleles that wait for their windows, and alleles: many may wait for the same one.
constexpr int64_t kMostTerms = 65536;
// ln q of reference bases that are kept for the alleles to come. Alleles of one record share those that they replace, 10,000
// by default.
constexpr int64_t kMostSites = 32768;
// Means of the reference that are kept: what alleles of one place share.
constexpr int64_t kMostMeans = 64;
constexpr int64_t kSmallBytes = kMostTerms * 160 + kMostSites * 96;
// Neighbours' windows overlap, and a compressed file gives blocks of this size in any case.
constexpr int64_t kReadAhead = 65536;
// Longer than any contig, and small enough to be added up: windows beyond it reach to the contig's ends all the same.
constexpr int64_t kFar = int64_t{1} << 40;

// Where q of a letter lies; -1: the letter has none.
int base_index(char base) {
  switch (base) {
    case 'A':
      return 0;
    case 'C':
      return 1;
    case 'G':
      return 2;
    case 'T':
      return 3;
    default:
      return -1;
  }
}

// What windows read around their middle.
struct Reach {
  int64_t before = 0;
  int64_t after = 0;
};

// One sequence for the engine: letters [start, start + length) of some, maybe with a masked one.
struct Window {
  std::shared_ptr<const std::string> letters;
  int64_t start = 0;
  int64_t length = 0;
  int64_t masked = -1;  // counted from the window's start; -1: none is masked
  std::function<void(const mamba::SweepRows&)> consume;
};

// The engine with a batch size that fits the memory.
class WindowRunner {
 public:
  WindowRunner(const mamba::Model& model, const mamba::ComputeDevice& device,
               const AlleleScorerOptions& options)
      : model_(model),
        options_(options),
        row_bytes_(mamba::SweepEngine::store_bytes(model, device)),
        batch_bases_(plan(device)),
        engine_(model, device, options.threads, {batch_bases_, rows_bytes_, {}}),
        half_layers_(mamba::SweepEngine::half_layers(model, masked_wanted())) {}

  static mamba::SweepWanted masked_wanted() {
    mamba::SweepWanted wanted;
    wanted.logits = true;
    return wanted;
  }
  static mamba::SweepWanted hidden_wanted() {
    mamba::SweepWanted wanted;
    wanted.layer = mamba::kFinalLayer;
    return wanted;
  }

  int64_t batch_bases() const { return batch_bases_; }
  int64_t batch_windows() const { return batch_windows_; }
  int64_t device_peak_bytes() const { return engine_.device_peak_bytes(); }

  void require_room(int64_t length) const {
    if (length <= rows_bytes_ / row_bytes_) return;
    throw ResourceError("a window of " + with_commas(length) + " bases needs " +
                        human_bytes(length * row_bytes_) + " of memory, --memory leaves " +
                        human_bytes(rows_bytes_) + "; raise --memory, or lower --window");
  }

  void run(std::span<const Window> windows, const mamba::SweepWanted& wanted) {
    if (windows.empty()) return;
    const mamba::Tokenizer& tokenizer = model_.tokenizer();
    std::vector<mamba::SweepSequence> sequences;
    int64_t bases = 0;
    for (const Window& window : windows) {
      mamba::SweepSequence& sequence = sequences.emplace_back();
      sequence.length = window.length;
      sequence.tokens = [&](int64_t start, int64_t count, int32_t* tokens) {
        tokenizer.encode(window.letters->data() + window.start + start, count, tokens);
        const int64_t masked = window.masked - start;
        if (window.masked >= 0 && masked >= 0 && masked < count) tokens[masked] = tokenizer.mask;
      };
      sequence.consume = window.consume;
      bases += window.length;
    }
    const int64_t before = engine_.half_layers_done();
    engine_.run(sequences, wanted, [&] {
      throw_if_stopped(options_.stop);
      const int64_t done = (engine_.half_layers_done() - before) / half_layers_;
      tell(bases_ + std::min(done, bases));
    });
    bases_ += bases;
    tell(bases_);
  }

 private:
  // Bases of a batch; sets what else the memory is shared out to.
  int64_t plan(const mamba::ComputeDevice& device) {
    const int64_t mean_bytes = options_.embedding_change ? 16 * mamba::SweepEngine::hidden_width(
                                                                    model_, mamba::Halves::both)
                                                         : 0;
    const int64_t window_bytes = sequence_state_bytes(model_) + mean_bytes;
    batch_windows_ = std::clamp<int64_t>(
        std::min(kMaxStateBytes, options_.memory / 64) / window_bytes, 1, kMostWindows);
    // Without the rows between sweeps.
    const auto needed = [&](int64_t bases) {
      int64_t engine = 0;
      for (const mamba::SweepWanted& wanted : {masked_wanted(), hidden_wanted()}) {
        if (wanted.layer && !options_.embedding_change) continue;
        engine = std::max(engine, mamba::SweepEngine::workspace_bytes(
                                      model_, device, options_.threads, wanted, bases));
      }
      const int64_t letters = 2 * bases + 4 * (std::min(options_.longest, kFar) + kReadAhead);
      return engine + letters + batch_windows_ * window_bytes + kMostMeans * mean_bytes +
             kSmallBytes;
    };
    const auto whole = [&](int64_t bases) { return needed(bases) + bases * row_bytes_; };
    int64_t bases = options_.chunk_size > 0 ? options_.chunk_size : default_chunk_size(device);
    while (options_.chunk_size == 0 && bases > mamba::kTileRows && whole(bases) > options_.memory) {
      bases /= 2;
    }
    if (whole(bases) > options_.memory) {
      throw ResourceError("windows of " + with_commas(bases) + " bases together need " +
                          human_bytes(whole(bases)) + " of memory, --memory allows " +
                          human_bytes(options_.memory) +
                          "; raise --memory, or lower --chunk-size or --threads");
    }
    rows_bytes_ = options_.memory - needed(bases);
    return bases;
  }

  void tell(int64_t bases) const {
    if (options_.bases_done != nullptr) *options_.bases_done = bases;
  }

  const mamba::Model& model_;
  const AlleleScorerOptions& options_;
  int64_t row_bytes_ = 0;      // of a base, between sweeps
  int64_t rows_bytes_ = 0;     // of all bases of a batch, at most
  int64_t batch_windows_ = 0;  // at most
  int64_t batch_bases_ = 0;    // at most, unless one window has more
  mamba::SweepEngine engine_;
  int64_t half_layers_ = 1;
  int64_t bases_ = 0;  // run so far
};

// A strand's bases, a block at a time.
class ReadAhead {
 public:
  explicit ReadAhead(const StrandBases& bases) : bases_(bases) {}

  std::string read(int64_t start, int64_t n) {
    const auto held = static_cast<int64_t>(ahead_.size());
    if (start < ahead_start_ || start + n > ahead_start_ + held) {
      const int64_t count = std::min(std::max(n, kReadAhead), bases_.length() - start);
      ahead_.resize(static_cast<size_t>(count));
      bases_.read(start, count, ahead_.data());
      ahead_start_ = start;
    }
    return ahead_.substr(static_cast<size_t>(start - ahead_start_), static_cast<size_t>(n));
  }

 private:
  StrandBases bases_;
  std::string ahead_;
  int64_t ahead_start_ = 0;
};

// Bases [first, first + count) of a contig, edited or not, with what windows need around them. Fewer around them: the
// contig ends there.
struct Stretch {
  std::shared_ptr<const std::string> letters;
  int64_t first = 0;
  int64_t count = 0;

  int64_t size() const { return static_cast<int64_t>(letters->size()); }
  int base(int64_t i) const { return base_index((*letters)[static_cast<size_t>(first + i)]); }
};

Stretch stretch(const std::string& left, const std::string& bases, const std::string& right) {
  return {std::make_shared<const std::string>(left + bases + right),
          static_cast<int64_t>(left.size()), static_cast<int64_t>(bases.size())};
}

// Some bases of a contig and their neighbours.
struct Surroundings {
  std::string left;
  std::string bases;
  std::string right;
};

// ln q of the four letters in place of one base.
struct Site {
  std::array<double, 4> ln_q{};
};

// Of hidden rows.
struct Mean {
  std::vector<double> sum;
  int64_t rows = 0;
};

// An allele that has no score yet.
struct Pending {
  int64_t number = 0;
  double alt_sum = 0;
  double ref_sum = 0;
  std::shared_ptr<const Mean> alt_mean;  // null where no embeddings are wanted
  std::shared_ptr<const Mean> ref_mean;
  bool complete = false;  // all of its windows are in a batch
};

// What a site adds to an allele's sums. -1: nothing.
struct Term {
  Pending* allele = nullptr;
  const Site* site = nullptr;
  int alt = -1;
  int ref = -1;
};

// One strand of a contig, in that strand's coordinates.
//
// Windows wait until there are as many as the engine takes at a time. The terms of a batch are added in the order in which they
// came, those of an allele base after base: the same bits wherever batches end.
class ContigScore {
 public:
  ContigScore(const mamba::Model& model, WindowRunner& runner, const AlleleScorerOptions& options,
              const ContigBases& contig, Strand strand, const ScoreSink& sink)
      : model_(model),
        runner_(runner),
        options_(options),
        reach_({std::min(options.window, kFar) / 2 - 1, std::min(options.window, kFar) / 2}),
        contig_(contig),
        strand_(contig_, strand),
        bases_(strand_),
        sink_(sink) {}

  void add(const Allele& allele) {
    const auto alt_size = static_cast<int64_t>(allele.alt.size());
    if (allele.start < 0 || allele.start >= allele.end || allele.end > contig_.length ||
        std::max(allele.end - allele.start, alt_size) > options_.longest) {
      throw InternalError("allele " + std::to_string(allele.number) + " of " +
                          std::to_string(alt_size) + " bases in place of " +
                          std::to_string(allele.start) + "-" + std::to_string(allele.end) + " of " +
                          contig_.name + " (length " + std::to_string(contig_.length) + ")");
    }
    const int64_t start = strand_.start_of(allele.start, allele.end);
    const int64_t end = start + allele.end - allele.start;
    std::string alt = allele.alt;
    if (!strand_.forward()) io::reverse_complement(alt.data(), alt_size);
    Pending& pending = pending_.emplace_back();
    pending.number = allele.number;
    add_likelihoods(pending, start, end, alt);
    if (options_.embedding_change) add_means(pending, start, end, alt);
    pending.complete = true;
    if (static_cast<int64_t>(terms_.size() + pending_.size()) >= kMostTerms) run_batch();
  }

  void run_batch() {
    runner_.run(masked_, WindowRunner::masked_wanted());
    runner_.run(unmasked_, WindowRunner::hidden_wanted());
    masked_.clear();
    unmasked_.clear();
    batch_bases_ = 0;
    for (const Term& term : terms_) {
      if (term.alt >= 0) term.allele->alt_sum += term.site->ln_q[static_cast<size_t>(term.alt)];
      if (term.ref >= 0) term.allele->ref_sum += term.site->ln_q[static_cast<size_t>(term.ref)];
    }
    terms_.clear();
    edited_sites_.clear();
    if (static_cast<int64_t>(reference_sites_.size()) > kMostSites) reference_sites_.clear();
    if (static_cast<int64_t>(reference_means_.size()) > kMostMeans) reference_means_.clear();
    for (; !pending_.empty() && pending_.front().complete; pending_.pop_front()) {
      const Pending& allele = pending_.front();
      StrandScore score;
      score.number = allele.number;
      score.llr = allele.alt_sum - allele.ref_sum;
      score.cosine_change = score.l2_change = std::numeric_limits<float>::quiet_NaN();
      if (allele.alt_mean) {
        compare_means(allele.alt_mean->sum, allele.alt_mean->rows, allele.ref_mean->sum,
                      allele.ref_mean->rows, score.cosine_change, score.l2_change);
      }
      sink_(score);
    }
  }

 private:
  Surroundings surroundings(int64_t start, int64_t end, int64_t before, int64_t after) {
    const std::string all = bases_.read(start - before, before + end - start + after);
    const auto first = static_cast<size_t>(before);
    const auto count = static_cast<size_t>(end - start);
    return {all.substr(0, first), all.substr(first, count), all.substr(first + count)};
  }

  void add_likelihoods(Pending& pending, int64_t start, int64_t end, const std::string& alt) {
    const auto alt_size = static_cast<int64_t>(alt.size());
    const int64_t before = std::min(start, reach_.before);
    const int64_t after = std::min(contig_.length - end, reach_.after);
    runner_.require_room(std::min(before + std::max(end - start, alt_size) + after,
                                  reach_.before + 1 + reach_.after));
    const Surroundings at = surroundings(start, end, before, after);
    const Stretch reference = stretch(at.left, at.bases, at.right);
    if (reference.count == 1 && alt_size == 1) {
      const Term term{&pending, nullptr, base_index(alt.front()), reference.base(0)};
      if (term.alt >= 0 || term.ref >= 0) add_term(term, reference, 0, start);
      return;
    }
    for (int64_t i = 0; i < reference.count; ++i) {
      const int base = reference.base(i);
      if (base >= 0) add_term({&pending, nullptr, -1, base}, reference, i, start + i);
    }
    const Stretch edited = stretch(at.left, alt, at.right);
    for (int64_t i = 0; i < edited.count; ++i) {
      const int base = edited.base(i);
      if (base >= 0) add_term({&pending, nullptr, base, -1}, edited, i, -1);
    }
  }

  // The site of base i of a stretch, which is base `at` of the unedited contig (-1: the contig is edited).
  void add_term(Term term, const Stretch& bases, int64_t i, int64_t at) {
    const auto known = reference_sites_.find(at);
    if (known != reference_sites_.end()) {
      term.site = &known->second;
    } else {
      Window window;
      const int64_t middle = bases.first + i;
      window.letters = bases.letters;
      window.start = std::max<int64_t>(0, middle - reach_.before);
      window.length = std::min(bases.size(), middle + reach_.after + 1) - window.start;
      window.masked = middle - window.start;
      make_room(window.length);
      Site& site = at < 0 ? edited_sites_.emplace_back() : reference_sites_[at];
      window.consume = [this, &site, masked = window.masked](const mamba::SweepRows& rows) {
        const int64_t row = masked - rows.start;
        if (row < 0 || row >= rows.length) return;
        fill(site, rows.logits_LV + row * model_.config().vocab_size);
      };
      masked_.push_back(std::move(window));
      term.site = &site;
    }
    terms_.push_back(term);
    if (static_cast<int64_t>(terms_.size() + pending_.size()) >= kMostTerms) run_batch();
  }

  void fill(Site& site, const float* logits) const {
    const mamba::Tokenizer& tokenizer = model_.tokenizer();
    const std::array<int32_t, 4> tokens = {tokenizer.a, tokenizer.c, tokenizer.g, tokenizer.t};
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < tokens.size(); ++i) {
      site.ln_q[i] = logits[tokens[i]];
      if (!std::isfinite(site.ln_q[i])) {
        throw DataError("model " + model_.name() + ": the likelihood of a masked base of contig " +
                        contig_.name + " is not finite: its weights overflow 32-bit floats");
      }
      largest = std::max(largest, site.ln_q[i]);
    }
    double sum = 0;
    for (const double logit : site.ln_q) sum += std::exp(logit - largest);
    const double ln_sum = largest + std::log(sum);
    for (double& value : site.ln_q) value -= ln_sum;
  }

  // Both windows read as far to either side of the allele's first base, and at least the radius beyond the longer of
  // the alleles.
  void add_means(Pending& pending, int64_t start, int64_t end, const std::string& alt) {
    const auto alt_size = static_cast<int64_t>(alt.size());
    const int64_t radius = std::min(options_.embedding_radius, kFar);
    const int64_t longer = std::max(end - start, alt_size);
    const int64_t before = std::min(start, std::max(reach_.before, radius));
    const int64_t after = std::max(reach_.after, longer - 1 + radius) + 1;  // with the first base
    const auto right_of = [&](int64_t size) {
      return std::min(contig_.length - end, after - size);
    };
    const int64_t ref_right = right_of(end - start);
    const int64_t alt_right = right_of(alt_size);
    runner_.require_room(before + std::max(end - start + ref_right, alt_size + alt_right));
    const Surroundings at = surroundings(start, end, before, std::max(ref_right, alt_right));
    const Stretch reference =
        stretch(at.left, at.bases, at.right.substr(0, static_cast<size_t>(ref_right)));
    const Stretch edited =
        stretch(at.left, alt, at.right.substr(0, static_cast<size_t>(alt_right)));
    const std::array<int64_t, 4> key = {start - before, reference.size(), start, end};
    const auto known = reference_means_.find(key);
    if (known != reference_means_.end()) {
      pending.ref_mean = known->second;
    } else {
      pending.ref_mean = mean_of(reference, radius);
      reference_means_[key] = pending.ref_mean;
    }
    pending.alt_mean = mean_of(edited, radius);
  }

  // The mean of the rows of a stretch's bases, and of the radius around them.
  std::shared_ptr<const Mean> mean_of(const Stretch& bases, int64_t radius) {
    const int64_t first = std::max<int64_t>(0, bases.first - radius);
    const int64_t last = std::min(bases.size(), bases.first + bases.count + radius);
    auto mean = std::make_shared<Mean>();
    if (first >= last) return mean;
    mean->rows = last - first;
    const int64_t width = mamba::SweepEngine::hidden_width(model_, mamba::Halves::both);
    mean->sum.resize(static_cast<size_t>(width));
    Window window;
    window.letters = bases.letters;
    window.length = bases.size();
    window.consume = [mean, width, first, last](const mamba::SweepRows& rows) {
      const int64_t end = std::min(last, rows.start + rows.length);
      for (int64_t row = std::max(first, rows.start); row < end; ++row) {
        const float* values = rows.hidden + (row - rows.start) * width;
        for (int64_t d = 0; d < width; ++d) mean->sum[static_cast<size_t>(d)] += values[d];
      }
    };
    make_room(window.length);
    unmasked_.push_back(std::move(window));
    return mean;
  }

  void make_room(int64_t length) {
    const auto windows = static_cast<int64_t>(masked_.size() + unmasked_.size());
    if (windows > 0 &&
        (batch_bases_ + length > runner_.batch_bases() || windows >= runner_.batch_windows())) {
      run_batch();
    }
    batch_bases_ += length;
  }

  const mamba::Model& model_;
  WindowRunner& runner_;
  const AlleleScorerOptions& options_;
  Reach reach_;
  ContigBases contig_;
  StrandBases strand_;
  ReadAhead bases_;
  const ScoreSink& sink_;

  // The batch.
  std::vector<Window> masked_;
  std::vector<Window> unmasked_;
  int64_t batch_bases_ = 0;
  std::vector<Term> terms_;
  std::deque<Site> edited_sites_;

  std::deque<Pending> pending_;  // in their order
  std::unordered_map<int64_t, Site> reference_sites_;
  // By the start and size of their window, and by the bases replaced.
  std::map<std::array<int64_t, 4>, std::shared_ptr<const Mean>> reference_means_;
};

class MaskedScorer : public AlleleScorer {
 public:
  MaskedScorer(const mamba::Model& model, const mamba::ComputeDevice& device,
               const AlleleScorerOptions& options)
      : model_(model), options_(options), runner_(model, device, options_) {}

  void score(const ContigBases& contig, Strand strand, AlleleSource& alleles,
             const ScoreSink& sink) override {
    ContigScore contig_score(model_, runner_, options_, contig, strand, sink);
    Allele allele;
    while (alleles.next(allele)) {
      throw_if_stopped(options_.stop);
      contig_score.add(allele);
    }
    contig_score.run_batch();
  }

  int64_t device_peak_bytes() const override { return runner_.device_peak_bytes(); }

 private:
  const mamba::Model& model_;
  AlleleScorerOptions options_;
  WindowRunner runner_;
};

}  // namespace

std::unique_ptr<AlleleScorer> make_masked_scorer(const mamba::Model& model,
                                                 const mamba::ComputeDevice& device,
                                                 const AlleleScorerOptions& options) {
  if (options.per_base) {
    throw UsageError("--per-base: model " + model.name() +
                     " is masked: only causal models score an allele by the bases after it");
  }
  if (options.window < 2) {
    throw UsageError("--window " + std::to_string(options.window) +
                     ": at least 2 bases, the masked one and the one after it");
  }
  if (options.embedding_radius < 0) {
    throw UsageError("--embedding-radius " + std::to_string(options.embedding_radius) +
                     ": 0 bases or more");
  }
  if (model.tokenizer().mask < 0) {
    throw DataError("model " + model.name() + ": its vocabulary has no mask token ('[MASK]')");
  }
  return std::make_unique<MaskedScorer>(model, device, options);
}

}  // namespace chromamba::pipelines
