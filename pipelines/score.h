// `score`: the log-likelihood of every base, as tracks, HDF5 and a summary table.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pipelines/job.h"

namespace chromamba::pipelines {

enum class ScoreFormat { hdf5, bigwig, bedgraph, table };

struct ScoreOutput {
  std::string path;  // "-": standard output (bedgraph and table only)
  ScoreFormat format = ScoreFormat::table;
  bool bgzip = false;
};

// The output that a path asks for by its suffix (.h5 .hdf5 .bw .bigwig .bedgraph .bdg .bg .tsv, the
// text kinds also with .gz), or `type` (h5, bw, bedgraph, tsv) where one is given. UsageError
// otherwise.
ScoreOutput parse_score_output(const std::string& path, const std::string& type);

struct ScoreOptions {
  JobOptions job;
  std::vector<ScoreOutput> outputs;
  int deflate_level = 0;
  // Masked models: how far masked bases are apart; 0 (as without a value): none is masked.
  std::optional<int64_t> mask_stride;
};

// What one strand of one region came to. Sums in double, in the order of the bases.
struct StrandSummary {
  int64_t scored = 0;  // bases with a value
  double sum_log_p = 0;
  double mean() const;        // mean ln p of a base; NaN when none is scored
  double perplexity() const;  // exp(-mean)
  double bits_per_base() const;
};

struct RegionSummary {
  StrandSummary forward;
  StrandSummary reverse;
  StrandSummary mean;  // of both strands, over the bases that both score
};

struct ScoreResult {
  std::vector<RegionSummary> regions;  // as GenomeInput::regions()
  RegionSummary total;
  StreamStats stats;
};

// Scores every region of the input in one run and writes all outputs. Nothing is left under an
// output's name unless everything succeeded.
// ln p is that of a base given all before it (causal models), or all of its sequence (masked models: the base itself is
// read too, unless it is masked).
//   HDF5     /log_likelihood/<contig or region> f32 [bases]; with both strands that is their mean and
//            /log_likelihood_forward, /log_likelihood_reverse stand beside it; /regions/… columns for regions
//   bigWig, bedGraph   the same values (the mean with both strands), NaN left out
//   table    one row a region and strand
// UsageError for windows and masks with a causal model, and for strands with an RC-equivariant one.
ScoreResult run_score(const ScoreOptions& options, const mamba::Model& model, GenomeInput& input);

}  // namespace chromamba::pipelines
