// bigWig tracks of one value a base, for IGV, UCSC, pyBigWig and the like.
//
// Written from the format's description (Kent et al. 2010, Bioinformatics 26:2204, supplement),
// not through libBigWig: that library's writer keeps every zoom record in memory (2.7 bytes per
// base and more), searches contigs by a linear scan at each call, does not sort the contig tree
// (UCSC tools search it), and its close cannot report a full disk. libBigWig and pyBigWig read
// what is written here in the tests.
//
// Layout: fixed-step sections of up to 4096 values, compressed with zlib; R-tree index; zoom
// levels of 32, 128, 512, ... bases a bin. Contig ids follow the order given, in which the values
// come; the tree of names is sorted. Memory: the names, one section a level, and 24 index bytes
// per section (0.006 bytes a base).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/fasta.h"

namespace chromamba::io {

// NaN is left out; infinite values are stored, but make the averages around them infinite.
// DataError: no contigs, a contig longer than 2^32 - 1 or a name twice. ResourceError: the file
// cannot be made, a full or failing disk, or a file that cannot seek. InternalError: an unknown
// contig, values outside it, or values out of order. One thread at a time.
class BigWigWriter {
 public:
  // Truncates path; zoom data waits in unlinked files of the same folder. zoom_levels: at most so
  // many (0 .. 10); levels wider than the longest contig are left out.
  BigWigWriter(const std::string& path, const std::vector<ContigInfo>& contigs,
               int zoom_levels = 10);
  ~BigWigWriter();
  BigWigWriter(BigWigWriter&&) noexcept;
  BigWigWriter& operator=(BigWigWriter&&) noexcept;

  // values[i] belongs to base start + i. Contigs in the order given to the constructor (some may be
  // left out), positions ascending within each; gaps are fine.
  void add(const std::string& contig, int64_t start, const float* values, int64_t n);

  // Writes indices, zooms and header. Without it the file is not a bigWig file.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chromamba::io
