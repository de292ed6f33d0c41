#include "pipelines/haplotype_job.h"

#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "pipelines/haplotype_scorer.h"

namespace chromamba::pipelines {
namespace {

AlleleScorerOptions scorer_options(const VariantsOptions& options, const mamba::Model& model) {
  AlleleScorerOptions scorer;
  scorer.left_context = options.job.left_context;
  scorer.right_context = options.right_context;
  scorer.threads = options.job.threads;
  scorer.chunk_size = options.job.chunk_size;
  scorer.memory = options.job.memory - fixed_bytes(model, 0);
  scorer.stop = options.job.stop;
  scorer.bases_done = options.job.bases_done;
  return scorer;
}

std::vector<std::string> header_lines(const VariantsOptions& options, const std::string& sample,
                                      const std::string& name, const mamba::Model& model) {
  auto pairs = provenance(options.job, model, name, "none", "none");
  std::erase_if(pairs, [](const auto& pair) {
    return pair.first == "layer" || pair.first == "pooling" || pair.first == "strand";
  });
  pairs.emplace_back("reference", options.job.input.path);
  pairs.emplace_back("right_context", std::to_string(options.right_context));
  pairs.emplace_back("sample", sample);
  std::vector<std::string> lines = provenance_lines(pairs);
  lines.emplace_back(
      "llr: natural log, negative where the model likes the haplotype less: sum of ln p over the "
      "block with all changes of the haplotype and the next " +
      std::to_string(options.right_context) +
      " reference bases, less the same sum without changes; mean of both strands");
  return lines;
}

}  // namespace

HaplotypesResult run_haplotypes(const VariantsOptions& options, const std::string& sample,
                                const mamba::Model& model) {
  if (options.job.strand != StrandChoice::both) {
    throw UsageError("--haplotypes scores both strands; leave --strand out");
  }
  for (const VariantOutput& output : options.outputs) {
    if (output.kind != VariantOutputKind::table) {
      throw UsageError("-o " + output.path + ": --haplotypes writes a table, .tsv or .tsv.gz");
    }
  }
  HaplotypeScorer scorer(model, options.job.device, scorer_options(options, model));
  io::VariantReaderOptions reader_options;
  reader_options.threads = options.job.input.threads;
  reader_options.poll = [stop = options.job.stop] { throw_if_stopped(stop); };
  io::VariantReader reader(options.variants, reader_options);
  const int64_t index = reader.sample_index(sample);

  io::FastaOptions fasta;
  fasta.threads = options.job.input.threads;
  fasta.poll = reader_options.poll;
  io::FastaIndex reference(options.job.input.path, fasta, options.job.note);
  AlleleResolver resolver(reference, options.job.input.path, reader.display_name(),
                          options.resolver, options.job.warn);
  // Contigs stay where they are: blocks point to them until the next one's come.
  std::optional<IndexedBases> bases;
  ContigBases contig;
  int64_t present = -1;
  const auto find = [&](const io::VariantRecord& record) {
    SampleVariant variant;
    variant.record = resolver.resolve(record);
    const int64_t found = variant.record.contig;
    if (found < 0) return variant;
    if (found != present) {
      const io::ContigInfo& info = reference.contigs()[static_cast<size_t>(found)];
      bases.emplace(reference, info.name);
      contig = {info.name, info.length, &*bases};
      present = found;
    }
    variant.contig = &contig;
    return variant;
  };
  HaplotypeReader haplotypes(reader, index, find);

  std::vector<io::PendingFile> files;
  std::vector<HaplotypeTable> tables;
  const std::vector<std::string> lines =
      header_lines(options, sample, reader.display_name(), model);
  for (const VariantOutput& output : options.outputs) {
    std::string path = output.path;
    if (path != "-") path = files.emplace_back(path).temporary_path();
    tables.emplace_back(path, output.bgzip, lines);
  }
  if (options.planned) options.planned(0, 0, 0);
  score_haplotypes(haplotypes, scorer,
                   [&](const HaplotypeBlock& block, const std::vector<HaplotypeScore>& scores) {
                     for (HaplotypeTable& table : tables) table.add(block, scores);
                   });
  for (HaplotypeTable& table : tables) table.close();
  throw_if_stopped(options.job.stop);
  for (io::PendingFile& file : files) file.sync();
  for (io::PendingFile& file : files) file.commit();
  for (const io::VariantWarning& warning : reader.warnings()) options.job.warn(warning.message);
  HaplotypesResult result;
  result.counts = haplotypes.counts();
  result.device_peak_bytes = scorer.device_peak_bytes();
  return result;
}

}  // namespace chromamba::pipelines
