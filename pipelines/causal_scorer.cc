// Scores of alleles by causal models. A strand is read once, from left to right in its own coordinates: the state just
// before every allele is kept from that one run (mamba/engine.h: Snapshot), and only the allele with the bases after it is
// run from there, many alleles at a time. What the reference's own bases are worth comes out of the same run.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "pipelines/scorer_parts.h"

namespace chromamba::pipelines {
namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

// Rows of embeddings come to the host whole: of so many bases at a time, at most.
constexpr int64_t kMostRows = 32768;
// Letters of alleles that wait, at most, unless one is longer.
constexpr int64_t kMostLetters = int64_t{4} << 20;

// An allele in the strand's coordinates and letters.
struct Work {
  int64_t number = 0;
  int64_t place = 0;     // the first base that it replaces
  int64_t replaced = 0;  // bases
  std::string alt;

  int64_t after() const { return place + replaced; }
};

// A place with a state from which alleles go on.
struct Site {
  int64_t place = 0;
  mamba::SequenceState state;
};

// What an allele's own run gave, until the reference's is there.
struct Pending {
  int64_t number = 0;
  int64_t place = 0;
  int64_t replaced = 0;
  int64_t end = 0;  // of the bases that are still needed
  double allele = 0;
  double right = 0;
  std::vector<float> right_log_p;  // where per_base is asked for
  std::vector<double> rows;  // [D] sum of final rows of the allele and after it, where asked for
  int64_t row_count = 0;
  bool compared = false;  // with the reference's, which are not kept as long as its likelihoods
  float cosine_change = kNone;
  float l2_change = kNone;
};

// Adds what has a value.
double sum_of(const float* values, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isnan(values[i])) sum += values[i];
  }
  return sum;
}

float difference(float alt, float ref) {
  if (std::isnan(alt)) return std::isnan(ref) ? kNone : -ref;
  return std::isnan(ref) ? alt : alt - ref;
}

class CausalScorer : public AlleleScorer {
 public:
  CausalScorer(const mamba::Model& model, const mamba::ComputeDevice& device,
               const AlleleScorerOptions& options)
      : model_(model),
        options_(options),
        width_(model.config().d_model),
        plan_(plan_causal(model, device, options, 1)),
        chunk_(options.embedding_change ? std::min(plan_.chunk, kMostRows) : plan_.chunk),
        engine_(model, plan_.device, options.threads) {
    if (options.right_context < 0 || options.embedding_radius < 0) {
      throw InternalError("negative context");
    }
  }

  void score(const ContigBases& contig, Strand strand, AlleleSource& alleles,
             const ScoreSink& sink) override {
    const StrandBases bases(contig, strand);
    std::optional<Work> next = take(bases, alleles);
    while (next) run_pass(bases, alleles, next, sink);
  }

  int64_t device_peak_bytes() const override { return engine_.device_peak_bytes(); }

 private:
  std::optional<Work> take(const StrandBases& bases, AlleleSource& alleles) const {
    Allele allele;
    if (!alleles.next(allele)) return std::nullopt;
    if (allele.start < 0 || allele.end <= allele.start || allele.end > bases.length()) {
      throw InternalError("an allele outside of its contig");
    }
    Work work{allele.number, bases.start_of(allele.start, allele.end), allele.end - allele.start,
              std::move(allele.alt)};
    if (!bases.forward()) {
      io::reverse_complement(work.alt.data(), static_cast<int64_t>(work.alt.size()));
    }
    return work;
  }

