// Which variants of a sample go together, and what is left out.
#include "pipelines/haplotypes.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <random>

#include "kernels/base/error.h"
#include "tests/io/support.h"
#include "tests/pipelines/memory_passes.h"
#include "tests/random_values.h"

namespace chromamba::pipelines {
namespace {

using io::testing::message_of;
using io::testing::put;
using io::testing::slurp;
using io::testing::TempFolder;
using tests::MemoryBases;
using tests::random_dna;

//                        1        10        20        30        40
const std::string kReference = "ACGTTGCAAGGCATTACGGATCCCAATGACCTGAGTTTCA";

// A file of one sample.
class Sample {
 public:
  explicit Sample(const std::string& lines, const std::string& reference = kReference)
      : bases_(reference), contig_{"c", static_cast<int64_t>(reference.size()), &bases_} {
    std::string text =
        "##fileformat=VCFv4.3\n##contig=<ID=c>\n##contig=<ID=d>\n##contig=<ID=none>\n";
    for (const char* key : {"GT", "PS"}) {
      text += std::string("##FORMAT=<ID=") + key +
              ",Number=1,Type=" + (key[0] == 'G' ? "String" : "Integer") + ",Description=\"x\">\n";
    }
    text += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS\n";
    for (const char c : lines) text += c == ' ' ? '\t' : c;
    reader_.emplace(put(folder_ / "in.vcf", text));
    index_.emplace(put(folder_ / "ref.fa", ">c\n" + reference + "\n>d\n" + reference + "\n"));
    ResolverOptions options;
    options.ref_mismatch = RefMismatch::swap;
    resolver_.emplace(*index_, "ref.fa", "in.vcf", options);
    haplotypes_.emplace(*reader_, 0, [this](const io::VariantRecord& record) {
      ResolvedRecord resolved = resolver_->resolve(record);
      return SampleVariant{resolved.contig < 0 ? nullptr : &contig_, std::move(resolved)};
    });
  }

  // "[PS start-end: change change; change] ..." of the next contig.
  std::string next() {
    HaplotypeReader::Contig contig;
    if (!haplotypes_->next(contig)) return "end";
    std::string text;
    for (const HaplotypeBlock& block : contig.blocks) {
      text += (text.empty() ? "[" : " [") + block.phase_set + " " + std::to_string(block.start) +
              "-" + std::to_string(block.end) + ":";
      for (const Haplotype& haplotype : block.haplotypes) {
        if (&haplotype != &block.haplotypes[0]) text += ";";
        for (const Change& change : haplotype.changes) {
          text +=
              " " + std::to_string(change.start) + "-" + std::to_string(change.end) + change.alt;
        }
        for (const auto& [reason, count] : haplotype.left_out) {
          text += " " + reason + "=" + std::to_string(count);
        }
        if (!haplotype.known()) text += " unknown";
      }
      text += "]";
    }
    return text;
  }

  // Bases [start, end) of the next contig with the changes of its one block's haplotypes.
  std::vector<std::string> sequences(int64_t start, int64_t end) {
    HaplotypeReader::Contig contig;
    REQUIRE(haplotypes_->next(contig));
    REQUIRE(contig.blocks.size() == 1);
    std::vector<std::string> texts;
    for (const Haplotype& haplotype : contig.blocks[0].haplotypes) {
      CHECK(haplotype.left_out.empty());
      EditedBases bases(contig_, Strand::forward, start, end, haplotype.changes);
      std::string text(static_cast<size_t>(2 * (end - start)), '?');
      text.resize(static_cast<size_t>(bases.read(2 * (end - start), text.data())));
      texts.push_back(text);
    }
    return texts;
  }

  const HaplotypeCounts& counts() const { return haplotypes_->counts(); }

