#include "pipelines/saturation.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "io/bed.h"
#include "io/text_output.h"
#include "kernels/base/error.h"

namespace chromamba::pipelines {

std::vector<io::Region> saturated_regions(const std::vector<std::string>& regions,
                                          const std::string& bed,
                                          const std::vector<io::ContigInfo>& contigs) {
  std::vector<io::Region> all;
  all.reserve(regions.size());
  for (const std::string& text : regions) all.push_back(io::parse_region(text, contigs));
  if (!bed.empty()) {
    for (io::Region& region : io::read_bed(bed, contigs)) all.push_back(std::move(region));
  }
  std::unordered_map<std::string, size_t> order;
  for (size_t i = 0; i < contigs.size(); ++i) order.emplace(contigs[i].name, i);
  std::stable_sort(all.begin(), all.end(), [&](const io::Region& a, const io::Region& b) {
    const size_t x = order.at(a.contig);
    const size_t y = order.at(b.contig);
    return x != y ? x < y : a.start < b.start;
  });
  std::vector<io::Region> joined;
  for (io::Region& region : all) {
    if (!joined.empty() && joined.back().contig == region.contig &&
        region.start <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, region.end);
    } else {
      joined.push_back({region.contig, region.start, region.end, "", '.'});
    }
  }
  return joined;
}

void write_saturation(const std::string& path, io::FastaIndex& reference,
                      const std::vector<io::Region>& regions, StopSignal stop) {
  io::TextOutput out(path, false);
  out.write("##fileformat=VCFv4.3\n");
  // What a header cannot hold is no matter unless its bases are wanted.
  const auto fits = [](const std::string& name) {
    return name.find_first_of(",<>\"") == std::string::npos;
  };
  for (const io::Region& region : regions) {
    if (!fits(region.contig)) {
      throw DataError("contig '" + region.contig +
                      "': a VCF header cannot hold a name with ',', '<', '>' or '\"'");
    }
  }
  for (const io::ContigInfo& contig : reference.contigs()) {
    if (!fits(contig.name)) continue;
    out.write("##contig=<ID=" + contig.name + ",length=" + std::to_string(contig.length) + ">\n");
  }
  out.write("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n");
  constexpr int64_t kBlock = 65536;
  std::string bases;
  for (const io::Region& region : regions) {
    for (int64_t start = region.start; start < region.end; start += kBlock) {
      throw_if_stopped(stop);
      bases.resize(static_cast<size_t>(std::min(kBlock, region.end - start)));
      reference.fetch(region.contig, start, static_cast<int64_t>(bases.size()), bases.data());
      for (size_t i = 0; i < bases.size(); ++i) {
        std::string_view changes;
        switch (bases[i]) {
          case 'A':
            changes = "C,G,T";
            break;
          case 'C':
            changes = "A,G,T";
            break;
          case 'G':
            changes = "A,C,T";
            break;
          case 'T':
            changes = "A,C,G";
            break;
          default:
            continue;
        }
        std::string line = region.contig;
        line += '\t';
        line += std::to_string(start + static_cast<int64_t>(i) + 1);
        line += "\t.\t";
        line += bases[i];
        line += '\t';
        line += changes;
        line += "\t.\t.\t.\n";
        out.write(line);
      }
    }
  }
  out.close();
}

}  // namespace chromamba::pipelines
