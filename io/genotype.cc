#include "io/genotype.h"

#include <charconv>

namespace chromamba::io {

std::optional<Genotype> parse_genotype(std::string_view text) {
  Genotype genotype;
  genotype.phased = true;
  const auto take_separator = [&] {
    if (text.empty() || (text.front() != '|' && text.front() != '/')) return false;
    genotype.phased = genotype.phased && text.front() == '|';
    text.remove_prefix(1);
    return true;
  };
  (void)take_separator();
  for (;;) {
    if (!text.empty() && text.front() == '.') {
      genotype.alleles.push_back(Genotype::kMissing);
      text.remove_prefix(1);
    } else {
      int32_t allele = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), allele);
      // A sign is no digit.
      if (error != std::errc() || text.front() == '-') return std::nullopt;
      genotype.alleles.push_back(allele);
      text.remove_prefix(static_cast<size_t>(end - text.data()));
    }
    if (text.empty()) return genotype;
    if (!take_separator()) return std::nullopt;
  }
}

}  // namespace chromamba::io
