// Random access to a FASTA file, plain or bgzip, through samtools' .fai (and .gzi) index.
//
// The index is htslib's own format and is built by htslib. The bases are read here, because that
// lets every line end and every neighbouring header be checked against the index: an index that
// belongs to another file is an error, not a wrong sequence.
//
// htslib leaves contigs without bases out of an index: contigs() and length() do not know them. It
// cannot index a file whose last contig is such; that is an error.
//
// Assumes lines of one length within a contig, as samtools does. Bases are normalised and refused
// exactly as FastaReader does. Memory: one block (256 KiB) and the index.
// One thread at a time per object; several objects may read one file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/fasta.h"

namespace chromamba::io {

using Note = std::function<void(const std::string&)>;

class FastaIndex {
 public:
  // Opens path with path.fai (and path.gzi), and builds them when missing: beside the file, or,
  // where that folder cannot be written, for this run only, told to `note` (may be empty). Building
  // checks the whole file as scan_fasta does. An index older than the file is told to `note`.
  // UsageError: "-". DataError: all that FastaReader refuses, plain gzip, lines of uneven length, a
  // broken index or one that does not fit the file.
  explicit FastaIndex(const std::string& path, FastaOptions options = {}, const Note& note = {});
  ~FastaIndex();
  FastaIndex(FastaIndex&&) noexcept;
  FastaIndex& operator=(FastaIndex&&) noexcept;

  const std::vector<ContigInfo>& contigs() const;   // in the order of the index
  int64_t length(const std::string& contig) const;  // -1 when absent

  // The bases [start, start + n) of a contig, n of them, into out. InternalError when the contig
  // or the range does not exist: check first.
  void fetch(const std::string& contig, int64_t start, int64_t n, char* out);

  int64_t iupac_count() const;  // codes turned to N in all fetches, repeats counted again

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chromamba::io
