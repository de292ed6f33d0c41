#include "io/variant_file.h"

#include <sys/resource.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "io/input_stream.h"
#include "io/pending_file.h"
#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::bgzip;
using testing::gzip;
using testing::message_of;
using testing::put;
using testing::slurp;
using testing::TempFolder;

const std::string kColumns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO";

const std::string kHeader =
    "##fileformat=VCFv4.3\n"
    "##source=a test, with  extra   spaces \n"
    "##INFO=<ID=DP, Number=1,  Type=Integer,Description=\"Depth, \\\"quoted\\\" = <x>\">\n"
    "##contig=<ID=chr1,length=1000000>\n"
    "##FILTER=<ID=q10,Description=\"Low quality\">\n"
    "##INFO=<ID=AF,Number=A,Type=Float,Description=\"Frequency\">\n"
    "##INFO=<ID=END,Number=1,Type=Integer,Description=\"End\">\n"
    "##INFO=<ID=SVLEN,Number=.,Type=Integer,Description=\"Length\">\n"
    "##INFO=<ID=SVTYPE,Number=1,Type=String,Description=\"Type\">\n"
    "##INFO=<ID=DB,Number=0,Type=Flag,Description=\"dbSNP\">\n"
    "##FORMAT=<ID=GT,Number=1,Type=String,Description=\"Genotype\">\n"
    "##FORMAT=<ID=DP,Number=1,Type=Integer,Description=\"Depth\">\n"
    "##FORMAT=<ID=GL,Number=G,Type=Float,Description=\"Likelihoods\">\n"
    "##contig=<ID=HLA-A*01:01>\n"
    "##ALT=<ID=DEL,Description=\"Deletion\">\n"
    "##weird line without equals sign\n" +
    kColumns + "\tFORMAT\tS 1\tS2\n";

// Every odd kind of record; sorted, and nothing that BCF cannot hold.
const std::vector<std::string> kLines = {
    "chr1\t0\t.\tN\t<DEL>\t.\t.\tEND=5;SVTYPE=DEL\tGT\t.\t.",
    "chr1\t1\trs1\tA\tC\t29.50\tPASS\tDP=014;AF=0.10;DB\tGT:DP:GL\t0/1:3:-0.10,-1e-05,.\t1|1",
    "chr1\t10\trs2;rs3\tac\tGT,A,.\t3e2\tq10\tAF=1e-05,.,0.50\tGT\t./.\t.",
    "chr1\t10\t.\tA\t.\t.\t.\t.\tGT\t0\t0/0",
    "chr1\t11\t.\tRYK\tN,*\t1e-400\tPASS\tDB;DP=.;\tGT:DP\t0/1:.\t.:.",
    "chr1\t12\t.\tACG\tA\t0.0\t.\tSVLEN=-2\tGT\t0/1\t0/2",
    "chr1\t12\t.\tA\tACGT\t-0\t.\tSVLEN=+3,.;;DP=1\tGT\t0/1\t0/2",
    "chr1\t20\t.\tG\t<DEL>,<DUP:TANDEM>\t50\tPASS\tSVTYPE=DEL;END=120;SVLEN=-100,100\tGT\t0\t0",
    "chr1\t20\tbnd\tG\tG]chr1:500],[HLA-A*01:01:7[G\t.\t.\tSVTYPE=BND\tGT\t0\t0",
    "chr1\t21\tbnd\tG\t.TTG\t.\t.\tSVTYPE=BND\tGT\t0\t0",
    "chr1\t30\t.\tG\t<NON_REF>\t.\t.\tEND=30\tGT\t0\t0",
    "chr1\t40\t.\tG\tT\t.\t.\tEND=3\tGT\t0\t0",
    "chr1\t1000000\t.\tG\tT\t12345678.9\tq10\tAF=0.123456789\tGT\t0\t0",
    "HLA-A*01:01\t7\t.\tc\tt\t.\t.\tDP=2147483647\tGT\t0\t0",
};

std::string joined(const std::vector<std::string>& lines, const std::string& line_end = "\n") {
  std::string text;
  for (const std::string& line : lines) text += line + line_end;
  return text;
}

const std::vector<VariantInfo> kInfo = {
    {"CM_LLR", "A", VariantInfo::Type::number, "Log-likelihood ratio, \"alt\" - ref"},
    {"CM_STATUS", "A", VariantInfo::Type::text, "Reason"}};

const std::string kInfoLines =
    "##INFO=<ID=CM_LLR,Number=A,Type=Float,Description=\"Log-likelihood ratio, \\\"alt\\\" - "
    "ref\">\n##INFO=<ID=CM_STATUS,Number=A,Type=String,Description=\"Reason\">\n";

// Values as check_variants.py expects them.
class Values {
 public:
  std::vector<VariantInfoValues> of(const VariantRecord& record) {
    std::vector<VariantInfoValues> values(2);
    for (size_t i = 0; i < record.alts.size(); ++i) {
      values[0].numbers.push_back(-static_cast<float>(++allele_) / 8);
      values[1].texts.emplace_back(i % 2 == 0 ? "" : "SYMBOLIC");
    }
    return values;
  }

 private:
  int allele_ = 0;
};

// Copies with our fields (or without any), and gives the records' number.
int64_t copy(const std::string& from, const std::string& to, VariantWriterOptions options,
             bool score = true, int threads = 1) {
  VariantReaderOptions reading;
  reading.threads = threads;
  VariantReader reader(from, reading);
  if (score) options.info = kInfo;
  VariantWriter writer(to, reader.header(), options);
  VariantRecord record;
  Values values;
  int64_t n = 0;
  while (reader.next(record)) {
    writer.write(record, score ? values.of(record) : std::vector<VariantInfoValues>());
    CHECK(record.number == ++n);
  }
  CHECK_FALSE(reader.next(record));
  writer.close();
  writer.close();
  return n;
}

VariantWriterOptions as(VariantFormat format) {
  VariantWriterOptions options;
  options.format = format;
  return options;
}

// The text of a file of any compression.
std::string text_of(const std::string& path) {
  InputStream in(path);
  std::string text;
  std::string block(1 << 16, '\0');
  for (int64_t n = 0; (n = in.read(block.data(), 1 << 16)) > 0;) {
    text.append(block, 0, static_cast<size_t>(n));
  }
  return text;
}

