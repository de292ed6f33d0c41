#include "io/fasta_index.h"

#include <htslib/bgzf.h>
#include <htslib/faidx.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "io/input_stream.h"
#include "io/pending_file.h"
#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

// One read of the sequence: 4 BGZF blocks, so that a block's start-up cost is shared.
constexpr int64_t kBlockBytes = int64_t{1} << 18;
// How much of the text between two contigs is compared with the index.
constexpr int64_t kGapBytes = int64_t{1} << 16;
// Up to so many contigs, all of an existing index is checked when it is opened (milliseconds);
// beyond, each contig when it is first fetched from.
constexpr size_t kCheckAllUpTo = 1000;

// "./" keeps htslib from taking a name such as "data:x.fa" for a URL.
std::string local_name(const std::string& path) {
  return path.front() == '/' ? path : std::string("./").append(path);
}

bool is_blank(char c) { return c == '\n' || c == '\r' || c == ' ' || c == '\t'; }

struct BgzfCloser {
  void operator()(BGZF* file) const { (void)bgzf_close(file); }
};

// A folder of its own under TMPDIR, removed with all in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::error_code error;
    path_ = (std::filesystem::temp_directory_path(error) / "chromamba.XXXXXX").string();
    if (error || mkdtemp(path_.data()) == nullptr) {
      throw ResourceError("cannot make a temporary folder " + path_ +
                          " for an index; set TMPDIR to a folder that can be written");
    }
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

struct FastaIndex::Impl {
  struct Entry {
    int64_t offset = 0;      // of the first base, in decompressed bytes
    int64_t line_bases = 0;  // bases a line
    int64_t line_bytes = 0;  // with the line end
    bool checked = false;
  };

  std::string path;
  FastaOptions options;
  std::string name;  // for messages
  std::string fai_name;
  std::unique_ptr<BGZF, BgzfCloser> file;
  std::vector<ContigInfo> contigs;
  std::vector<Entry> entries;
  std::unordered_map<std::string, size_t> by_name;
  std::vector<size_t> by_offset;  // entries in the order of the file
  std::vector<size_t> rank;       // inverse of by_offset
  std::vector<char> block;
  int64_t iupac = 0;

  [[noreturn]] void misfit(const std::string& what) const {
    throw DataError(name + ": its index " + fai_name + " does not fit: " + what +
                    "; delete the index files (.fai, .gzi) and run again to rebuild them");
  }

  void open_with_index(const Note& note);
  void build(const std::string& fai, const std::string& gzi) const;
  void load_fai(const std::string& fai);
  void open_file(const std::string& gzi);
  int64_t read_at(int64_t offset, char* out, int64_t n) const;
  int64_t data_end(size_t entry) const;
  void check_header_of(size_t position);
  void check_end();
  void check(size_t entry);
  void fetch(size_t entry, int64_t start, int64_t n, char* out);
};

void FastaIndex::Impl::build(const std::string& fai, const std::string& gzi) const {
  // Says what is wrong in our words, finds repeated names (htslib drops them), checks all bases.
  const FastaSummary summary = scan_fasta(path, options);
  if (summary.bases == 0) throw DataError(name + ": none of its contigs has bases");
  if (fai_build3(local_name(path).c_str(), fai.c_str(), gzi.c_str()) != 0) {
    if (summary.contigs.back().length == 0) {
      throw DataError(name + ": cannot be indexed: its last contig " +
                      quote(summary.contigs.back().name) + " has no bases; remove it");
    }
    throw DataError(
        name +
        ": cannot be indexed: expected lines of one length within each contig (only "
        "the last may be shorter) and no blank lines before or between them; rewrite the file, "
        "for example with `seqtk seq -l 60`");
  }
}

