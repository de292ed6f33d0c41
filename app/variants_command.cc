#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "app/commands.h"
#include "app/options.h"
#include "app/progress.h"
#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "pipelines/devices.h"
#include "pipelines/haplotype_job.h"
#include "pipelines/variants.h"

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba variants IN.vcf -f REF.fa [-o OUT]... [options]
       chromamba variants --saturate REGION|BED -f REF.fa [-o OUT]... [options]
       chromamba variants IN.vcf -f REF.fa --sample NAME --haplotypes [-o OUT.tsv] [options]

Scores what each variant changes: ln p of the alternative allele less ln p of the reference one,
negative where the model likes the alternative less. Causal models read the contig up to the
variant, then both alleles with the bases after them; masked models read a window around it. Every
record of the input comes out, in its order and with all that it had, and gets INFO fields:

  CM_LLR               one number for each ALT, natural log: the mean of both strands
  CM_LLR_FWD, _REV     the same for each strand
  CM_STATUS            why an ALT has no score

IN is VCF (plain, gzip or bgzip) or BCF, sorted or not, or - for standard input. REF.fa is plain or
bgzip with its .fai index, which is made where it is missing.

  OUT.vcf  OUT.vcf.gz  OUT.bcf    the records (default: VCF to standard output)
  OUT.tsv[.gz]                    one line for each ALT
  OUT.h5                          with --saturate: /llr/<region> [bases, 4] for A, C, G, T

With --haplotypes all phased variants of a sample are applied together: a table with one score for
each haplotype of each phase block (causal models; records sorted within contigs).
)";

void add_groups(CommandLine& line) {
  line.group("Input").add_options()("fasta-ref,f", po::value<std::string>()->value_name("FASTA"),
                                    "the reference")(
      "ref-mismatch", po::value<std::string>()->default_value("skip")->value_name("MODE"),
      "where REF is not what the reference has: skip (CM_STATUS says REF_MISMATCH), error, or swap "
      "REF and ALT where the reference has ALT")(
      "chr-prefix", po::value<std::string>()->default_value("auto")->value_name("auto|none"),
      "find contig 20 as chr20, chrM as MT and the other way round, or take names as they are")(
      "strict", "a contig that the reference does not have is an error")(
      "max-allele-length", po::value<std::string>()->default_value("10000")->value_name("N"),
      "longest REF and ALT that are scored; others get TOO_LONG")(
      "sample", po::value<std::string>()->value_name("NAME"), "with --haplotypes: whose")(
      "haplotypes", "score the haplotypes of a sample in place of single variants")(
      "saturate", po::value<std::vector<std::string>>()->value_name("REGION|BED"),
      "in place of IN: all three changes of every base of a region (1-based: chr20:1,001-2,000) or "
      "of the regions of a BED file (repeatable; a file of that name goes before a region)");
  line.group("Model").add_options()("model,m", po::value<std::string>()->value_name("PATH"),
                                    "checkpoint folder or weights file (default: the built-in "
                                    "human-d128)")(
      "strand", po::value<std::string>()->default_value("both")->value_name("STRAND"),
      "both (and their mean), forward, or reverse (the model reads the reverse complement)")(
      "left-context", po::value<std::string>()->default_value("131072")->value_name("N|full"),
      "causal models: bases read before a variant, from a grid of N; 'full': from the contig's "
      "first base")("right-context",
                    po::value<std::string>()->default_value("256")->value_name("N"),
                    "causal models: reference bases after the allele that count")(
      "window", po::value<std::string>()->default_value("512")->value_name("W"),
      "masked models: bases around a variant that are read");
  line.group("More results")
      .add_options()("embedding-change",
                     "also CM_EMB_COS (1 - cosine) and CM_EMB_L2: how far the mean embedding "
                     "around the variant "
                     "moves")("embedding-radius",
                              po::value<std::string>()->default_value("8")->value_name("N"),
                              "bases on both sides of the allele that this mean takes in")(
          "per-base", po::value<std::string>()->value_name("OUT.h5"),
          "causal models: what each base after an allele adds to its score, /delta_forward and "
          "/delta_reverse [alleles, 1 + right context]");
  line.group("Output").add_options()(
      "output,o", po::value<std::vector<std::string>>()->value_name("FILE"),
      "output file, kind by suffix; - is standard output (repeatable)")(
      "output-type,O", po::value<std::string>()->value_name("TYPE"),
      "v, z, b or u as in bcftools, tsv, tsv.gz or h5, whatever the suffix")(
      "write-index,W", "write a .csi index beside .vcf.gz and .bcf")(
      "no-version", "leave out what changes from run to run (version, command)");
}

