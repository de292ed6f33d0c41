// What the records of a variant file change in a reference, allele by allele.
//
// An allele gets the first status of this list that holds. Those of the record hold for each of its alleles:
//   NO_CONTIG          the reference does not have CHROM, by any name
//   OFF_CONTIG         POS is 0, or a base of REF lies beyond the contig's end
//   TOO_LONG           REF has more than `longest` bases; it is then not compared with the reference
//   REF_MISMATCH       REF is not what the reference has
// Those of the allele:
//   SPANNING_DELETION  ALT is '*'
//   NO_CHANGE          ALT is '.' among other ALTs
//   BREAKEND           ALT has a bracket, or starts or ends with '.' (a single breakend)
//   SYMBOLIC           ALT has '<' or '>' and is none of the changes below, or nothing tells how long the change is
//   REF_MISMATCH       a symbolic ALT in a swapped record: it does not say which of the two bases stays
//   OFF_CONTIG         a symbolic ALT ends beyond the contig's end
//   SYMBOLIC           what a symbolic ALT replaces has more than `longest` bases
//   TOO_LONG           ALT has more than `longest` bases
//   NO_CHANGE          ALT is REF, whatever the case; an inversion that gives the same bases
//   NON_ACGT           REF, ALT or the reference in REF's place has other letters than A, C, G, T. For a symbolic ALT
//                      the reference's own bases count, not REF: 'N' is fine there.
// Lengths are looked at before any base is copied or read: a record costs no more than its own text.
//
// Symbolic ALTs with a change of letters (VCF 4.3, sections 1.6 and 5). POS is the base before the n bases that change;
// n is END - POS, or the allele's SVLEN, and where a record has both they must agree:
//   <DEL>, <DEL:...>   those bases go; SVLEN of either sign
//   <INV>              they are reversed and complemented; SVLEN 0 (a difference of lengths) says nothing
//   <DUP:TANDEM>       they come twice: a copy is inserted after POS
//
// REF is compared base by base, whatever the case, and fits
//   a base of the reference that its letter can stand for (U is T, R is A or G, N is any);
//   an N of the reference, always: the FASTA may have had a code there that the readers turned to N, and a VCF gives
//   one of the code's bases. Such alleles are NON_ACGT.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/fasta_index.h"
#include "io/variant_file.h"
#include "pipelines/allele.h"

namespace chromamba::pipelines {

// What becomes of a record whose REF is not the reference's: REF_MISMATCH, a DataError, or, where an ALT of
// REF's length is what the reference has, the two change places (ResolvedRecord::swapped).
enum class RefMismatch { skip, error, swap };

struct ResolverOptions {
  int64_t longest = 10000;  // bases of an allele, at most: of what it replaces, and of what it is
  RefMismatch ref_mismatch = RefMismatch::skip;
  bool map_prefix = true;  // find contigs with "chr" added or taken off, and M under MT
  bool strict = false;     // a contig that the reference does not have is a DataError
};

struct ResolvedAllele {
  AlleleStatus status = AlleleStatus::scored;
  bool is_reference = false;  // of a swapped record: scored, but there is no `allele` to score
  Allele allele;              // where status is scored; its number is not set
};

struct ResolvedRecord {
  int64_t contig = -1;                  // index into FastaIndex::contigs()
  std::vector<ResolvedAllele> alleles;  // one for each ALT, in order
  // The reference has one of the ALTs (is_reference). `alleles` then has one more entry at the end, REF as an allele of
  // the reference. With S(allele) its score, and S(reference) = 0, the value of an ALT is S(ALT) - S(REF).
  bool swapped = false;
};

struct ResolverCounts {
  static constexpr size_t kStatuses = static_cast<size_t>(AlleleStatus::no_change) + 1;
  std::array<int64_t, kStatuses> alleles{};  // ALTs by their status
  int64_t mismatched = 0;                    // records whose REF is not the reference's
  int64_t swapped = 0;                       // those of them that were swapped
  int64_t of(AlleleStatus status) const { return alleles[static_cast<size_t>(status)]; }
};

// One thread at a time. Reads the reference in windows of 64 KiB, so records in order cost a read for many.
class AlleleResolver {
 public:
  // The names are for messages. `note` (may be empty) is told once when contigs go by other names in the two files. The
  // reference must outlive the object.
  AlleleResolver(io::FastaIndex& reference, std::string reference_name, std::string variants_name,
                 ResolverOptions options = {}, io::Note note = {});

  // A record without ALT has no alleles, but its contig and REF are checked as others'. DataError as the options say,
  // and what FastaIndex::fetch throws.
  ResolvedRecord resolve(const io::VariantRecord& record);

  const ResolverCounts& counts() const { return counts_; }

 private:
  struct Site;

  int64_t contig_of(const io::VariantRecord& record);
  int64_t find_contig(const std::string& name);
  AlleleStatus check_record(const io::VariantRecord& record, Site& site);
  AlleleStatus resolve_sequence(const std::string& alt, const Site& site, ResolvedAllele& to) const;
  AlleleStatus resolve_symbolic(const io::VariantRecord& record, size_t index, const Site& site,
                                Allele& to);
  AlleleStatus resolve_alt(const io::VariantRecord& record, size_t index, const Site& site,
                           ResolvedAllele& to);
  std::string_view bases(int64_t contig, int64_t start, int64_t n);

  io::FastaIndex& reference_;
  std::string reference_name_;
  std::string variants_name_;
  ResolverOptions options_;
  io::Note note_;
  bool noted_ = false;
  std::unordered_map<std::string_view, int64_t> index_of_;  // keys are those of the reference
  std::string last_name_;                                   // CHROM of the record before, and where
  int64_t last_contig_ = -1;                                // the reference has it
  std::string window_;                                      // bases of the reference
  int64_t window_contig_ = -1;
  int64_t window_start_ = 0;
  ResolverCounts counts_;
};

}  // namespace chromamba::pipelines
