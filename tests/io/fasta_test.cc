#include "io/fasta.h"

#include <chrono>
#include <random>

#include "tests/io/support.h"

// For builds with the leak sanitizer. htslib 1.16 leaks a small job structure when a threaded reader
// meets damaged bgzip data; HDF5 1.10 leaks a buffer when a write fails on a full disk.
// Silent, since a test reads the standard error of a child process.
extern "C" const char* __lsan_default_options();   // NOLINT(bugprone-reserved-identifier)
extern "C" const char* __lsan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "print_suppressions=0";
}
extern "C" const char* __lsan_default_suppressions();   // NOLINT(bugprone-reserved-identifier)
extern "C" const char* __lsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier)
  return "leak:libhts\nleak:libhdf5";
}

namespace chromamba::io {
namespace {

using testing::bgzip;
using testing::gzip;
using testing::message_of;
using testing::put;
using testing::TempFolder;

struct Contig {
  std::string name;
  std::string comment;
  std::string bases;
};

std::vector<Contig> read_all(const std::string& path, int64_t block, FastaOptions options = {}) {
  FastaReader reader(path, std::move(options));
  std::vector<Contig> contigs;
  std::string buffer(static_cast<size_t>(block), '?');
  while (reader.next_contig()) {
    Contig contig{reader.name(), reader.comment(), ""};
    for (int64_t n = 0; (n = reader.read(buffer.data(), block)) > 0;) {
      contig.bases.append(buffer, 0, static_cast<size_t>(n));
    }
    CHECK(reader.read(buffer.data(), block) == 0);
    CHECK(reader.position() == static_cast<int64_t>(contig.bases.size()));
    contigs.push_back(std::move(contig));
  }
  CHECK_FALSE(reader.next_contig());
  return contigs;
}

// Text with every freedom the format leaves, and what it means.
struct Sample {
  std::string text;
  std::vector<Contig> contigs;
  int64_t iupac = 0;
  int64_t n = 0;
};

Sample random_sample(std::mt19937& random) {
  const auto below = [&random](int n) {
    return static_cast<int>(random() % static_cast<unsigned>(n));
  };
  Sample sample;
  const std::string letters = "ACGTNacgtnUu";
  const std::string meaning = "ACGTNACGTNTT";
  const std::string iupac = "RYSWKMBDHVXryswkmbdhvx";
  const std::string line_end = below(2) == 0 ? "\n" : "\r\n";
  if (below(4) == 0) sample.text += line_end;
  const int contigs = 1 + below(6);
  for (int c = 0; c < contigs; ++c) {
    Contig contig{std::string("c").append(std::to_string(c)),
                  below(2) == 0 ? "" : "some comment > here", ""};
    sample.text += std::string(">").append(contig.name).append(contig.comment.empty() ? "" : " ") +
                   contig.comment + line_end;
    const int length = below(5) == 0 ? 0 : below(5000);
    const int width = 1 + below(200);
    bool open_line = false;
    for (int i = 0, column = 0; i < length; ++i) {
      if (below(50) == 0) {
        sample.text += iupac[static_cast<size_t>(below(22))];
        contig.bases += 'N';
        ++sample.iupac;
      } else {
        const auto letter = static_cast<size_t>(below(12));
        sample.text += letters[letter];
        contig.bases += meaning[letter];
      }
      open_line = true;
      if (++column >= width && below(3) > 0) {
        if (below(20) == 0) sample.text += " \t";
        sample.text += line_end;
        if (below(30) == 0) sample.text += line_end;
        column = 0;
        open_line = false;
      }
    }
    const bool last = c + 1 == contigs;
    if (open_line && !(last && below(2) == 0)) sample.text += line_end;
    for (const char base : contig.bases) sample.n += base == 'N' ? 1 : 0;
    sample.contigs.push_back(std::move(contig));
  }
  return sample;
}

void check_same(const std::vector<Contig>& got, const std::vector<Contig>& expected) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i].name == expected[i].name);
    CHECK(got[i].comment == expected[i].comment);
    CHECK(got[i].bases == expected[i].bases);
  }
}

