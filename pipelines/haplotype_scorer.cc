#include "pipelines/haplotype_scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/base/error.h"
#include "pipelines/edited_bases.h"
#include "pipelines/scorer_parts.h"

namespace chromamba::pipelines {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// A block on a strand, in the strand's coordinates: base 0 is the first that is read.
struct Place {
  int64_t start = 0;
  size_t block = 0;
};

// A haplotype, or the reference, on its way through a block.
struct Sequence {
  mamba::SequenceState state;
  EditedBases bases;
  double sum = 0;
  bool done = false;
};

bool same_changes(const Haplotype& a, const Haplotype& b) {
  return std::equal(a.changes.begin(), a.changes.end(), b.changes.begin(), b.changes.end(),
                    [](const Change& x, const Change& y) {
                      return x.start == y.start && x.end == y.end && x.alt == y.alt;
                    });
}

}  // namespace

class HaplotypeScorer::Impl {
 public:
  Impl(const mamba::Model& model, const mamba::ComputeDevice& device,
       const AlleleScorerOptions& options)
      : model_(causal(model)),
        options_(options),
        plan_(plan_causal(model, device, options, 2)),  // the reference and a haplotype
        engine_(model, plan_.device, options.threads) {
    if (options.right_context < 0) throw InternalError("negative context");
  }

  std::vector<std::vector<HaplotypeScore>> score(const ContigBases& contig,
                                                 const std::vector<HaplotypeBlock>& blocks) {
    std::vector<std::vector<HaplotypeScore>> scores;
    for (const HaplotypeBlock& block : blocks) {
      std::vector<HaplotypeScore>& of_block = scores.emplace_back();
      for (const Haplotype& haplotype : block.haplotypes) {
        of_block.push_back(haplotype.known() ? HaplotypeScore{0, 0} : HaplotypeScore{kNone, kNone});
      }
    }
    for (const Strand strand : {Strand::forward, Strand::reverse}) {
      score_strand(contig, strand, blocks, scores);
    }
    return scores;
  }

  int64_t device_peak_bytes() const { return engine_.device_peak_bytes(); }

 private:
  static const mamba::Model& causal(const mamba::Model& model) {
    if (model.causal()) return model;
    throw UsageError("haplotypes are scored by causal models, and " + model.name() +
                     " is a masked one; use another model");
  }

  void score_strand(const ContigBases& contig, Strand strand,
                    const std::vector<HaplotypeBlock>& blocks,
                    std::vector<std::vector<HaplotypeScore>>& scores) {
    const StrandBases bases(contig, strand);
    std::vector<Place> places;
    for (size_t b = 0; b < blocks.size(); ++b) {
      const std::vector<Haplotype>& haplotypes = blocks[b].haplotypes;
      if (std::all_of(haplotypes.begin(), haplotypes.end(),
                      [](const Haplotype& haplotype) { return haplotype.changes.empty(); })) {
        continue;
      }
      places.push_back({bases.start_of(blocks[b].start, blocks[b].end), b});
    }
    std::stable_sort(places.begin(), places.end(),
                     [](const Place& a, const Place& b) { return a.start < b.start; });
    const auto zero = [&](const Place& place) {
      return zero_state_start(place.start, options_.left_context);
    };
    for (auto first = places.begin(); first != places.end();) {
      const auto end = std::find_if(
          first, places.end(), [&](const Place& place) { return zero(place) != zero(*first); });
      run_pass(contig, strand, zero(*first), {first, end}, blocks, scores);
      first = end;
    }
  }

