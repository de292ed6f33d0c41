// The phased haplotypes of one sample: which of its variants go together into one sequence.
//
// Which records are one phase block (VCF 4.3, §1.6.2). Phased genotypes of one contig that have the same PS and the same
// number of alleles are a block; those without a PS are one block too. A haploid genotype is phased. Blocks may
// overlap, as phase sets do.
//   Heterozygous, unphased   in no block, for nobody knows their haplotype; counted.
//   Homozygous               the same on all haplotypes, phased or not: in every block whose extent they lie in, besides
//                            their own. An unphased one outside of all blocks is a block of its own.
//   Missing alleles ('.')    count as the reference.
// A block's extent is that of REF (or of what a symbolic ALT replaces) in the records that make it; where none of their
// changes can be made, that of the records.
//
// What a haplotype is. Changes are made without the bases that they share with the reference at their ends, so that an SNV
// goes together with an indel that is written with the SNV's base before it. Of two changes that overlap, or insert at
// one place, the first stays, in order of position and then of the file, and the other is left out.
// Alleles that are no change of letters are left out as well; both are counted under their names.
//
// Memory: all of one contig's variants of the sample, about 150 bytes and the letters of each, and 48 bytes and the letters for
// each haplotype that has it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/genotype.h"
#include "io/table.h"
#include "io/variant_file.h"
#include "pipelines/allele_resolver.h"
#include "pipelines/edited_bases.h"

namespace chromamba::pipelines {

// Alleles that were left out, by reason: a status_name(), or "OVERLAP".
using LeftOut = std::map<std::string, int64_t>;

struct Haplotype {
  std::vector<Change> changes;  // ascending, without overlaps
  LeftOut left_out;

  // Whether it has a sequence that can be scored: not where nothing is left of its variants.
  bool known() const;
};

// The most haplotypes of a genotype; sugar cane has 12.
constexpr size_t kMostHaplotypes = 32;

struct HaplotypeBlock {
  std::string contig;  // as the variant file has it
  int64_t start = 0;   // the block's extent, which holds all changes
  int64_t end = 0;
  std::string phase_set;              // PS; empty: none
  std::vector<Haplotype> haplotypes;  // in the order of the alleles in GT
};

// What becomes of a record.
struct SampleVariant {
  // Of the reference, until the next contig's records come; null where it does not have the contig.
  const ContigBases* contig = nullptr;
  ResolvedRecord record;  // its alleles begin at the record's position
};
using FindVariant = std::function<SampleVariant(const io::VariantRecord&)>;

struct HaplotypeCounts {
  int64_t records = 0;
  int64_t without_genotype = 0;  // records that have no GT
  int64_t variants = 0;  // records that have another allele than the reference's in the sample
  int64_t unphased = 0;  // those of them that are unphased heterozygotes
  int64_t blocks = 0;
};

// The blocks of one contig from its records. One thread at a time.
class HaplotypeBuilder {
 public:
  // `reference` may be null: nothing can then be changed. Must outlive the object.
  HaplotypeBuilder(std::string contig, const ContigBases* reference);

  // Records come in ascending order of position. Throws what reading the reference throws.
  void add(const io::VariantRecord& record, const io::Genotype& genotype,
           const ResolvedRecord& resolved, HaplotypeCounts& counts);

  // Ascending by start. The builder is empty afterwards.
  std::vector<HaplotypeBlock> finish();

 private:
  // A genotype. Codes, one a haplotype: an index into changes_, or what haplotypes.cc says.
  struct Call {
    int64_t start = 0;
    int64_t end = 0;
    int64_t set = -1;  // index into sets_; -1: none
    bool homozygous = false;
    std::vector<int32_t> codes;
  };
  struct Extent {
    int64_t start = 0;
    int64_t end = -1;  // less than start: of nothing yet
    void add(int64_t from, int64_t to);
  };
  struct PhaseSet {
    std::string name;
    size_t ploidy = 0;
    Extent records;
    Extent changes;
    std::vector<size_t> calls;
    const Extent& extent() const { return changes.end >= changes.start ? changes : records; }
  };

  int32_t code_of(const ResolvedAllele& allele, const io::VariantRecord& record, Extent& changed);
  Change trimmed(Allele allele);
  void add_homozygous();
  HaplotypeBlock block_of(const PhaseSet& set) const;
  Haplotype haplotype_of(const PhaseSet& set, size_t index) const;

  std::string contig_;
  const ContigBases* reference_;
  std::vector<Change> changes_;
  std::vector<Call> calls_;
  std::vector<PhaseSet> sets_;
  std::map<std::pair<std::string, size_t>, size_t> set_of_;  // by PS and ploidy
  std::vector<char> window_;                                 // bases of the reference
  int64_t window_start_ = 0;
};

// The blocks of a sample, contig by contig. One thread at a time.
class HaplotypeReader {
 public:
  // All must outlive the object.
  HaplotypeReader(io::VariantReader& reader, int64_t sample, FindVariant find);

  struct Contig {
    const ContigBases* reference = nullptr;  // null: the reference does not have it
    std::vector<HaplotypeBlock> blocks;      // ascending by start; may be none
  };
  // The next contig's blocks; false after the last. DataError where the records are not sorted by position, a contig's do
  // not stand together, or a genotype has too many haplotypes; and what the reader and `find` throw.
  bool next(Contig& contig);

  const HaplotypeCounts& counts() const { return counts_; }

 private:
  io::VariantReader& reader_;
  int64_t sample_;
  FindVariant find_;
  io::VariantRecord record_;
  bool started_ = false;
  bool more_ = false;
  std::set<std::string> seen_;  // contigs
  HaplotypeCounts counts_;
};

// Scores of a haplotype against the reference (haplotype_scorer.h); NaN: none.
struct HaplotypeScore {
  double forward = 0;
  double reverse = 0;
};

// A row for each haplotype of each block:
//   contig start end      the block's extent, 1-based, both ends included
//   phase_set             PS, or '.'
//   haplotype             from 1, in the order of the alleles in GT
//   variants              changes that the haplotype has
//   llr llr_fwd llr_rev   mean of both strands, and each; '.' where there is none
//   skipped               what was left out of it, as in "OVERLAP=1,REF_MISMATCH=2", or '.'
class HaplotypeTable {
 public:
  // As io::TableWriter.
  HaplotypeTable(const std::string& path_or_dash, bool bgzip,
                 const std::vector<std::string>& header_lines);
  // One score for each haplotype.
  void add(const HaplotypeBlock& block, const std::vector<HaplotypeScore>& scores);
  void close() { table_.close(); }

 private:
  io::TableWriter table_;
};

}  // namespace chromamba::pipelines
