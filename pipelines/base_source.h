// Where a pass reads its bases from: a FASTA read front to back, an indexed one, or a spool.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "io/fasta.h"
#include "io/fasta_index.h"
#include "io/pending_file.h"

namespace chromamba::pipelines {

// Bases (ACGTN) of one contig, by position. Used by one thread at a time.
class BaseSource {
 public:
  virtual ~BaseSource() = default;
  // Bases [start, start + n) of the contig.
  virtual void read(int64_t start, int64_t n, char* out) = 0;
};

// The present contig of a reader; only consecutive reads from base 0 on.
class SequentialBases : public BaseSource {
 public:
  explicit SequentialBases(io::FastaReader& reader) : reader_(reader) {}
  void read(int64_t start, int64_t n, char* out) override;

 private:
  io::FastaReader& reader_;
};

// One contig of an indexed FASTA.
class IndexedBases : public BaseSource {
 public:
  IndexedBases(io::FastaIndex& index, std::string contig)
      : index_(index), contig_(std::move(contig)) {}
  void read(int64_t start, int64_t n, char* out) override;

 private:
  io::FastaIndex& index_;
  std::string contig_;
};

// A copy of the present contig of a reader in an unlinked file (1 byte a base), for reading it
// backwards: compressed and piped input cannot be sought in.
class SpooledBases : public BaseSource {
 public:
  SpooledBases(io::FastaReader& reader, const std::string& folder, int64_t length);
  void read(int64_t start, int64_t n, char* out) override;

 private:
  io::ScratchFile file_;
};

}  // namespace chromamba::pipelines