// What a shell command prints; its exit code must be 0.
std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  std::array<char, 4096> block{};
  for (size_t n = 0; (n = fread(block.data(), 1, block.size(), pipe)) > 0;) {
    output.append(block.data(), n);
  }
  INFO(command << "\n" << output);
  REQUIRE(pclose(pipe) == 0);
  return output;
}

bool have_bcftools() {
  const bool have = std::system("bcftools --version >/dev/null 2>&1") == 0;  // NOLINT
  if (!have) WARN("SKIPPED: no bcftools");
  return have;
}

std::string error_of(const TempFolder& folder, const std::string& bytes) {
  const std::string path = put(folder / "bad.vcf", bytes);
  std::string message = message_of<DataError>([&] {
    VariantReader reader(path);
    VariantRecord record;
    while (reader.next(record)) {
    }
  });
  CHECK_MESSAGE_HAS(message, path);
  return message;
}

struct Seen {
  std::vector<std::string> records;
  std::vector<VariantWarning> warnings;
};

// What a reader makes of each record, as one string.
Seen view_of(const std::string& path, int threads = 1) {
  VariantReaderOptions options;
  options.threads = threads;
  VariantReader reader(path, options);
  VariantRecord record;
  Seen seen;
  while (reader.next(record)) {
    std::string text = record.contig + " " + std::to_string(record.contig_index) + " " +
                       std::to_string(record.position) + " " +
                       std::to_string(record.reference_length) + " " + record.id + " " + record.ref;
    for (const std::string& alt : record.alts) text += " " + alt;
    text += " end " + (record.end ? std::to_string(*record.end) : ".") + " svlen";
    for (const auto& length : record.svlen) text += length ? " " + std::to_string(*length) : " .";
    seen.records.push_back(text);
  }
  seen.warnings = reader.warnings();
  return seen;
}

TEST_CASE("records are seen as the file has them", "[variants]") {
  TempFolder folder;
  const std::string text = kHeader + joined(kLines);
  const std::vector<std::string> expected = {
      "chr1 0 -1 6 . N <DEL> end 5 svlen",
      "chr1 0 0 1 rs1 A C end . svlen",
      "chr1 0 9 2 rs2;rs3 ac GT A . end . svlen",
      "chr1 0 9 1 . A end . svlen",
      "chr1 0 10 3 . RYK N * end . svlen",
      "chr1 0 11 3 . ACG A end . svlen -2",
      "chr1 0 11 1 . A ACGT end . svlen 3 .",
      "chr1 0 19 101 . G <DEL> <DUP:TANDEM> end 120 svlen -100 100",
      "chr1 0 19 1 bnd G G]chr1:500] [HLA-A*01:01:7[G end . svlen",
      "chr1 0 20 1 bnd G .TTG end . svlen",
      "chr1 0 29 1 . G <NON_REF> end 30 svlen",
      "chr1 0 39 1 . G T end . svlen",
      "chr1 0 999999 1 . G T end . svlen",
      "HLA-A*01:01 1 6 1 . c t end . svlen"};
  for (const std::string& bytes :
       {text, gzip(text), bgzip(text), bgzip(text, 100),
        gzip(text.substr(0, 99)) + gzip(text.substr(99)), kHeader + joined(kLines) + "\n\r\n"}) {
    const std::string path = put(folder / "a", bytes);
    const Seen seen = view_of(path);
    CHECK(seen.records == expected);
    CHECK(view_of(path, 2).records == expected);
    REQUIRE(seen.warnings.size() == 1);
    CHECK_MESSAGE_HAS(seen.warnings[0].message, "line 29 (chr1:40): INFO END=3");
    CHECK(seen.warnings[0].records == 1);
    const testing::StdinFrom input(path);
    CHECK(view_of("-").records == expected);
  }
  for (const VariantFormat format : {VariantFormat::bcf, VariantFormat::bcf_uncompressed}) {
    const std::string path = folder / "a.bcf";
    copy(folder / "a", path, as(format));
    CHECK(view_of(path).records == expected);
    CHECK(view_of(path, 2).records == expected);
    const testing::StdinFrom input(path);
    CHECK(view_of("-").records == expected);
  }
  VariantReader reader(folder / "a");
  REQUIRE(reader.contigs().size() == 2);
  CHECK(reader.contigs()[0].length == 1'000'000);
  CHECK(reader.contigs()[1].name == "HLA-A*01:01");
  CHECK(reader.contigs()[1].length == 0);
  CHECK(reader.samples() == std::vector<std::string>{"S 1", "S2"});
  CHECK_FALSE(reader.is_bcf());
  CHECK(VariantReader(folder / "a.bcf").is_bcf());
}

TEST_CASE("VCF to VCF changes nothing but our INFO", "[variants]") {
  TempFolder folder;
  for (const std::string line_end : {"\n", "\r\n"}) {
    std::string header = kHeader;
    for (size_t at = 0; line_end != "\n" && (at = header.find('\n', at)) != std::string::npos;) {
      header.replace(at, 1, line_end);
      at += line_end.size();
    }
    const std::string text = header + joined(kLines, line_end);
    put(folder / "in.vcf", text);
    CHECK(copy(folder / "in.vcf", folder / "out.vcf", as(VariantFormat::vcf), false) == 14);
    CHECK(slurp(folder / "out.vcf") == text);

    VariantWriterOptions options = as(VariantFormat::vcf_gz);
    options.header_lines = {"##chromamba_command=variants -o\na b", "##chromamba_model=1"};
    copy(folder / "in.vcf", folder / "out.vcf.gz", options);
    std::string out = text_of(folder / "out.vcf.gz");
    std::string ours = kInfoLines + "##chromamba_command=variants -o a b\n##chromamba_model=1\n";
    for (size_t at = 0; line_end != "\n" && (at = ours.find('\n', at)) != std::string::npos;) {
      ours.replace(at, 1, line_end);
      at += line_end.size();
    }
    const size_t where = out.find(ours);
    REQUIRE(where != std::string::npos);
    CHECK(out.compare(where + ours.size(), kColumns.size(), kColumns) == 0);
    out.erase(where, ours.size());
    CHECK(out.find(";;CM_") == std::string::npos);
    // Our fields are the last ones of INFO.
    for (size_t at = 0; (at = out.find("CM_LLR=", at)) != std::string::npos;) {
      const size_t end = out.find('\t', at);
      CHECK(out.substr(at, end - at).find(";CM_STATUS=") != std::string::npos);
      if (out[at - 1] == '\t') {
        out.replace(at, end - at, ".");
      } else if (out.compare(at - 5, 5, "DP=.;") == 0) {
        out.erase(at, end - at);  // that record's INFO ends with ';'
      } else {
        out.erase(at - 1, end - at + 1);
      }
    }
    CHECK(out == text);
  }
}

