// `embed`: the hidden rows of a layer for every base, bin or region, as HDF5.
#pragma once

#include <string>

#include "io/hdf5_file.h"
#include "mamba/engine.h"
#include "pipelines/job.h"

namespace chromamba::pipelines {

enum class Pooling { none, mean };

struct EmbedOptions {
  JobOptions job;
  std::string output;                  // an HDF5 file
  int64_t layer = mamba::kFinalLayer;  // numbered as in mamba/engine.h
  io::FloatType type = io::FloatType::f16;
  int64_t bin = 1;                  // bases averaged into a row, counted from each region's start
  Pooling pooling = Pooling::none;  // mean: one row for each region (or contig)
  int deflate_level = 0;
};

struct EmbedResult {
  int64_t rows = 0;        // of each dataset, all regions together
  int64_t overflowed = 0;  // values beyond binary16, written as infinity
  StreamStats stats;
};

// Writes /embedding/<contig or region> [bases or bins, D]; with Pooling::mean /embedding [regions, D]
// and the columns /regions/{name,contig,start,end,strand}. The last bin of a region may be short and
// is the mean of what it has. A region without bases has a row of NaN. With both strands
// /embedding_forward and /embedding_reverse stand beside /embedding, their mean (of the stored values); with
// StrandChoice::mean that stands alone. RC-equivariant models have both strands in their rows: there it
// holds the halves that the choice names, both of them (2D columns, as the published code returns them), or their mean.
// Nothing is left under the output's name unless everything succeeded. UsageError for a layer the
// model does not have.
EmbedResult run_embed(const EmbedOptions& options, const mamba::Model& model, GenomeInput& input);

}  // namespace chromamba::pipelines
