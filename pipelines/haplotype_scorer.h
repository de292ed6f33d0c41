// How much likelier a causal model finds a haplotype than the reference.
//
// LLR on a strand = sum of ln p over the block's extent and the next right_context bases of the reference, with the
// haplotype's changes made, less the same sum without them. What comes before the block is the reference, read from
// zero_state_start(block, left_context) on (plan.h). The reverse strand has all this on the reverse complement: what comes
// before it there are the bases after the block. All haplotypes of a block are summed over the same stretch of the
// reference, so that their scores can be compared; a block of one variant has the variant's own score
// (allele_scorer.h). Bases without a likelihood (N, the first one) add nothing.
//
// What is run. A strand of a contig is read once for the blocks whose left context begins at one base; the state before each
// block is kept from that run (mamba/engine.h: Snapshot), and from there the reference and the haplotypes, those that differ,
// go on side by side, in chunks: memory does not depend on the length of a block.
#pragma once

#include <memory>
#include <vector>

#include "mamba/engine.h"
#include "mamba/model.h"
#include "pipelines/allele_scorer.h"
#include "pipelines/haplotypes.h"

namespace chromamba::pipelines {

// One caller at a time. The model must outlive the object.
class HaplotypeScorer {
 public:
  // Of the options it uses left_context, right_context, threads, chunk_size (bases in a call of the engine, about),
  // memory, stop and bases_done. UsageError for a model that is not causal; ResourceError when the memory
  // has no room for the states of two sequences.
  HaplotypeScorer(const mamba::Model& model, const mamba::ComputeDevice& device,
                  const AlleleScorerOptions& options);
  ~HaplotypeScorer();

  // One score for each haplotype of each block of a contig, in their order. A haplotype without changes has 0,
  // one that is not known() NaN. A block's scores depend on the contig and the block alone.
  // DataError when a likelihood is not finite, and what `contig` throws; ResourceError when the memory has no room
  // for the haplotypes of a block.
  std::vector<std::vector<HaplotypeScore>> score(const ContigBases& contig,
                                                 const std::vector<HaplotypeBlock>& blocks);

  int64_t device_peak_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Called block by block, in the order of the file, ascending by start in a contig.
using HaplotypeSink =
    std::function<void(const HaplotypeBlock& block, const std::vector<HaplotypeScore>& scores)>;

// Scores all blocks of a reader. Blocks of contigs that the reference does not have get NaN.
void score_haplotypes(HaplotypeReader& reader, HaplotypeScorer& scorer, const HaplotypeSink& sink);

}  // namespace chromamba::pipelines