// Its outputs are of one kind, and what is written beside scores of single alleles is not to be had.
int haplotypes_of(const CommandLine& line, const mamba::Model& model,
                  pipelines::VariantsOptions& options, Progress& progress) {
  for (const char* option : {"saturate", "embedding-change", "per-base", "write-index"}) {
    if (line.has(option)) {
      throw UsageError(std::string("--") + option + " and --haplotypes exclude each other");
    }
  }
  const std::string sample = line.text("sample");
  options.planned = [&](int64_t, int64_t, int64_t) {
    if (!options.job.device_note.empty()) options.job.note(options.job.device_note);
    options.job.note("scoring the haplotypes of " + sample + " with " + model.name());
    progress.start(0);
  };
  const pipelines::HaplotypesResult result = pipelines::run_haplotypes(options, sample, model);
  progress.stop();
  const pipelines::HaplotypeCounts& counts = result.counts;
  options.job.note(pipelines::with_commas(counts.records) + " records, " +
                   pipelines::with_commas(counts.variants) + " with variants of " + sample + ", " +
                   pipelines::with_commas(counts.blocks) + " phase blocks; " +
                   pipelines::with_commas(counts.unphased) +
                   " unphased heterozygotes are in none of them");
  return 0;
}

pipelines::RefMismatch mismatch_of(const std::string& text) {
  if (text == "skip") return pipelines::RefMismatch::skip;
  if (text == "error") return pipelines::RefMismatch::error;
  if (text == "swap") return pipelines::RefMismatch::swap;
  throw UsageError("--ref-mismatch " + text + ": use skip, error or swap");
}

int64_t number_of(const CommandLine& line, const std::string& option, int64_t least, int64_t most) {
  const int64_t value = parse_number(line.text(option), option, 1000);
  if (value < least || value > most) {
    throw UsageError("--" + option + " " + line.text(option) + ": " + std::to_string(least) +
                     " to " + pipelines::with_commas(most));
  }
  return value;
}

pipelines::Saturation saturation_of(const CommandLine& line) {
  pipelines::Saturation saturation;
  for (const std::string& text : line.texts("saturate")) {
    std::error_code missing;
    if (!std::filesystem::exists(text, missing)) {
      saturation.regions.push_back(text);
    } else if (saturation.regions_bed.empty()) {
      saturation.regions_bed = text;
    } else {
      throw UsageError("--saturate: one BED file at a time");
    }
  }
  return saturation;
}

// No output may overwrite what is read.
void require_other_files(const std::vector<std::string>& outputs,
                         const pipelines::VariantsOptions& options) {
  std::vector<std::string> inputs = {options.variants};
  if (options.saturation) inputs.push_back(options.saturation->regions_bed);
  for (const std::string& output : outputs) {
    if (output == "-" || io::is_special_file(output)) continue;
    for (const std::string& input : inputs) {
      if (!input.empty() && input != "-" && io::same_file(output, input)) {
        throw UsageError("-o " + output + ": is an input of this run; give another name");
      }
    }
  }
}

// Of the outputs that hold records there must be one, and each of a kind that can have an index.
void require_indexable(const std::vector<pipelines::VariantOutput>& outputs) {
  bool any = false;
  for (const pipelines::VariantOutput& output : outputs) {
    if (output.kind != pipelines::VariantOutputKind::records) continue;
    const bool can =
        output.path != "-" && !io::is_special_file(output.path) &&
        (output.format == io::VariantFormat::vcf_gz || output.format == io::VariantFormat::bcf);
    if (!can) {
      throw UsageError("-W: an index goes with a .vcf.gz or .bcf file, not with -o " + output.path);
    }
    any = true;
  }
  if (!any) throw UsageError("-W: an index goes with a .vcf.gz or .bcf file, and -o names none");
}

