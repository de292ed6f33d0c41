#include "pipelines/variant_outputs.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "io/hdf5_file.h"
#include "io/table.h"
#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// One number of a result, as records and tables name it.
struct Field {
  std::string id;      // in INFO
  std::string column;  // in a table
  std::string description;
  float AlleleResult::*value;
};

std::vector<Field> fields_of(const VariantSinkContext& context) {
  const bool both = context.options.job.strand == StrandChoice::both && context.strands;
  const std::string strands = both ? ", mean of both strands" : "";
  std::vector<Field> fields = {{"CM_LLR", "llr", context.formula + strands, &AlleleResult::llr}};
  if (context.strands && context.options.job.strand != StrandChoice::reverse) {
    fields.push_back(
        {"CM_LLR_FWD", "llr_fwd", "CM_LLR of the forward strand", &AlleleResult::forward});
  }
  if (context.strands && context.options.job.strand != StrandChoice::forward) {
    fields.push_back(
        {"CM_LLR_REV", "llr_rev", "CM_LLR of the reverse complement", &AlleleResult::reverse});
  }
  if (context.options.embedding_change) {
    const std::string where =
        " of the mean embeddings of the alternative and the reference allele and " +
        std::to_string(context.options.embedding_radius) + " bases on both sides" + strands;
    fields.push_back({"CM_EMB_COS", "emb_cos", "1 - cosine" + where, &AlleleResult::cosine_change});
    fields.push_back(
        {"CM_EMB_L2", "emb_l2", "Euclidean distance" + where, &AlleleResult::l2_change});
  }
  return fields;
}

class RecordSink : public VariantSink {
 public:
  RecordSink(const VariantSinkContext& context, const VariantOutput& output,
             const std::string& path, const std::string& index_path)
      : fields_(fields_of(context)), writer_(make(context, output, path, index_path)) {}

  void add(const io::VariantRecord& record, std::span<const AlleleResult> results) override {
    values_.resize(fields_.size() + 1);
    for (size_t f = 0; f < fields_.size(); ++f) {
      std::vector<float>& numbers = values_[f].numbers;
      numbers.clear();
      bool any = false;
      for (const AlleleResult& result : results) {
        numbers.push_back(result.*fields_[f].value);
        any = any || !std::isnan(numbers.back());
      }
      if (!any) numbers.clear();
    }
    std::vector<std::string>& texts = values_.back().texts;
    texts.clear();
    bool any = false;
    for (const AlleleResult& result : results) {
      texts.emplace_back(status_name(result.status));
      any = any || !texts.back().empty();
    }
    if (!any) texts.clear();
    writer_.write(record, values_);
  }
  void finish() override { writer_.close(); }
  std::vector<io::VariantWarning> warnings() const override { return writer_.warnings(); }

 private:
  io::VariantWriter make(const VariantSinkContext& context, const VariantOutput& output,
                         const std::string& path, const std::string& index_path) const {
    using Info = io::VariantInfo;
    io::VariantWriterOptions options;
    options.format = output.format;
    for (const Field& field : fields_) {
      options.info.push_back({field.id, "A", Info::Type::number, field.description});
    }
    options.info.push_back({"CM_STATUS", "A", Info::Type::text,
                            "Why an alternative allele has no score: NO_CONTIG, OFF_CONTIG, "
                            "REF_MISMATCH, NON_ACGT, SPANNING_DELETION, SYMBOLIC, BREAKEND, "
                            "TOO_LONG, NO_CHANGE"});
    // Of an earlier run, perhaps with another model.
    options.forget_lines = true;
    for (const char* id : {"CM_LLR_FWD", "CM_LLR_REV", "CM_EMB_COS", "CM_EMB_L2"}) {
      const bool written = std::any_of(fields_.begin(), fields_.end(),
                                       [id](const Field& field) { return field.id == id; });
      if (!written) options.forgotten.emplace_back(id);
    }
    for (const auto& [name, value] : context.provenance) {
      constexpr std::string_view kPrefix = "chromamba_";
      const bool has = name.compare(0, kPrefix.size(), kPrefix) == 0;
      std::string line = "##";
      if (!has) line += kPrefix;
      options.header_lines.push_back(line.append(name).append("=").append(value));
    }
    options.index_path = index_path;
    options.threads = context.options.job.input.threads;
    return {path, context.header, std::move(options)};
  }

  std::vector<Field> fields_;
  std::vector<io::VariantInfoValues> values_;
  io::VariantWriter writer_;
};

// One row for each ALT; for a record without, one row with '.'.
class TableSink : public VariantSink {
 public:
  TableSink(const VariantSinkContext& context, const VariantOutput& output, const std::string& path)
      : fields_(fields_of(context)), writer_(path, output.bgzip, lines(context), columns()) {}