TEST_CASE("the fields of an earlier run are replaced", "[variants]") {
  TempFolder folder;
  const std::string head = "##fileformat=VCFv4.2\n##contig=<ID=1>\n";
  const std::string old_lines =
      "##chromamba_model=old\n"
      "##INFO=<ID=CM_STATUS,Number=A,Type=String,Description=\"Old\">\n"
      "##INFO=<ID=CM_LLR,Number=A,Type=Float,Description=\"Old, too\">\n"
      "##INFO=<ID=CM_LLR,Number=A,Type=Float,Description=\"Twice\">\n"
      "##chromamba_other=stays\n"
      "##INFO=<ID=CM_LLR_FWD,Number=A,Type=Float,Description=\"stays\">\n"
      "##INFO=<ID=X,Number=1,Type=String,Description=\"x\">\n";
  put(folder / "in.vcf", head + old_lines + kColumns +
                             "\n"
                             "1\t1\t.\tA\tC\t.\t.\tCM_LLR=9;X=1;CM_LLR_FWD=3;CM_STATUS=A\n"
                             "1\t2\t.\tA\tC,G\t.\t.\tCM_LLR=9,9\n"
                             "1\t3\t.\tA\t.\t.\t.\tCM_STATUS=A\n"
                             "1\t4\t.\tA\t.\t.\t.\tX=CM_LLR=3\n");
  VariantWriterOptions options = as(VariantFormat::vcf);
  options.header_lines = {"##chromamba_model=new", "##contig=<ID=1,length=7>", "##contig=<ID=2>"};
  copy(folder / "in.vcf", folder / "out.vcf", options);
  const std::string expected =
      head +
      "##INFO=<ID=CM_STATUS,Number=A,Type=String,Description=\"Reason\">\n"
      "##INFO=<ID=CM_LLR,Number=A,Type=Float,Description=\"Log-likelihood ratio, \\\"alt\\\" - "
      "ref\">\n"
      "##chromamba_other=stays\n"
      "##INFO=<ID=CM_LLR_FWD,Number=A,Type=Float,Description=\"stays\">\n"
      "##INFO=<ID=X,Number=1,Type=String,Description=\"x\">\n"
      "##contig=<ID=2>\n##chromamba_model=new\n" +
      kColumns +
      "\n"
      "1\t1\t.\tA\tC\t.\t.\tX=1;CM_LLR_FWD=3;CM_LLR=-0.125;CM_STATUS=.\n"
      "1\t2\t.\tA\tC,G\t.\t.\tCM_LLR=-0.25,-0.375;CM_STATUS=.,SYMBOLIC\n"
      "1\t3\t.\tA\t.\t.\t.\t.\n"
      "1\t4\t.\tA\t.\t.\t.\tX=CM_LLR=3\n";
  CHECK(slurp(folder / "out.vcf") == expected);
  // A second run changes nothing, nor does the way over BCF.
  copy(folder / "out.vcf", folder / "again.vcf", options);
  CHECK(slurp(folder / "again.vcf") == expected);
  options.format = VariantFormat::bcf;
  copy(folder / "in.vcf", folder / "a.bcf", options);
  copy(folder / "a.bcf", folder / "b.bcf", options);
  options.format = VariantFormat::vcf;
  copy(folder / "b.bcf", folder / "b.vcf", options);
  const std::string pass = "##FILTER=<ID=PASS,Description=\"All filters passed\">\n";
  std::string through = slurp(folder / "b.vcf");
  REQUIRE(through.find(pass) != std::string::npos);
  through.erase(through.find(pass), pass.size());
  CHECK(through == expected);

  for (const std::string wrong : {"Number=1,Type=Float", "Number=A,Type=Integer", "Type=Float"}) {
    put(folder / "in.vcf",
        head + "##INFO=<ID=CM_LLR," + wrong + ",Description=\"x\">\n" + kColumns + "\n");
    const std::string message = message_of<DataError>(
        [&] { copy(folder / "in.vcf", folder / "out.vcf", as(VariantFormat::vcf)); });
    CHECK_MESSAGE_HAS(message, "CM_LLR with Number=");
    CHECK_MESSAGE_HAS(message, "bcftools annotate -x INFO/CM_LLR");
  }
}

TEST_CASE("numbers are written the same way everywhere", "[variants]") {
  CHECK(format_info_number(0.0F) == "0");
  CHECK(format_info_number(-0.0F) == "0");
  CHECK(format_info_number(-1.23456789F) == "-1.23457");
  CHECK(format_info_number(0.1F) == "0.1");
  CHECK(format_info_number(1e-5F) == "1e-05");
  CHECK(format_info_number(999.9999F) == "1000");
  CHECK(format_info_number(-2081.4172F) == "-2081.417");
  CHECK(format_info_number(1234567.0F) == "1234567");
  CHECK(format_info_number(-100.0F) == "-100");
  CHECK(format_info_number(std::nanf("")) == ".");
  CHECK(format_info_number(-std::numeric_limits<float>::infinity()) == "-inf");
  CHECK(format_info_number(std::numeric_limits<float>::lowest()) == "-3.402823e+38");
  std::mt19937 random(5);
  for (int i = 0; i < 10'000; ++i) {
    const uint32_t bits = random();
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isnan(value) || value == 0) continue;
    char expected[64];
    const int digits = std::fabs(value) < 1000 ? 6 : 7;
    (void)std::snprintf(expected, sizeof expected, "%.*g", digits, static_cast<double>(value));
    CHECK(format_info_number(value) == expected);
  }
}

