#include "pipelines/variants.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "io/hdf5_file.h"
#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "pipelines/allele_list.h"
#include "pipelines/allele_scorer.h"
#include "pipelines/saturation.h"
#include "pipelines/score_table.h"
#include "pipelines/stopwatch.h"
#include "pipelines/variant_outputs.h"

namespace chromamba::pipelines {
namespace {

// Columns of the table of scores: of the forward strand, then of the reverse one.
enum Column { kLlr = 0, kCosine = 2, kL2 = 4 };

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

using Provenance = std::vector<std::pair<std::string, std::string>>;

// What each base adds to the scores of alleles: rows of an HDF5 file, by the allele's number.
class PerBaseFile {
 public:
  PerBaseFile(const std::string& path, const Provenance& provenance, int64_t alleles,
              int64_t right_context, const std::vector<Strand>& strands)
      : file_(io::Hdf5File::create(path)) {
    write_provenance(file_, provenance);
    for (const Strand strand : strands) {
      file_.create_dataset(dataset(strand), alleles, right_context + 1, io::FloatType::f32, 0);
      file_.set_attribute(dataset(strand), "columns",
                          "the allele's own bases together, then each base after it");
    }
  }

  void add(Strand strand, const StrandScore& score) {
    row_.assign(1, static_cast<float>(score.allele_delta));
    row_.insert(row_.end(), score.right_delta.begin(), score.right_delta.end());
    file_.write_rows(dataset(strand), score.number, 1, row_.data());
  }

  // Which ALT of which record a row is; alleles that were not scored have rows of NaN.
  void add_allele(const io::VariantRecord& record, const std::string& alt) {
    records_.push_back(record.number);
    contigs_.push_back(record.contig);
    positions_.push_back(record.position + 1);
    refs_.push_back(record.ref);
    alts_.push_back(alt);
  }

  void finish() {
    file_.write_column("/alleles/record", records_);
    file_.write_column("/alleles/contig", contigs_);
    file_.write_column("/alleles/pos", positions_);
    file_.write_column("/alleles/ref", refs_);
    file_.write_column("/alleles/alt", alts_);
    file_.close();
  }

 private:
  static const char* dataset(Strand strand) {
    return strand == Strand::forward ? "/delta_forward" : "/delta_reverse";
  }

  io::Hdf5File file_;
  std::vector<float> row_;
  std::vector<int64_t> records_;
  std::vector<int64_t> positions_;
  std::vector<std::string> contigs_;
  std::vector<std::string> refs_;
  std::vector<std::string> alts_;
};

// Half of the memory is for the scorer; the other half for tables, readers and writers.
int64_t scorer_memory(const JobOptions& job, const mamba::Model& model) {
  return job.memory / 2 - fixed_bytes(model, 0);
}

int64_t least_memory(const mamba::Model& model, const mamba::ComputeDevice& device) {
  constexpr int64_t kScorer = int64_t{32} << 20;
  const int64_t states = device.cuda ? 0 : 8 * model.state_bytes();
  return 2 * (fixed_bytes(model, 0) + std::max(kScorer, states));
}

// Before anything is opened or made.
void require_options(const VariantsOptions& options, const mamba::Model& model) {
  if (options.job.strand == StrandChoice::mean) {
    throw UsageError("--strand mean: CM_LLR is the mean already; use both, forward or reverse");
  }
  if (!options.per_base.empty() && !model.causal()) {
    throw UsageError("--per-base: model " + model.name() +
                     " is a masked one, whose scores have no part for each base");
  }
  if (!options.per_base.empty() && options.resolver.ref_mismatch == RefMismatch::swap) {
    throw UsageError("--per-base and --ref-mismatch swap exclude each other");
  }
  const int64_t least = least_memory(model, options.job.device);
  if (options.job.memory < least) {
    throw ResourceError("--memory " + human_bytes(options.job.memory) + ": variants and " +
                        model.name() + " need " + human_bytes(least) + " at least");
  }
  if (model.config().rcps && options.job.strand != StrandChoice::both) {
    throw UsageError(std::string("--strand ") + strand_name(options.job.strand) + ": model " +
                     model.name() +
                     " is reverse-complement equivariant: each score has both strands already");
  }
  for (const VariantOutput& output : options.outputs) {
    if (output.kind == VariantOutputKind::hdf5 && !options.saturation) {
      throw UsageError("-o " + output.path +
                       ": HDF5 holds the matrix of --saturate; records go to VCF, BCF or TSV");
    }
  }
  if (!options.saturation && !io::is_read_once(options.variants)) {
    const io::VariantReader header(options.variants);  // cheaper to miss than an index to make
  }
}

// Tells whether two readings saw the same records.
class RecordHash {
 public:
  void add(const io::VariantRecord& record) {
    add(record.contig);
    value_ = (value_ ^ static_cast<uint64_t>(record.position)) * kPrime;
    add(record.ref);
    for (const std::string& alt : record.alts) add(alt);
  }
  bool operator==(const RecordHash& other) const { return value_ == other.value_; }

