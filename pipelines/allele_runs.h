// Runs of an external merge sort of alleles: sorted sequences in unlinked files (allele_list.h puts them to use).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/pending_file.h"
#include "pipelines/allele.h"
#include "pipelines/plan.h"

namespace chromamba::pipelines {

// An allele, with its bases held elsewhere.
struct AlleleView {
  int64_t number = 0;
  int64_t start = 0;
  int64_t end = 0;
  std::string_view alt;
};

// The order of the strand on one contig (AlleleSource).
template <typename A, typename B>
bool comes_before(const A& a, const B& b, Strand strand) {
  if (strand == Strand::forward) {
    return a.start != b.start ? a.start < b.start : a.number < b.number;
  }
  return a.end != b.end ? a.end > b.end : a.number < b.number;
}

// Where a contig's alleles are in a run.
struct RunExtent {
  int64_t contig = 0;
  int64_t offset = 0;  // bytes
  int64_t bytes = 0;
};

struct AlleleRun {
  std::shared_ptr<const io::ScratchFile> file;
  std::vector<RunExtent> extents;  // ascending by contig

  const RunExtent* extent(int64_t contig) const;  // null when it has none of it
};

// Writes alleles in the order given: contigs ascending, within each the strand's order. ResourceError as ScratchFile.
class RunWriter {
 public:
  RunWriter(const std::string& folder, int64_t block_bytes);
  void add(int64_t contig, const AlleleView& allele);
  AlleleRun finish();

 private:
  void flush();

  std::shared_ptr<io::ScratchFile> file_;
  size_t block_bytes_;
  std::string block_;
  int64_t written_ = 0;
  std::vector<RunExtent> extents_;
};

// The alleles of one contig out of several runs, whose files stay open with it. Holds a block and an allele for each.
std::unique_ptr<AlleleSource> merge_runs(std::span<const AlleleRun> runs, int64_t contig,
                                         Strand strand, int64_t block_bytes);

// All contigs of several runs as one run.
AlleleRun merge_into_one(std::span<const AlleleRun> runs, Strand strand, const std::string& folder,
                         int64_t block_bytes);

}  // namespace chromamba::pipelines
