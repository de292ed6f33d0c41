// The files that scored variants are written to.
#pragma once

#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/region.h"
#include "pipelines/variants.h"

namespace chromamba::pipelines {

// What is known of one ALT of a record; NaN: no value.
struct AlleleResult {
  AlleleStatus status = AlleleStatus::scored;
  float llr = std::numeric_limits<float>::quiet_NaN();  // of the strand, or the mean of both
  float forward = std::numeric_limits<float>::quiet_NaN();
  float reverse = std::numeric_limits<float>::quiet_NaN();
  float cosine_change = std::numeric_limits<float>::quiet_NaN();
  float l2_change = std::numeric_limits<float>::quiet_NaN();
};

class VariantSink {
 public:
  virtual ~VariantSink() = default;
  // Records come in the order of the input, with one result for each ALT.
  virtual void add(const io::VariantRecord& record, std::span<const AlleleResult> results) = 0;
  // After this the file is whole, under its temporary name.
  virtual void finish() = 0;
  // What was let through, for the user.
  virtual std::vector<io::VariantWarning> warnings() const { return {}; }
};

struct VariantSinkContext {
  const VariantsOptions& options;
  bool strands;  // whether scores of single strands are told too
  std::string formula;
  std::vector<std::pair<std::string, std::string>> provenance;
  std::shared_ptr<const io::VariantHeader> header;
  std::vector<io::Region> regions;  // of a saturation
};

// `index_path`: where an index goes on finish(); empty: none.
std::unique_ptr<VariantSink> make_variant_sink(const VariantSinkContext& context,
                                               const VariantOutput& output, const std::string& path,
                                               const std::string& index_path);

}  // namespace chromamba::pipelines