  // All alleles whose left context begins at one base.
  void run_pass(const StrandBases& bases, AlleleSource& alleles, std::optional<Work>& next,
                const ScoreSink& sink) {
    const int64_t zero = zero_state_start(next->place, options_.left_context);
    const auto in_pass = [&] {
      return next && zero_state_start(next->place, options_.left_context) == zero;
    };
    state_ = engine_.new_sequence();
    first_ = first_row_ = zero;
    log_p_.clear();
    rows_.clear();
    sites_.clear();
    pending_.clear();
    waiting_bytes_ = 0;
    int64_t needed = zero;
    for (int64_t at = zero; in_pass() || at < needed;) {
      // The next chunk and its alleles. One site may have more of them than can wait: it is kept then.
      const bool kept = in_pass() && !sites_.empty() && sites_.back().place == next->place;
      if (kept) std::swap(sites_.front(), sites_.back());
      sites_.resize(kept ? 1 : 0);
      works_.clear();
      int64_t letters = 0;
      int64_t end = std::min(at + chunk_, bases.length());
      while (in_pass() && next->place < end) {
        const bool same = !sites_.empty() && sites_.back().place == next->place;
        const bool full = letters >= kMostLetters;
        if (full || (!same && static_cast<int64_t>(sites_.size()) == plan_.sequences)) {
          end = same ? std::max(at, next->place + 1) : next->place;
          break;
        }
        if (!same) sites_.push_back({next->place, {}});
        needed = std::max(needed, needed_end(*next, bases.length()));
        letters += static_cast<int64_t>(sizeof(Work) + next->alt.size());
        works_.push_back(std::move(*next));
        next = take(bases, alleles);
      }
      if (!in_pass()) end = std::min(end, needed);
      read_letters(bases, at, end);
      run_reference(at, end, kept ? 1 : 0);
      const bool keeps = in_pass() && !sites_.empty() && sites_.back().place == next->place;
      run_alleles(bases.length(), keeps);
      at = end;
      finish(bases, at, keeps, sink);
    }
    if (!pending_.empty()) throw InternalError("alleles are left without a score");
  }

  // How far the reference must be read for an allele.
  int64_t needed_end(const Work& work, int64_t length) const {
    const int64_t radius = options_.embedding_change ? options_.embedding_radius : 0;
    return std::min(work.after() + std::max(options_.right_context, radius), length);
  }

  // Letters of the chunk and of all that its alleles need.
  void read_letters(const StrandBases& bases, int64_t at, int64_t end) {
    letters_start_ = works_.empty() ? at : std::min(at, works_.front().place);
    int64_t stop = end;
    for (const Work& work : works_) stop = std::max(stop, needed_end(work, bases.length()));
    letters_.resize(static_cast<size_t>(stop - letters_start_));
    bases.read(letters_start_, stop - letters_start_, letters_.data());
  }

  const char* letters_at(int64_t place) const { return letters_.data() + (place - letters_start_); }

  // Bases [at, end), with the states of all sites but the first `have`.
  void run_reference(int64_t at, int64_t end, size_t have) {
    if (end == at) return;
    const int64_t count = end - at;
    tokens_.resize(static_cast<size_t>(count));
    model_.tokenizer().encode(letters_at(at), count, tokens_.data());
    const size_t before = log_p_.size();
    log_p_.resize(before + static_cast<size_t>(count));
    mamba::Chunk chunk;
    chunk.state = &state_;
    chunk.tokens_L = tokens_.data();
    chunk.length = count;
    chunk.log_likelihood_L = log_p_.data() + before;
    if (options_.embedding_change) {
      const size_t rows_before = rows_.size();
      rows_.resize(rows_before + static_cast<size_t>(count * width_));
      chunk.taps.push_back({mamba::kFinalLayer, rows_.data() + rows_before});
    }
    for (size_t i = have; i < sites_.size(); ++i) {
      sites_[i].state = take_state();
      chunk.snapshots.push_back({sites_[i].place - at, &sites_[i].state});
    }
    forward({&chunk, 1}, count);
  }

  void forward(std::span<mamba::Chunk> chunks, int64_t bases) {
    engine_.forward(chunks, [this] { throw_if_stopped(options_.stop); });
    if (options_.bases_done != nullptr) *options_.bases_done += bases;
  }

  // States that nobody needs any more are used again.
  mamba::SequenceState take_state() {
    if (spare_.empty()) return engine_.new_sequence();
    mamba::SequenceState state = std::move(spare_.back());
    spare_.pop_back();
    return state;
  }

  // The alleles of the chunk, as many at a time as a call takes. `keeps`: the last site has more to come.
  void run_alleles(int64_t length, bool keeps) {
    size_t site = 0;
    for (size_t first = 0; first < works_.size();) {
      int64_t rows = 0;
      size_t end = first;
      while (end < works_.size() && (end == first || rows < chunk_) &&
             static_cast<int64_t>(end - first) < plan_.sequences) {
        rows += allele_length(works_[end], length);
        ++end;
      }
      run_batch(first, end, rows, length, keeps, site);
      first = end;
    }
    while (static_cast<int64_t>(spare_.size()) > 2 * plan_.sequences) spare_.pop_back();
  }

  int64_t right_length(const Work& work, int64_t length) const {
    return needed_end(work, length) - work.after();
  }
  int64_t allele_length(const Work& work, int64_t length) const {
    return static_cast<int64_t>(work.alt.size()) + right_length(work, length);
  }