std::string error_of(const TempFolder& folder, const std::string& text,
                     const FastaOptions& options = {}) {
  const std::string path = put(folder / "bad.fa", text);
  std::string message = message_of<DataError>([&] { (void)scan_fasta(path, options); });
  CHECK_MESSAGE_HAS(message, path);
  return message;
}

TEST_CASE("random FASTA reads the same in blocks of any size and any compression", "[fasta]") {
  TempFolder folder;
  std::mt19937 random(20240607);
  for (int round = 0; round < 60; ++round) {
    const Sample sample = random_sample(random);
    INFO("round " << round);
    const size_t half = sample.text.size() / 2;
    const std::string files[] = {
        put(folder / "a.fa", sample.text),
        put(folder / "b.fa", gzip(sample.text)),
        put(folder / "c.fa", gzip(sample.text.substr(0, half)) + gzip(sample.text.substr(half))),
        put(folder / "d.fa", bgzip(sample.text)),
        put(folder / "e.fa", bgzip(sample.text, 100)),
        put(folder / "f.fa", bgzip(sample.text.substr(0, half)) + bgzip(sample.text.substr(half)))};
    for (const std::string& file : files) {
      check_same(read_all(file, 1 + static_cast<int64_t>(random() % 700)), sample.contigs);
    }
    FastaOptions threads;
    threads.threads = 2;
    check_same(read_all(files[4], 10000, threads), sample.contigs);
    const FastaSummary summary = scan_fasta(files[static_cast<size_t>(round) % 6]);
    CHECK(summary.iupac == sample.iupac);
    CHECK(summary.n_bases == sample.n);
    int64_t bases = 0;
    REQUIRE(summary.contigs.size() == sample.contigs.size());
    for (size_t i = 0; i < sample.contigs.size(); ++i) {
      CHECK(summary.contigs[i].length == static_cast<int64_t>(sample.contigs[i].bases.size()));
      bases += summary.contigs[i].length;
    }
    CHECK(summary.bases == bases);
  }
}

TEST_CASE("next_contig skips what was not read", "[fasta]") {
  TempFolder folder;
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    const Sample sample = random_sample(random);
    FastaReader reader(put(folder / "a.fa", sample.text));
    for (const Contig& contig : sample.contigs) {
      REQUIRE(reader.next_contig());
      CHECK(reader.name() == contig.name);
      char some[17];
      const int64_t n = reader.read(some, sizeof some);
      CHECK(std::string(some, static_cast<size_t>(n)) == contig.bases.substr(0, sizeof some));
    }
    CHECK_FALSE(reader.next_contig());
    CHECK(reader.iupac_count() == sample.iupac);
  }
}

