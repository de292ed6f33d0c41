// What is scored: a change of one contig, whatever it was read from.
#pragma once

#include <cstdint>
#include <string>

namespace chromamba::pipelines {

// Bases [start, end) of a contig, 0-based in forward coordinates and at least one, become `alt`.
struct Allele {
  int64_t number = 0;  // counts the alleles of a job: where the score goes (score_table.h)
  int64_t start = 0;
  int64_t end = 0;
  std::string alt;  // ACGT; may be empty
};

// The alleles of one contig in the order in which a strand meets them: ascending by start for the forward strand,
// descending by end for the reverse one. Alleles of one place in the order of their numbers.
class AlleleSource {
 public:
  virtual ~AlleleSource() = default;
  virtual bool next(Allele& allele) = 0;  // false after the last
};

// Why an allele has no score; the names are those of CM_STATUS.
enum class AlleleStatus : uint8_t {
  scored,             // ""
  no_contig,          // NO_CONTIG: the reference does not have the contig
  off_contig,         // OFF_CONTIG: a base of REF lies outside of the contig
  ref_mismatch,       // REF_MISMATCH: REF is not what the reference has
  non_acgt,           // NON_ACGT: REF, ALT or the reference at REF has other letters
  spanning_deletion,  // SPANNING_DELETION: ALT is '*'
  symbolic,  // SYMBOLIC: ALT is '<...>' and no change of letters that can be told, or too long a one
  breakend,   // BREAKEND
  too_long,   // TOO_LONG: REF or ALT longer than --max-allele-length
  no_change,  // NO_CHANGE: ALT is REF, or '.' among others: no allele at all
  reference,  // "": of a swapped record, what the reference has (allele_resolver.h)
};
const char* status_name(AlleleStatus status);

}  // namespace chromamba::pipelines
