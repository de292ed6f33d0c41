#include "io/fasta_index.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <utime.h>

#include <random>

#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::bgzip;
using testing::gzip;
using testing::message_of;
using testing::put;
using testing::slurp;
using testing::TempFolder;

struct Notes {
  std::vector<std::string> texts;
  Note note() {
    return [this](const std::string& text) { texts.push_back(text); };
  }
};

// Contigs of random lengths, each wrapped at its own width.
std::string random_fasta(std::mt19937& random, int contigs, const std::string& line_end) {
  std::string text;
  for (int c = 0; c < contigs; ++c) {
    text += ">c" + std::to_string(c) + (c % 2 == 0 ? " comment" : "") + line_end;
    const size_t length = c % 5 == 3 ? 0 : 1 + random() % 3000;
    const size_t width = 1 + random() % 100;
    for (size_t i = 0; i < length; ++i) {
      text += "ACGTNacgtnURYx"[random() % 14];
      if (i % width == width - 1 || i + 1 == length) text += line_end;
    }
  }
  return text;
}

std::string fetch(FastaIndex& index, const std::string& contig, int64_t start, int64_t n) {
  std::string bases(static_cast<size_t>(n), '?');
  index.fetch(contig, start, n, bases.data());
  return bases;
}

TEST_CASE("any range equals what the reader gives", "[fasta_index]") {
  TempFolder folder;
  std::mt19937 random(11);
  for (int round = 0; round < 12; ++round) {
    INFO("round " << round);
    const std::string text = random_fasta(random, 8, round % 2 == 0 ? "\n" : "\r\n");
    const bool compressed = round % 3 == 0;
    const std::string path =
        put(folder / ("r" + std::to_string(round) + ".fa"), compressed ? bgzip(text, 500) : text);
    Notes notes;
    FastaIndex built(path, {}, notes.note());
    FastaIndex index(path, {}, notes.note());  // now from the files
    CHECK(notes.texts.empty());
    CHECK(std::filesystem::exists(path + ".fai"));
    CHECK(std::filesystem::exists(path + ".gzi") == compressed);
    FastaReader reader(path);
    size_t at = 0;
    std::string all(4000, '?');
    while (reader.next_contig()) {
      const int64_t n = reader.read(all.data(), static_cast<int64_t>(all.size()));
      if (n == 0) {  // htslib leaves contigs without bases out of an index
        CHECK(index.length(reader.name()) == -1);
        continue;
      }
      REQUIRE(at < index.contigs().size());
      CHECK(index.contigs()[at].name == reader.name());
      CHECK(index.contigs()[at].length == n);
      CHECK(index.length(reader.name()) == n);
      CHECK(fetch(built, reader.name(), 0, n) == all.substr(0, static_cast<size_t>(n)));
      for (int i = 0; i < 20; ++i) {
        const auto start = static_cast<int64_t>(random() % static_cast<size_t>(n + 1));
        const auto length = static_cast<int64_t>(random() % static_cast<size_t>(n - start + 1));
        CHECK(fetch(index, reader.name(), start, length) ==
              all.substr(static_cast<size_t>(start), static_cast<size_t>(length)));
      }
      ++at;
    }
    CHECK(at == index.contigs().size());
    CHECK(built.iupac_count() == reader.iupac_count());
    CHECK(index.length("none") == -1);
  }
}