  void run_batch(size_t first, size_t end, int64_t rows, int64_t length, bool keeps, size_t& site) {
    tokens_.resize(static_cast<size_t>(rows));
    allele_log_p_.resize(static_cast<size_t>(rows));
    if (options_.embedding_change) allele_rows_.resize(static_cast<size_t>(rows * width_));
    std::vector<mamba::SequenceState> states(end - first);
    std::vector<mamba::Chunk> chunks;
    int64_t row = 0;
    int64_t run = 0;
    for (size_t i = first; i < end; ++i) {
      const Work& work = works_[i];
      while (sites_[site].place != work.place) ++site;
      const bool last_of_site = i + 1 == works_.size() ? !keeps : works_[i + 1].place != work.place;
      mamba::SequenceState& state = states[i - first];
      if (last_of_site) {
        state = std::move(sites_[site].state);
      } else {
        state = engine_.copy_of(sites_[site].state);
      }
      const auto alt = static_cast<int64_t>(work.alt.size());
      const int64_t count = allele_length(work, length);
      int32_t* tokens = tokens_.data() + row;
      model_.tokenizer().encode(work.alt.data(), alt, tokens);
      model_.tokenizer().encode(letters_at(work.after()), count - alt, tokens + alt);
      // The last base need not be run to be scored, only to have an embedding.
      const int64_t runs = options_.embedding_change ? count : count - 1;
      if (runs > 0) {
        mamba::Chunk& chunk = chunks.emplace_back();
        chunk.state = &state;
        chunk.tokens_L = tokens;
        chunk.length = runs;
        chunk.log_likelihood_L = allele_log_p_.data() + row;
        if (options_.embedding_change) {
          chunk.taps.push_back({mamba::kFinalLayer, allele_rows_.data() + row * width_});
        }
        run += runs;
      }
      row += count;
    }
    if (!chunks.empty()) forward(chunks, run);
    row = 0;
    for (size_t i = first; i < end; ++i) {
      const int64_t count = allele_length(works_[i], length);
      mamba::SequenceState& state = states[i - first];
      if (count > 0 && !options_.embedding_change) {
        const int32_t token = tokens_[static_cast<size_t>(row + count - 1)];
        const bool scored = state.position > 0 && token != model_.tokenizer().n;
        allele_log_p_[static_cast<size_t>(row + count - 1)] =
            scored ? state.next_log_p[static_cast<size_t>(token)] : kNone;
      }
      keep_pending(works_[i], row, length);
      spare_.push_back(std::move(state));
      row += count;
    }
  }

  void keep_pending(const Work& work, int64_t row, int64_t length) {
    Pending& pending = pending_.emplace_back();
    pending.number = work.number;
    pending.place = work.place;
    pending.replaced = work.replaced;
    pending.end = needed_end(work, length);
    const auto alt = static_cast<int64_t>(work.alt.size());
    const float* log_p = allele_log_p_.data() + row;
    const int64_t right = std::min(options_.right_context, right_length(work, length));
    pending.allele = sum_of(log_p, alt);
    pending.right = sum_of(log_p + alt, right);
    if (options_.per_base) {
      pending.right_log_p.assign(log_p + alt, log_p + alt + right);
      waiting_bytes_ += 4 * right;
      if (waiting_bytes_ > options_.memory / 4) {
        throw ResourceError(
            "--per-base: alleles that wait for the reference take more than --memory has room "
            "for; raise --memory or lower --right-context");
      }
    }
    if (options_.embedding_change) {
      const int64_t after = std::min(options_.embedding_radius, right_length(work, length));
      pending.row_count = alt + after;
      pending.rows.assign(static_cast<size_t>(width_), 0.0);
      add_rows(allele_rows_.data() + row * width_, pending.row_count, pending.rows);
    }
  }

