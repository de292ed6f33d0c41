// How much likelier a model finds an allele than the reference: one number for each strand.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "mamba/engine.h"
#include "mamba/model.h"
#include "pipelines/allele.h"
#include "pipelines/base_source.h"
#include "pipelines/interrupt.h"
#include "pipelines/plan.h"

namespace chromamba::pipelines {

struct AlleleScorerOptions {
  LeftContext left_context;     // causal models
  int64_t right_context = 256;  // causal models: reference bases after the allele that count
  int64_t window = 512;         // masked models
  bool embedding_change = false;
  int64_t embedding_radius = 8;
  bool per_base = false;    // causal models
  int64_t longest = 10000;  // bases of an allele, at most: of what it replaces, and of what it is
  int threads = 1;
  int64_t chunk_size = 0;  // bases of a reference chunk, or of a block of windows; 0: a good number
  int64_t memory = int64_t{4} << 30;  // bytes, for what the scorer holds beside the model
  StopSignal stop = nullptr;
  std::atomic<int64_t>* bases_done = nullptr;  // bases that went through the model, for progress
};

struct StrandScore {
  int64_t number = 0;  // of the allele
  double llr = 0;      // natural log; negative: the model likes the allele less than the reference
  // Where asked for, else NaN: of the final rows, means over the allele and the radius on both sides.
  float cosine_change = 0;  // 1 - cosine
  float l2_change = 0;
  // Where per_base is asked for: what of llr is due to the allele's own bases, and to each base after it. Bases
  // without a likelihood (N, off the contig) are NaN and add nothing.
  double allele_delta = 0;
  std::span<const float> right_delta;  // [right_context]
};
// Called on the thread that called score().
using ScoreSink = std::function<void(const StrandScore&)>;

struct ContigBases {
  std::string name;
  int64_t length = 0;
  BaseSource* bases = nullptr;  // read at any place
};

// One caller at a time. The model must outlive the object.
class AlleleScorer {
 public:
  virtual ~AlleleScorer() = default;
  // Scores the alleles of a contig on one strand, in any order. An allele's score depends on the contig and the allele
  // alone. DataError when a likelihood is not finite, and what `alleles`, `bases` and `sink` throw.
  virtual void score(const ContigBases& contig, Strand strand, AlleleSource& alleles,
                     const ScoreSink& sink) = 0;
  virtual int64_t device_peak_bytes() const = 0;
};

// LLR = sum of ln p over the allele's bases and the next right_context bases of the reference, less the same sum with
// the reference's own bases in the allele's place. Bases without a likelihood add
// nothing.
std::unique_ptr<AlleleScorer> make_causal_scorer(const mamba::Model& model,
                                                 const mamba::ComputeDevice& device,
                                                 const AlleleScorerOptions& options);

// SNVs: ln q(alt) - ln q(ref) at the masked base, q over A, C, G, T, in the `window` bases around it: window / 2 - 1
// before it and window / 2 after it (an odd window reads a base less), fewer at the contig's ends. Other alleles: the sum of ln q over the bases of
// the allele, each masked in a window of the edited contig around it, less the same sum over the
// bases that it replaces. The reverse strand reads the reverse complement of all this. Letters other than ACGT have no
// likelihood and add nothing.
//
// Embeddings come from unmasked windows that lie in the same way around the allele's first base, but reach at least the
// radius beyond the longer one of the allele and what it replaces, on both sides.
//
// DataError when the model has no mask token; UsageError for a window below 2 bases, a negative radius
// and per_base; ResourceError when a block of windows does not fit the memory, and from score() when a window does not.
std::unique_ptr<AlleleScorer> make_masked_scorer(const mamba::Model& model,
                                                 const mamba::ComputeDevice& device,
                                                 const AlleleScorerOptions& options);

}  // namespace chromamba::pipelines