  // All blocks whose left context begins at one base.
  void run_pass(const ContigBases& contig, Strand strand, int64_t zero,
                std::span<const Place> places, const std::vector<HaplotypeBlock>& blocks,
                std::vector<std::vector<HaplotypeScore>>& scores) {
    const int64_t stop = places.back().start + 1;  // a state is kept before a base that is read
    EditedBases reference =
        strand == Strand::forward
            ? EditedBases(contig, strand, zero, stop)
            : EditedBases(contig, strand, contig.length - stop, contig.length - zero);
    mamba::SequenceState state = engine_.new_sequence();
    size_t next = 0;
    for (int64_t at = zero; at < stop;) {
      // The next chunk and the places in it, each once.
      int64_t end = std::min(at + plan_.chunk, stop);
      std::vector<mamba::SequenceState> states;
      std::vector<mamba::Snapshot> snapshots;
      states.reserve(static_cast<size_t>(plan_.sequences));
      const size_t first = next;
      std::vector<size_t> state_of;  // each place's
      for (; next < places.size() && places[next].start < end; ++next) {
        if (next == first || places[next].start != places[next - 1].start) {
          if (static_cast<int64_t>(states.size()) == plan_.sequences) {
            end = places[next].start;
            break;
          }
          states.push_back(engine_.new_sequence());
          snapshots.push_back({places[next].start - at, &states.back()});
        }
        state_of.push_back(states.size() - 1);
      }
      run_reference(reference, end - at, state, std::move(snapshots));
      run_blocks(contig, strand, places.subspan(first, next - first), states, state_of, blocks,
                 scores);
      at = end;
    }
  }

  void run_reference(EditedBases& reference, int64_t count, mamba::SequenceState& state,
                     std::vector<mamba::Snapshot> snapshots) {
    mamba::Chunk chunk;
    chunk.state = &state;
    chunk.length = count;
    chunk.snapshots = std::move(snapshots);
    reserve(count);
    fill(chunk, reference, 0);
    forward({&chunk, 1}, count);
  }

  // As many blocks at a time as there is room for.
  void run_blocks(const ContigBases& contig, Strand strand, std::span<const Place> places,
                  const std::vector<mamba::SequenceState>& states,
                  const std::vector<size_t>& state_of, const std::vector<HaplotypeBlock>& blocks,
                  std::vector<std::vector<HaplotypeScore>>& scores) {
    std::vector<Sequence> sequences;
    std::vector<std::vector<size_t>> sequence_of;  // by place and haplotype
    size_t begun = 0;                              // the first place whose sequences these are
    const auto finish = [&] {
      run_sequences(sequences);
      for (size_t i = 0; i < sequence_of.size(); ++i) {
        const size_t block = places[begun + i].block;
        const double reference = sequences[sequence_of[i].back()].sum;
        for (size_t h = 0; h < scores[block].size(); ++h) {
          if (!blocks[block].haplotypes[h].known()) continue;
          HaplotypeScore& to = scores[block][h];
          (strand == Strand::forward ? to.forward : to.reverse) =
              sequences[sequence_of[i][h]].sum - reference;
        }
      }
      begun += sequence_of.size();
      sequences.clear();
      sequence_of.clear();
    };
    for (size_t i = 0; i < places.size(); ++i) {
      const HaplotypeBlock& block = blocks[places[i].block];
      // Haplotypes that are alike share a sequence; the reference's comes last.
      std::vector<const Haplotype*> different;
      std::vector<size_t> which;
      const Haplotype unchanged;
      for (size_t h = 0; h <= block.haplotypes.size(); ++h) {
        const Haplotype& haplotype = h < block.haplotypes.size() ? block.haplotypes[h] : unchanged;
        const auto found =
            std::find_if(different.begin(), different.end(),
                         [&](const Haplotype* other) { return same_changes(*other, haplotype); });
        which.push_back(static_cast<size_t>(found - different.begin()));
        if (found == different.end()) different.push_back(&haplotype);
      }
      const auto count = static_cast<int64_t>(different.size());
      if (count > plan_.sequences) throw_no_room_for_states(count, model_.state_bytes());
      if (static_cast<int64_t>(sequences.size()) + count > plan_.sequences) finish();
      for (size_t& index : which) index += sequences.size();
      for (const Haplotype* haplotype : different) {
        sequences.push_back({engine_.copy_of(states[state_of[i]]),
                             edited(contig, strand, block, haplotype->changes)});
      }
      sequence_of.push_back(std::move(which));
    }
    finish();
  }

  // What a block's haplotype is summed over.
  EditedBases edited(const ContigBases& contig, Strand strand, const HaplotypeBlock& block,
                     std::span<const Change> changes) const {
    const int64_t right = options_.right_context;
    return strand == Strand::forward
               ? EditedBases(contig, strand, block.start,
                             block.end + std::min(right, contig.length - block.end), changes)
               : EditedBases(contig, strand, block.start - std::min(right, block.start), block.end,
                             changes);
  }

