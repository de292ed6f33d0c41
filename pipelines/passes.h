// The passes of a job, through the runner that its model needs: stream.h for causal models, which carry a state from
// chunk to chunk, and sweeps.h for all others, which read whole sequences.
#pragma once

#include <cstdint>
#include <optional>

#include "mamba/model.h"
#include "pipelines/genome_input.h"
#include "pipelines/job.h"
#include "pipelines/sweeps.h"

namespace chromamba::pipelines {

// What a job takes from its model.
struct PassWanted {
  bool log_likelihood = false;
  std::optional<int64_t> layer;  // as StreamOptions has it, and so is bin
  int64_t bin = 1;
  std::optional<int64_t> mask_stride;  // of masked models
};

class Passes {
 public:
  // Plans the job within its memory. UsageError for what this kind of model has not (windows, masks),
  // ResourceError when the memory is too small. All must outlive the object.
  Passes(const JobOptions& job, const mamba::Model& model, GenomeInput& input,
         const PassWanted& wanted);

  // Columns of hidden rows and means.
  int64_t hidden_width() const;
  // What scratch files take, besides those of the consumer.
  DiskNeed scratch() const;
  // Whether every region is read on both strands, one pass after the other: the reverse one first.
  bool two_strands() const { return reads_both(strand_); }

  // Tells the job what is about to be done and does it.
  StreamStats run(const Consumer& consume);

 private:
  void plan_sweeps();

  const JobOptions& job_;
  const mamba::Model& model_;
  GenomeInput& input_;
  StrandChoice strand_;  // of the passes
  ReadPlan plan_;
  SweepOptions options_;  // its `stream` alone for causal models
  int64_t bases_ = 0;     // to be read
  int64_t longest_pass_ = 0;
  int64_t longest_sequence_ = 0;
  int64_t activations_ = 0;  // bytes in a scratch file
};

}  // namespace chromamba::pipelines