TEST_CASE("ranges longer than a block", "[fasta_index]") {
  TempFolder folder;
  std::mt19937 random(5);
  std::string bases;
  for (int i = 0; i < 1'000'003; ++i) bases += "ACGT"[random() % 4];
  for (const size_t width : {bases.size(), size_t{61}, size_t{70'000}}) {
    std::string text = ">x\n";
    for (size_t i = 0; i < bases.size(); i += width) text += bases.substr(i, width) + "\n";
    for (const bool compressed : {false, true}) {
      const std::string path = put(folder / (std::to_string(width) + (compressed ? ".gz" : "")),
                                   compressed ? bgzip(text) : text);
      FastaIndex index(path);
      CHECK(fetch(index, "x", 0, 1'000'003) == bases);
      CHECK(fetch(index, "x", 123'456, 700'000) == bases.substr(123'456, 700'000));
    }
  }
}

TEST_CASE("inputs without random access", "[fasta_index]") {
  TempFolder folder;
  CHECK_THROWS_AS(FastaIndex("-"), UsageError);
  CHECK_THROWS_AS(FastaIndex(folder / "none.fa"), DataError);
  const std::string zipped = put(folder / "a.fa.gz", gzip(">a\nACGT\n"));
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(zipped); }), "bgzip");
  const std::string uneven = put(folder / "b.fa", ">a\nACGT\nAC\nACGT\n");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(uneven); }), "one length");
  const std::string twice = put(folder / "c.fa", ">a\nACGT\n>b\nA\n>a\nACGT\n");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(twice); }),
                    "line 1 and on line 5");
  const std::string last = put(folder / "g.fa", ">a\nACGT\n>none\n");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(last); }), "'none' has no bases");
  const std::string nothing = put(folder / "h.fa", ">a\n>none\n");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(nothing); }), "none of its");
  const std::string escape = put(folder / "d.fa", ">../a\nACGT\n");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(escape); }), "'../a'");
  const std::string protein = put(folder / "e.fa", ">a\nMELK\n");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(protein); }), "protein");
  const std::string whole = bgzip(">a\nACGT\n");
  const std::string cut =
      put(folder / "f.fa.gz", whole.substr(0, whole.size() - testing::kBgzfEofBytes));
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { FastaIndex index(cut); }), "end-of-file block");
  for (const char* name : {"a.fa.gz", "b.fa", "c.fa", "e.fa", "f.fa.gz"}) {
    CHECK_FALSE(std::filesystem::exists(folder / (std::string(name) + ".fai")));
  }
}

TEST_CASE("an index that does not fit is an error, not a wrong sequence", "[fasta_index]") {
  TempFolder folder;
  const std::string path = folder / "a.fa";
  const auto fresh = [&](const std::string& text) {
    std::filesystem::remove(path + ".fai");
    put(path, text);
    const FastaIndex index(path);
  };
  const auto refused = [&] {
    return message_of<DataError>([&] {
      FastaIndex index(path);
      for (const ContigInfo& contig : index.contigs()) {
        (void)fetch(index, contig.name, 0, contig.length);
      }
    });
  };
  const std::string text = ">a one\nACGTACGT\nACG\n>b\nTTTT\n>c\nGGGG\nGG\n";
  fresh(text);
  put(path, ">a one\nACGTACGT\nA\n>b\nTTTT\n>c\nGGGG\nGG\n");
  CHECK_MESSAGE_HAS(refused(), "does not fit");
  put(path, ">a one\nACGTA\nCGTACG\n>b\nTTTT\n>c\nGGGG\nGG\n");
  CHECK_MESSAGE_HAS(refused(), "does not fit");
  put(path, ">a one\nACGTACGT\nACG\n>d\nTTTT\n>c\nGGGG\nGG\n");
  CHECK_MESSAGE_HAS(refused(), "'b'");
  put(path, text.substr(0, text.size() - 4));
  CHECK_MESSAGE_HAS(refused(), "does not fit");
  put(path, text + ">d\nACGT\n");
  CHECK_MESSAGE_HAS(refused(), "goes on after");
  put(path, text);
  CHECK(FastaIndex(path).contigs().size() == 3);

  fresh(">a one\nACGTACGT\nACG\n>b x\nTTTT\n");
  put(path, ">a one\nACGTACGT\nACG\n>bbx\nTTTT\n");
  CHECK_MESSAGE_HAS(refused(), "'b'");
  put(path, ">a one\nACGTACGTTACG\n>b x\nTTTT\n");
  CHECK_MESSAGE_HAS(refused(), "no line end after base 8");

  // htslib's own index of a file with a repeated name leaves the second out.
  put(path, ">a\nACGT\n>b\nTTTT\n>a\nCCCC\n>c\nGGGG\n");
  put(path + ".fai", "a\t4\t3\t4\t5\nb\t4\t11\t4\t5\nc\t4\t27\t4\t5\n");
  CHECK_MESSAGE_HAS(refused(), "'c'");

  put(path, text);
  for (const char* line :
       {"a\t11\n", "a\t11\t7\t8\tx\n", "a\t-1\t7\t8\t9\n", "a\t11\t7\t0\t9\n", "a\t11\t7\t9\t8\n",
        "../a\t11\t7\t8\t9\n", "\t11\t7\t8\t9\n", "a\t11\t7\t8\t9\na\t11\t7\t8\t9\n", ""}) {
    put(path + ".fai", line);
    CHECK_THROWS_AS(FastaIndex(path), DataError);
  }
  // A length beyond the file.
  put(path, ">a\nACGT\n");
  put(path + ".fai", "a\t4000\t3\t4000\t4001\n");
  CHECK_MESSAGE_HAS(refused(), "'a'");
}

