#include "pipelines/embed.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "kernels/base/half.h"
#include "pipelines/passes.h"

namespace chromamba::pipelines {
namespace {

// Largest finite binary16.
constexpr float kMaxF16 = 65504.0F;

// Means of one region that wait for their neighbours to be written together.
struct RegionRows {
  std::vector<float> finished;  // [k, D] consecutive rows, in the order of the strand
  int64_t finished_first = 0;   // the lowest of them
  int64_t finished_count = 0;
};

class EmbedWriter {
 public:
  EmbedWriter(const EmbedOptions& options, const mamba::Model& model, const GenomeInput& input,
              const Passes& passes, const std::string& path)
      : options_(options),
        input_(input),
        width_(passes.hidden_width()),
        two_strands_(passes.two_strands()),
        model_name_(model.name()),
        file_(io::Hdf5File::create(path)) {
    created_.resize(input.regions().size());
    repeated_.resize(input.regions().size());
    const std::string layer =
        options.layer == mamba::kFinalLayer ? "final" : std::to_string(options.layer);
    write_provenance(file_, provenance(options.job, model, input.name(), layer,
                                       options.pooling == Pooling::mean ? "mean" : "none"));
    if (options.pooling == Pooling::mean) {
      for (const char* group : groups()) {
        file_.create_dataset(group, static_cast<int64_t>(input.regions().size()), width_,
                             options.type, options.deflate_level);
        file_.set_attribute(group, "strand", strand_of(group));
      }
      write_region_columns(file_, input.regions(), options.job.strand);
    }
  }

  void consume(const Part& part) {
    for (const PooledRow& row : part.pooled) add_mean(*part.pass, row);
    if (part.hidden_LD == nullptr) return;
    for_each_overlap(part, [&](const Segment& segment) {
      const int64_t start = std::max(segment.start, part.start);
      const int64_t end = std::min(segment.end, part.start + part.length);
      write(static_cast<size_t>(segment.region), part.pass->strand, start - segment.start,
            end - start, part.hidden_LD + (start - part.start) * width_);
    });
  }

  void finish() {
    for (size_t region = 0; region < created_.size(); ++region) create(region);
    file_.close();
  }

  int64_t overflowed() const { return overflowed_; }

 private:
  static constexpr const char* kMain = "/embedding";
  static constexpr const char* kForward = "/embedding_forward";
  static constexpr const char* kReverse = "/embedding_reverse";
  static constexpr int64_t kFlushRows = 4096;

  // One dataset for each strand beside their mean.
  bool shows_strands() const { return two_strands_ && options_.job.strand == StrandChoice::both; }

  std::vector<const char*> groups() const {
    if (shows_strands()) return {kMain, kForward, kReverse};
    return {kMain};
  }

  const char* strand_of(const std::string& group) const {
    if (group == kForward) return "forward";
    if (group == kReverse) return "reverse";
    return strand_name(options_.job.strand);
  }

  int64_t rows_of(const io::Region& region) const {
    return (region.end - region.start + options_.bin - 1) / options_.bin;
  }

  std::string path(const char* group, size_t region) const {
    if (options_.pooling == Pooling::mean) return group;
    return std::string(group) + "/" +
           io::hdf5_link_name(region_label(input_.regions()[region], input_.whole_contigs()));
  }

  void create(size_t index) {
    if (created_[index] || options_.pooling == Pooling::mean) return;
    created_[index] = true;
    const io::Region& region = input_.regions()[index];
    for (const char* group : groups()) {
      const std::string name = path(group, index);
      if (file_.exists(name)) {  // the same region twice: one dataset holds both
        repeated_[index] = true;
        continue;
      }
      file_.create_dataset(name, rows_of(region), width_, options_.type, options_.deflate_level);
      file_.set_attribute(name, "contig", region.contig);
      file_.set_attribute(name, "start", region.start);
      file_.set_attribute(name, "end", region.end);
      file_.set_attribute(name, "bin", options_.bin);
      file_.set_attribute(name, "strand", strand_of(group));
    }
  }

  void add_mean(const Pass& pass, const PooledRow& row) {
    const int64_t region = pass.segments[static_cast<size_t>(row.at.segment)].region;
    RegionRows& open = open_[region];
    if (open.finished_count >= kFlushRows) flush(open, static_cast<size_t>(region), pass.strand);
    if (open.finished_count == 0 || pass.strand == Strand::reverse) {
      open.finished_first = options_.pooling == Pooling::mean ? region : row.at.row;
    }
    open.finished.insert(open.finished.end(), row.mean_D, row.mean_D + width_);
    ++open.finished_count;
    if (!row.at.last) return;
    flush(open, static_cast<size_t>(region), pass.strand);
    open_.erase(region);
  }

