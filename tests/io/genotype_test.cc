#include "io/genotype.h"

#include "io/variant_file.h"
#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;
using testing::put;
using testing::TempFolder;

using Alleles = std::vector<int32_t>;

TEST_CASE("genotypes as text") {
  struct Case {
    const char* text;
    Alleles alleles;
    bool phased;
  };
  const std::vector<Case> cases = {
      {".", {-1}, true},
      {"./.", {-1, -1}, false},
      {".|.", {-1, -1}, true},
      {"0|1", {0, 1}, true},
      {"0/1", {0, 1}, false},
      {"1|2", {1, 2}, true},
      {"1", {1}, true},
      {"/1", {1}, false},
      {"|1", {1}, true},
      {"|0|1", {0, 1}, true},
      {"/0|1", {0, 1}, false},
      {"0|1|2", {0, 1, 2}, true},
      {"0|1/2", {0, 1, 2}, false},
      {"./10", {-1, 10}, false},
      {"1|.", {1, -1}, true},
      {"2147483647", {2147483647}, true},
  };
  for (const Case& each : cases) {
    INFO(each.text);
    const std::optional<Genotype> genotype = parse_genotype(each.text);
    REQUIRE(genotype);
    CHECK(genotype->alleles == each.alleles);
    CHECK(genotype->phased == each.phased);
    CHECK(genotype->phase_set.empty());
  }
  for (const char* text : {"", "|", "/", "0|", "0||1", "||1", "a", "0|x", "-1", "+1", "0-1", "0|-1",
                           "..", "1.", "0 |1", "2147483648", "99999999999999999999|0", "0|1|"}) {
    INFO(text);
    CHECK_FALSE(parse_genotype(text));
  }
}

const std::string kHead =
    "##fileformat=VCFv4.3\n##contig=<ID=c,length=1000>\n"
    "##FORMAT=<ID=GT,Number=1,Type=String,Description=\"Genotype\">\n"
    "##FORMAT=<ID=DP,Number=1,Type=Integer,Description=\"Depth\">\n"
    "##FORMAT=<ID=PS,Number=1,Type=Integer,Description=\"Phase set\">\n"
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO";

std::string show(const std::optional<Genotype>& genotype) {
  if (!genotype) return "none";
  std::string text;
  for (const int32_t allele : genotype->alleles) {
    if (!text.empty()) text += genotype->phased ? "|" : "/";
    text += allele < 0 ? "." : std::to_string(allele);
  }
  if (genotype->alleles.size() == 1 && !genotype->phased) text += " unphased";
  return text + (genotype->phase_set.empty() ? "" : " PS " + genotype->phase_set);
}

// The genotypes of both samples in every record.
std::vector<std::string> genotypes(const std::string& path) {
  VariantReader reader(path);
  VariantRecord record;
  std::vector<std::string> shown;
  while (reader.next(record)) {
    shown.push_back(show(record.genotype(0)) + ", " + show(record.genotype(1)));
  }
  return shown;
}

TEST_CASE("a sample's genotype and phase set, in VCF and BCF") {
  const TempFolder folder;
  const std::string start = "c\t5\t.\tA\tC,G\t.\t.\t.\t";
  const std::vector<std::pair<std::string, std::string>> lines = {
      {"GT\t0|1\t1/2", "0|1, 1/2"},
      {"GT:PS\t0|1:7\t0/1:8", "0|1 PS 7, 0/1 PS 8"},
      {"GT:PS\t0|1:.\t0|1", "0|1, 0|1"},
      {"GT:DP:PS\t0|1:3:12\t0|1:3", "0|1 PS 12, 0|1"},
      {"GT:PS:DP\t.:.:.\t1|1:5:3", "., 1|1 PS 5"},
      {"GT\t1\t0|1|2", "1, 0|1|2"},
      {"GT:PS\t1:4\t./1:4", "1 PS 4, ./1 PS 4"},
      {"GT\t./.\t.|1", "./., .|1"},
      {"DP\t3\t4", "none, none"},
  };
  std::string text = kHead + "\tFORMAT\tS1\tS2\n";
  std::vector<std::string> expected;
  for (const auto& [columns, shown] : lines) {
    text += start + columns + "\n";
    expected.push_back(shown);
  }
  const std::string path = put(folder / "in.vcf", text);
  CHECK(genotypes(path) == expected);
  for (const VariantFormat format : {VariantFormat::bcf, VariantFormat::bcf_uncompressed}) {
    VariantReader reader(path);
    VariantWriterOptions options;
    options.format = format;
    VariantWriter writer(folder / "copy.bcf", reader.header(), options);
    VariantRecord record;
    while (reader.next(record)) writer.write(record, {});
    writer.close();
    CHECK(genotypes(folder / "copy.bcf") == expected);
  }
}

