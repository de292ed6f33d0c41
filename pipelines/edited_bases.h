// The bases of a contig with changes made to them, read front to back on either strand without ever being held whole.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pipelines/scorer_parts.h"

namespace chromamba::pipelines {

// Bases [start, end) of a contig, 0-based in forward coordinates, become `alt` (ACGT). One of the two may be empty: an
// insertion stands before base `start`.
struct Change {
  int64_t start = 0;
  int64_t end = 0;
  std::string alt;
};

// Bases [start, end) of a contig with the changes that lie in it; on the reverse strand the reverse complement of that,
// from its last base on. One thread at a time.
class EditedBases {
 public:
  // `changes` ascend and do not overlap (InternalError). They and `contig` must outlive the object.
  EditedBases(const ContigBases& contig, Strand strand, int64_t start, int64_t end,
              std::span<const Change> changes = {});

  // The next n bases, fewer at the end only; the number of them.
  int64_t read(int64_t n, char* out);

 private:
  void read_reference(int64_t n, char* out);

  // Places are the strand's.
  StrandBases bases_;
  std::span<const Change> changes_;
  int64_t position_;  // the reference is read up to here
  int64_t end_;
  size_t done_ = 0;          // changes, whole
  size_t letters_ = 0;       // of the next one's alt
  std::vector<char> block_;  // of the reference
  int64_t block_start_ = 0;
};

}  // namespace chromamba::pipelines