void FastaIndex::Impl::load_fai(const std::string& fai) {
  LineReader lines(fai);
  std::string line;
  while (lines.next(line)) {
    if (line.empty()) continue;
    const std::string where = fai_name + ": line " + std::to_string(lines.line_number());
    std::array<int64_t, 4> numbers{};
    bool good = true;
    // Numbers are split off from the right: the name is all that is left.
    std::string_view rest = line;
    for (size_t i = numbers.size(); i-- > 0;) {
      const size_t tab = rest.rfind('\t');
      if (tab == std::string_view::npos) {
        good = false;
        break;
      }
      const std::string_view field = rest.substr(tab + 1);
      const auto result = std::from_chars(field.data(), field.data() + field.size(), numbers[i]);
      good = good && result.ec == std::errc() && result.ptr == field.data() + field.size();
      rest = rest.substr(0, tab);
    }
    const auto [length, offset, line_bases, line_bytes] = numbers;
    good = good && length >= 0 && offset >= 0 && line_bases >= 0 && line_bytes >= line_bases &&
           (length == 0 || line_bases > 0) && rest.find('\t') == std::string_view::npos;
    if (!good) {
      throw DataError(
          where + ": " + quote(line) +
          " is not an index line (name, length, offset, line bases, line bytes); delete "
          "the index and run again to rebuild it");
    }
    const std::string contig(rest);
    check_contig_name(contig, where);
    if (!by_name.emplace(contig, contigs.size()).second) {
      throw DataError(where + ": contig name " + quote(contig) +
                      " is there twice; rename one of the contigs and rebuild the index");
    }
    contigs.push_back({contig, length});
    entries.push_back({offset, line_bases, line_bytes, false});
  }
  if (contigs.empty()) misfit("it holds no contigs");
  by_offset.resize(entries.size());
  std::iota(by_offset.begin(), by_offset.end(), size_t{0});
  std::stable_sort(by_offset.begin(), by_offset.end(),
                   [this](size_t a, size_t b) { return entries[a].offset < entries[b].offset; });
  rank.resize(entries.size());
  for (size_t i = 0; i < by_offset.size(); ++i) rank[by_offset[i]] = i;
}

void FastaIndex::Impl::open_file(const std::string& gzi) {
  file.reset(bgzf_open(local_name(path).c_str(), "r"));
  if (file == nullptr) throw DataError(name + ": cannot be opened");
  if (bgzf_compression(file.get()) == 2) {
    if (bgzf_check_EOF(file.get()) == 0) {
      throw DataError(name +
                      ": the bgzip data has no end-of-file block, so the file is probably cut "
                      "short; copy it again, or compress it again with bgzip");
    }
    if (bgzf_index_load(file.get(), gzi.c_str(), nullptr) != 0) {
      throw DataError(name + ": the index " + gzi +
                      " cannot be read; delete it and run again to rebuild it");
    }
  }
}

void FastaIndex::Impl::open_with_index(const Note& note) {
  const auto tell = [&note](const std::string& text) {
    if (note) note(text);
  };
  Compression compression{};
  {
    // Missing file, wrong kind, no header: told before any talk of an index.
    FastaReader probe(path, options);
    name = probe.display_name();
    compression = probe.compression();
    if (compression == Compression::gzip) {
      throw DataError(name +
                      ": is compressed with plain gzip, which has no random access; recompress it: "
                      "gunzip, then bgzip");
    }
    (void)probe.next_contig();
  }
  std::string fai = path + ".fai";
  std::string gzi = path + ".gzi";
  fai_name = fai;
  const bool bgzf = compression == Compression::bgzf;
  const bool have_fai = access(fai.c_str(), F_OK) == 0;
  std::optional<TemporaryFolder> temporary;
  if (have_fai && (!bgzf || access(gzi.c_str(), F_OK) == 0)) {
    struct stat of_file {};
    struct stat of_index {};
    for (const std::string& index : {fai, gzi}) {
      if (stat(path.c_str(), &of_file) == 0 && stat(index.c_str(), &of_index) == 0 &&
          of_index.st_mtime < of_file.st_mtime) {
        tell("the index " + index + " is older than " + name +
             "; if the file was changed since, delete the index to have it rebuilt");
      }
    }
  } else {
    std::optional<PendingFile> pending_fai;
    std::optional<PendingFile> pending_gzi;
    try {
      pending_fai.emplace(fai);
      if (bgzf) pending_gzi.emplace(gzi);
    } catch (const ResourceError&) {
      pending_fai.reset();
    }
    if (pending_fai) {
      build(pending_fai->temporary_path(),
            pending_gzi ? pending_gzi->temporary_path() : std::string(gzi));
      // The .gzi first: who sees a .fai may count on both.
      if (pending_gzi) pending_gzi->commit();
      pending_fai->commit();
    } else {
      temporary.emplace();
      fai = temporary->path() + "/index.fai";
      gzi = temporary->path() + "/index.gzi";
      build(fai, gzi);
      tell("the folder of " + name +
           " cannot be written: its index was made for this run only; `samtools faidx` makes one "
           "that stays");
    }
  }
  load_fai(fai);
  open_file(gzi);
  block.resize(static_cast<size_t>(kBlockBytes));
  if (entries.size() <= kCheckAllUpTo) {
    for (size_t i = 0; i < by_offset.size(); ++i) check_header_of(i);
    check_end();
    for (Entry& entry : entries) entry.checked = true;
  }
}