 private:
  TempFolder folder_;
  MemoryBases bases_;
  ContigBases contig_;
  std::optional<io::FastaIndex> index_;
  std::optional<AlleleResolver> resolver_;
  std::optional<io::VariantReader> reader_;
  std::optional<HaplotypeReader> haplotypes_;
};

TEST_CASE("phased genotypes without PS are one block of the contig") {
  Sample sample(
      "c 2 . C T . . . GT 0|1\n"
      "c 5 . T A . . . GT 0|0\n"
      "c 9 . A T . . . GT .|.\n"
      "c 10 . G A,C . . . GT 1|2\n"
      "c 12 . C G . . . GT 1|.\n"
      "c 20 . A C . . . GT 1|1\n"
      "d 3 . G T . . . GT 1|0\n");
  CHECK(sample.next() == "[ 1-20: 9-10A 11-12G 19-20C; 1-2T 9-10C 19-20C]");
  CHECK(sample.next() == "[ 2-3: 2-3T;]");
  CHECK(sample.next() == "end");
  CHECK(sample.counts().records == 7);
  CHECK(sample.counts().variants == 5);
  CHECK(sample.counts().unphased == 0);
  CHECK(sample.counts().blocks == 2);
}

TEST_CASE(
    "every PS is a block, blocks may overlap, and homozygous variants are in all that span them") {
  Sample sample(
      "c 1 . A C . . . GT:PS 1/1:.\n"  // before all blocks
      "c 2 . C T . . . GT:PS 0|1:2\n"
      "c 5 . T A . . . GT:PS 0|1:5\n"
      "c 6 . G C . . . GT:PS 1/1:.\n"  // in both
      "c 9 . A T . . . GT:PS 1|0:2\n"
      "c 11 . G T . . . GT:PS 1/1:99\n"  // in the second; PS of an unphased genotype says nothing
      "c 13 . A G . . . GT:PS 0/1:2\n"   // of no known haplotype
      "c 15 . T G . . . GT:PS 1|1:15\n"  // a block, and in the second
      "c 16 . A G . . . GT 0|1\n"        // without PS: another block
      "c 18 . G C . . . GT:PS 1|0:5\n"
      "c 18 . GG G . . . GT 1/1\n"  // across the second one's end
      "c 30 . C G . . . GT 0|1\n"
      "c 32 . T G . . . GT ./1\n"
      "c 33 . G C . . . DP 1\n");
  CHECK(sample.next() ==
        "[ 0-1: 0-1C; 0-1C]"
        " [2 1-9: 5-6C 8-9T; 1-2T 5-6C]"
        " [5 4-18: 5-6C 10-11T 14-15G 17-18C; 4-5A 5-6C 10-11T 14-15G]"
        " [15 14-15: 14-15G; 14-15G]"
        " [ 15-30: 17-18; 15-16G 17-18 29-30G]");
  CHECK(sample.counts().unphased == 2);
  CHECK(sample.counts().variants == 13);
  CHECK(sample.counts().without_genotype == 1);
}

TEST_CASE("haploid and polyploid genotypes have blocks of their own") {
  Sample sample(
      "c 2 . C T . . . GT 0|1\n"
      "c 5 . T A . . . GT 1\n"
      "c 6 . G C . . . GT 1/1/1\n"
      "c 7 . C T,A . . . GT 0|1|2\n"
      "c 9 . A T . . . GT 0\n"
      "c 10 . G T . . . GT .\n"
      "c 12 . C T . . . GT 1|0\n"
      "c 20 . A T . . . GT 1\n"
      "c 22 . C T . . . GT 1/1/1\n");
  CHECK(sample.next() ==
        "[ 1-12: 5-6C 11-12T; 1-2T 5-6C]"
        " [ 4-20: 4-5A 5-6C 19-20T]"
        " [ 6-7:; 6-7T; 6-7A]"
        " [ 21-22: 21-22T; 21-22T; 21-22T]");
}

TEST_CASE("changes are trimmed, and of overlapping ones the first stays") {
  // c: ACGTTGCAAGGCATTACGG...
  SECTION("an SNV and indels written with the base before them") {
    Sample sample(
        "c 4 . TTG T . . . GT 0|1\n"   // deletes 4-6
        "c 4 . T C . . . GT 0|1\n"     // the base before it
        "c 6 . G GAA . . . GT 0|1\n"   // inserts before 6, where the deletion ends
        "c 6 . G GC . . . GT 0|1\n"    // inserts at the same place
        "c 7 . C G . . . GT 0|1\n"     // side by side with the insertion
        "c 7 . C A . . . GT 0|1\n"     // the same base again
        "c 9 . AGG AG . . . GT 1|1\n"  // leftmost: 9-10
        "c 10 . GG CT . . . GT 1|1\n"  // overlaps on both
        "c 14 . TTA TCA . . . GT 1|0\n");
    CHECK(sample.next() == "[ 3-16: 9-10 14-15C OVERLAP=1; 3-4C 4-6 6-6AA 6-7G 9-10 OVERLAP=3]");
  }
  SECTION("inside a deletion") {
    Sample sample(
        "c 4 . TTGCA T . . . GT 0|1\n"
        "c 5 . T C,* . . . GT 1|2\n"
        "c 6 . G GA . . . GT 1|1\n"
        "c 8 . A C . . . GT 0|1\n"
        "c 9 . A C . . . GT 0|1\n");
    CHECK(sample.next() == "[ 3-9: 4-5C 6-6A; 4-8 8-9C OVERLAP=2 SPANNING_DELETION=1]");
  }
}

TEST_CASE("haplotypes of random genotypes are the reference with their alleles in place of REF") {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const std::string reference = random_dna(3000, seed);
    std::string lines;
    std::vector<std::string> expected(2);
    size_t done = 0;  // bases of the reference that `expected` holds
    for (size_t at = random() % 5; at + 6 <= reference.size(); at += 6 + random() % 20) {
      std::vector<std::string> alleles = {reference.substr(at, 1 + random() % 5)};
      for (size_t k = 1 + random() % 3; k > 0; --k) {
        std::string alt = random_dna(1 + random() % 4, random());
        // Some have the bases before or after the change in common with the reference.
        if (random() % 2 == 0) alt = alleles[0].substr(0, random() % 4) + alt;
        if (random() % 3 == 0) alt += alleles[0].back();
        alleles.push_back(alt);
      }
      const std::vector<size_t> genotype = {random() % alleles.size(), random() % alleles.size()};
      lines += "c " + std::to_string(at + 1) + " . " + alleles[0] + " ";
      for (size_t k = 1; k < alleles.size(); ++k) lines += (k > 1 ? "," : "") + alleles[k];
      const bool unphased = genotype[0] == genotype[1] && at > 1000 && at < 2000;
      lines += " . . . GT " + std::to_string(genotype[0]) + (unphased ? "/" : "|") +
               std::to_string(genotype[1]) + "\n";
      for (size_t h = 0; h < 2; ++h) {
        expected[h] += reference.substr(done, at - done) + alleles[genotype[h]];
      }
      done = at + alleles[0].size();
    }
    for (std::string& text : expected) text += reference.substr(done);
    CHECK((Sample(lines, reference).sequences(0, 3000) == expected));
  }
}

TEST_CASE("alleles that cannot be made are counted") {
  Sample sample(
      "c 1 . A <X> . . . GT 1/1\n"
      "c 2 . C <INV>,T . . . GT 1|2\n"
      "c 3 . G <INS> . . . GT 1/1\n"
      "c 5 . T *,<X> . . . GT:PS 0|1:1\n"
      "c 8 . A <X> . . END=1000000 GT:PS 0|1:3\n"
      "c 9 . A A . . . GT 1|0\n"
      "c 20 . A C . . . GT 1|0\n"
      "c 39 . C <X> . . . GT 1/1\n"
      "none 4 . A C . . . GT:PS 0|1:2\n"
      "none 0 . A C . . . GT:PS 0|1:4\n");
  CHECK(sample.next() ==
        "[ 0-1: SYMBOLIC=1 unknown; SYMBOLIC=1 unknown]"
        " [ 1-20: 19-20C SYMBOLIC=2; 1-2T SYMBOLIC=1]"
        " [1 4-5:; SPANNING_DELETION=1]"
        " [3 7-40: SYMBOLIC=1 unknown; SYMBOLIC=2 unknown]");
  CHECK_THROWS_WITH(sample.next(), Catch::Contains("lies before the record before it"));
}

TEST_CASE("contigs that the reference does not have") {
  Sample sample("none 4 . A C . . . GT:PS 0|1:2\nnone 5 . A C . . . GT:PS 1|0:2\n");
  CHECK(sample.next() == "[2 3-5: NO_CONTIG=1 unknown; NO_CONTIG=1 unknown]");
}

TEST_CASE("where REF is not the reference's and ALT is") {
  Sample sample(
      "c 2 . G C . . . GT 0|1\n"
      "c 5 . A T . . . GT 0/0\n"
      "c 6 . A G . . . GT 1|1\n"
      "c 9 . A T . . . GT 0|1\n");
  CHECK(sample.next() == "[ 1-9: 1-2G 4-5A; 4-5A 8-9T]");
  CHECK(sample.counts().variants == 3);
}

TEST_CASE("files out of order, and genotypes beyond reason") {
  Sample twice("c 4 . T C . . . GT 0|1\nd 4 . T C . . . GT 0|1\nc 5 . T C . . . GT 0|1\n");
  (void)twice.next();
  (void)twice.next();
  CHECK_THAT(message_of<DataError>([&] { (void)twice.next(); }),
             Catch::Contains("in.vcf: line 10 (c:5): the records of contig 'c' do not stand "
                             "together; sort the file"));
  Sample back("c 4 . T C . . . GT 0|0\nc 3 . T C . . . GT 0|1\n");
  CHECK_THAT(message_of<DataError>([&] { (void)back.next(); }),
             Catch::Contains("line 9 (c:3): lies before"));
  std::string many = "c 4 . T C . . . GT 0";
  for (size_t i = 1; i < kMostHaplotypes; ++i) many += "|1";
  Sample most(many + "\n");
  CHECK_THAT(most.next(), Catch::EndsWith("3-4C]"));
  Sample more(many + "|1\n");
  CHECK_THAT(message_of<DataError>([&] { (void)more.next(); }),
             Catch::Contains("GT has 33 alleles; expected at most 32"));
}

TEST_CASE("a table of haplotypes") {
  const TempFolder folder;
  HaplotypeBlock block{"c", 9, 20, "10", {{{{9, 10, "A"}, {15, 20, ""}}, {}}, {}}};
  block.haplotypes[1].left_out = {{"OVERLAP", 1}, {"SYMBOLIC", 2}};
  HaplotypeTable table(folder / "out.tsv", false, {"made by a test"});
  table.add(block, {{-1.5, -3}, {std::nan(""), std::nan("")}});
  block.phase_set.clear();
  block.haplotypes.pop_back();
  table.add(block, {{0, 1e-9}});
  table.close();
  CHECK(slurp(folder / "out.tsv") ==
        "# made by a test\n"
        "contig\tstart\tend\tphase_set\thaplotype\tvariants\tllr\tllr_fwd\tllr_rev\tskipped\n"
        "c\t10\t20\t10\t1\t2\t-2.25\t-1.5\t-3\t.\n"
        "c\t10\t20\t10\t2\t0\t.\t.\t.\tOVERLAP=1,SYMBOLIC=2\n"
        "c\t10\t20\t.\t1\t2\t5e-10\t0\t1e-09\t.\n");
}

}  // namespace
}  // namespace chromamba::pipelines