TEST_CASE("missing, rounded and infinite values are the same by every way", "[variants]") {
  TempFolder folder;
  put(folder / "in.vcf", "##fileformat=VCFv4.3\n##contig=<ID=1>\n" + kColumns +
                             "\n1\t1\t.\tA\tC,G,T\t.\t.\t.\n1\t2\t.\tA\tC\t.\t.\t.\n");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<VariantInfoValues>> values = {
      {{{nan, -0.0F, 1.23456789F}, {}}, {{}, {"A", "", "B"}}}, {{{-infinity}, {}}, {{}, {""}}}};
  const auto score = [&](const std::string& from, const std::string& to, VariantFormat format) {
    VariantReader reader(from);
    VariantWriterOptions options = as(format);
    options.info = kInfo;
    VariantWriter writer(to, reader.header(), options);
    VariantRecord record;
    for (size_t i = 0; reader.next(record); ++i) writer.write(record, values[i]);
    writer.close();
  };
  const std::string expected[] = {"\tCM_LLR=.,0,1.23457;CM_STATUS=A,.,B\n",
                                  "\tCM_LLR=-inf;CM_STATUS=.\n"};
  const auto check = [&](const std::string& path) {
    for (const std::string& part : expected) CHECK_MESSAGE_HAS(slurp(path), part);
  };
  score(folder / "in.vcf", folder / "a.vcf", VariantFormat::vcf);
  check(folder / "a.vcf");
  copy(folder / "in.vcf", folder / "plain.bcf", as(VariantFormat::bcf), false);
  for (const char* from : {"in.vcf", "plain.bcf"}) {
    score(folder / from, folder / "b.bcf", VariantFormat::bcf);
    copy(folder / "b.bcf", folder / "b.vcf", as(VariantFormat::vcf), false);
    check(folder / "b.vcf");
  }
  score(folder / "plain.bcf", folder / "c.vcf", VariantFormat::vcf);
  check(folder / "c.vcf");
}

TEST_CASE("VCF and BCF agree, for bcftools and cyvcf2 too", "[variants]") {
  if (!have_bcftools()) return;
  TempFolder folder;
  const std::string in = put(folder / "in.vcf", kHeader + joined(kLines));
  copy(in, folder / "a.vcf", as(VariantFormat::vcf));
  copy(in, folder / "a.vcf.gz", as(VariantFormat::vcf_gz));
  copy(in, folder / "a.bcf", as(VariantFormat::bcf));
  copy(in, folder / "u.bcf", as(VariantFormat::bcf_uncompressed));
  const std::string view = "bcftools view --no-version ";
  const std::string expected = output_of(view + (folder / "a.vcf") + " 2>/dev/null");
  CHECK(std::count(expected.begin(), expected.end(), '\n') > 14);
  CHECK(output_of(view + (folder / "a.vcf.gz") + " 2>/dev/null") == expected);
  CHECK(output_of(view + (folder / "a.bcf")) == expected);
  CHECK(output_of(view + (folder / "u.bcf")) == expected);
  // bcftools' own BCF of the input, with our fields: BCF to BCF, and BCF to VCF.
  output_of(view + "-Ob -o " + (folder / "b.bcf") + " " + in + " 2>/dev/null");
  CHECK(copy(folder / "b.bcf", folder / "c.bcf", as(VariantFormat::bcf), true, 2) == 14);
  CHECK(output_of(view + (folder / "c.bcf")) == expected);
  copy(folder / "b.bcf", folder / "c.vcf", as(VariantFormat::vcf));
  CHECK(output_of(view + (folder / "c.vcf")) == expected);
  CHECK(slurp(folder / "c.vcf") == expected);
  // Through a pipe, uncompressed, as people do.
  output_of(view + "-Ou -o " + (folder / "d.bcf") + " " + in + " 2>/dev/null");
  const testing::StdinFrom input(folder / "d.bcf");
  copy("-", folder / "d.vcf", as(VariantFormat::vcf));
  CHECK(slurp(folder / "d.vcf") == expected);

  const std::string files = (folder / "a.vcf") + " " + (folder / "a.vcf.gz") + " " +
                            (folder / "c.bcf") + " " + (folder / "c.vcf");
  const std::string said =
      output_of("/usr/bin/python3 " CHROMAMBA_CHECK_VARIANTS " " + files + " 2>/dev/null");
  if (said.find("SKIPPED") != std::string::npos) WARN(said);
}

TEST_CASE("what BCF cannot hold", "[variants]") {
  TempFolder folder;
  const std::string head =
      "##fileformat=VCFv4.2\n##contig=<ID=1>\n"
      "##INFO=<ID=I,Number=.,Type=Integer,Description=\"i\">\n"
      "##INFO=<ID=F,Number=.,Type=Float,Description=\"f\">\n"
      "##FORMAT=<ID=GT,Number=1,Type=String,Description=\"g\">\n"
      "##FORMAT=<ID=DP,Number=.,Type=Integer,Description=\"d\">\n" +
      kColumns + "\tFORMAT\tS\n";
  const auto message = [&](const std::string& line) {
    put(folder / "in.vcf", head + line + "\n");
    CHECK(copy(folder / "in.vcf", folder / "out.vcf", as(VariantFormat::vcf), false) == 1);
    CHECK(slurp(folder / "out.vcf") == head + line + "\n");
    const Seen seen = view_of(folder / "in.vcf");
    for (const VariantWarning& warning : seen.warnings) {
      CHECK_MESSAGE_HAS(warning.message, "is not declared");
    }
    return message_of<DataError>(
        [&] { copy(folder / "in.vcf", folder / "out.bcf", as(VariantFormat::bcf)); });
  };
  CHECK_MESSAGE_HAS(message("1\t1\t.\tA\tC\t.\t.\tXX=1\tGT\t0"), "'XX' is not declared");
  CHECK_MESSAGE_HAS(message("1\t1\t.\tA\tC\t.\tq9\t.\tGT\t0"), "'q9' is not declared");
  CHECK_MESSAGE_HAS(message("1\t1\t.\tA\tC\t.\t.\t.\tGT:ZZ\t0:1"), "'ZZ' is not declared");
  CHECK_MESSAGE_HAS(message("1\t1\t.\tA\tC\t.\t.\t.\tGT\tx"), "cannot store");
  CHECK_MESSAGE_HAS(message("1\t3000000000\t.\tA\tC\t.\t.\t.\tGT\t0"), "beyond 2^31");

  // Numbers that are none: kept in VCF, missing in BCF, and said.
  const std::string lines =
      "1\t1\t.\tA\tC\t.\t.\tI=1,x,1.5,3000000000,-2147483648;F=0.5x,1e-400,inf,+2\tGT:DP\t0:1x,7\n"
      "1\t2\t.\tA\tC\t.\t.\tI=4\tGT:DP\t0:q\n";
  put(folder / "in.vcf", head + lines);
  VariantReader reader(folder / "in.vcf");
  VariantWriter writer(folder / "out.bcf", reader.header(), as(VariantFormat::bcf));
  VariantRecord record;
  while (reader.next(record)) writer.write(record, {});
  writer.close();
  REQUIRE(writer.warnings().size() == 1);
  CHECK(writer.warnings()[0].records == 4);
  CHECK_MESSAGE_HAS(writer.warnings()[0].message, "line 8 (1:1): INFO I='1,x,1.5");
  copy(folder / "out.bcf", folder / "out.vcf", as(VariantFormat::vcf), false);
  const std::string out = slurp(folder / "out.vcf");
  CHECK_MESSAGE_HAS(out, "\tI=1,.,.,.,.;F=.,0,inf,2\tGT:DP\t0:.,7\n");
  CHECK_MESSAGE_HAS(out, "\tI=4\tGT:DP\t0:.\n");
}

