// A genotype as the GT and PS fields of a VCF sample tell it.
//
// Source: VCF 4.3 specification, §1.6.2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chromamba::io {

struct Genotype {
  static constexpr int32_t kMissing = -1;
  std::vector<int32_t>
      alleles;          // one a haplotype: 0 is REF, k the k-th ALT, or kMissing; never empty
  bool phased = false;  // '|' between all alleles; also a haploid genotype
  // PS as the file spells it; empty where it is missing. Text, because files in wide use have words there ("PATMAT").
  std::string phase_set;
};

// The alleles of a GT value, "0|1" or "./." or "1"; phase_set stays empty. VCF 4.4 may set a '/' or '|' before the
// first allele. nullopt for what is no genotype.
std::optional<Genotype> parse_genotype(std::string_view text);

}  // namespace chromamba::io