  // Side by side to their ends, each an equal share of a call.
  void run_sequences(std::vector<Sequence>& sequences) {
    for (;;) {
      const auto active = std::count_if(sequences.begin(), sequences.end(),
                                        [](const Sequence& sequence) { return !sequence.done; });
      if (active == 0) return;
      const int64_t share = std::max<int64_t>(plan_.chunk / active, 1);
      reserve(share * active);
      std::vector<mamba::Chunk> chunks;
      std::vector<Sequence*> owners;
      int64_t used = 0;
      for (Sequence& sequence : sequences) {
        if (sequence.done) continue;
        mamba::Chunk chunk;
        chunk.state = &sequence.state;
        chunk.length = share;
        fill(chunk, sequence.bases, used);
        sequence.done = chunk.length < share;
        if (chunk.length == 0) continue;
        used += chunk.length;
        chunks.push_back(std::move(chunk));
        owners.push_back(&sequence);
      }
      forward(chunks, used);
      for (size_t c = 0; c < chunks.size(); ++c) {
        for (int64_t i = 0; i < chunks[c].length; ++i) {
          const float value = chunks[c].log_likelihood_L[i];
          if (!std::isnan(value)) owners[c]->sum += static_cast<double>(value);
        }
      }
    }
  }

  void reserve(int64_t count) {
    if (count <= static_cast<int64_t>(tokens_.size())) return;
    letters_.resize(static_cast<size_t>(count));
    tokens_.resize(static_cast<size_t>(count));
    log_p_.resize(static_cast<size_t>(count));
  }

  // Gives a chunk the next bases, as many as it has length for, and rows from `row` on. Scores are wanted of all bases:
  // without them a state would not know what comes next.
  void fill(mamba::Chunk& chunk, EditedBases& bases, int64_t row) {
    chunk.length = bases.read(chunk.length, letters_.data());
    chunk.tokens_L = tokens_.data() + row;
    chunk.log_likelihood_L = log_p_.data() + row;
    model_.tokenizer().encode(letters_.data(), chunk.length, tokens_.data() + row);
  }

  void forward(std::span<mamba::Chunk> chunks, int64_t bases) {
    throw_if_stopped(options_.stop);
    if (chunks.empty()) return;
    engine_.forward(chunks, [this] { throw_if_stopped(options_.stop); });
    if (options_.bases_done != nullptr) *options_.bases_done += bases;
  }

  const mamba::Model& model_;
  AlleleScorerOptions options_;
  CausalPlan plan_;
  mamba::Engine engine_;
  std::vector<char> letters_;
  std::vector<int32_t> tokens_;
  std::vector<float> log_p_;
};

HaplotypeScorer::HaplotypeScorer(const mamba::Model& model, const mamba::ComputeDevice& device,
                                 const AlleleScorerOptions& options)
    : impl_(std::make_unique<Impl>(model, device, options)) {}
HaplotypeScorer::~HaplotypeScorer() = default;

std::vector<std::vector<HaplotypeScore>> HaplotypeScorer::score(
    const ContigBases& contig, const std::vector<HaplotypeBlock>& blocks) {
  return impl_->score(contig, blocks);
}

int64_t HaplotypeScorer::device_peak_bytes() const { return impl_->device_peak_bytes(); }

void score_haplotypes(HaplotypeReader& reader, HaplotypeScorer& scorer, const HaplotypeSink& sink) {
  HaplotypeReader::Contig contig;
  while (reader.next(contig)) {
    std::vector<std::vector<HaplotypeScore>> scores;
    if (contig.reference != nullptr) {
      scores = scorer.score(*contig.reference, contig.blocks);
    } else {
      for (const HaplotypeBlock& block : contig.blocks) {
        scores.emplace_back(block.haplotypes.size(), HaplotypeScore{kNone, kNone});
      }
    }
    for (size_t b = 0; b < contig.blocks.size(); ++b) sink(contig.blocks[b], scores[b]);
  }
}

}  // namespace chromamba::pipelines