TEST_CASE("a header without contig lines", "[variants]") {
  TempFolder folder;
  const std::string text =
      "##fileformat=VCFv4.1\n" + kColumns + "\n1\t5\t.\tA\tC\t.\t.\t.\n2\t5\t.\tA\tC\t.\t.\t.\n";
  put(folder / "in.vcf", text);
  const Seen seen = view_of(folder / "in.vcf");
  CHECK(seen.records ==
        std::vector<std::string>{"1 -1 4 1 . A C end . svlen", "2 -1 4 1 . A C end . svlen"});
  REQUIRE(seen.warnings.size() == 1);
  CHECK(seen.warnings[0].records == 2);
  CHECK_MESSAGE_HAS(seen.warnings[0].message, "lists no contigs");
  VariantWriterOptions options = as(VariantFormat::vcf_gz);
  options.index_path = folder / "out.csi";
  copy(folder / "in.vcf", folder / "out.vcf.gz", options, false);
  CHECK(text_of(folder / "out.vcf.gz") == text);
  options.format = VariantFormat::bcf;
  CHECK_MESSAGE_HAS(
      message_of<DataError>([&] { copy(folder / "in.vcf", folder / "out.bcf", options); }),
      "line 3 (1:5): contig '1' is not in the header");
  // As the caller does who knows the contigs from a FASTA file.
  options.header_lines = {"##contig=<ID=2,length=10>", "##contig=<ID=1,length=10>"};
  CHECK(copy(folder / "in.vcf", folder / "out.bcf", options) == 2);
  CHECK(view_of(folder / "out.bcf").records.size() == 2);
}

TEST_CASE("undeclared things are kept, counted and told once", "[variants]") {
  TempFolder folder;
  const std::string text = "##fileformat=VCFv4.1\n##contig=<ID=1>\n" + kColumns +
                           "\tFORMAT\tS\n"
                           "1\t5\t.\tA\tC\t.\tq1\tXX=1;YY\tGT\t0\n"
                           "1\t5\t.\tA\tC\t.\tPASS\tXX=1\tGT\t0\n"
                           "1\t6\t.\tA\tC\t.\tq1\tXX\tGT\t0";
  const Seen seen = view_of(put(folder / "in.vcf", text));
  CHECK(seen.records.size() == 3);
  REQUIRE(seen.warnings.size() == 4);
  CHECK_MESSAGE_HAS(seen.warnings[0].message, "line 4 (1:5): FILTER 'q1' is not declared");
  CHECK(seen.warnings[0].records == 2);
  CHECK_MESSAGE_HAS(seen.warnings[1].message, "FORMAT field 'GT'");
  CHECK(seen.warnings[1].records == 3);
  CHECK_MESSAGE_HAS(seen.warnings[2].message, "INFO field 'XX'");
  CHECK(seen.warnings[2].records == 3);
  CHECK_MESSAGE_HAS(seen.warnings[3].message, "line 6, the last one, has no line end");
  copy(folder / "in.vcf", folder / "out.vcf", as(VariantFormat::vcf), false);
  CHECK(slurp(folder / "out.vcf") == text + "\n");
}