  void flush(RegionRows& open, size_t region, Strand strand) {
    if (open.finished_count == 0) return;
    if (strand == Strand::reverse) {  // rows came in descending order
      for (int64_t i = 0, j = open.finished_count - 1; i < j; ++i, --j) {
        std::swap_ranges(open.finished.begin() + i * width_,
                         open.finished.begin() + (i + 1) * width_,
                         open.finished.begin() + j * width_);
      }
    }
    write(region, strand, open.finished_first, open.finished_count, open.finished.data());
    open.finished.clear();
    open.finished_count = 0;
  }

  void write(size_t region, Strand strand, int64_t first_row, int64_t n, const float* rows) {
    create(region);
    if (!std::all_of(rows, rows + n * width_, [](float value) { return std::isfinite(value); })) {
      throw DataError("model " + model_name_ + ": embeddings of " +
                      region_label(input_.regions()[region], input_.whole_contigs()) +
                      " are not finite: its weights overflow 32-bit floats");
    }
    if (options_.type == io::FloatType::f16) {
      overflowed_ += std::count_if(rows, rows + n * width_,
                                   [](float value) { return std::fabs(value) > kMaxF16; });
    }
    if (!two_strands_) {
      file_.write_rows(path(kMain, region), first_row, n, rows);
      return;
    }
    // The reverse strand of a contig is read first, so its rows are in the file by now. The mean is
    // that of the values as stored, so that a reader can recompute it.
    if (shows_strands()) {
      file_.write_rows(path(strand == Strand::reverse ? kReverse : kForward, region), first_row, n,
                       rows);
      if (strand == Strand::forward) write_mean(path(kReverse, region), region, first_row, n, rows);
      return;
    }
    // Without a dataset of its own it waits where the mean will be.
    if (repeated_[region]) return;
    if (strand == Strand::reverse) {
      file_.write_rows(path(kMain, region), first_row, n, rows);
    } else {
      write_mean(path(kMain, region), region, first_row, n, rows);
    }
  }

  float as_stored(float value) const {
    return options_.type == io::FloatType::f16 ? f16_to_f32(f32_to_f16(value)) : value;
  }

  void write_mean(const std::string& reverse, size_t region, int64_t first_row, int64_t n,
                  const float* forward) {
    mean_.resize(static_cast<size_t>(n * width_));
    file_.read_rows(reverse, first_row, n, mean_.data());
    for (size_t i = 0; i < mean_.size(); ++i) mean_[i] = 0.5F * (mean_[i] + as_stored(forward[i]));
    file_.write_rows(path(kMain, region), first_row, n, mean_.data());
  }

  const EmbedOptions& options_;
  const GenomeInput& input_;
  int64_t width_;
  bool two_strands_;
  std::string model_name_;
  io::Hdf5File file_;
  std::vector<bool> created_;
  std::vector<bool> repeated_;
  std::map<int64_t, RegionRows> open_;
  std::vector<float> mean_;
  int64_t overflowed_ = 0;
};

}  // namespace

EmbedResult run_embed(const EmbedOptions& options, const mamba::Model& model, GenomeInput& input) {
  const int64_t n_layer = model.config().n_layer;
  if (options.layer != mamba::kFinalLayer && (options.layer < 0 || options.layer > n_layer)) {
    throw UsageError("--layer " + std::to_string(options.layer) + ": model " + model.name() +
                     " has layers 0 (the token embedding) to " + std::to_string(n_layer) +
                     ", and 'final' after the last norm");
  }
  EmbedResult result;
  for (const io::Region& region : input.regions()) {
    result.rows += options.pooling == Pooling::mean
                       ? 1
                       : (region.end - region.start + options.bin - 1) / options.bin;
  }
  PassWanted wanted;
  wanted.layer = options.layer;
  wanted.bin = options.pooling == Pooling::mean ? kWholeSegment : options.bin;
  Passes passes(options.job, model, input, wanted);

  const int64_t value_bytes = options.type == io::FloatType::f16 ? 2 : 4;
  const int64_t datasets = passes.two_strands() && options.job.strand == StrandChoice::both ? 3 : 1;
  const int64_t bytes = result.rows * passes.hidden_width() * value_bytes * datasets + (1 << 16);
  require_disk({{io::folder_of(options.output), bytes}, passes.scratch()});

  io::PendingFile file(options.output);
  EmbedWriter writer(options, model, input, passes, file.temporary_path());
  if (options.job.note) {
    options.job.note("embedding " + with_commas(result.rows) + " rows of " +
                     std::to_string(passes.hidden_width()) + ": " + human_bytes(bytes) +
                     (options.deflate_level > 0 ? " before compression" : ""));
  }
  result.stats = passes.run([&](const Part& part) { writer.consume(part); });
  throw_if_stopped(options.job.stop);
  writer.finish();
  file.commit();
  result.overflowed = writer.overflowed();
  return result;
}

}  // namespace chromamba::pipelines