 private:
  static constexpr uint64_t kPrime = 0x100000001b3;
  void add(const std::string& text) { value_ = (value_ ^ std::hash<std::string>()(text)) * kPrime; }
  uint64_t value_ = 0xcbf29ce484222325;
};

class Job {
 public:
  Job(const VariantsOptions& options, const mamba::Model& model)
      : options_(options),
        model_(model),
        reference_(options.job.input.path, fasta_options(), options.job.note),
        table_(options.embedding_change ? 6 : 2, options.job.memory / 8, scratch()),
        list_(options.job.memory / 8, scratch()) {
    if (options.job.strand != StrandChoice::reverse || model.config().rcps) {
      strands_.push_back(Strand::forward);
    }
    if (options.job.strand != StrandChoice::forward && !model.config().rcps) {
      strands_.push_back(Strand::reverse);
    }
  }

  VariantsResult run() {
    open_variants();
    read_alleles();
    plan();
    {
      const Stopwatch watch(result_.seconds);
      score_alleles();
    }
    write_records();
    return result_;
  }

 private:
  const std::string& scratch() const { return options_.job.input.scratch_folder; }

  io::FastaOptions fasta_options() const {
    io::FastaOptions fasta;
    fasta.iupac_error = options_.job.input.iupac_error;
    fasta.threads = options_.job.input.threads;
    fasta.poll = [stop = options_.job.stop] { throw_if_stopped(stop); };
    return fasta;
  }

  void open_variants() {
    name_ = options_.variants;
    path_ = options_.variants;
    if (options_.saturation) {
      regions_ = saturated_regions(options_.saturation->regions, options_.saturation->regions_bed,
                                   reference_.contigs());
      made_.emplace(scratch() + "/chromamba-saturation.vcf");
      write_saturation(made_->temporary_path(), reference_, regions_, options_.job.stop);
      path_ = made_->temporary_path();
      name_ = "--saturate";
    } else if (io::is_read_once(options_.variants)) {
      if (options_.variants == "-") name_ = "standard input";
      spool_.emplace(scratch(), options_.variants,
                     [stop = options_.job.stop] { throw_if_stopped(stop); });
      path_ = spool_->path();
    }
  }

  io::VariantReader open_reader() const {
    io::VariantReaderOptions reader;
    reader.threads = options_.job.input.threads;
    reader.display_name = name_;
    reader.poll = [stop = options_.job.stop] { throw_if_stopped(stop); };
    return io::VariantReader(path_, reader);
  }

  // The first reading: what there is to score.
  void read_alleles() {
    io::VariantReader reader = open_reader();
    AlleleResolver resolver(reference_, options_.job.input.path, name_, options_.resolver,
                            options_.job.warn);
    const auto samples = static_cast<int64_t>(reader.samples().size());
    io::VariantRecord record;
    io::VariantOrder order;
    while (reader.next(record)) {
      ++result_.records;
      if (options_.write_index) order.check(record, reader.display_name());
      first_reading_.add(record);
      ResolvedRecord resolved = resolver.resolve(record);
      for (ResolvedAllele& allele : resolved.alleles) {
        const int64_t number = table_.size();
        table_.set_status(number, allele.is_reference ? AlleleStatus::reference : allele.status);
        if (allele.status != AlleleStatus::scored || allele.is_reference) continue;
        allele.allele.number = number;
        list_.add(resolved.contig, allele.allele);
        ++result_.scored;
      }
      text_bytes_ +=
          static_cast<int64_t>(record.contig.size() + record.id.size() + record.ref.size()) + 64 +
          12 * samples;
      for (const std::string& alt : record.alts) {
        text_bytes_ += static_cast<int64_t>(alt.size()) + 60;
        allele_bytes_ += static_cast<int64_t>(alt.size() + record.ref.size());
      }
    }
    list_.finish();
    result_.counts = resolver.counts();
    for (const io::VariantWarning& warning : reader.warnings()) warn(warning);
  }

  void warn(const io::VariantWarning& warning) const {
    std::string text = warning.message;
    if (warning.records > 1) text += " (" + with_commas(warning.records) + " records)";
    options_.job.warn(text);
  }

