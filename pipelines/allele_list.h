// The alleles of a job, given in any order, sorted for each contig and strand in bounded memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipelines/allele.h"
#include "pipelines/plan.h"

namespace chromamba::pipelines {

// What there is to score on a contig.
struct ContigLoad {
  int64_t contig = 0;  // index, as add() got it
  int64_t alleles = 0;
  int64_t bases = 0;    // of all alleles: those replaced and those in their place
  int64_t longest = 0;  // bases that one allele replaces, or is
};

// In memory while it fits (about 100 bytes an allele and the bases of ALT), else an external merge sort: sorted runs
// for either strand in unlinked files of a scratch folder, 32 of a kind merged into one as they come. On the disk an
// allele takes 2 x (32 bytes + ALT), up to twice that during a merge.
//
// ResourceError: scratch folder missing or full. InternalError: calls out of order, an allele without bases of the
// contig. add() and finish() from one thread at a time.
class AlleleList {
 public:
  // memory_bytes: for alleles and for the blocks of runs that are read; at least what is needed for one allele and a
  // block of 4 KiB for each of some 32 to 100 runs.
  AlleleList(int64_t memory_bytes, std::string scratch_folder);
  ~AlleleList();
  AlleleList(AlleleList&&) noexcept;
  AlleleList& operator=(AlleleList&&) noexcept;

  // `contig` is an index from 0; numbers are the caller's, each once.
  void add(int64_t contig, const Allele& allele);
  // After the last add().
  void finish();

  // Those that have alleles, ascending.
  const std::vector<ContigLoad>& contigs() const;

  // In the strand's order (AlleleSource), none for a contig without alleles. Any number of sources at a time, each used
  // by one thread; the list must outlive them. In memory, one of the reverse strand holds a sorted copy.
  std::unique_ptr<AlleleSource> alleles(int64_t contig, Strand strand) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chromamba::pipelines
