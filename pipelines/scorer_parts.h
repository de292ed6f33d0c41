// What the scorers of alleles and of haplotypes have in common. Inside pipelines/ only.
#pragma once

#include <cstdint>
#include <span>

#include "pipelines/allele_scorer.h"

namespace chromamba::pipelines {

// A contig as a strand reads it: base 0 is the first that is read.
class StrandBases {
 public:
  // `contig` must outlive the object.
  StrandBases(const ContigBases& contig, Strand strand) : contig_(&contig), strand_(strand) {}

  int64_t length() const { return contig_->length; }
  bool forward() const { return strand_ == Strand::forward; }
  // Where forward bases [start, end) begin.
  int64_t start_of(int64_t start, int64_t end) const {
    return forward() ? start : contig_->length - end;
  }
  // Bases [start, start + n).
  void read(int64_t start, int64_t n, char* out) const;

 private:
  const ContigBases* contig_;
  Strand strand_;
};

// How the scorers with causal models share out memory: bases that go through the engine in one call, sequences
// whose states are kept at a time (in a quarter of the memory, with as many copies of them), and what that leaves of
// a GPU for the engine.
struct CausalPlan {
  int64_t chunk = 0;
  int64_t sequences = 0;
  mamba::ComputeDevice device;
};
// ResourceError when there is no room for `least` sequences.
CausalPlan plan_causal(const mamba::Model& model, const mamba::ComputeDevice& device,
                       const AlleleScorerOptions& options, int64_t least);
[[noreturn]] void throw_no_room_for_states(int64_t sequences, int64_t bytes_of_each);

// Sets both changes of a score from sums of rows. They stay NaN where one has no rows.
void compare_means(std::span<const double> alt_sum, int64_t alt_rows,
                   std::span<const double> ref_sum, int64_t ref_rows, float& cosine_change,
                   float& l2_change);

}  // namespace chromamba::pipelines