  // Bases that go through the model for the alleles of a contig on one strand.
  int64_t bases_of(int64_t contig, Strand strand) const {
    const int64_t length = reference_.contigs()[static_cast<size_t>(contig)].length;
    const std::unique_ptr<AlleleSource> alleles = list_.alleles(contig, strand);
    const int64_t window = std::min(options_.window, length);
    Allele allele;
    int64_t bases = 0;
    int64_t zero = 0;  // of the pass over the reference under way, and its end
    int64_t end = 0;
    int64_t site = -1;
    while (alleles->next(allele)) {
      const auto alt = static_cast<int64_t>(allele.alt.size());
      const int64_t replaced = allele.end - allele.start;
      if (!model_.causal()) {
        if (alt != 1 || replaced != 1) {
          bases += (alt + replaced) * window;
        } else if (allele.start != site) {
          site = allele.start;
          bases += window;
        }
        continue;
      }
      const int64_t place = strand == Strand::forward ? allele.start : length - allele.end;
      const int64_t right = std::min(options_.right_context, length - place - replaced);
      const int64_t own_zero = zero_state_start(place, options_.job.left_context);
      if (own_zero != zero) {
        bases += end - zero;
        zero = end = own_zero;
      }
      end = std::max(end, place + replaced + right);
      bases += std::max<int64_t>(alt + right - 1, 0);
    }
    return bases + end - zero;
  }

  void plan() {
    int64_t bases = 0;
    for (const ContigLoad& load : list_.contigs()) {
      for (const Strand strand : strands_) bases += bases_of(load.contig, strand);
    }
    std::vector<DiskNeed> needs;
    for (const VariantOutput& output : options_.outputs) {
      if (output.path == "-" || io::is_special_file(output.path)) continue;
      const bool small =
          output.bgzip ||
          (output.kind == VariantOutputKind::records &&
           (output.format == io::VariantFormat::vcf_gz || output.format == io::VariantFormat::bcf));
      const auto strands = static_cast<int64_t>(strands_.size());
      const int64_t matrix = 16 * result_.records * (strands > 1 ? 3 : 1);
      needs.push_back({io::folder_of(output.path), output.kind == VariantOutputKind::hdf5 ? matrix
                                                   : small ? text_bytes_ / 4
                                                           : text_bytes_});
    }
    if (!options_.per_base.empty()) {
      constexpr int64_t kAlleleBytes = 200;  // in the columns that say which allele a row is
      const int64_t columns = table_.size() * kAlleleBytes + allele_bytes_;
      if (columns > options_.job.memory / 4) {
        throw ResourceError("--per-base: the names of " + with_commas(table_.size()) +
                            " alleles take " + human_bytes(columns) +
                            ", more than a quarter of --memory; score fewer records");
      }
      needs.push_back({io::folder_of(options_.per_base),
                       columns + 4 * table_.size() * (options_.right_context + 1) *
                                     static_cast<int64_t>(strands_.size())});
    }
    require_disk(needs);
    make_outputs();
    if (options_.planned) options_.planned(result_.records, result_.scored, bases);
  }

  void make_outputs() {
    reader_.emplace(open_reader());
    context_.emplace(VariantSinkContext{options_, !model_.config().rcps, formula(),
                                        provenance_pairs(), reader_->header(), regions_});
    for (const VariantOutput& output : options_.outputs) {
      std::string path = output.path;
      std::string index;
      if (path != "-") path = files_.emplace_back(path).temporary_path();
      if (options_.write_index && output.kind == VariantOutputKind::records) {
        index = files_.emplace_back(output.path + ".csi").temporary_path();
      }
      sinks_.push_back(make_variant_sink(*context_, output, path, index));
    }
    if (!options_.per_base.empty()) {
      files_.emplace_back(options_.per_base);
      per_base_.emplace(files_.back().temporary_path(), context_->provenance, table_.size(),
                        options_.right_context, strands_);
    }
  }

  std::string formula() const {
    if (!model_.causal()) {
      return "Natural log, negative where the model likes the alternative less: single bases ln "
             "q(ALT) - ln q(REF) with the base masked, q over A C G T; others the sum of ln q over "
             "the bases of ALT, each masked, less that over those of REF; windows of " +
             std::to_string(options_.window) + " bases";
    }
    return "Natural log, negative where the model likes the alternative less: sum of ln p over ALT "
           "and the next " +
           std::to_string(options_.right_context) +
           " reference bases, less the same sum with REF in its place; left context " +
           (options_.job.left_context.full ? "the whole contig"
                                           : std::to_string(options_.job.left_context.bases));
  }

