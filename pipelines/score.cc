#include "pipelines/score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <unordered_map>

#include "io/bedgraph.h"
#include "io/bigwig.h"
#include "io/hdf5_file.h"
#include "io/pending_file.h"
#include "io/table.h"
#include "kernels/base/error.h"
#include "pipelines/passes.h"

namespace chromamba::pipelines {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Values of consecutive bases of a region. `main` is what single-valued formats get: the strand that
// was asked for, or the mean of both. The others are null unless both strands are scored.
struct Values {
  const float* main = nullptr;
  const float* forward = nullptr;
  const float* reverse = nullptr;
};

// One output file.
class Sink {
 public:
  virtual ~Sink() = default;
  // Bases [start, start + n) of a region, ascending within it.
  virtual void add(size_t region, int64_t start, int64_t n, const Values& values) = 0;
  // All values are in. After this the file is whole, under its temporary name.
  virtual void finish(const ScoreResult& result) = 0;
};

struct SinkContext {
  const ScoreOptions& options;
  const GenomeInput& input;
  std::vector<std::pair<std::string, std::string>> provenance;
};

class BedGraphSink : public Sink {
 public:
  BedGraphSink(const SinkContext& context, const ScoreOutput& output, const std::string& path)
      : input_(context.input), writer_(path, output.bgzip, provenance_lines(context.provenance)) {}
  void add(size_t region, int64_t start, int64_t n, const Values& values) override {
    writer_.add(input_.regions()[region].contig, start, values.main, n);
  }
  void finish(const ScoreResult&) override { writer_.close(); }

 private:
  const GenomeInput& input_;
  io::BedGraphWriter writer_;
};

class BigWigSink : public Sink {
 public:
  BigWigSink(const SinkContext& context, const std::string& path)
      : input_(context.input), writer_(path, context.input.contigs()) {}
  void add(size_t region, int64_t start, int64_t n, const Values& values) override {
    writer_.add(input_.regions()[region].contig, start, values.main, n);
  }
  void finish(const ScoreResult&) override { writer_.close(); }

 private:
  const GenomeInput& input_;
  io::BigWigWriter writer_;
};

class TableSink : public Sink {
 public:
  TableSink(const SinkContext& context, const ScoreOutput& output, const std::string& path)
      : options_(context.options),
        input_(context.input),
        writer_(path, output.bgzip, provenance_lines(context.provenance),
                {"contig", "start", "end", "name", "strand", "length", "scored", "mean_ln_p",
                 "perplexity", "bits_per_base"}) {}
  void add(size_t, int64_t, int64_t, const Values&) override {}
  void finish(const ScoreResult& result) override {
    const StrandChoice strand = options_.job.strand;
    for (size_t r = 0; r < result.regions.size(); ++r) {
      const RegionSummary& summary = result.regions[r];
      if (strand == StrandChoice::mean) {
        row(r, "mean", summary.mean);
        continue;
      }
      if (strand != StrandChoice::reverse) row(r, "forward", summary.forward);
      if (strand != StrandChoice::forward) row(r, "reverse", summary.reverse);
      if (strand == StrandChoice::both) row(r, "both", summary.mean);
    }
    writer_.close();
  }

 private:
  void row(size_t r, const char* strand, const StrandSummary& summary) {
    const io::Region& region = input_.regions()[r];
    writer_.row({region.contig, std::to_string(region.start), std::to_string(region.end),
                 region.name.empty() ? "." : region.name, strand,
                 std::to_string(region.end - region.start), std::to_string(summary.scored),
                 io::format_fixed(summary.mean()), io::format_fixed(summary.perplexity()),
                 io::format_fixed(summary.bits_per_base())});
  }

  const ScoreOptions& options_;
  const GenomeInput& input_;
  io::TableWriter writer_;
};

class Hdf5Sink : public Sink {
 public:
  Hdf5Sink(const SinkContext& context, const std::string& path)
      : options_(context.options), input_(context.input), file_(io::Hdf5File::create(path)) {
    write_provenance(file_, context.provenance);
    created_.resize(input_.regions().size());
  }

  void add(size_t region, int64_t start, int64_t n, const Values& values) override {
    create(region);
    const int64_t row = start - input_.regions()[region].start;
    write(kMain, region, row, n, values.main);
    if (options_.job.strand == StrandChoice::both) {
      write(kForward, region, row, n, values.forward);
      write(kReverse, region, row, n, values.reverse);
    }
  }

