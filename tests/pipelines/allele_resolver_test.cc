#include "pipelines/allele_resolver.h"

#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "tests/io/support.h"

namespace chromamba::pipelines {
namespace {

using io::testing::bgzip;
using io::testing::message_of;
using io::testing::put;
using io::testing::TempFolder;

// chr1 ACGTACGTNNacgt (14), chr2 TTTTR (5), chrM GATTACA, small C
const std::string kFasta = ">chr1\nACGTACGT\nNNacgt\n>chr2\nTTTTR\n>chrM\nGATTACA\n>small\nC\n";

struct Info {
  std::optional<int64_t> end;  // as INFO has it: the last base, 1-based
  std::vector<std::optional<int64_t>> svlen;
};

// POS from 1, as in the file.
io::VariantRecord record_of(const std::string& contig, int64_t pos, const std::string& ref,
                            std::vector<std::string> alts, const Info& info = {}) {
  io::VariantRecord record;
  record.contig = contig;
  record.position = pos - 1;
  record.ref = ref;
  record.alts = std::move(alts);
  record.reference_length = static_cast<int64_t>(ref.size());
  record.end = info.end;
  record.svlen = info.svlen;
  record.number = 5;
  record.line = 12;
  return record;
}

class Fixture {
 public:
  explicit Fixture(ResolverOptions options = {}, const std::string& fasta = kFasta)
      : index(put(folder / "ref.fa", fasta)),
        resolver(index, "ref.fa", "in.vcf", options,
                 [this](const std::string& text) { notes.push_back(text); }) {}

  ResolvedRecord resolve(const io::VariantRecord& record) { return resolver.resolve(record); }
  // Of a record with one ALT.
  ResolvedAllele one(const std::string& contig, int64_t pos, const std::string& ref,
                     const std::string& alt, const Info& info = {}) {
    ResolvedRecord resolved = resolve(record_of(contig, pos, ref, {alt}, info));
    REQUIRE(resolved.alleles.size() == 1);
    return resolved.alleles[0];
  }
  std::string status(const std::string& contig, int64_t pos, const std::string& ref,
                     const std::string& alt, const Info& info = {}) {
    return status_name(one(contig, pos, ref, alt, info).status);
  }
  // "start-end>ALT" of a scored allele.
  std::string change(const std::string& contig, int64_t pos, const std::string& ref,
                     const std::string& alt, const Info& info = {}) {
    return text(one(contig, pos, ref, alt, info));
  }
  static std::string text(const ResolvedAllele& allele) {
    if (allele.status != AlleleStatus::scored) return status_name(allele.status);
    if (allele.is_reference) return "reference";
    return std::to_string(allele.allele.start) + "-" + std::to_string(allele.allele.end) + ">" +
           allele.allele.alt;
  }
  std::vector<std::string> changes(const io::VariantRecord& record) {
    std::vector<std::string> texts;
    for (const ResolvedAllele& allele : resolve(record).alleles) texts.push_back(text(allele));
    return texts;
  }