  void add(const io::VariantRecord& record, std::span<const AlleleResult> results) override {
    for (size_t i = 0; i < std::max<size_t>(record.alts.size(), 1); ++i) {
      row_ = {record.contig, std::to_string(record.position + 1), record.id, record.ref,
              record.alts.empty() ? "." : record.alts[i]};
      const AlleleResult none;
      const AlleleResult& result = record.alts.empty() ? none : results[i];
      for (const Field& field : fields_) {
        row_.push_back(io::format_info_number(result.*field.value));
      }
      const std::string status = status_name(result.status);
      row_.push_back(status.empty() ? "." : status);
      writer_.row(row_);
    }
  }
  void finish() override { writer_.close(); }

 private:
  static std::vector<std::string> lines(const VariantSinkContext& context) {
    std::vector<std::string> lines = provenance_lines(context.provenance);
    lines.push_back("llr: " + context.formula);
    return lines;
  }
  std::vector<std::string> columns() const {
    std::vector<std::string> names = {"contig", "pos", "id", "ref", "alt"};
    for (const Field& field : fields_) names.push_back(field.column);
    names.emplace_back("status");
    return names;
  }

  std::vector<Field> fields_;
  io::TableWriter writer_;
  std::vector<std::string> row_;
};

// Matrices [bases, 4] for A, C, G, T: 0 at the reference's own base, rows of N without values.
class MatrixSink : public VariantSink {
 public:
  MatrixSink(const VariantSinkContext& context, const std::string& path)
      : regions_(context.regions), file_(io::Hdf5File::create(path)) {
    write_provenance(file_, context.provenance);
    file_.set_attribute("/", "llr", context.formula);
    groups_.push_back({"/llr", strand_name(context.options.job.strand), &AlleleResult::llr, {}});
    if (context.strands && context.options.job.strand == StrandChoice::both) {
      groups_.push_back({"/llr_forward", "forward", &AlleleResult::forward, {}});
      groups_.push_back({"/llr_reverse", "reverse", &AlleleResult::reverse, {}});
    }
    for (const io::Region& region : regions_) {
      for (const Group& group : groups_) {
        const std::string name = dataset(group, region);
        file_.create_dataset(name, region.end - region.start, 4, io::FloatType::f32, 0);
        file_.set_attribute(name, "contig", region.contig);
        file_.set_attribute(name, "start", region.start);
        file_.set_attribute(name, "end", region.end);
        file_.set_attribute(name, "bin", int64_t{1});
        file_.set_attribute(name, "strand", group.strand);
        file_.set_attribute(name, "columns", "A,C,G,T");
      }
    }
  }

  void add(const io::VariantRecord& record, std::span<const AlleleResult> results) override {
    while (record.contig != regions_[region_].contig || record.position >= regions_[region_].end) {
      flush();
      ++region_;
    }
    const int64_t row = record.position - regions_[region_].start;
    if (waiting_ > 0 && (row != first_row_ + waiting_ || waiting_ == kRows)) flush();
    if (waiting_ == 0) first_row_ = row;
    for (Group& group : groups_) {
      constexpr std::string_view kBases = "ACGT";
      float values[4] = {};
      for (size_t i = 0; i < results.size(); ++i) {
        values[kBases.find(record.alts[i])] = results[i].*group.value;
      }
      group.rows.insert(group.rows.end(), values, values + 4);
    }
    ++waiting_;
  }

  void finish() override {
    flush();
    file_.close();
  }

 private:
  static constexpr int64_t kRows = 32768;  // a chunk of the file

  struct Group {
    std::string path;
    std::string strand;
    float AlleleResult::*value;
    std::vector<float> rows;
  };

  static std::string dataset(const Group& group, const io::Region& region) {
    return group.path + "/" + io::hdf5_link_name(region_label(region, false));
  }

  void flush() {
    if (waiting_ == 0) return;
    for (Group& group : groups_) {
      file_.write_rows(dataset(group, regions_[region_]), first_row_, waiting_, group.rows.data());
      group.rows.clear();
    }
    waiting_ = 0;
  }

  std::vector<io::Region> regions_;
  io::Hdf5File file_;
  std::vector<Group> groups_;
  size_t region_ = 0;
  int64_t first_row_ = 0;
  int64_t waiting_ = 0;
};

}  // namespace

std::unique_ptr<VariantSink> make_variant_sink(const VariantSinkContext& context,
                                               const VariantOutput& output, const std::string& path,
                                               const std::string& index_path) {
  switch (output.kind) {
    case VariantOutputKind::records:
      return std::make_unique<RecordSink>(context, output, path, index_path);
    case VariantOutputKind::table:
      return std::make_unique<TableSink>(context, output, path);
    case VariantOutputKind::hdf5:
      return std::make_unique<MatrixSink>(context, path);
  }
  throw InternalError("unknown variant output");
}

}  // namespace chromamba::pipelines