  void finish(const ScoreResult&) override {
    // Contigs without bases get their empty datasets too: nothing is lost.
    for (size_t region = 0; region < created_.size(); ++region) create(region);
    if (!input_.whole_contigs()) write_region_columns(file_, input_.regions(), options_.job.strand);
    file_.close();
  }

 private:
  static constexpr const char* kMain = "/log_likelihood";
  static constexpr const char* kForward = "/log_likelihood_forward";
  static constexpr const char* kReverse = "/log_likelihood_reverse";

  std::vector<const char*> groups() const {
    if (options_.job.strand == StrandChoice::both) return {kMain, kForward, kReverse};
    return {kMain};
  }

  std::string path(const char* group, size_t region) const {
    return std::string(group) + "/" +
           io::hdf5_link_name(region_label(input_.regions()[region], input_.whole_contigs()));
  }

  void create(size_t index) {
    if (created_[index]) return;
    created_[index] = true;
    const io::Region& region = input_.regions()[index];
    for (const char* group : groups()) {
      const std::string name = path(group, index);
      if (file_.exists(name)) continue;  // the same region twice: one dataset holds both
      file_.create_dataset(name, region.end - region.start, 0, io::FloatType::f32,
                           options_.deflate_level);
      file_.set_attribute(name, "contig", region.contig);
      file_.set_attribute(name, "start", region.start);
      file_.set_attribute(name, "end", region.end);
      file_.set_attribute(name, "bin", int64_t{1});
      file_.set_attribute(name, "strand",
                          std::string(group) == kForward   ? "forward"
                          : std::string(group) == kReverse ? "reverse"
                                                           : strand_name(options_.job.strand));
    }
  }

  void write(const char* group, size_t region, int64_t row, int64_t n, const float* values) {
    file_.write_rows(path(group, region), row, n, values);
  }

  const ScoreOptions& options_;
  const GenomeInput& input_;
  io::Hdf5File file_;
  std::vector<bool> created_;
};

std::unique_ptr<Sink> make_sink(const SinkContext& context, const ScoreOutput& output,
                                const std::string& path) {
  switch (output.format) {
    case ScoreFormat::hdf5:
      return std::make_unique<Hdf5Sink>(context, path);
    case ScoreFormat::bigwig:
      return std::make_unique<BigWigSink>(context, path);
    case ScoreFormat::bedgraph:
      return std::make_unique<BedGraphSink>(context, output, path);
    case ScoreFormat::table:
      return std::make_unique<TableSink>(context, output, path);
  }
  throw InternalError("unknown score format");
}

void accumulate(StrandSummary& summary, const float* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(values[i])) continue;
    ++summary.scored;
    summary.sum_log_p += static_cast<double>(values[i]);
  }
}

void add_summary(StrandSummary& to, const StrandSummary& from) {
  to.scored += from.scored;
  to.sum_log_p += from.sum_log_p;
}

// Takes the parts of all passes and hands every region's values to the sinks, ascending. Values of
// the reverse strand arrive from the end of a contig to its start, so they wait in a scratch file
// (4 bytes a base) until the contig's reverse passes are done.
class Collector {
 public:
  Collector(const ScoreOptions& options, const GenomeInput& input,
            std::vector<std::unique_ptr<Sink>>& sinks, ScoreResult& result)
      : strand_(options.job.strand), input_(input), sinks_(sinks), result_(result) {
    result_.regions.resize(input.regions().size());
    if (strand_ == StrandChoice::forward) return;
    scratch_.emplace(options.job.input.scratch_folder);
    // Regions of one contig lie one after the other in the scratch; each contig starts it afresh.
    offsets_.resize(input.regions().size());
    for (size_t r = 0; r < offsets_.size(); ++r) {
      const io::Region& region = input.regions()[r];
      int64_t& end = contig_bytes_[region.contig];
      offsets_[r] = end;
      end += 4 * (region.end - region.start);
    }
  }

  void consume(const Part& part) {
    if (part.first) begin_pass(*part.pass);
    for_each_overlap(part, [&](const Segment& segment) {
      const int64_t start = std::max(segment.start, part.start);
      const int64_t end = std::min(segment.end, part.start + part.length);
      const float* values = part.log_likelihood + (start - part.start);
      const auto region = static_cast<size_t>(segment.region);
      if (part.pass->strand == Strand::reverse) {
        scratch_->write(scratch_offset(region, start), values, 4 * (end - start));
        waiting_.push_back(region);
      } else {
        emit_forward(region, start, end - start, values);
      }
    });
  }

  void finish() { emit_reverse(); }