  TempFolder folder;
  std::vector<std::string> notes;
  io::FastaIndex index;
  AlleleResolver resolver;
};

using Texts = std::vector<std::string>;

TEST_CASE("statuses have the names of CM_STATUS", "[allele]") {
  CHECK(std::string(status_name(AlleleStatus::scored)).empty());
  CHECK(std::string(status_name(AlleleStatus::spanning_deletion)) == "SPANNING_DELETION");
  CHECK(std::string(status_name(AlleleStatus::no_change)) == "NO_CHANGE");
  CHECK_THROWS_AS(status_name(static_cast<AlleleStatus>(11)), InternalError);
}

TEST_CASE("changes of letters", "[allele_resolver]") {
  Fixture fixture;
  CHECK(fixture.change("chr1", 1, "A", "C") == "0-1>C");          // first base
  CHECK(fixture.change("chr1", 14, "T", "G") == "13-14>G");       // last base
  CHECK(fixture.change("chr1", 2, "CG", "TA") == "1-3>TA");       // MNV
  CHECK(fixture.change("chr1", 2, "C", "CAAA") == "1-2>CAAA");    // insertion
  CHECK(fixture.change("chr1", 2, "CGT", "C") == "1-4>C");        // deletion
  CHECK(fixture.change("chr1", 2, "CGT", "AAAA") == "1-4>AAAA");  // delins
  CHECK(fixture.change("chr1", 1, "a", "g") == "0-1>G");
  CHECK(fixture.change("chr1", 11, "ACgT", "a") == "10-14>A");  // soft-masked in the FASTA
  CHECK(fixture.change("chr1", 4, "U", "a") == "3-4>A");
  CHECK(fixture.change("small", 1, "C", "T") == "0-1>T");
  const ResolvedRecord resolved = fixture.resolve(record_of("chrM", 2, "A", {"C", "*", "AT"}));
  CHECK(resolved.contig == 2);
  CHECK_FALSE(resolved.swapped);
  REQUIRE(resolved.alleles.size() == 3);
  CHECK(Fixture::text(resolved.alleles[2]) == "1-2>AT");
}

TEST_CASE("alleles of which no change of letters is told", "[allele_resolver]") {
  Fixture fixture;
  CHECK(fixture.status("chr1", 1, "A", "*") == "SPANNING_DELETION");
  CHECK(fixture.changes(record_of("chr1", 1, "A", {})).empty());
  CHECK(fixture.changes(record_of("chr1", 1, "A", {"C", "."})) == Texts{"0-1>C", "NO_CHANGE"});
  for (const char* alt :
       {"A]chr1:5]", "[chr1:5[A", "]chr9:1]TTA", "A[<ctg>:7[", ".A", "A.", "AC[chr1:5[GT"}) {
    CHECK(fixture.status("chr1", 1, "A", alt) == "BREAKEND");
  }
  for (const char* alt : {"<INS>", "<CNV>", "<NON_REF>", "<*>", "<DUP>", "<INV:X>", "<DEL",
                          "<DELX>", "<", "A<ctg1>", "<INS:ME:ALU>"}) {
    CHECK(fixture.status("chr1", 1, "A", alt, {4, {3}}) == "SYMBOLIC");
  }
  CHECK(fixture.status("chr1", 1, "A", "a") == "NO_CHANGE");
  CHECK(fixture.status("chr1", 1, "ACGT", "acGT") == "NO_CHANGE");
  CHECK(fixture.status("chr1", 4, "U", "T") == "NO_CHANGE");
}

TEST_CASE("letters that are no bases", "[allele_resolver]") {
  Fixture fixture;
  CHECK(fixture.status("chr1", 1, "A", "N") == "NON_ACGT");
  CHECK(fixture.status("chr1", 1, "A", "CR") == "NON_ACGT");
  CHECK(fixture.status("chr1", 1, "A", "1") == "NON_ACGT");
  // Codes of REF stand for their bases.
  CHECK(fixture.status("chr1", 1, "R", "C") == "NON_ACGT");
  CHECK(fixture.status("chr1", 1, "n", "C") == "NON_ACGT");
  CHECK(fixture.status("chr1", 1, "NCG", "C") == "NON_ACGT");
  CHECK(fixture.status("chr1", 1, "Y", "C") == "REF_MISMATCH");
  CHECK(fixture.status("chr1", 1, "B", "C") == "REF_MISMATCH");
  CHECK(fixture.status("chr1", 1, "!", "C") == "REF_MISMATCH");
  // An N of the reference, or a code that is read as one, may be any base.
  CHECK(fixture.status("chr1", 9, "N", "C") == "NON_ACGT");
  CHECK(fixture.status("chr1", 9, "A", "C") == "NON_ACGT");
  CHECK(fixture.status("chr1", 8, "TNNA", "T") == "NON_ACGT");
  CHECK(fixture.status("chr1", 8, "ANNA", "T") == "REF_MISMATCH");
  CHECK(fixture.status("chr2", 5, "A", "C") == "NON_ACGT");
  CHECK(fixture.status("chr2", 5, "R", "C") == "NON_ACGT");
  CHECK(fixture.status("chr2", 5, "!", "C") == "REF_MISMATCH");
  CHECK(fixture.status("chr1", 9, "N", "n") == "NO_CHANGE");
  // Beside N is fine.
  CHECK(fixture.change("chr1", 8, "T", "A") == "7-8>A");
}

TEST_CASE("places that the reference does not have", "[allele_resolver]") {
  Fixture fixture;
  CHECK(fixture.status("chr7", 1, "A", "C") == "NO_CONTIG");
  CHECK(fixture.status("chr7", 1, "A", "*") == "NO_CONTIG");
  CHECK(fixture.resolve(record_of("chr7", 1, "A", {"C"})).contig == -1);
  CHECK(fixture.status("chr1", 0, "N", "C") == "OFF_CONTIG");
  CHECK(fixture.status("chr1", 0, "N", "<DEL>", {5, {}}) == "OFF_CONTIG");
  CHECK(fixture.status("chr1", 14, "TA", "T") == "OFF_CONTIG");
  CHECK(fixture.status("chr1", 15, "A", "T") == "OFF_CONTIG");
  CHECK(fixture.status("chr1", std::numeric_limits<int64_t>::max(), "AA", "T") == "OFF_CONTIG");
  CHECK(fixture.status("small", 1, std::string(100000, 'C'), "T") == "OFF_CONTIG");
  CHECK(fixture.change("chr1", 13, "GT", "G") == "12-14>G");
}

TEST_CASE("a contig that is absent is an error where that is asked for", "[allele_resolver]") {
  ResolverOptions options;
  options.strict = true;
  Fixture fixture(options);
  const auto absent = [&] { (void)fixture.resolve(record_of("chr7", 3, "A", {"C"})); };
  CHECK(message_of<DataError>(absent) ==
        "in.vcf: line 12 (chr7:3): contig 'chr7' is not in ref.fa; give the reference that the "
        "variants were called on");
  CHECK_THROWS_AS(absent(), DataError);
  CHECK(fixture.change("1", 1, "A", "C") == "0-1>C");
}

TEST_CASE("contigs go by other names, said once", "[allele_resolver]") {
  SECTION("chr is added, M is MT") {
    Fixture fixture;
    CHECK(fixture.resolve(record_of("2", 1, "T", {"C"})).contig == 1);
    CHECK(fixture.resolve(record_of("1", 1, "A", {"C"})).contig == 0);
    CHECK(fixture.resolve(record_of("2", 1, "T", {"C"})).contig == 1);
    for (const char* name : {"M", "MT", "chrMT", "chrM"}) {
      CHECK(fixture.resolve(record_of(name, 1, "G", {"C"})).contig == 2);
    }
    CHECK(fixture.resolve(record_of("chr", 1, "G", {"C"})).contig == -1);
    CHECK(fixture.resolve(record_of("chrchr2", 1, "T", {"C"})).contig == 1);
    CHECK(fixture.notes ==
          Texts{"contigs of in.vcf are named '2', those of ref.fa 'chr2': matched"});
  }
  SECTION("chr is taken off") {
    Fixture fixture({}, ">1\nA\n>MT\nC\n");
    CHECK(fixture.resolve(record_of("chr1", 1, "A", {"C"})).contig == 0);
    CHECK(fixture.resolve(record_of("chrM", 1, "C", {"A"})).contig == 1);
    CHECK(fixture.notes.size() == 1);
  }
  SECTION("the same name comes first") {
    Fixture fixture({}, ">chr1\nA\n>1\nC\n");
    CHECK(fixture.resolve(record_of("1", 1, "C", {"A"})).contig == 1);
    CHECK(fixture.resolve(record_of("chr1", 1, "A", {"C"})).contig == 0);
    CHECK(fixture.notes.empty());
  }
  SECTION("not when that is not wanted") {
    ResolverOptions options;
    options.map_prefix = false;
    Fixture fixture(options);
    CHECK(fixture.status("1", 1, "A", "C") == "NO_CONTIG");
    CHECK(fixture.status("MT", 1, "G", "C") == "NO_CONTIG");
    CHECK(fixture.notes.empty());
  }
}

TEST_CASE("symbolic deletions", "[allele_resolver]") {
  Fixture fixture;
  CHECK(fixture.change("chr1", 2, "C", "<DEL>", {4, {}}) == "1-4>C");
  CHECK(fixture.change("chr1", 2, "C", "<DEL>", {{}, {-2}}) == "1-4>C");
  CHECK(fixture.change("chr1", 2, "C", "<DEL>", {{}, {2}}) == "1-4>C");
  CHECK(fixture.change("chr1", 2, "C", "<DEL:ME:ALU>", {4, {-2}}) == "1-4>C");
  CHECK(fixture.change("chr1", 2, "N", "<DEL>", {4, {}}) == "1-4>C");
  CHECK(fixture.change("chr1", 2, "c", "<DEL>", {4, {{}}}) == "1-4>C");
  CHECK(fixture.change("chrM", 1, "G", "<DEL>", {7, {}}) == "0-7>G");
  // Each ALT has its length; END is of one of them.
  CHECK(fixture.changes(record_of("chr1", 2, "C", {"T", "<DEL>", "<DEL>"}, {{}, {{}, -2, -3}})) ==
        Texts{"1-2>T", "1-4>C", "1-5>C"});
  CHECK(fixture.changes(record_of("chr1", 2, "C", {"<DEL>", "<DEL>"}, {4, {-2, -3}})) ==
        Texts{"1-4>C", "SYMBOLIC"});
  CHECK(fixture.status("chr1", 2, "C", "<DEL>") == "SYMBOLIC");
  CHECK(fixture.status("chr1", 2, "C", "<DEL>", {2, {}}) == "SYMBOLIC");
  CHECK(fixture.status("chr1", 2, "C", "<DEL>", {{}, {0}}) == "SYMBOLIC");
  CHECK(fixture.status("chr1", 2, "C", "<DEL>", {4, {-3}}) == "SYMBOLIC");
  CHECK(fixture.status("chr1", 2, "G", "<DEL>", {4, {-2}}) == "REF_MISMATCH");
  CHECK(fixture.status("chr1", 7, "G", "<DEL>", {9, {}}) == "NON_ACGT");
  CHECK(fixture.status("chr1", 10, "N", "<DEL>", {12, {}}) == "NON_ACGT");
  CHECK(fixture.status("chrM", 1, "G", "<DEL>", {8, {}}) == "OFF_CONTIG");
  CHECK(fixture.status("chrM", 1, "G", "<DEL>", {1'000'000'000'000, {}}) == "OFF_CONTIG");
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  CHECK(fixture.status("chr1", 2, "C", "<DEL>", {kMost, {}}) == "OFF_CONTIG");
  CHECK(fixture.status("chr1", 2, "C", "<DEL>", {{}, {kMost}}) == "OFF_CONTIG");
  CHECK(fixture.status("chr1", 2, "C", "<DEL>", {{}, {-kMost - 1}}) == "OFF_CONTIG");
}

TEST_CASE("inversions and tandem duplications", "[allele_resolver]") {
  Fixture fixture;
  CHECK(fixture.change("chrM", 1, "G", "<INV>", {4, {}}) == "0-4>GAAT");
  CHECK(fixture.change("chrM", 1, "G", "<INV>", {4, {0}}) == "0-4>GAAT");
  CHECK(fixture.change("chrM", 1, "G", "<INV>", {{}, {3}}) == "0-4>GAAT");
  CHECK(fixture.change("chrM", 1, "G", "<INV>", {2, {}}) == "0-2>GT");
  CHECK(fixture.status("chr1", 4, "T", "<INV>", {8, {}}) == "NO_CHANGE");  // ACGT
  CHECK(fixture.status("chrM", 1, "G", "<INV>", {4, {-3}}) == "SYMBOLIC");
  CHECK(fixture.status("chrM", 1, "G", "<INV>", {{}, {0}}) == "SYMBOLIC");
  CHECK(fixture.status("chrM", 1, "G", "<INV>", {8, {}}) == "OFF_CONTIG");
  CHECK(fixture.change("chrM", 1, "G", "<DUP:TANDEM>", {3, {}}) == "0-1>GAT");
  CHECK(fixture.change("chrM", 1, "N", "<DUP:TANDEM>", {3, {2}}) == "0-1>GAT");
  CHECK(fixture.status("chrM", 1, "G", "<DUP:TANDEM>", {3, {-2}}) == "SYMBOLIC");
  CHECK(fixture.status("chrM", 1, "G", "<DUP:TANDEM>", {3, {4}}) == "SYMBOLIC");
}

TEST_CASE("lengths are looked at first", "[allele_resolver]") {
  ResolverOptions options;
  options.longest = 4;
  Fixture fixture(options);
  CHECK(fixture.change("chr1", 1, "ACGT", "A") == "0-4>A");
  CHECK(fixture.status("chr1", 1, "ACGTA", "A") == "TOO_LONG");
  CHECK(fixture.status("chr1", 1, "TTTTT", "*") == "TOO_LONG");
  CHECK(fixture.change("chr1", 1, "A", "ACCC") == "0-1>ACCC");
  CHECK(fixture.status("chr1", 1, "A", "ACCCC") == "TOO_LONG");
  CHECK(fixture.status("chr1", 1, "A", std::string(10'000'000, 'N')) == "TOO_LONG");
  CHECK(fixture.change("chr1", 1, "A", "<DEL>", {4, {}}) == "0-4>A");
  CHECK(fixture.status("chr1", 1, "A", "<DEL>", {5, {}}) == "SYMBOLIC");
  CHECK(fixture.change("chr1", 1, "A", "<DUP:TANDEM>", {4, {}}) == "0-1>ACGT");
  CHECK(fixture.status("chr1", 1, "A", "<DUP:TANDEM>", {5, {}}) == "SYMBOLIC");
  CHECK(fixture.status("chr1", 1, "A", "<INV>", {5, {}}) == "SYMBOLIC");
}

TEST_CASE("REF that is not the reference's", "[allele_resolver]") {
  ResolverOptions options;
  const io::VariantRecord wrong = record_of("1", 2, "CTT", {"C", "*", "<DEL>"}, {4, {}});
  SECTION("is skipped and counted") {
    Fixture fixture(options);
    CHECK(fixture.changes(wrong) == Texts{"REF_MISMATCH", "REF_MISMATCH", "REF_MISMATCH"});
    CHECK(fixture.resolver.counts().mismatched == 1);
    CHECK(fixture.resolver.counts().swapped == 0);
  }
  SECTION("is an error") {
    options.ref_mismatch = RefMismatch::error;
    Fixture fixture(options);
    CHECK(message_of<DataError>([&] { (void)fixture.resolve(wrong); }) ==
          "in.vcf: line 12 (1:2): REF is 'CTT', but ref.fa has 'CGT' there (they differ from base "
          "3 on); give the reference that the variants were called on");
    // Without ALT as well; but not where the reference has N.
    CHECK_THROWS_AS(fixture.resolve(record_of("chr1", 1, "T", {})), DataError);
    CHECK(fixture.status("chr1", 9, "T", "A") == "NON_ACGT");
  }
  SECTION("changes places with the ALT that is") {
    options.ref_mismatch = RefMismatch::swap;
    Fixture fixture(options);
    ResolvedRecord resolved = fixture.resolve(record_of("chr1", 2, "t", {"G", "c", "CA"}));
    CHECK(resolved.swapped);
    REQUIRE(resolved.alleles.size() == 4);
    CHECK(Fixture::text(resolved.alleles[0]) == "1-2>G");
    CHECK(resolved.alleles[1].is_reference);
    CHECK(resolved.alleles[1].status == AlleleStatus::scored);
    CHECK(Fixture::text(resolved.alleles[2]) == "1-2>CA");
    CHECK(Fixture::text(resolved.alleles[3]) == "1-2>T");
    CHECK(fixture.changes(record_of("chr1", 2, "CT", {"CG", "C", "<DEL>", "*", "CT", "NN"},
                                    {4, {}})) == Texts{"reference", "1-3>C", "REF_MISMATCH",
                                                       "SPANNING_DELETION", "NO_CHANGE", "NON_ACGT",
                                                       "1-3>CT"});
    // No ALT of that length, or letters that stand for several bases.
    CHECK(fixture.changes(record_of("chr1", 2, "T", {"G", "CC"})) ==
          Texts{"REF_MISMATCH", "REF_MISMATCH"});
    CHECK(fixture.changes(record_of("chr1", 2, "R", {"C"})) == Texts{"REF_MISMATCH"});
    CHECK(fixture.changes(record_of("chr1", 8, "AN", {"TN"})) == Texts{"REF_MISMATCH"});
    CHECK(fixture.changes(record_of("chr1", 2, "C", {"T"})) == Texts{"1-2>T"});
    CHECK(fixture.resolver.counts().swapped == 2);
    CHECK(fixture.resolver.counts().mismatched == 5);
  }
}

TEST_CASE("statuses are counted, one for each ALT", "[allele_resolver]") {
  ResolverOptions options;
  options.ref_mismatch = RefMismatch::swap;
  Fixture fixture(options);
  (void)fixture.resolve(record_of("chr1", 1, "A", {"C", "*", "<INS>", "G"}));
  (void)fixture.resolve(record_of("chr1", 1, "G", {"A"}));
  (void)fixture.resolve(record_of("chr8", 1, "G", {"A", "T"}));
  (void)fixture.resolve(record_of("chr1", 1, "A", {}));
  const ResolverCounts& counts = fixture.resolver.counts();
  CHECK(counts.of(AlleleStatus::scored) == 3);
  CHECK(counts.of(AlleleStatus::spanning_deletion) == 1);
  CHECK(counts.of(AlleleStatus::symbolic) == 1);
  CHECK(counts.of(AlleleStatus::no_contig) == 2);
  CHECK(counts.of(AlleleStatus::no_change) == 0);
}

TEST_CASE("the window on the reference never shows", "[allele_resolver]") {
  // Three contigs of several windows, in a bgzip file; deletions in order and at random.
  std::mt19937 random(3);
  std::vector<std::string> contigs;
  std::string fasta;
  for (const char* name : {"a", "b", "c"}) {
    std::string bases(200'003, 'A');
    for (char& base : bases) base = "ACGT"[random() % 4];
    fasta.append(">").append(name).append("\n");
    for (size_t i = 0; i < bases.size(); i += 70) fasta.append(bases, i, 70).append("\n");
    contigs.push_back(std::move(bases));
  }
  Fixture fixture({}, bgzip(fasta));
  const bool sorted = GENERATE(true, false);
  for (size_t i = 0; i < 600; ++i) {
    const size_t contig = sorted ? i / 200 : random() % 3;
    const std::string& bases = contigs[contig];
    const size_t n = 2 + random() % 3000;
    const size_t start = sorted ? (i % 200) * 985 : random() % (bases.size() - n);
    const std::string name(1, static_cast<char>('a' + contig));
    const auto pos = static_cast<int64_t>(start) + 1;
    REQUIRE(fixture.status(name, pos, bases.substr(start, n), bases.substr(start, 1)).empty());
    const Info info{static_cast<int64_t>(start + n), {}};
    const ResolvedAllele copy = fixture.one(name, pos, "N", "<DUP:TANDEM>", info);
    REQUIRE(copy.allele.alt == bases.substr(start, n));
  }
}

TEST_CASE("records of a file", "[allele_resolver]") {
  Fixture fixture;
  const std::string vcf = put(fixture.folder / "in.vcf",
                              "##fileformat=VCFv4.3\n##contig=<ID=chr1>\n"
                              "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
                              "chr1\t0\t.\tN\t<DEL>\t.\t.\tEND=5\n"
                              "chr1\t2\t.\tC\t<DEL>,T,.\t.\t.\tEND=4;SVLEN=-2,.,.\n"
                              "chr1\t2\t.\tC\t<DEL>\t.\t.\tEND=-4\n"
                              "chr1\t2\t.\tC\t<DEL>\t.\t.\tEND=1000000000000\n"
                              "chr1\t2\t.\tC\t.\t.\t.\t.\n");
  io::VariantReader reader(vcf);
  io::VariantRecord record;
  std::vector<Texts> found;
  while (reader.next(record)) found.push_back(fixture.changes(record));
  CHECK(found ==
        std::vector<Texts>{
            {"OFF_CONTIG"}, {"1-4>C", "1-2>T", "NO_CHANGE"}, {"SYMBOLIC"}, {"OFF_CONTIG"}, {}});
}

}  // namespace
}  // namespace chromamba::pipelines