void print_summary(const pipelines::VariantsResult& result,
                   const pipelines::VariantsOptions& options) {
  const auto add = [](std::string& text, int64_t count, const std::string& what) {
    if (count > 0) text += ", " + pipelines::with_commas(count) + " " + what;
  };
  std::string missing;
  for (size_t s = 0; s < pipelines::ResolverCounts::kStatuses; ++s) {
    const auto status = static_cast<pipelines::AlleleStatus>(s);
    const std::string name = pipelines::status_name(status);
    if (!name.empty()) add(missing, result.counts.of(status), name);
  }
  if (!missing.empty()) {
    options.job.note("alleles without a score: " + missing.substr(2));
  }
  if (result.counts.mismatched > 0) {
    std::string text = pipelines::with_commas(result.counts.mismatched) +
                       " records with another REF than the reference";
    add(text, result.counts.swapped, "of them swapped");
    options.job.warn(text);
  }
  const double rate = result.seconds > 0 ? static_cast<double>(result.scored) / result.seconds : 0;
  options.job.note(pipelines::with_commas(result.records) + " records, " +
                   pipelines::with_commas(result.scored) + " alleles scored in " +
                   clock_time(result.seconds) + " (" + short_count(rate) + " alleles/s)");
  if (result.device_peak_bytes > 0) {
    options.job.note(pipelines::device_name(options.job.device) + ", " +
                     pipelines::dtype_name(options.job.device) + ": GPU memory at most " +
                     pipelines::human_bytes(result.device_peak_bytes));
  }
}

}  // namespace

int variants_command(const Arguments& arguments) {
  CommandLine line(kUsage, "input", 1);
  add_groups(line);
  add_machine_group(line);
  if (!line.parse(arguments)) return 0;
  pipelines::VariantsOptions options;
  if (line.has("saturate") == line.has("input")) {
    throw UsageError(line.has("input") ? "IN.vcf and --saturate exclude each other"
                                       : "variants: no IN.vcf given (see --help)");
  }
  if (!line.has("fasta-ref")) throw UsageError("variants: no reference given: -f REF.fa");
  if (line.has("input")) options.variants = line.texts("input").front();
  if (line.has("saturate")) options.saturation = saturation_of(line);
  std::vector<std::string> paths = line.texts("output");
  std::replace(paths.begin(), paths.end(), std::string("/dev/stdout"), std::string("-"));
  if (line.has("output-type") && paths.size() > 1) {
    throw UsageError("-O names the kind of one output, and there are several -o; use suffixes");
  }
  if (paths.empty()) paths.emplace_back("-");
  if (line.has("haplotypes") != line.has("sample")) {
    throw UsageError("--haplotypes and --sample NAME go together");
  }
  const bool to_table = line.has("haplotypes") && !line.has("output") && !line.has("output-type");
  for (const std::string& path : paths) {
    options.outputs.push_back(
        pipelines::parse_variant_output(path, to_table ? "tsv" : line.text("output-type")));
  }
  std::vector<std::string> files = paths;
  if (line.has("per-base")) files.push_back(line.text("per-base"));
  if (line.text("per-base") == "-") {
    throw UsageError("--per-base -: HDF5 cannot go to standard output");
  }
  options.job = job_options(line, arguments, line.text("fasta-ref"), files);
  require_other_files(files, options);
  options.write_index = line.has("write-index");
  if (options.write_index) require_indexable(options.outputs);
  options.resolver.ref_mismatch = mismatch_of(line.text("ref-mismatch"));
  const std::string prefix = line.text("chr-prefix");
  if (prefix != "auto" && prefix != "none") {
    throw UsageError("--chr-prefix " + prefix + ": use auto or none");
  }
  options.resolver.map_prefix = prefix == "auto";
  options.resolver.strict = line.has("strict");
  options.resolver.longest = number_of(line, "max-allele-length", 1, 10000000);
  options.right_context = number_of(line, "right-context", 0, 10000000);
  options.window = number_of(line, "window", 2, 10000000);
  options.embedding_change = line.has("embedding-change");
  options.embedding_radius = number_of(line, "embedding-radius", 0, 100000);
  options.per_base = line.text("per-base");

  const mamba::Model model = load_model(line);
  Progress progress("run", line.has("quiet"));
  options.job.bases_done = progress.counter();
  if (line.has("haplotypes")) return haplotypes_of(line, model, options, progress);
  options.planned = [&](int64_t records, int64_t alleles, int64_t bases) {
    if (!options.job.device_note.empty()) options.job.note(options.job.device_note);
    options.job.note("scoring " + pipelines::with_commas(alleles) + " alleles of " +
                     pipelines::with_commas(records) + " records with " + model.name() + " (" +
                     pipelines::with_commas(bases) + " bases to run)");
    progress.start(bases);
  };
  const pipelines::VariantsResult result = pipelines::run_variants(options, model);
  progress.stop();
  print_summary(result, options);
  return 0;
}

}  // namespace chromamba::app