TEST_CASE("broken VCF is refused with its place", "[variants]") {
  TempFolder folder;
  const std::string head = "##fileformat=VCFv4.2\n##contig=<ID=1,length=100>\n" + kColumns +
                           "\n1\t5\t.\tA\tC\t.\t.\t.\n";
  const auto error = [&](const std::string& line) {
    std::string message = error_of(folder, head + line + "\n");
    CHECK_MESSAGE_HAS(message, "line 5");
    return message;
  };
  CHECK_MESSAGE_HAS(error("1\t5\t.\tA\tC\t.\t."), "has 7 columns; expected 8");
  CHECK_MESSAGE_HAS(error("1\t5\t.\tA\tC\t.\t.\t.\tGT"), "has 9 columns; expected 8");
  CHECK_MESSAGE_HAS(error("1 5 . A C . . ."), "has 1 column;");
  CHECK_MESSAGE_HAS(error("#comment"), "has 1 column;");
  CHECK_MESSAGE_HAS(error("2\t5\t.\tA\tC\t.\t.\t."), "contig '2' is not in the header");
  CHECK_MESSAGE_HAS(error("\t5\t.\tA\tC\t.\t.\t."), "CHROM is empty");
  for (const char* pos : {"", "x", "-1", "5x", "5.0", " 5", "99999999999999999999", "0x5"}) {
    CHECK_MESSAGE_HAS(error(std::string("1\t") + pos + "\t.\tA\tC\t.\t.\t."), "POS is '");
  }
  for (const char* qual : {"", "x", "5x", "1,5", "--1", "0x5"}) {
    CHECK_MESSAGE_HAS(error(std::string("1\t5\t.\tA\tC\t") + qual + "\t.\t."), "QUAL is '");
  }
  CHECK_MESSAGE_HAS(error("1\t5\t.\t\tC\t.\t.\t."), "REF is empty");
  for (const char* alt : {"", "A,", ",A", "A,,C"}) {
    CHECK_MESSAGE_HAS(error(std::string("1\t5\t.\tA\t") + alt + "\t.\t.\t."), "empty allele");
  }
  for (const char* end : {"END=x", "END=", "END=5,6", "END=99999999999999999999", "X;END=1.5"}) {
    CHECK_MESSAGE_HAS(error(std::string("1\t5\t.\tA\t<DEL>\t.\t.\t") + end), "(1:5): INFO END is");
  }
  CHECK_MESSAGE_HAS(error("1\t5\t.\tA\t<DEL>\t.\t.\tSVLEN=-5,x"), "INFO SVLEN is '-5,x'");
  CHECK_MESSAGE_HAS(error(std::string("1\t5\t.\tA\tC\t.\t.\tX\0Y", 17)), "NUL byte");
  CHECK_MESSAGE_HAS(error("\n1\t6\t.\tA\tC\t.\t.\t."), "is blank");

  CHECK_MESSAGE_HAS(error_of(folder, ""), "is empty");
  CHECK_MESSAGE_HAS(error_of(folder, gzip("")), "is empty");
  CHECK_MESSAGE_HAS(error_of(folder, bgzip("")), "is empty");
  CHECK_MESSAGE_HAS(error_of(folder, ">chr1\nACGT\n"), "neither VCF nor BCF");
  CHECK_MESSAGE_HAS(error_of(folder, bgzip(std::string("BAM\1\0\0\0\0", 8))), "looks like BAM");
  CHECK_MESSAGE_HAS(error_of(folder, "1\t5\t.\tA\tC\t.\t.\t.\n"), "neither VCF nor BCF");
  CHECK_MESSAGE_HAS(error_of(folder, "chr1\t10\t20\n"), "neither VCF nor BCF");
  CHECK_MESSAGE_HAS(error_of(folder, kColumns + "\n"), "line 1: is not the start");
  CHECK_MESSAGE_HAS(error_of(folder, "##fileformat=VCFv4.2\n"), "ends within its header");
  CHECK_MESSAGE_HAS(error_of(folder, "##fileformat=VCFv4.2\n1\t5\t.\tA\tC\t.\t.\t.\n"),
                    "line 2: the header ends without");
  CHECK_MESSAGE_HAS(error_of(folder, "##fileformat=VCFv4.2\n#CHROM POS ID REF ALT\n"),
                    "separated by tabs");
  CHECK_MESSAGE_HAS(error_of(folder, "##fileformat=VCFv4.2\n" + kColumns + "\tS1\n"),
                    "separated by tabs");
  CHECK_MESSAGE_HAS(error_of(folder, "##fileformat=VCFv4.2\n" + kColumns + "\tFORMAT\tA\tA\n"),
                    "two samples are named 'A'");
  CHECK_MESSAGE_HAS(error_of(folder, "##fileformat=VCFv4.2\n" + kColumns + "\tFORMAT\tA\t\n"),
                    "sample 2 has no name");
  CHECK_MESSAGE_HAS(error_of(folder, std::string("##fileformat=VCFv4.2\n##a=\0\n", 27) + kColumns),
                    "line 2: holds a NUL byte");
  CHECK_MESSAGE_HAS(error_of(folder, "BCF\4\0\0\0\0"), "BCF 2.2");
  CHECK_MESSAGE_HAS(error_of(folder, std::string("BCF\2\2\xff\xff\xff\xff", 9)), "header is cut");
  CHECK_MESSAGE_HAS(error_of(folder, std::string("BCF\2\2\0\0\0\0", 9)), "header is cut");
  CHECK_MESSAGE_HAS(error_of(folder, gzip(std::string("BCF\2\2\0\0\0\0", 9))), "plain gzip");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { VariantReader reader(folder / "none.vcf"); }),
                    "No such file");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { VariantReader reader(folder.path()); }),
                    "is a directory");

  // A header without records is a whole file.
  CHECK(view_of(put(folder / "ok.vcf", "##fileformat=VCFv4.2\n" + kColumns)).records.empty());
}

TEST_CASE("files cut short are never taken for whole", "[variants]") {
  TempFolder folder;
  const std::string text = kHeader + joined(kLines);
  const auto fails = [&](const std::string& bytes, int threads) {
    put(folder / "cut", bytes);
    try {
      (void)view_of(folder / "cut", threads);
    } catch (const DataError&) {
      return true;
    }
    return false;
  };
  SECTION("plain VCF: an error, fewer whole lines, or a warning") {
    for (size_t n = 0; n < text.size(); ++n) {
      INFO("bytes kept: " << n);
      if (fails(text.substr(0, n), 1)) continue;
      const Seen seen = view_of(folder / "cut");
      const bool told = std::any_of(seen.warnings.begin(), seen.warnings.end(),
                                    [](const VariantWarning& warning) {
                                      return warning.message.find("cut short") != std::string::npos;
                                    });
      CHECK((told || (n >= kHeader.size() && text[n - 1] == '\n')));
    }
  }
  copy(put(folder / "in.vcf", text), folder / "in.bcf", as(VariantFormat::bcf));
  copy(folder / "in.vcf", folder / "u.bcf", as(VariantFormat::bcf_uncompressed));
  SECTION("compressed") {
    const std::string bcf = slurp(folder / "in.bcf");
    const std::string small_blocks = bgzip(text_of(folder / "u.bcf"), 500);
    CHECK_FALSE(fails(small_blocks, 1));
    for (const std::string& whole : {gzip(text), bgzip(text, 500), bcf, small_blocks}) {
      for (size_t n = 0; n < whole.size(); ++n) {
        INFO("bytes kept: " << n);
        CHECK(fails(whole.substr(0, n), 1));
      }
      for (size_t n = 0; n < whole.size(); n += 97) CHECK(fails(whole.substr(0, n), 2));
      std::string damaged = whole;
      damaged[whole.size() / 2] ^= 0x10;
      CHECK(fails(damaged, 1));
    }
  }
  SECTION("uncompressed BCF: an error, or fewer records") {
    const std::string whole = slurp(folder / "u.bcf");
    int passed = 0;
    for (size_t n = 0; n < whole.size(); ++n) passed += fails(whole.substr(0, n), 1) ? 0 : 1;
    CHECK(passed == 14);  // after the header and after every record but the last
    // Damage without a checksum: whatever it says, it neither crashes nor hangs.
    std::mt19937 random(11);
    for (int round = 0; round < 3000; ++round) {
      std::string damaged = whole;
      // Bytes of the header's length are left alone: they ask for gigabytes.
      for (unsigned i = 0; i <= random() % 4; ++i) {
        damaged[9 + random() % (whole.size() - 9)] = static_cast<char>(random());
      }
      put(folder / "cut", damaged);
      for (const VariantFormat format : {VariantFormat::vcf, VariantFormat::bcf}) {
        try {
          (void)copy(folder / "cut", folder / "out", as(format));
        } catch (const Error&) {
        }
      }
    }
  }
  SECTION("damaged text, to VCF and BCF") {
    std::mt19937 random(12);
    const std::string bytes("\t\t\t\n;;=,.:/|<>0-9#AN\"x\r\0 ", 25);
    for (int round = 0; round < 3000; ++round) {
      std::string damaged = text;
      for (unsigned i = 0; i <= random() % 6; ++i) {
        damaged[random() % text.size()] = bytes[random() % bytes.size()];
      }
      put(folder / "cut", damaged);
      for (const VariantFormat format : {VariantFormat::vcf, VariantFormat::bcf}) {
        try {
          (void)copy(folder / "cut", folder / "out", as(format));
        } catch (const DataError&) {
        }
      }
    }
  }
}