 private:
  int64_t scratch_offset(size_t region, int64_t start) const {
    return offsets_[region] + 4 * (start - input_.regions()[region].start);
  }

  void begin_pass(const Pass& pass) {
    if (pass.contig == contig_) return;
    emit_reverse();
    contig_ = pass.contig;
  }

  // With the reverse strand alone: the regions of the contig that is done, in the order of position.
  void emit_reverse() {
    if (reads_both(strand_)) waiting_.clear();
    std::sort(waiting_.begin(), waiting_.end(), [&](size_t a, size_t b) {
      const int64_t start_a = input_.regions()[a].start;
      const int64_t start_b = input_.regions()[b].start;
      return start_a != start_b ? start_a < start_b : a < b;
    });
    waiting_.erase(std::unique(waiting_.begin(), waiting_.end()), waiting_.end());
    constexpr int64_t kBlock = 65536;
    for (const size_t r : waiting_) {
      const io::Region& region = input_.regions()[r];
      for (int64_t start = region.start; start < region.end; start += kBlock) {
        const int64_t n = std::min(kBlock, region.end - start);
        reverse_.resize(static_cast<size_t>(n));
        scratch_->read(scratch_offset(r, start), reverse_.data(), 4 * n);
        accumulate(result_.regions[r].reverse, reverse_.data(), n);
        for (const std::unique_ptr<Sink>& sink : sinks_) {
          sink->add(r, start, n, {.main = reverse_.data()});
        }
      }
    }
    waiting_.clear();
  }

  void emit_forward(size_t region, int64_t start, int64_t n, const float* forward) {
    RegionSummary& summary = result_.regions[region];
    accumulate(summary.forward, forward, n);
    Values values{.main = forward};
    if (reads_both(strand_)) {
      reverse_.resize(static_cast<size_t>(n));
      mean_.resize(static_cast<size_t>(n));
      scratch_->read(scratch_offset(region, start), reverse_.data(), 4 * n);
      for (int64_t i = 0; i < n; ++i) {
        const float reverse = reverse_[static_cast<size_t>(i)];
        // NaN on either strand is NaN: half a mean would be another quantity.
        mean_[static_cast<size_t>(i)] =
            std::isnan(forward[i]) || std::isnan(reverse) ? kNaN : 0.5F * (forward[i] + reverse);
      }
      accumulate(summary.reverse, reverse_.data(), n);
      accumulate(summary.mean, mean_.data(), n);
      values = {.main = mean_.data(), .forward = forward, .reverse = reverse_.data()};
    }
    for (const std::unique_ptr<Sink>& sink : sinks_) sink->add(region, start, n, values);
  }

  StrandChoice strand_;
  const GenomeInput& input_;
  std::vector<std::unique_ptr<Sink>>& sinks_;
  ScoreResult& result_;
  std::optional<io::ScratchFile> scratch_;
  std::vector<int64_t> offsets_;  // bytes, by region
  std::unordered_map<std::string, int64_t> contig_bytes_;
  std::string contig_;
  std::vector<size_t> waiting_;  // regions with values in the scratch, with repeats
  std::vector<float> reverse_;
  std::vector<float> mean_;
};

// Bytes an output will take, generously.
int64_t output_bytes(const ScoreOutput& output, const ScoreOptions& options,
                     const GenomeInput& input) {
  const int64_t bases = input.bases_wanted();
  switch (output.format) {
    case ScoreFormat::hdf5:
      return bases * 4 * (options.job.strand == StrandChoice::both ? 3 : 1) + (1 << 16) +
             4096 * static_cast<int64_t>(input.regions().size());
    case ScoreFormat::bigwig:
      return bases * 9 / 2 + (1 << 16);
    case ScoreFormat::bedgraph: {
      int64_t bytes = 0;
      for (const io::Region& region : input.regions()) {
        const auto digits = static_cast<int64_t>(std::to_string(region.end).size());
        bytes += (region.end - region.start) *
                 (static_cast<int64_t>(region.contig.size()) + 2 * digits + 14);
      }
      return output.bgzip ? bytes / 3 : bytes;
    }
    case ScoreFormat::table:
      return 200 * static_cast<int64_t>(input.regions().size());
  }
  throw InternalError("unknown score format");
}