TEST_CASE("a long header line", "[fasta_index]") {
  TempFolder folder;
  for (const size_t n : {65'000U, 65'536U, 65'537U, 200'000U}) {
    const std::string path =
        put(folder / "a.fa", ">a\nAC\n>b " + std::string(n, 'x') + "\nACGT\nAC\n>c\nG\n");
    std::filesystem::remove(path + ".fai");
    FastaIndex index(path);
    CHECK(fetch(index, "b", 0, 6) == "ACGTAC");
    CHECK(fetch(index, "c", 0, 1) == "G");
  }
}

TEST_CASE("many contigs are checked when they are fetched", "[fasta_index]") {
  TempFolder folder;
  std::string text;
  for (int i = 0; i < 1500; ++i) text += ">c" + std::to_string(10'000 + i) + "\nACGT\n";
  const std::string path = put(folder / "a.fa", text);
  { const FastaIndex index(path); }
  text.replace(text.find("c10700"), 6, "other0");
  put(path, text);
  FastaIndex index(path);
  CHECK(fetch(index, "c10500", 0, 4) == "ACGT");
  CHECK_THROWS_AS(fetch(index, "c10700", 0, 4), DataError);
}

TEST_CASE("the index of a bgzip file that is damaged", "[fasta_index]") {
  TempFolder folder;
  std::mt19937 random(9);
  const std::string text = random_fasta(random, 6, "\n");
  const std::string path = put(folder / "a.fa.gz", bgzip(text, 300));
  { const FastaIndex index(path); }
  const std::string gzi = slurp(path + ".gzi");
  put(path + ".gzi", gzi.substr(0, gzi.size() / 2));
  CHECK_THROWS_AS(FastaIndex(path), DataError);
  std::filesystem::remove(path + ".gzi");
  { const FastaIndex index(path); }  // built again
  CHECK(slurp(path + ".gzi") == gzi);
}

TEST_CASE("old and unwritable places", "[fasta_index]") {
  TempFolder folder;
  const std::string path = put(folder / "a.fa", ">a\nACGT\n");
  { const FastaIndex index(path); }
  const utimbuf old{1'000'000'000, 1'000'000'000};
  REQUIRE(utime((path + ".fai").c_str(), &old) == 0);
  Notes notes;
  { const FastaIndex index(path, {}, notes.note()); }
  REQUIRE(notes.texts.size() == 1);
  CHECK_MESSAGE_HAS(notes.texts[0], "is older than");

  // A spool of standard input lies where no index can be made; so does a read-only folder, which
  // root does not notice.
  const std::string text = ">a\nACGTAC\nGT\n";
  for (const std::string& bytes : {text, bgzip(text)}) {
    const std::string spool = put(folder / "spool", bytes);
    const int descriptor = open(spool.c_str(), O_RDONLY);
    REQUIRE(descriptor >= 0);
    Notes temporary;
    FastaOptions options;
    options.display_name = "standard input";
    FastaIndex index("/proc/self/fd/" + std::to_string(descriptor), options, temporary.note());
    CHECK(fetch(index, "a", 5, 3) == "CGT");
    REQUIRE(temporary.texts.size() == 1);
    CHECK_MESSAGE_HAS(temporary.texts[0], "standard input");
    close(descriptor);
  }
}

TEST_CASE("strictness and misuse", "[fasta_index]") {
  TempFolder folder;
  const std::string path = put(folder / "a.fa", ">a\nACGTR\n");
  FastaIndex index(path);
  CHECK(fetch(index, "a", 0, 5) == "ACGTN");
  CHECK(index.iupac_count() == 1);
  FastaOptions strict;
  strict.iupac_error = true;
  FastaIndex refusing(path, strict);
  CHECK(fetch(refusing, "a", 0, 4) == "ACGT");
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { (void)fetch(refusing, "a", 0, 5); }), "position 5");
  CHECK_THROWS_AS(fetch(index, "b", 0, 1), InternalError);
  CHECK_THROWS_AS(fetch(index, "a", 0, 6), InternalError);
  CHECK_THROWS_AS(fetch(index, "a", -1, 2), InternalError);
  CHECK(fetch(index, "a", 5, 0).empty());
}

}  // namespace
}  // namespace chromamba::io