  Provenance provenance_pairs() const {
    auto pairs = provenance(options_.job, model_, name_, "none", "none");
    std::erase_if(pairs, [&](const auto& pair) {
      return pair.first == "layer" || pair.first == "pooling" || pair.first == "right_context" ||
             (pair.first == "left_context" && !model_.causal());
    });
    pairs.emplace_back("reference", options_.job.input.path);
    if (model_.causal()) {
      pairs.emplace_back("right_context", std::to_string(options_.right_context));
    } else {
      pairs.emplace_back("window", std::to_string(options_.window));
    }
    return pairs;
  }

  void score_alleles() {
    AlleleScorerOptions scorer_options;
    scorer_options.left_context = options_.job.left_context;
    scorer_options.right_context = options_.right_context;
    scorer_options.window = options_.window;
    scorer_options.embedding_change = options_.embedding_change;
    scorer_options.embedding_radius = options_.embedding_radius;
    scorer_options.per_base = per_base_.has_value();
    scorer_options.longest = options_.resolver.longest;
    scorer_options.threads = options_.job.threads;
    scorer_options.chunk_size = options_.job.chunk_size;
    scorer_options.memory = scorer_memory(options_.job, model_);
    scorer_options.stop = options_.job.stop;
    scorer_options.bases_done = options_.job.bases_done;
    if (list_.contigs().empty()) return;
    const std::unique_ptr<AlleleScorer> scorer =
        model_.causal() ? make_causal_scorer(model_, options_.job.device, scorer_options)
                        : make_masked_scorer(model_, options_.job.device, scorer_options);
    for (const ContigLoad& load : list_.contigs()) {
      const io::ContigInfo& info = reference_.contigs()[static_cast<size_t>(load.contig)];
      IndexedBases bases(reference_, info.name);
      for (const Strand strand : strands_) {
        const std::unique_ptr<AlleleSource> alleles = list_.alleles(load.contig, strand);
        const int at = strand == Strand::forward ? 0 : 1;
        scorer->score({info.name, info.length, &bases}, strand, *alleles,
                      [&](const StrandScore& score) {
                        table_.set(score.number, kLlr + at, static_cast<float>(score.llr));
                        if (options_.embedding_change) {
                          table_.set(score.number, kCosine + at, score.cosine_change);
                          table_.set(score.number, kL2 + at, score.l2_change);
                        }
                        if (per_base_) per_base_->add(strand, score);
                      });
      }
    }
    result_.device_peak_bytes = scorer->device_peak_bytes();
  }

  // A column's values for the strands that were read, and their mean.
  struct Values {
    float forward = std::nanf("");
    float reverse = std::nanf("");

    float mean(size_t strands) const {
      if (strands == 2) return static_cast<float>((double{forward} + double{reverse}) / 2);
      return std::isnan(forward) ? reverse : forward;
    }
  };

  Values values(int64_t number, Column column) {
    Values values;
    if (table_.status(number) == AlleleStatus::reference) {
      values.forward = values.reverse = 0;
      return values;
    }
    for (const Strand strand : strands_) {
      (strand == Strand::forward ? values.forward : values.reverse) =
          table_.get(number, column + (strand == Strand::forward ? 0 : 1));
    }
    return values;
  }

  // `ref`: the number of a swapped record's REF, which then is no base of the reference's; else -1.
  AlleleResult result_of(int64_t number, int64_t ref) {
    AlleleResult result;
    result.status = table_.status(number);
    if (result.status == AlleleStatus::reference) result.status = AlleleStatus::scored;
    Values llr = values(number, kLlr);
    if (ref >= 0) {
      const Values other = values(ref, kLlr);
      llr.forward -= other.forward;
      llr.reverse -= other.reverse;
    }
    result.llr = llr.mean(strands_.size());
    result.forward = llr.forward;
    result.reverse = llr.reverse;
    // Distances from the reference: of a swapped record's ALTs only that which is the reference has one from REF.
    if (table_.status(number) == AlleleStatus::reference) number = ref;
    if (options_.embedding_change && (ref < 0 || number == ref)) {
      result.cosine_change = values(number, kCosine).mean(strands_.size());
      result.l2_change = values(number, kL2).mean(strands_.size());
    }
    return result;
  }