TEST_CASE("one long line, and many contigs", "[fasta]") {
  TempFolder folder;
  std::string line(5'000'000, 'A');
  for (size_t i = 0; i < line.size(); i += 3) line[i] = "CGT"[i % 7 % 3];
  const auto contigs = read_all(put(folder / "long.fa", ">x\n" + line), 77'777);
  REQUIRE(contigs.size() == 1);
  CHECK(contigs[0].bases == line);

  std::string many;
  for (int i = 0; i < 300'000; ++i) many += ">contig_" + std::to_string(i) + "\nACG\n";
  const FastaSummary summary = scan_fasta(put(folder / "many.fa", many));
  CHECK(summary.contigs.size() == 300'000);
  CHECK(summary.bases == 900'000);
  CHECK(summary.contigs.back().name == "contig_299999");
}

TEST_CASE("a huge header keeps its name", "[fasta]") {
  TempFolder folder;
  const auto contigs =
      read_all(put(folder / "a.fa", ">x " + std::string(3'000'000, 'c') + "\r\nAC\n>y\nG\n"), 10);
  REQUIRE(contigs.size() == 2);
  CHECK(contigs[0].name == "x");
  CHECK(contigs[0].comment.size() == 65536 - 2);
  CHECK(contigs[0].bases == "AC");
  CHECK(contigs[1].bases == "G");
  CHECK_MESSAGE_HAS(error_of(folder, std::string(">").append(70'000, 'n').append("\nA\n")),
                    "longer than");
}

TEST_CASE("bytes that are no bases are refused with their place", "[fasta]") {
  TempFolder folder;
  for (const char byte : {'-', '*', '5', 'E', 'Z', 'q', '.', '\x01', '\x80', '>', '@', '\v'}) {
    const std::string message =
        error_of(folder, std::string(">one\nAC\n>two x\nACGT\nAC") + byte + "T\n");
    CHECK_MESSAGE_HAS(message, "contig 'two'");
    CHECK_MESSAGE_HAS(message, "position 7");
    CHECK_MESSAGE_HAS(message, "line 5");
  }
  CHECK_MESSAGE_HAS(error_of(folder, ">a\nAC-T\n"), "'-' (0x2d)");
  CHECK_MESSAGE_HAS(error_of(folder, ">a\nACET\n"), "protein");
  CHECK_MESSAGE_HAS(error_of(folder, std::string(">a\nAC\0T\n", 8)), "0x00");
  CHECK_MESSAGE_HAS(error_of(folder, ">a\nAC GT\n"), "a space between bases");
  CHECK_MESSAGE_HAS(error_of(folder, ">a\nAC\tGT\n"), "a tab between bases");
  CHECK_MESSAGE_HAS(error_of(folder, ">a\nAC\rGT\r"), "carriage return");
  // Also where nobody reads the contig.
  FastaReader reader(put(folder / "a.fa", ">a\nAC-T\n>b\nA\n"));
  REQUIRE(reader.next_contig());
  CHECK_THROWS_AS(reader.next_contig(), DataError);
}

TEST_CASE("IUPAC codes are N, or refused", "[fasta]") {
  TempFolder folder;
  const std::string codes = "RYSWKMBDHVXryswkmbdhvx";
  const std::string path = put(folder / "a.fa", ">a\n" + codes + "\n");
  const auto contigs = read_all(path, 5);
  CHECK(contigs[0].bases == std::string(codes.size(), 'N'));
  CHECK(scan_fasta(path).iupac == static_cast<int64_t>(codes.size()));
  FastaOptions strict;
  strict.iupac_error = true;
  const std::string message = error_of(folder, ">a\nACGT\nNr\n", strict);
  CHECK_MESSAGE_HAS(message, "ambiguity code 'r'");
  CHECK_MESSAGE_HAS(message, "position 6");
  CHECK(scan_fasta(put(folder / "n.fa", ">a\nNnN\n"), strict).n_bases == 3);
}

TEST_CASE("names that cannot be used are refused", "[fasta]") {
  TempFolder folder;
  for (const char* header : {">", "> name", ">\tname", ">\r"}) {
    CHECK_MESSAGE_HAS(error_of(folder, std::string(header) + "\nAC\n"), "no contig name");
  }
  for (const char* name : {"../x", "a/../b", "..", ".", "/etc/passwd", "./x", "a/.", "a/.."}) {
    CHECK_MESSAGE_HAS(error_of(folder, std::string(">") + name + "\nAC\n"),
                      "contig name '" + std::string(name) + "'");
  }
  for (const char* name : {"..x", "a..b", "HLA-A*01:01", "gi|1|x", "a/b", "...", "x.", "é"}) {
    CHECK(scan_fasta(put(folder / "ok.fa", std::string(">") + name + "\nA\n")).contigs[0].name ==
          name);
  }
  CHECK_MESSAGE_HAS(error_of(folder, ">a\x07z\nAC\n"), "'a\\x07z' holds control bytes");
  CHECK_MESSAGE_HAS(error_of(folder, std::string(">a b\0c\nAC\n", 10)), "NUL");
  const std::string twice = error_of(folder, ">a\nAC\n>b\nAC\n>a other\nAC\n");
  CHECK_MESSAGE_HAS(twice, "'a'");
  CHECK_MESSAGE_HAS(twice, "on line 1 and on line 5");
}

TEST_CASE("files that are not FASTA say what they look like", "[fasta]") {
  TempFolder folder;
  CHECK_MESSAGE_HAS(error_of(folder, ""), "is empty");
  CHECK_MESSAGE_HAS(error_of(folder, gzip("")), "is empty");
  CHECK_MESSAGE_HAS(error_of(folder, bgzip("")), "is empty");
  CHECK_MESSAGE_HAS(error_of(folder, "\n \r\n\n"), "only blank lines");
  CHECK_MESSAGE_HAS(error_of(folder, "@r1\nACGT\n+\nIIII\n"), "FASTQ");
  CHECK_MESSAGE_HAS(error_of(folder, "@HD\tVN:1.6\n"), "SAM");
  CHECK_MESSAGE_HAS(error_of(folder, bgzip(std::string("BAM\1\0\0", 6))), "BAM");
  CHECK_MESSAGE_HAS(error_of(folder, "\x89PNG\r\n\x1a\n"), "PNG");
  CHECK_MESSAGE_HAS(error_of(folder, gzip(gzip(">a\nA\n"))), "compressed twice");
  CHECK_MESSAGE_HAS(error_of(folder, gzip(bgzip(">a\nA\n"))), "compressed twice");
  CHECK_MESSAGE_HAS(error_of(folder, "ACGT\n"), "without a '>' header");
  CHECK_MESSAGE_HAS(error_of(folder, "hello, world\n"), "'hello, world'");
  CHECK_MESSAGE_HAS(error_of(folder, "\xde\xad\xbe\xef"), "de ad be ef");
  CHECK_MESSAGE_HAS(error_of(folder, "BZh91AY"), "bzip2");
  CHECK_MESSAGE_HAS(error_of(folder,
                             "\xfd"
                             "7zXZ"),
                    "xz");
  CHECK_MESSAGE_HAS(error_of(folder, "\x28\xb5\x2f\xfd"), "zstd");
  CHECK_MESSAGE_HAS(error_of(folder, "\xef\xbb\xbf>a\nA\n"), "byte-order mark");
}

TEST_CASE("missing and unreadable files", "[fasta]") {
  TempFolder folder;
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaReader reader(folder / "none.fa"); }),
                    "No such file");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaReader reader(folder.path()); }),
                    "is a directory");
  CHECK_THROWS_AS(FastaReader(""), DataError);
}

