// Regions from a BED file: plain, gzip, bgzip, or "-" for standard input.
#pragma once

#include <string>
#include <vector>

#include "io/fasta.h"
#include "io/region.h"

namespace chromamba::io {

// Reads contig, start, end (0-based half-open, as BED has them), the name from column 4 and the
// strand from column 6; other columns are ignored. Columns are separated by tabs, or by white
// space in lines without a tab. Blank lines and lines that start with '#', "track" or "browser"
// are skipped. Regions come in the order of the file, overlaps and repeats included.
// DataError with file and line: fewer than 3 columns, a position that is no number, start >= end,
// an unknown contig, a region that leaves its contig, an odd strand; or no region at all.
std::vector<Region> read_bed(const std::string& path, const std::vector<ContigInfo>& contigs);

}  // namespace chromamba::io