void check_disk(const ScoreOptions& options, const GenomeInput& input, const Passes& passes) {
  std::vector<DiskNeed> needs;
  for (const ScoreOutput& output : options.outputs) {
    if (output.path == "-" || io::is_special_file(output.path)) continue;
    needs.push_back({io::folder_of(output.path), output_bytes(output, options, input)});
  }
  if (options.job.strand != StrandChoice::forward) {
    std::unordered_map<std::string, int64_t> contig_bases;
    int64_t most = 0;
    for (const io::Region& region : input.regions()) {
      most = std::max(most, contig_bases[region.contig] += region.end - region.start);
    }
    needs.push_back({options.job.input.scratch_folder, 4 * most});
  }
  needs.push_back(passes.scratch());
  require_disk(needs);
}

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}  // namespace

double StrandSummary::mean() const {
  return scored == 0 ? std::numeric_limits<double>::quiet_NaN()
                     : sum_log_p / static_cast<double>(scored);
}

double StrandSummary::perplexity() const { return std::exp(-mean()); }

double StrandSummary::bits_per_base() const { return -mean() / std::log(2.0); }

ScoreOutput parse_score_output(const std::string& path, const std::string& type) {
  struct Suffix {
    const char* text;
    ScoreFormat format;
    bool is_text;
  };
  static constexpr Suffix kSuffixes[] = {
      {"h5", ScoreFormat::hdf5, false},          {"hdf5", ScoreFormat::hdf5, false},
      {"bw", ScoreFormat::bigwig, false},        {"bigwig", ScoreFormat::bigwig, false},
      {"bigWig", ScoreFormat::bigwig, false},    {"bedgraph", ScoreFormat::bedgraph, true},
      {"bedGraph", ScoreFormat::bedgraph, true}, {"bdg", ScoreFormat::bedgraph, true},
      {"bg", ScoreFormat::bedgraph, true},       {"tsv", ScoreFormat::table, true}};
  ScoreOutput output;
  output.path = path;
  for (const Suffix& suffix : kSuffixes) {
    const std::string plain = suffix.text;
    const bool matches = type.empty() ? ends_with(path, "." + plain) : type == plain;
    const bool matches_gz = suffix.is_text && (type.empty() ? ends_with(path, "." + plain + ".gz")
                                                            : type == plain + ".gz");
    if (!matches && !matches_gz) continue;
    output.format = suffix.format;
    output.bgzip = matches_gz || (suffix.is_text && ends_with(path, ".gz"));
    if (path == "-" && !suffix.is_text) {
      throw UsageError("-o -: " + plain + " cannot go to standard output (bedgraph and tsv can)");
    }
    return output;
  }
  if (path == "-" && type.empty()) {
    output.format = ScoreFormat::table;
    return output;
  }
  throw UsageError((type.empty() ? "-o " + path + ": the suffix names no format"
                                 : "-O " + type + ": not a format") +
                   "; use .h5, .bw, .bedgraph[.gz] or .tsv[.gz], or -O h5|bw|bedgraph|tsv");
}

ScoreResult run_score(const ScoreOptions& options, const mamba::Model& model, GenomeInput& input) {
  PassWanted wanted;
  wanted.log_likelihood = true;
  wanted.mask_stride = options.mask_stride;
  Passes passes(options.job, model, input, wanted);
  for (const ScoreOutput& output : options.outputs) {
    const bool track =
        output.format == ScoreFormat::bigwig || output.format == ScoreFormat::bedgraph;
    if (track && !input.whole_contigs()) require_disjoint(input.regions(), output.path);
  }
  check_disk(options, input, passes);

  SinkContext context{options, input, provenance(options.job, model, input.name(), "none", "none")};
  if (!model.causal()) {
    context.provenance.emplace_back("mask_stride", std::to_string(options.mask_stride.value_or(0)));
  }
  std::vector<io::PendingFile> files;
  std::vector<std::unique_ptr<Sink>> sinks;
  for (const ScoreOutput& output : options.outputs) {
    std::string path = output.path;
    if (path != "-") path = files.emplace_back(path).temporary_path();
    sinks.push_back(make_sink(context, output, path));
  }

  ScoreResult result;
  Collector collector(options, input, sinks, result);
  result.stats = passes.run([&](const Part& part) { collector.consume(part); });
  collector.finish();
  throw_if_stopped(options.job.stop);
  for (const RegionSummary& region : result.regions) {
    add_summary(result.total.forward, region.forward);
    add_summary(result.total.reverse, region.reverse);
    add_summary(result.total.mean, region.mean);
  }
  for (const std::unique_ptr<Sink>& sink : sinks) sink->finish(result);
  for (io::PendingFile& file : files) file.sync();  // what can fail, before the first name appears
  for (io::PendingFile& file : files) file.commit();
  return result;
}

}  // namespace chromamba::pipelines