TEST_CASE("compressed data cut short or damaged is an error wherever it happens", "[fasta]") {
  TempFolder folder;
  std::mt19937 random(3);
  std::string text = ">a\n";
  for (int i = 0; i < 3000; ++i) text += "ACGT"[random() % 4];
  text += "\n";
  const auto fails = [&folder](const std::string& bytes, int threads) {
    FastaOptions options;
    options.threads = threads;
    const std::string path = put(folder / "cut.fa", bytes);
    try {
      (void)scan_fasta(path, options);
    } catch (const DataError&) {
      return true;
    }
    return false;
  };
  SECTION("gzip") {
    const std::string whole = gzip(text);
    for (size_t n = 2; n < whole.size(); ++n) {
      INFO("bytes kept: " << n);
      CHECK(fails(whole.substr(0, n), 1));
    }
    const std::string two = whole + gzip(">b\nACGT\n");
    for (size_t n = whole.size() + 1; n < two.size(); ++n) {
      INFO("bytes kept: " << n);
      CHECK(fails(two.substr(0, n), 1));
    }
    CHECK_FALSE(fails(two, 1));
    CHECK(fails(whole + "garbage", 1));
    CHECK(fails(whole + ">b\nACGT\n", 1));
    CHECK_MESSAGE_HAS(error_of(folder, whole + "some garbage after it"), "after the end");
    CHECK_MESSAGE_HAS(error_of(folder, whole.substr(0, whole.size() / 2)), "cut short");
    for (const size_t from_end : {1U, 4U, 5U, 8U}) {  // length and checksum fields
      std::string damaged = whole;
      damaged[damaged.size() - from_end] ^= 0x10;
      CHECK(fails(damaged, 1));
    }
  }
  SECTION("bgzip") {
    const std::string whole = bgzip(text, 1000);
    for (const int threads : {1, 2}) {
      CHECK_FALSE(fails(whole, threads));
      // Below 18 bytes there is no BGZF header, and the file is taken for plain gzip.
      for (size_t n = 2; n < whole.size(); n += threads == 1 ? 1 : 37) {
        INFO("bytes kept: " << n << ", threads " << threads);
        CHECK(fails(whole.substr(0, n), threads));
      }
      CHECK(fails(whole.substr(0, whole.size() - testing::kBgzfEofBytes), threads));
      CHECK(fails(whole + "garbage", threads));
      CHECK(fails(whole + ">b\nACGT\nACGTACGTACGTACGTACGT\n", threads));
      std::string damaged = whole;
      damaged[whole.size() - testing::kBgzfEofBytes - 6] ^= 0x10;  // the last block's checksum
      CHECK(fails(damaged, threads));
    }
    CHECK_MESSAGE_HAS(error_of(folder, whole.substr(0, whole.size() - testing::kBgzfEofBytes)),
                      "no end-of-file block");
  }
}

