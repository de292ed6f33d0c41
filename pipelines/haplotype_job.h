// Scores the phased haplotypes of one sample of a variant file, into a table.
#pragma once

#include <string>

#include "mamba/model.h"
#include "pipelines/haplotypes.h"
#include "pipelines/variants.h"

namespace chromamba::pipelines {

struct HaplotypesResult {
  HaplotypeCounts counts;
  int64_t device_peak_bytes = 0;
};

// Of `options` the outputs must be tables, and what is written beside scores of alleles does not count. The records must be
// sorted within contigs. Errors as run_variants; UsageError too for a sample that is not there and models that are
// not causal.
HaplotypesResult run_haplotypes(const VariantsOptions& options, const std::string& sample,
                                const mamba::Model& model);

}  // namespace chromamba::pipelines