TEST_CASE("records outlive their reader and come out in any order", "[variants]") {
  TempFolder folder;
  put(folder / "in.vcf", kHeader + joined(kLines));
  copy(folder / "in.vcf", folder / "in.bcf", as(VariantFormat::bcf), false);
  for (const char* name : {"in.vcf", "in.bcf"}) {
    std::vector<VariantRecord> records;
    std::unique_ptr<VariantWriter> writer;
    {
      VariantReader reader(folder / name);
      writer = std::make_unique<VariantWriter>(folder / "out.vcf", reader.header(),
                                               as(VariantFormat::vcf));
      for (VariantRecord record; reader.next(record);) records.push_back(std::move(record));
    }
    for (size_t i = records.size(); i-- > 0;) writer->write(records[i], {});
    writer->close();
    const std::vector<std::string> forward = view_of(folder / name).records;
    const std::vector<std::string> out = view_of(folder / "out.vcf").records;
    CHECK(std::vector<std::string>(out.rbegin(), out.rend()) == forward);
    CHECK_THROWS_AS(writer->write(records[0], {}), InternalError);
  }
}

TEST_CASE("values that do not fit are our bug", "[variants]") {
  TempFolder folder;
  put(folder / "in.vcf", kHeader + joined(kLines));
  VariantReader reader(folder / "in.vcf");
  VariantWriterOptions options = as(VariantFormat::vcf);
  options.info = kInfo;
  VariantWriter writer(folder / "out.vcf", reader.header(), options);
  VariantRecord record;
  REQUIRE(reader.next(record));
  const auto refused = [&](std::vector<VariantInfoValues> values) {
    CHECK_THROWS_AS(writer.write(record, values), InternalError);
  };
  refused({});
  refused({{{1, 2}, {}}, {}});
  refused({{{}, {"x"}}, {}});
  refused({{}, {{1}, {}}});
  for (const char* text : {"a b", "a;b", "a,b", "a=b", "a\tb", "a\nb"}) {
    refused({{}, {{}, {text}}});
  }
  VariantReader other(folder / "in.vcf");
  REQUIRE(other.next(record));
  CHECK_THROWS_AS(writer.write(record, std::vector<VariantInfoValues>(2)), InternalError);
  VariantWriterOptions bad;
  bad.header_lines = {"chromamba=1"};
  CHECK_THROWS_AS(VariantWriter(folder / "x.vcf", reader.header(), bad), InternalError);
}

TEST_CASE("an index, and what stands in its way", "[variants]") {
  TempFolder folder;
  put(folder / "in.vcf", kHeader + joined(kLines));
  for (const VariantFormat format : {VariantFormat::vcf_gz, VariantFormat::bcf}) {
    VariantWriterOptions options = as(format);
    const std::string out = folder / (format == VariantFormat::bcf ? "out.bcf" : "out.vcf.gz");
    options.index_path = out + ".csi";
    copy(folder / "in.vcf", out, options);
    CHECK(std::filesystem::file_size(out + ".csi") > 0);
    if (!have_bcftools()) continue;
    CHECK(output_of("bcftools index -n " + out) == "14\n");
    const auto count = [&out](const std::string& region) {
      const std::string lines = output_of("bcftools view -H -r '" + region + "' " + out);
      return std::count(lines.begin(), lines.end(), '\n');
    };
    CHECK(count("chr1:10-12") == 5);
    CHECK(count("chr1:100") == 1);  // inside the deletion of 20 to 120
    CHECK(count("chr1:1000000") == 1);
    CHECK_MESSAGE_HAS(output_of("bcftools index -s " + out), "HLA-A*01:01\t.\t1\n");
  }
  VariantWriterOptions options = as(VariantFormat::vcf_gz);
  options.index_path = folder / "x.csi";
  std::vector<std::string> lines = kLines;
  std::swap(lines[3], lines[5]);
  put(folder / "bad.vcf", kHeader + joined(lines));
  for (const VariantFormat format : {VariantFormat::vcf_gz, VariantFormat::bcf}) {
    options.format = format;
    CHECK_MESSAGE_HAS(
        message_of<DataError>([&] { copy(folder / "bad.vcf", folder / "x", options); }),
        "line 22 (chr1:11): comes after line 21 (chr1:12); an index needs sorted records");
  }
  lines = kLines;
  lines.push_back(kLines[1]);
  put(folder / "bad.vcf", kHeader + joined(lines));
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { copy(folder / "bad.vcf", folder / "x", options); }),
                    "records of contig 'chr1' go on after those of 'HLA-A*01:01'");
  CHECK_FALSE(std::filesystem::exists(folder / "x.csi"));
  options.format = VariantFormat::vcf;
  CHECK_THROWS_AS(copy(folder / "in.vcf", folder / "x", options), UsageError);
  options.format = VariantFormat::bcf;
  CHECK_THROWS_AS(copy(folder / "in.vcf", "-", options), UsageError);
  options.index_path = folder / "no/folder.csi";
  CHECK_MESSAGE_HAS(
      message_of<ResourceError>([&] { copy(folder / "in.vcf", folder / "x", options); }), "index");
}

TEST_CASE("a 10-Mb allele", "[variants]") {
  TempFolder folder;
  std::string allele(10'000'000, 'A');
  for (size_t i = 0; i < allele.size(); i += 3) allele[i] = "CGT"[i % 7 % 3];
  const std::string text = "##fileformat=VCFv4.2\n##contig=<ID=1>\n" + kColumns + "\n1\t5\t.\tA\t" +
                           allele + ",<DEL>\t.\t.\t.\n1\t6\t.\tA\tC\t.\t.\t.\n";
  put(folder / "in.vcf", bgzip(text));
  copy(folder / "in.vcf", folder / "out.vcf", as(VariantFormat::vcf), false);
  CHECK(slurp(folder / "out.vcf") == text);
  copy(folder / "in.vcf", folder / "out.bcf", as(VariantFormat::bcf), false);
  VariantReader reader(folder / "out.bcf");
  VariantRecord record;
  REQUIRE(reader.next(record));
  CHECK(record.alts[0] == allele);
  REQUIRE(reader.next(record));
  CHECK(record.alts == std::vector<std::string>{"C"});
}

