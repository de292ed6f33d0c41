// A stretch of one contig, and its samtools spelling.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/fasta.h"

namespace chromamba::io {

struct Region {
  std::string contig;
  int64_t start = 0;  // 0-based
  int64_t end = 0;    // half-open: bases start .. end-1
  std::string name;   // BED column 4 (empty when absent), or the text given to parse_region
  char strand = '.';  // '+', '-' or '.'
};

// Reads samtools' region syntax, 1-based and inclusive, commas allowed in numbers:
//   chr20   chr20:1,001-2,000   chr20:1001- (to the end)   chr20:1001 (to the end)   chr20:-2000
//   {HLA-A*01:01}:1-10          (braces fence a name that holds colons)
// "chr20:1,001-2,000" gives start 1000, end 2000. A text that is a contig's whole name is that
// contig. DataError: unknown contig, position 0, start beyond end, anything beyond the contig, a
// contig without bases, a text with two readings. UsageError: text that is no region at all.
Region parse_region(const std::string& text, const std::vector<ContigInfo>& contigs);

}  // namespace chromamba::io