TEST_CASE("allele numbers of every width in BCF") {
  const TempFolder folder;
  std::string alts = "AC";
  for (int i = 1; i < 40000; ++i) alts += ",A" + std::string("ACGT").substr(i % 4, 1) + "C";
  for (const std::string number : {"62", "63", "16382", "16383", "40000"}) {
    const std::string path =
        put(folder / "in.vcf", kHead + "\tFORMAT\tS1\tS2\nc\t5\t.\tA\t" + alts +
                                   "\t.\t.\t.\tGT:PS\t" + number + "|.:70000\t1:-3\n");
    VariantReader reader(path);
    VariantWriterOptions options;
    options.format = VariantFormat::bcf;
    VariantWriter writer(folder / "copy.bcf", reader.header(), options);
    VariantRecord record;
    REQUIRE(reader.next(record));
    writer.write(record, {});
    writer.close();
    CHECK(genotypes(folder / "copy.bcf") ==
          std::vector<std::string>{number + "|. PS 70000, 1 PS -3"});
  }
}

TEST_CASE("genotypes in text that BCF cannot hold, or nobody should write") {
  const TempFolder folder;
  const auto of = [&](const std::string& columns) {
    return genotypes(put(folder / "in.vcf",
                         kHead + "\tFORMAT\tS1\tS2\nc\t5\t.\tA\tC\t.\t.\t.\t" + columns + "\n"))[0];
  };
  CHECK(of("GT:PS\t0|1:PATMAT\t0|1:007") == "0|1 PS PATMAT, 0|1 PS 007");
  CHECK(of("DP:GT\t3\t3:0|1") == "., 0|1");
  CHECK(of("GT:GT\t0|1:0/0\t1:0") == "0|1, 1");
  CHECK(of("GT\t0|1:5:6\t0|1") == "0|1, 0|1");
  CHECK(of(".\t.\t.") == "none, none");
  CHECK(of("GT:PS\t0|1:\t0|1:.") == "0|1, 0|1");

  VariantReader bare(put(folder / "in.vcf", kHead + "\nc\t5\t.\tA\tC\t.\t.\t.\n"));
  VariantRecord record;
  REQUIRE(bare.next(record));
  CHECK_THROWS_AS(record.genotype(0), InternalError);
}

TEST_CASE("genotypes that are none name the place and the sample") {
  const TempFolder folder;
  const auto error = [&](const std::string& columns) {
    put(folder / "in.vcf", kHead + "\tFORMAT\tS1\tS2\nc\t5\t.\tA\tC\t.\t.\t.\t" + columns + "\n");
    return message_of<DataError>([&] { (void)genotypes(folder / "in.vcf"); });
  };
  CHECK_THAT(error("GT\t0|1\tx"), Catch::Contains("in.vcf: line 7 (c:5): sample 'S2': GT is 'x'"));
  CHECK_THAT(error("GT\t\t0|1"), Catch::Contains("sample 'S1': GT is ''"));
  CHECK_THAT(error("GT\t0|2\t0|1"), Catch::Contains("names allele 2; the record has 1 besides"));
  CHECK_THAT(error("GT:PS\t0|1:a\rb\t0|1"), Catch::Contains("PS is 'a\\x0db'"));

  // One byte of a BCF file's genotype: allele 1 becomes allele 9, then a negative number.
  const std::string path =
      put(folder / "in.vcf", kHead + "\tFORMAT\tS1\tS2\nc\t5\t.\tA\tC\t.\t.\t.\tGT\t0|1\t0|1\n");
  VariantReader reader(path);
  VariantWriterOptions options;
  options.format = VariantFormat::bcf_uncompressed;
  VariantWriter writer(folder / "good.bcf", reader.header(), options);
  VariantRecord record;
  REQUIRE(reader.next(record));
  writer.write(record, {});
  writer.close();
  std::string bytes = testing::slurp(folder / "good.bcf");
  for (const auto& [byte, message] : std::vector<std::pair<char, std::string>>{
           {'\x15', "record 1 (c:5): sample 'S2': GT names allele 9"},
           {'\xf0', "sample 'S2': GT holds -16"}}) {
    bytes.back() = byte;
    put(folder / "bad.bcf", bytes);
    CHECK_THAT(message_of<DataError>([&] { (void)genotypes(folder / "bad.bcf"); }),
               Catch::Contains(message));
  }
}

TEST_CASE("samples by name") {
  const TempFolder folder;
  std::string columns = "\tFORMAT";
  for (int i = 0; i < 12; ++i) columns += "\tS" + std::to_string(i);
  const VariantReader reader(put(folder / "in.vcf", kHead + columns + "\n"));
  CHECK(reader.sample_index("S0") == 0);
  CHECK(reader.sample_index("S11") == 11);
  const std::string message = message_of<UsageError>([&] { (void)reader.sample_index("T"); });
  CHECK_THAT(message, Catch::Contains("sample 'T' is not in") &&
                          Catch::Contains("the samples 'S0', 'S1'") &&
                          Catch::EndsWith("'S9' and 2 more"));
  const VariantReader bare(put(folder / "bare.vcf", kHead + "\n"));
  CHECK_THAT(message_of<UsageError>([&] { (void)bare.sample_index("S0"); }),
             Catch::Contains("which has no samples"));
}

}  // namespace
}  // namespace chromamba::io