TEST_CASE("standard input, plain and compressed", "[fasta]") {
  TempFolder folder;
  const std::string text = ">a one\nACGT\nac\n>b\nNN\n";
  for (const std::string& bytes : {text, gzip(text), bgzip(text)}) {
    const testing::StdinFrom input(put(folder / "in", bytes));
    const auto contigs = read_all("-", 3);
    REQUIRE(contigs.size() == 2);
    CHECK(contigs[0].bases == "ACGTAC");
    CHECK(contigs[0].comment == "one");
    CHECK(contigs[1].bases == "NN");
  }
  const testing::StdinFrom input(put(folder / "in", "x"));
  CHECK_MESSAGE_HAS(message_of<DataError>([] { (void)scan_fasta("-"); }), "standard input");
}

TEST_CASE("reverse complement", "[bases]") {
  for (const auto& [bases, expected] : {std::pair<std::string, std::string>{"", ""},
                                        {"A", "T"},
                                        {"AC", "GT"},
                                        {"ACGTN", "NACGT"},
                                        {"AACCN", "NGGTT"}}) {
    std::string text = bases;
    reverse_complement(text.data(), static_cast<int64_t>(text.size()));
    CHECK(text == expected);
  }
}

// Not run by default: [.] hides it. Prints MB/s.
TEST_CASE("speed of FASTA parsing", "[.speed]") {
  TempFolder folder;
  std::mt19937 random(1);
  std::string plain = ">chr\n";
  for (int line = 0; line < 5'000'000; ++line) {
    const unsigned bits = random();
    for (unsigned i = 0; i < 60; ++i) plain += "ACGT"[bits >> (i % 16 * 2) & 3U];
    plain += '\n';
  }
  std::string one_line = plain;
  one_line.erase(std::remove(one_line.begin() + 5, one_line.end(), '\n'), one_line.end());
  const std::pair<const char*, std::string> files[] = {
      {"plain, lines of 60", put(folder / "a.fa", plain)},
      {"plain, one line", put(folder / "b.fa", one_line)},
      {"gzip", put(folder / "c.fa", gzip(plain))},
      {"bgzip", put(folder / "d.fa", bgzip(plain))}};
  for (const auto& [what, file] : files) {
    const auto start = std::chrono::steady_clock::now();
    const FastaSummary summary = scan_fasta(file);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    WARN(what << ": " << static_cast<double>(summary.bases) / 1e6 / seconds.count() << " Mbase/s");
  }
}

}  // namespace
}  // namespace chromamba::io