// Up to n decompressed bytes at an offset; fewer only at the end of the file.
int64_t FastaIndex::Impl::read_at(int64_t offset, char* out, int64_t n) const {
  if (bgzf_useek(file.get(), offset, SEEK_SET) < 0) {
    misfit("byte " + std::to_string(offset) + " cannot be reached");
  }
  const ssize_t got = bgzf_read(file.get(), out, static_cast<size_t>(n));
  if (got < 0 || file->errcode != 0) {
    throw DataError(name + ": cannot be read at decompressed byte " + std::to_string(offset) +
                    ": the file or its index is damaged; copy or compress the file again and "
                    "delete its index");
  }
  return got;
}

// The byte after the last base.
int64_t FastaIndex::Impl::data_end(size_t entry) const {
  const Entry& at = entries[entry];
  const int64_t length = contigs[entry].length;
  if (length == 0) return at.offset;
  return at.offset + (length - 1) / at.line_bases * at.line_bytes + (length - 1) % at.line_bases +
         1;
}

// Between two contigs of the index there must be the second one's header line, and before it only
// blank lines and headers of contigs without bases, which htslib leaves out of an index.
void FastaIndex::Impl::check_header_of(size_t position) {
  const size_t entry = by_offset[position];
  const int64_t to = entries[entry].offset;
  const int64_t from = position == 0 ? 0 : data_end(by_offset[position - 1]);
  const std::string& contig = contigs[entry].name;
  const auto fail = [&] {
    misfit("expected the header of contig " + quote(contig) + " just before byte " +
           std::to_string(to));
  };
  if (from >= to) fail();
  // The whole gap, or when it is long, its last part: the header's own line is what counts.
  const int64_t begin = std::max(from, to - kGapBytes);
  const int64_t got = read_at(begin, block.data(), to - begin);
  if (got < to - begin || block[static_cast<size_t>(got) - 1] != '\n') fail();
  bool at_line_start = begin == 0;
  std::string_view last_header;
  for (std::string_view rest(block.data(), static_cast<size_t>(got)); !rest.empty();) {
    const size_t line_bytes = rest.find('\n') + 1;  // the gap ends with a line end
    const std::string_view line = rest.substr(0, line_bytes);
    rest.remove_prefix(line_bytes);
    if (at_line_start && line.front() == '>') {
      last_header = line;
    } else if (at_line_start || begin == from) {
      // Else this is the tail of a line that starts before what was read.
      if (!std::all_of(line.begin(), line.end(), is_blank)) fail();
    }
    at_line_start = true;
  }
  if (last_header.empty()) {
    if (begin == from) fail();
    return;  // a header line longer than what was read; its line end is where it should be
  }
  const size_t name_end = contig.size() + 1;
  if (last_header.size() <= name_end || last_header.substr(1, contig.size()) != contig ||
      !is_blank(last_header[name_end])) {
    fail();
  }
}

// After the last contig of the index only white space may follow.
void FastaIndex::Impl::check_end() {
  const int64_t end = data_end(by_offset.back());
  const int64_t got = read_at(end, block.data(), kGapBytes);
  if (!std::all_of(block.begin(), block.begin() + got, is_blank)) {
    misfit("the file goes on after the last contig of the index, at byte " + std::to_string(end));
  }
}

