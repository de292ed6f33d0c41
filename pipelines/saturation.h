// Every single-base change of some regions, as records of a variant file.
#pragma once

#include <string>
#include <vector>

#include "io/fasta_index.h"
#include "io/region.h"
#include "pipelines/interrupt.h"

namespace chromamba::pipelines {

// The regions of the command line and of a BED file in the order of the reference, those that share bases or touch
// joined. DataError and UsageError as io::parse_region and io::read_bed.
std::vector<io::Region> saturated_regions(const std::vector<std::string>& regions,
                                          const std::string& bed,
                                          const std::vector<io::ContigInfo>& contigs);

// Writes a VCF with one record for each base of the regions that is not N: its three changes in alphabetical order. Some
// 45 bytes a base.
void write_saturation(const std::string& path, io::FastaIndex& reference,
                      const std::vector<io::Region>& regions, StopSignal stop);

}  // namespace chromamba::pipelines
