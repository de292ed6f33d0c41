// Scores the alleles of a variant file, or every single-base change of some regions.
//
// The file is read twice: once to see what there is to score, and once, when all scores are there, to write every record
// with its own. Between the two alleles and scores wait in memory, or in scratch files where they are many; so the order of the
// records does not matter, and memory does not grow with the file. What can be read only once waits in a scratch file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/variant_file.h"
#include "mamba/model.h"
#include "pipelines/allele_resolver.h"
#include "pipelines/job.h"

namespace chromamba::pipelines {

enum class VariantOutputKind { records, table, hdf5 };

struct VariantOutput {
  std::string path;  // "-" is standard output
  VariantOutputKind kind = VariantOutputKind::records;
  io::VariantFormat format = io::VariantFormat::vcf;  // of records
  bool bgzip = false;                                 // a table
};

// By the suffix, or by `type` where it is not empty: bcftools' letters v, z, b, u, or vcf, vcf.gz, bcf, tsv, tsv.gz, h5.
// Standard output is VCF unless `type` says otherwise. UsageError.
VariantOutput parse_variant_output(const std::string& path, const std::string& type);

// Regions all of whose single-base changes are scored, in the place of a variant file.
struct Saturation {
  std::vector<std::string> regions;  // samtools spelling
  std::string regions_bed;           // a BED file, or empty
};

struct VariantsOptions {
  JobOptions job;  // its input is the reference: a FASTA with an index, or one that can be indexed
  std::string variants;  // VCF or BCF, or "-"; empty with `saturation`
  std::optional<Saturation> saturation;
  std::vector<VariantOutput> outputs;
  bool write_index = false;  // .csi beside .vcf.gz and .bcf
  ResolverOptions resolver;
  int64_t right_context = 256;  // causal models: bases after an allele that count
  int64_t window = 512;         // masked models
  bool embedding_change = false;
  int64_t embedding_radius = 8;
  std::string per_base;  // an HDF5 file for what each base adds to the scores; or empty
  // Called once after planning, before the first base is computed: what there is to score.
  std::function<void(int64_t records, int64_t alleles, int64_t bases)> planned;
};

struct VariantsResult {
  int64_t records = 0;
  int64_t scored = 0;     // alleles
  ResolverCounts counts;  // of alleles by their status
  int64_t bases = 0;      // that went through the model
  double seconds = 0;     // of scoring
  int64_t device_peak_bytes = 0;
};

// The outputs appear when all are whole. UsageError for what this kind of model does not have, and for a strand other than
// forward, reverse and both. DataError for a broken input; ResourceError for a full disk or too little memory.
VariantsResult run_variants(const VariantsOptions& options, const mamba::Model& model);

}  // namespace chromamba::pipelines