  void add_rows(const float* rows, int64_t count, std::vector<double>& sum) const {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < width_; ++d) sum[static_cast<size_t>(d)] += rows[i * width_ + d];
    }
  }

  // Hands over the alleles that the reference, read up to `at`, has reached the end of. `keeps`: the last site has
  // more to come.
  void finish(const StrandBases& bases, int64_t at, bool keeps, const ScoreSink& sink) {
    // Likelihoods and rows are kept from where they are needed. A kept site's alleles are still to come.
    int64_t keep = keeps ? sites_.back().place : at;
    int64_t keep_rows = keep;
    for (Pending& pending : pending_) {
      if (options_.embedding_change && !pending.compared) {
        if (rows_end(pending, bases.length()) <= at) {
          compare_embeddings(bases, pending);
        } else {
          keep_rows = std::min(keep_rows, pending.place);
        }
      }
      if (pending.end > at) {
        keep = std::min(keep, pending.place);
        continue;
      }
      hand_over(bases, pending, sink);
      waiting_bytes_ -= 4 * static_cast<int64_t>(pending.right_log_p.size());
    }
    std::erase_if(pending_, [&](const Pending& pending) { return pending.end <= at; });
    log_p_.erase(log_p_.begin(), log_p_.begin() + static_cast<std::ptrdiff_t>(keep - first_));
    first_ = keep;
    if (!options_.embedding_change) return;
    keep_rows = std::max(keep_rows - options_.embedding_radius, first_row_);
    rows_.erase(rows_.begin(),
                rows_.begin() + static_cast<std::ptrdiff_t>((keep_rows - first_row_) * width_));
    first_row_ = keep_rows;
  }

  void hand_over(const StrandBases& bases, const Pending& pending, const ScoreSink& sink) {
    const float* log_p = log_p_.data() + (pending.place - first_);
    const int64_t after = pending.place + pending.replaced;
    const int64_t right = std::min(options_.right_context, bases.length() - after);
    StrandScore score;
    score.number = pending.number;
    score.allele_delta = pending.allele - sum_of(log_p, pending.replaced);
    score.llr = score.allele_delta + (pending.right - sum_of(log_p + pending.replaced, right));
    if (options_.per_base) {
      right_delta_.assign(static_cast<size_t>(options_.right_context), kNone);
      for (int64_t i = 0; i < right; ++i) {
        right_delta_[static_cast<size_t>(i)] =
            difference(pending.right_log_p[static_cast<size_t>(i)], log_p[pending.replaced + i]);
      }
      score.right_delta = right_delta_;
    }
    score.cosine_change = pending.cosine_change;
    score.l2_change = pending.l2_change;
    sink(score);
  }

  // Where the rows end that an allele's are compared with.
  int64_t rows_end(const Pending& pending, int64_t length) const {
    return std::min(pending.place + pending.replaced + options_.embedding_radius, length);
  }

  void compare_embeddings(const StrandBases& bases, Pending& pending) const {
    pending.compared = true;
    const int64_t before = std::min(options_.embedding_radius, pending.place - first_row_);
    const int64_t last = rows_end(pending, bases.length());
    const float* rows = rows_.data() + (pending.place - first_row_) * width_;
    std::vector<double> left(static_cast<size_t>(width_), 0.0);
    add_rows(rows - before * width_, before, left);
    std::vector<double> own(static_cast<size_t>(width_), 0.0);
    add_rows(rows, last - pending.place, own);
    for (size_t d = 0; d < left.size(); ++d) {
      pending.rows[d] += left[d];
      own[d] += left[d];
    }
    compare_means(pending.rows, before + pending.row_count, own, before + last - pending.place,
                  pending.cosine_change, pending.l2_change);
  }

  const mamba::Model& model_;
  AlleleScorerOptions options_;
  int64_t width_;
  CausalPlan plan_;  // its sequences: one for each site
  int64_t chunk_;
  mamba::Engine engine_;

  // Of the pass under way.
  mamba::SequenceState state_;
  int64_t first_ = 0;         // base of the first value in:
  std::vector<float> log_p_;  // of the reference
  int64_t first_row_ = 0;
  std::vector<float> rows_;  // [bases, D] its final rows from there on, where asked for
  std::vector<Pending> pending_;
  int64_t waiting_bytes_ = 0;  // of their likelihoods of each base
  // Of the chunk.
  std::vector<Work> works_;  // ascending by place
  std::vector<Site> sites_;  // theirs
  std::vector<char> letters_;
  int64_t letters_start_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<float> allele_log_p_;
  std::vector<float> allele_rows_;
  std::vector<float> right_delta_;
  std::vector<mamba::SequenceState> spare_;
};

}  // namespace

std::unique_ptr<AlleleScorer> make_causal_scorer(const mamba::Model& model,
                                                 const mamba::ComputeDevice& device,
                                                 const AlleleScorerOptions& options) {
  return std::make_unique<CausalScorer>(model, device, options);
}

}  // namespace chromamba::pipelines