void FastaIndex::Impl::check(size_t entry) {
  if (entries[entry].checked) return;
  check_header_of(rank[entry]);
  if (rank[entry] + 1 < entries.size()) {
    check_header_of(rank[entry] + 1);
  } else {
    check_end();
  }
  entries[entry].checked = true;
}

void FastaIndex::Impl::fetch(size_t entry, int64_t start, int64_t n, char* out) {
  const ContigInfo& contig = contigs[entry];
  if (start < 0 || n < 0 || start > contig.length - n) {
    throw InternalError("bases " + std::to_string(start) + "-" + std::to_string(start + n) +
                        " asked of contig " + quote(contig.name) + " (length " +
                        std::to_string(contig.length) + ") of " + name);
  }
  check(entry);
  const Entry& at = entries[entry];
  int64_t position = start;
  const int64_t end = start + n;
  while (position < end) {
    // One block from the present base on, walked line by line.
    const int64_t from =
        at.offset + position / at.line_bases * at.line_bytes + position % at.line_bases;
    const int64_t last = end - 1;
    const int64_t to = at.offset + last / at.line_bases * at.line_bytes + last % at.line_bases + 1;
    const int64_t got = read_at(from, block.data(), std::min(to - from, kBlockBytes));
    if (got == 0) {
      misfit("contig " + quote(contig.name) + " ends at base " + std::to_string(position) + " of " +
             std::to_string(contig.length));
    }
    const char* in = block.data();
    const char* const in_end = in + got;
    while (in < in_end && position < end) {
      const int64_t column = position % at.line_bases;
      const int64_t piece =
          std::min({at.line_bases - column, end - position, static_cast<int64_t>(in_end - in)});
      char* const piece_out = out + (position - start);
      if ((translate_bases(in, piece, piece_out) & 0x80U) != 0) {
        for (int64_t i = 0; i < piece; ++i) {
          const auto code = static_cast<uint8_t>(piece_out[i]);
          if ((code & 0x80U) == 0) continue;
          if (code == kCodeIupac && !options.iupac_error) {
            ++iupac;
            piece_out[i] = 'N';
          } else if (in[i] == '\n' || in[i] == '>') {
            misfit("contig " + quote(contig.name) + " has " +
                   (in[i] == '>' ? "a header line" : "a line end") + " where base " +
                   std::to_string(position + i + 1) + " should be");
          } else {
            throw_bad_base(name, contig.name, position + i, 0, in[i]);
          }
        }
      }
      in += piece;
      position += piece;
      if (column + piece == at.line_bases && position < end) {
        const int64_t line_end =
            std::min<int64_t>(at.line_bytes - at.line_bases, static_cast<int64_t>(in_end - in));
        for (int64_t i = 0; i < line_end; ++i) {
          if (!is_blank(in[i])) {
            misfit("contig " + quote(contig.name) + " has no line end after base " +
                   std::to_string(position));
          }
        }
        in += line_end;
      }
    }
  }
}

FastaIndex::FastaIndex(const std::string& path, FastaOptions options, const Note& note)
    : impl_(std::make_unique<Impl>()) {
  if (path == "-") {
    throw UsageError("standard input has no random access; give the FASTA as a file");
  }
  silence_htslib();
  impl_->path = path;
  impl_->options = std::move(options);
  impl_->open_with_index(note);
}

FastaIndex::~FastaIndex() = default;
FastaIndex::FastaIndex(FastaIndex&&) noexcept = default;
FastaIndex& FastaIndex::operator=(FastaIndex&&) noexcept = default;

const std::vector<ContigInfo>& FastaIndex::contigs() const { return impl_->contigs; }

int64_t FastaIndex::length(const std::string& contig) const {
  const auto found = impl_->by_name.find(contig);
  return found == impl_->by_name.end() ? -1 : impl_->contigs[found->second].length;
}

void FastaIndex::fetch(const std::string& contig, int64_t start, int64_t n, char* out) {
  const auto found = impl_->by_name.find(contig);
  if (found == impl_->by_name.end()) {
    throw InternalError("contig " + quote(contig) + " was asked of " + impl_->name +
                        ", which has none of that name");
  }
  impl_->fetch(found->second, start, n, out);
}

int64_t FastaIndex::iupac_count() const { return impl_->iupac; }

}  // namespace chromamba::io