TEST_CASE("a full disk, and a file under its real name only when whole", "[variants]") {
  const testing::SmallDisk disk(1 << 16);
  if (!disk.ok()) return;
  TempFolder folder;
  std::string text = kHeader;
  std::mt19937 random(1);
  for (int i = 1; i < 20'000; ++i) {
    text += "chr1\t" + std::to_string(i) + "\trs" + std::to_string(random()) +
            "\tA\tC\t.\t.\t.\tGT\t0\t0\n";
  }
  put(folder / "in.vcf", text);
  for (const VariantFormat format : {VariantFormat::vcf, VariantFormat::vcf_gz, VariantFormat::bcf,
                                     VariantFormat::bcf_uncompressed}) {
    PendingFile pending(disk / "out");
    CHECK_MESSAGE_HAS(message_of<ResourceError>(
                          [&] { copy(folder / "in.vcf", pending.temporary_path(), as(format)); }),
                      "No space left");
    CHECK_FALSE(std::filesystem::exists(disk / "out"));
  }
  CHECK_THROWS_AS(copy(folder / "in.vcf", folder / "none/out", as(VariantFormat::bcf)),
                  ResourceError);
}

TEST_CASE("the VCF files of vt-examples", "[variants]") {
  const std::filesystem::path root = "/usr/share/doc/vt/examples";
  if (!std::filesystem::exists(root)) {
    WARN("SKIPPED: the Debian package vt-examples is not here");
    return;
  }
  TempFolder folder;
  const bool bcftools = have_bcftools();
  int files = 0;
  int64_t records = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string path = entry.path().string();
    if (path.find(".vcf") == std::string::npos) continue;
    INFO(path);
    ++files;
    const int64_t n = copy(path, folder / "same.vcf", as(VariantFormat::vcf), false);
    records += n;
    CHECK(slurp(folder / "same.vcf") == text_of(path));
    CHECK(copy(path, folder / "a.vcf.gz", as(VariantFormat::vcf_gz)) == n);
    CHECK(copy(path, folder / "a.bcf", as(VariantFormat::bcf)) == n);
    CHECK(view_of(folder / "a.bcf").records == view_of(path).records);
    CHECK(view_of(folder / "a.vcf.gz").records == view_of(path).records);
    if (!bcftools) continue;
    CHECK(output_of("bcftools view --no-version " + (folder / "a.bcf") + " 2>/dev/null") ==
          output_of("bcftools view --no-version " + (folder / "a.vcf.gz") + " 2>/dev/null"));
  }
  CHECK(files == 10);
  CHECK(records > 390);
}

// Not run by default: [.] hides it. Prints records/s of one core, and the memory of it all.
TEST_CASE("speed of variant files", "[.speed]") {
  TempFolder folder;
  std::mt19937 random(1);
  std::string text =
      "##fileformat=VCFv4.2\n##contig=<ID=chr20,length=64444167>\n"
      "##FILTER=<ID=q10,Description=\"q\">\n"
      "##INFO=<ID=AC,Number=A,Type=Integer,Description=\"c\">\n"
      "##INFO=<ID=AF,Number=A,Type=Float,Description=\"f\">\n"
      "##INFO=<ID=DP,Number=1,Type=Integer,Description=\"d\">\n"
      "##INFO=<ID=DB,Number=0,Type=Flag,Description=\"b\">\n" +
      kColumns + "\n";
  constexpr int kRecords = 1'000'000;
  for (int i = 0; i < kRecords; ++i) {
    const unsigned bits = random();
    text += "chr20\t" + std::to_string(60'000 + i * 64) + "\trs" + std::to_string(bits) + "\t" +
            "ACGT"[bits & 3U] + (bits % 8 == 0 ? "CT" : "") + "\t" + "CGTA"[bits & 3U] + "\t" +
            std::to_string(bits % 1000) + ".77\tPASS\tAC=" + std::to_string(bits % 5000) +
            ";AF=0." + std::to_string(bits % 99991) + ";DP=" + std::to_string(bits % 77777) +
            (bits % 3 == 0 ? ";DB\n" : "\n");
  }
  put(folder / "in.vcf", text);
  put(folder / "in.vcf.gz", bgzip(text));
  const auto time = [&](const std::string& what, const std::function<void()>& run) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    WARN(what << ": " << kRecords / 1e6 / seconds.count() << " M records/s");
  };
  text.clear();
  text.shrink_to_fit();
  copy(folder / "in.vcf", folder / "in.bcf", as(VariantFormat::bcf), false);
  for (const char* name : {"in.vcf", "in.vcf.gz", "in.bcf"}) {
    time(std::string("read ") + name, [&] {
      VariantReader reader(folder / name);
      VariantRecord record;
      while (reader.next(record)) {
      }
    });
    for (const auto& [to, format] :
         {std::pair{"vcf", VariantFormat::vcf}, std::pair{"vcf.gz", VariantFormat::vcf_gz},
          std::pair{"bcf", VariantFormat::bcf}}) {
      time(std::string(name) + " to " + to, [&, format = format] {
        VariantReader reader(folder / name);
        VariantWriterOptions options = as(format);
        options.info = kInfo;
        VariantWriter writer(folder / "out", reader.header(), options);
        VariantRecord record;
        std::vector<VariantInfoValues> values(2);
        while (reader.next(record)) {
          values[0].numbers.assign(record.alts.size(),
                                   -static_cast<float>(record.number % 1000) / 77);
          values[1].texts.assign(record.alts.size(), "");
          writer.write(record, values);
        }
        writer.close();
      });
    }
  }
  VariantWriterOptions indexed = as(VariantFormat::vcf_gz);
  indexed.index_path = folder / "out.csi";
  time("in.vcf.gz to vcf.gz with index", [&] {
    VariantReader reader(folder / "in.vcf.gz");
    VariantWriter writer(folder / "out", reader.header(), indexed);
    VariantRecord record;
    while (reader.next(record)) writer.write(record, {});
    writer.close();
  });
  rusage usage{};
  (void)getrusage(RUSAGE_SELF, &usage);
  WARN("peak memory, the made text included: " << usage.ru_maxrss / 1024 << " MiB");
}

}  // namespace
}  // namespace chromamba::io