  // The second reading: every record with its scores.
  void write_records() {
    io::VariantRecord record;
    std::vector<AlleleResult> results;
    RecordHash second;
    int64_t number = 0;
    while (reader_->next(record)) {
      second.add(record);
      const auto alts = static_cast<int64_t>(record.alts.size());
      if (number + alts > table_.size()) throw_changed();
      // A swapped record has one number more: its REF, which is no base of the reference's.
      bool swapped = false;
      for (int64_t i = 0; i < alts; ++i) {
        swapped = swapped || table_.status(number + i) == AlleleStatus::reference;
      }
      results.clear();
      for (int64_t i = 0; i < alts; ++i) {
        results.push_back(result_of(number + i, swapped ? number + alts : -1));
        if (per_base_) per_base_->add_allele(record, record.alts[static_cast<size_t>(i)]);
      }
      number += alts + (swapped ? 1 : 0);
      for (const std::unique_ptr<VariantSink>& sink : sinks_) sink->add(record, results);
    }
    if (number != table_.size() || !(second == first_reading_)) throw_changed();
    for (const std::unique_ptr<VariantSink>& sink : sinks_) {
      sink->finish();
      for (const io::VariantWarning& warning : sink->warnings()) warn(warning);
    }
    if (per_base_) per_base_->finish();
    throw_if_stopped(options_.job.stop);
    for (io::PendingFile& file : files_) file.sync();
    for (io::PendingFile& file : files_) file.commit();
  }

  [[noreturn]] void throw_changed() const {
    throw DataError(name_ +
                    ": has other records than at the first reading: the file changed "
                    "meanwhile");
  }

  const VariantsOptions& options_;
  const mamba::Model& model_;
  io::FastaIndex reference_;
  std::vector<Strand> strands_;
  std::string name_;  // of the variants, for messages
  std::string path_;  // to read them from
  std::optional<io::InputSpool> spool_;
  std::optional<io::PendingFile> made_;  // records of a saturation; never committed
  std::vector<io::Region> regions_;
  ScoreTable table_;
  AlleleList list_;
  RecordHash first_reading_;
  int64_t allele_bytes_ = 0;                 // letters of REF and ALT, of each allele
  int64_t text_bytes_ = 0;                   // of the records with their scores, about
  std::optional<io::VariantReader> reader_;  // of the second reading
  std::optional<VariantSinkContext> context_;
  std::vector<io::PendingFile> files_;
  std::vector<std::unique_ptr<VariantSink>> sinks_;
  std::optional<PerBaseFile> per_base_;
  VariantsResult result_;
};

}  // namespace

VariantOutput parse_variant_output(const std::string& path, const std::string& type) {
  using Format = io::VariantFormat;
  struct Kind {
    const char* suffix;
    const char* letter;  // bcftools' -O
    VariantOutputKind kind;
    Format format;
    bool bgzip;
  };
  static constexpr Kind kKinds[] = {
      {"vcf", "v", VariantOutputKind::records, Format::vcf, false},
      {"vcf.gz", "z", VariantOutputKind::records, Format::vcf_gz, true},
      {"vcf.bgz", "", VariantOutputKind::records, Format::vcf_gz, true},
      {"bcf", "b", VariantOutputKind::records, Format::bcf, true},
      {"", "u", VariantOutputKind::records, Format::bcf_uncompressed, false},
      {"tsv", "tsv", VariantOutputKind::table, Format::vcf, false},
      {"tsv.gz", "tsv.gz", VariantOutputKind::table, Format::vcf, true},
      {"h5", "h5", VariantOutputKind::hdf5, Format::vcf, false},
      {"hdf5", "hdf5", VariantOutputKind::hdf5, Format::vcf, false}};
  for (const Kind& kind : kKinds) {
    const std::string suffix = kind.suffix;
    const bool matches = type.empty() ? !suffix.empty() && ends_with(path, "." + suffix)
                                      : type == suffix || type == kind.letter;
    if (!matches) continue;
    if (path == "-" && kind.kind == VariantOutputKind::hdf5) {
      throw UsageError("-o -: HDF5 cannot go to standard output");
    }
    return {path, kind.kind, kind.format, kind.bgzip};
  }
  if (path == "-" && type.empty()) return {path, VariantOutputKind::records, Format::vcf, false};
  throw UsageError((type.empty() ? "-o " + path + ": the suffix names no format"
                                 : "-O " + type + ": not a format") +
                   "; use .vcf, .vcf.gz, .bcf, .tsv[.gz] or, with --saturate, .h5, or -O "
                   "v|z|b|u|tsv|tsv.gz|h5");
}

VariantsResult run_variants(const VariantsOptions& options, const mamba::Model& model) {
  require_options(options, model);
  return Job(options, model).run();
}

}  // namespace chromamba::pipelines
