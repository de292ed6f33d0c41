#include "io/variant_file.h"

#include <fcntl.h>
#include <htslib/bgzf.h>
#include <htslib/hfile.h>
#include <htslib/hts_endian.h>
#include <htslib/kstring.h>
#include <htslib/tbx.h>
#include <htslib/vcf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "io/input_stream.h"
#include "io/quote.h"
#include "io/text_output.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

// One read: large beside a system call and a BGZF block (64 KiB), and it stays in a 2-MiB L2.
constexpr size_t kBlockBytes = size_t{1} << 20;
// Half a million samples of 50 bytes are 25 MB; htslib's own strings end at 2 GiB.
constexpr size_t kLongestLine = size_t{1} << 30;
// Far beyond any coordinate, and sums of two still fit 64 bits.
constexpr int64_t kLargestNumber = int64_t{1} << 60;
constexpr size_t kFixedColumns = 8;
constexpr size_t kInfoColumn = 7;
constexpr std::string_view kColumnLine = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO";
// samtools' default: bins of 16 kb, and 32 Gb contigs fit.
constexpr int kCsiMinShift = 14;
constexpr int64_t kPollRecords = 4096;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <typename T>
using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;
using StringSet = std::unordered_set<std::string, StringHash, std::equal_to<>>;

struct DestroyHeader {
  void operator()(bcf_hdr_t* header) const { bcf_hdr_destroy(header); }
};
using HeaderPointer = std::unique_ptr<bcf_hdr_t, DestroyHeader>;

struct DestroyHeaderLine {
  void operator()(bcf_hrec_t* line) const { bcf_hrec_destroy(line); }
};
using HeaderLine = std::unique_ptr<bcf_hrec_t, DestroyHeaderLine>;

struct CloseHtsFile {
  void operator()(htsFile* file) const { (void)hts_close(file); }
};
using HtsFile = std::unique_ptr<htsFile, CloseHtsFile>;

// A kstring that frees itself.
struct Text : kstring_t {
  Text() : kstring_t{0, 0, nullptr} {}
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;
  ~Text() { free(s); }
  std::string_view view() const { return {s, l}; }
  void assign(std::string_view text) {
    l = 0;
    if (kputsn(text.data(), text.size(), this) < 0) throw std::bad_alloc();
  }
};

enum class Oddity { info, filter, format, contig, end, last_line, value };

// The first message of a kind, and the count of records.
class Oddities {
 public:
  template <typename Message>
  void add(Oddity kind, const Message& message) {
    for (size_t i = 0; i < kinds_.size(); ++i) {
      if (kinds_[i] == kind) {
        ++warnings_[i].records;
        return;
      }
    }
    kinds_.push_back(kind);
    warnings_.push_back({message(), 1});
  }
  const std::vector<VariantWarning>& warnings() const { return warnings_; }

 private:
  std::vector<Oddity> kinds_;
  std::vector<VariantWarning> warnings_;
};

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

// Takes the text up to the next `separator` off the front of `rest`.
std::string_view take_until(std::string_view& rest, char separator) {
  const size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view piece = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return piece;
}

// Calls each(piece) for the pieces between separators: one, empty, for empty text.
template <typename Each>
void for_each_piece(std::string_view text, char separator, const Each& each) {
  for (;;) {
    const size_t end = text.find(separator);
    each(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

std::optional<int64_t> parse_integer(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (value > kLargestNumber || value < -kLargestNumber) return std::nullopt;
  return value;
}

bool is_number(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  // Out of range is a number all the same: 1e-400 is a p-value that real files hold.
  return end == text.data() + text.size() && error != std::errc::invalid_argument;
}

std::string_view without_carriage_return(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// The line of a header as htslib reads it; null when it cannot.
HeaderLine parse_header_line(std::string_view line) {
  int used = 0;
  const std::string text(without_carriage_return(line));
  return HeaderLine(bcf_hdr_parse_line(nullptr, text.c_str(), &used));
}

const char* value_of(const bcf_hrec_t* line, const char* key) {
  for (int i = 0; i < line->nkeys; ++i) {
    if (std::strcmp(line->keys[i], key) == 0) return line->vals[i];
  }
  return nullptr;
}

// htslib's header from text, whose lines may end with CRLF and may be blank. Null when htslib
// refuses it.
HeaderPointer parse_header(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const std::string_view line = without_carriage_return(take_until(text, '\n'));
    if (line.empty()) continue;
    clean.append(line).append(1, '\n');
  }
  HeaderPointer header(bcf_hdr_init("r"));
  if (header == nullptr || bcf_hdr_parse(header.get(), clean.data()) < 0) return nullptr;
  return header;
}

std::string format_header(const bcf_hdr_t* header, bool with_indices) {
  Text text;
  if (bcf_hdr_format(header, with_indices ? 1 : 0, &text) < 0) {
    throw InternalError("bcf_hdr_format failed");
  }
  return std::string(text.view());
}

}  // namespace

struct VariantHeader {
  std::string name;       // of the file, for messages
  std::string text;       // all its lines, the last one that starts with "#CHROM"
  HeaderPointer parsed;   // of BCF, the one that its records belong to
  bool from_bcf = false;  // text is then htslib's, with IDX in its lines
  std::vector<ContigInfo> contigs;
  StringMap<int64_t> contig_index;
  std::vector<int64_t> contig_of_rid;  // BCF: htslib's numbers may have gaps
  StringSet info;
  StringSet filters;
  StringSet formats;
  size_t columns = 0;  // VCF

  // What `parsed` says, in C++.
  void fill() {
    const bcf_hdr_t* hdr = parsed.get();
    contig_of_rid.assign(static_cast<size_t>(hdr->n[BCF_DT_CTG]), -1);
    for (int i = 0; i < hdr->n[BCF_DT_CTG]; ++i) {
      const bcf_idpair_t& pair = hdr->id[BCF_DT_CTG][i];
      if (pair.key == nullptr) continue;
      contig_of_rid[static_cast<size_t>(i)] = static_cast<int64_t>(contigs.size());
      contig_index.emplace(pair.key, static_cast<int64_t>(contigs.size()));
      contigs.push_back({pair.key, static_cast<int64_t>(pair.val->info[0])});
    }
    for (int i = 0; i < hdr->n[BCF_DT_ID]; ++i) {
      const bcf_idpair_t& pair = hdr->id[BCF_DT_ID][i];
      if (pair.key == nullptr) continue;
      if (pair.val->hrec[BCF_HL_INFO] != nullptr) info.emplace(pair.key);
      if (pair.val->hrec[BCF_HL_FLT] != nullptr) filters.emplace(pair.key);
      if (pair.val->hrec[BCF_HL_FMT] != nullptr) formats.emplace(pair.key);
    }
  }
};

void VariantRecord::DestroyBinary::operator()(bcf1_t* record) const { bcf_destroy(record); }

VariantRecord::VariantRecord() = default;
VariantRecord::~VariantRecord() = default;
VariantRecord::VariantRecord(VariantRecord&&) noexcept = default;
VariantRecord& VariantRecord::operator=(VariantRecord&&) noexcept = default;

std::string VariantRecord::place() const {
  return (line > 0 ? "line " + std::to_string(line) : "record " + std::to_string(number)) + " (" +
         contig + ":" + std::to_string(position + 1) + ")";
}

// ---------------------------------------------------------------------------------- genotypes

void VariantRecord::fail_sample(int64_t sample, const std::string& what) const {
  throw DataError(header_->name + ": " + place() + ": sample " +
                  quote(header_->parsed->samples[sample]) + ": " + what);
}

std::optional<Genotype> VariantRecord::text_genotype(int64_t sample) const {
  std::string_view rest = text_;
  rest.remove_prefix(info_end_);
  if (rest.empty()) return std::nullopt;
  rest.remove_prefix(1);
  std::string_view keys = take_until(rest, '\t');
  for (int64_t i = 0; i < sample; ++i) (void)take_until(rest, '\t');
  std::string_view values = take_until(rest, '\t');
  // The first field of a name counts; fields at the end may be left out.
  std::optional<std::string_view> gt;
  std::optional<std::string_view> ps;
  bool left_out = false;
  while (!keys.empty()) {
    const std::string_view key = take_until(keys, ':');
    const bool more = values.find(':') != std::string_view::npos;
    const std::string_view value = left_out ? "." : take_until(values, ':');
    left_out = left_out || !more;
    if (key == "GT" && !gt) gt = value;
    if (key == "PS" && !ps) ps = value;
  }
  if (!gt) return std::nullopt;
  std::optional<Genotype> genotype = parse_genotype(*gt);
  if (!genotype) fail_sample(sample, "GT is " + quote(*gt) + "; expected alleles, as in 0|1");
  if (ps && *ps != ".") genotype->phase_set = *ps;
  return genotype;
}

std::optional<Genotype> VariantRecord::binary_genotype(int64_t sample) const {
  const bcf_fmt_t* gt = bcf_get_fmt(header_->parsed.get(), binary_.get(), "GT");
  if (gt == nullptr || gt->p == nullptr) return std::nullopt;
  const auto value = [&](int i) -> int64_t {
    const uint8_t* bytes = gt->p + sample * gt->size;
    if (gt->type == BCF_BT_INT8) return le_to_i8(bytes + i);
    if (gt->type == BCF_BT_INT16) return le_to_i16(bytes + ptrdiff_t{2} * i);
    return le_to_i32(bytes + ptrdiff_t{4} * i);
  };
  const bool wide = gt->type == BCF_BT_INT32;
  if (gt->type != BCF_BT_INT8 && gt->type != BCF_BT_INT16 && !wide) {
    fail_sample(sample, "GT holds no integers; expected alleles");
  }
  const int64_t missing = wide                       ? bcf_int32_missing
                          : gt->type == BCF_BT_INT16 ? bcf_int16_missing
                                                     : bcf_int8_missing;
  Genotype genotype;
  genotype.phased = true;
  for (int i = 0; i < gt->n && value(i) != missing + 1; ++i) {  // the end of a shorter genotype
    const int64_t code = value(i) == missing ? bcf_gt_missing : value(i);
    if (code < 0) fail_sample(sample, "GT holds " + std::to_string(code) + "; expected alleles");
    genotype.alleles.push_back(static_cast<int32_t>(bcf_gt_allele(code)));
    // The bit of the first allele says nothing before VCF 4.4.
    if (i > 0 && bcf_gt_is_phased(code) == 0) genotype.phased = false;
  }
  if (genotype.alleles.empty()) genotype.alleles.push_back(Genotype::kMissing);
  const bcf_fmt_t* ps = bcf_get_fmt(header_->parsed.get(), binary_.get(), "PS");
  if (ps != nullptr && ps->p != nullptr) {
    Text text;
    if (bcf_fmt_array(&text, ps->n, ps->type, ps->p + sample * ps->size) < 0)
      throw std::bad_alloc();
    if (text.view() != ".") genotype.phase_set = text.view();
  }
  return genotype;
}

std::optional<Genotype> VariantRecord::genotype(int64_t sample) const {
  if (header_ == nullptr || sample < 0 || sample >= bcf_hdr_nsamples(header_->parsed)) {
    throw InternalError("no sample " + std::to_string(sample));
  }
  std::optional<Genotype> genotype =
      binary_ != nullptr ? binary_genotype(sample) : text_genotype(sample);
  if (!genotype) return genotype;
  for (const int32_t allele : genotype->alleles) {
    if (allele > static_cast<int64_t>(alts.size())) {
      fail_sample(sample, "GT names allele " + std::to_string(allele) + "; the record has " +
                              std::to_string(alts.size()) + " besides REF");
    }
  }
  if (std::any_of(genotype->phase_set.begin(), genotype->phase_set.end(),
                  [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; })) {
    fail_sample(sample, "PS is " + quote(genotype->phase_set) + "; expected a phase set");
  }
  return genotype;
}

// ------------------------------------------------------------------------------------ reader

struct VariantReader::Impl {
  VariantReaderOptions options;
  std::shared_ptr<VariantHeader> header;
  std::shared_ptr<const VariantHeader> shared_header;
  Oddities oddities;
  int64_t records = 0;
  bool done = false;

  // VCF
  std::unique_ptr<InputStream> stream;
  std::string buffer;
  size_t buffer_begin = 0;
  size_t buffer_end = 0;
  int64_t line_number = 0;
  bool line_was_ended = true;  // the last line had its line end
  std::string known_filter = ".";
  std::string known_format;

  // BCF
  HtsFile binary;

  const std::string& name() const { return header->name; }

  [[noreturn]] void fail(const std::string& what) const { throw DataError(name() + ": " + what); }
  [[noreturn]] void fail_line(const std::string& what) const {
    fail("line " + std::to_string(line_number) + ": " + what);
  }

  void open(const std::string& path);
  void read_bcf_header(InputFile file, const htsFormat& format, const std::string& path);
  void read_vcf_header();
  bool next_line(std::string_view& line);
  void note_open_line();
  bool next_vcf(VariantRecord& record);
  bool next_bcf(VariantRecord& record);
  void split_line(std::string_view line, VariantRecord& record);
  void read_info(std::string_view info, VariantRecord& record);
  void check_filter(std::string_view filter, const VariantRecord& record);
  void check_format(std::string_view format, const VariantRecord& record);
  void set_span(VariantRecord& record, std::string_view end);
  void set_svlen(VariantRecord& record, std::string_view text) const;
};

void VariantReader::Impl::open(const std::string& path) {
  header->name = input_display_name(path, options.display_name);
  InputFile file = open_input(path, header->name);
  htsFormat format{};
  if (hts_detect_format(file.get(), &format) < 0) {
    fail(std::string("cannot be read: ") + std::strerror(errno));
  }
  if (format.format == bcf) {
    read_bcf_header(std::move(file), format, path);
  } else {
    stream = std::make_unique<InputStream>(std::move(file), options.threads, header->name);
    read_vcf_header();
  }
  header->fill();
}

void VariantReader::Impl::read_bcf_header(InputFile file, const htsFormat& format,
                                          const std::string& path) {
  if (format.compression != bgzf && format.compression != no_compression) {
    fail("is BCF inside plain gzip; expected BCF as bcftools writes it: run gunzip first");
  }
  // hts_hopen closes the file only together with the htsFile.
  binary.reset(hts_hopen(file.get(), path.c_str(), "r"));
  if (binary == nullptr) fail("cannot be read as BCF");
  (void)file.release();
  if (options.threads > 1 && hts_set_threads(binary.get(), options.threads) != 0) {
    throw ResourceError("cannot start " + std::to_string(options.threads) +
                        " threads to decompress " + name());
  }
  header->parsed.reset(bcf_hdr_read(binary.get()));
  if (header->parsed == nullptr) {
    fail(
        "the BCF header is cut short or damaged, or is not of BCF 2.2; expected BCF as bcftools "
        "writes it");
  }
  header->from_bcf = true;
  header->text = format_header(header->parsed.get(), true);
}

// The view is valid until the next call.
bool VariantReader::Impl::next_line(std::string_view& line) {
  size_t searched = buffer_begin;
  for (;;) {
    const void* found = std::memchr(buffer.data() + searched, '\n', buffer_end - searched);
    if (found != nullptr) {
      const auto end = static_cast<size_t>(static_cast<const char*>(found) - buffer.data());
      line = {buffer.data() + buffer_begin, end - buffer_begin};
      buffer_begin = end + 1;
      ++line_number;
      return true;
    }
    // The beginning of a line goes to the front, and a block is read behind it.
    buffer_end -= buffer_begin;
    std::memmove(buffer.data(), buffer.data() + buffer_begin, buffer_end);
    buffer_begin = 0;
    searched = buffer_end;
    if (buffer_end > kLongestLine) {
      ++line_number;
      fail_line("is longer than 1 GiB; expected a VCF line");
    }
    if (options.poll) options.poll();
    if (buffer.size() - buffer_end < kBlockBytes) {
      buffer.resize(std::max(buffer_end + kBlockBytes, 2 * buffer.size()));
    }
    const int64_t got =
        stream->read(buffer.data() + buffer_end, static_cast<int64_t>(buffer.size() - buffer_end));
    buffer_end += static_cast<size_t>(got);
    if (got == 0) {
      if (buffer_end == 0) return false;
      line = {buffer.data(), buffer_end};
      buffer_begin = buffer_end;
      ++line_number;
      line_was_ended = false;
      return true;
    }
  }
}

void VariantReader::Impl::note_open_line() {
  if (line_was_ended) return;
  oddities.add(Oddity::last_line, [&] {
    return name() + ": line " + std::to_string(line_number) +
           ", the last one, has no line end; the file may be cut short";
  });
}

void VariantReader::Impl::read_vcf_header() {
  std::string_view line;
  while (next_line(line)) {
    if (line.find('\0') != std::string_view::npos && line_number > 1) {
      fail_line("holds a NUL byte; the file is damaged or not text");
    }
    if (line_number == 1 && !starts_with(line, "##fileformat=VCF")) {
      if (starts_with(line, "#") && !starts_with(line, "##gff")) {
        fail_line("is not the start of a VCF header; expected ##fileformat=VCFv4.x");
      }
      fail("is neither VCF nor BCF: it " + describe_content(line) +
           "; expected a first line ##fileformat=VCFv4.x");
    }
    header->text.append(line).append(1, '\n');
    if (starts_with(line, "##") || without_carriage_return(line).empty()) continue;
    if (!starts_with(line, "#")) {
      fail_line("the header ends without its column line; expected a line that starts with #CHROM");
    }
    const std::string_view columns = without_carriage_return(line);
    const bool samples = columns.size() > kColumnLine.size();
    if (!starts_with(columns, kColumnLine) ||
        (samples && !starts_with(columns.substr(kColumnLine.size()), "\tFORMAT\t") &&
         columns.substr(kColumnLine.size()) != "\tFORMAT")) {
      fail_line("the column line is " + quote(columns) +
                "; expected #CHROM POS ID REF ALT QUAL FILTER INFO, then FORMAT and the samples, "
                "all separated by tabs");
    }
    std::unordered_set<std::string_view> names;
    size_t column = 0;
    for_each_piece(columns, '\t', [&](std::string_view sample) {
      if (++column <= kFixedColumns + 1) return;
      if (sample.find_first_not_of(' ') == std::string_view::npos) {
        fail_line("sample " + std::to_string(column - kFixedColumns - 1) + " has no name");
      }
      if (!names.insert(sample).second) {
        fail_line("two samples are named " + quote(sample) + "; rename one of them");
      }
    });
    header->parsed = parse_header(header->text);
    if (header->parsed == nullptr) fail("htslib cannot read the VCF header; it is damaged");
    header->columns = column;
    note_open_line();
    return;
  }
  if (line_number == 0) fail("is empty; expected VCF or BCF");
  fail("ends within its header, after line " + std::to_string(line_number) +
       "; expected a line that starts with #CHROM");
}

void VariantReader::Impl::set_span(VariantRecord& record, std::string_view end) {
  record.reference_length = static_cast<int64_t>(record.ref.size());
  record.end.reset();
  if (end.empty() || end == ".") return;
  const std::optional<int64_t> value = parse_integer(end);
  if (!value) {
    fail(record.place() + ": INFO END is " + quote(end) + "; expected a position");
  }
  // As htslib: an END before POS says nothing, and REF's length holds.
  if (*value <= record.position) {
    oddities.add(Oddity::end, [&] {
      return name() + ": " + record.place() + ": INFO END=" + std::to_string(*value) +
             " lies before the record's position; it is ignored";
    });
    return;
  }
  record.end = *value;
  record.reference_length = *value - record.position;
}

void VariantReader::Impl::set_svlen(VariantRecord& record, std::string_view text) const {
  for_each_piece(text, ',', [&](std::string_view piece) {
    if (piece == "." || text.empty()) {
      record.svlen.emplace_back();
      return;
    }
    const std::optional<int64_t> value = parse_integer(piece);
    if (!value) {
      fail(record.place() + ": INFO SVLEN is " + quote(text) + "; expected a number of bases");
    }
    record.svlen.emplace_back(value);
  });
}

void VariantReader::Impl::read_info(std::string_view info, VariantRecord& record) {
  std::string_view end;
  record.svlen.clear();
  if (info != ".") {
    bool odd = false;
    bool has_svlen = false;
    while (!info.empty()) {
      const std::string_view field = take_until(info, ';');
      const size_t equals = field.find('=');
      const std::string_view key = field.substr(0, equals);
      if (key == "END" && end.empty() && equals != std::string_view::npos) {
        end = field.substr(equals + 1);
        if (end.empty()) fail(record.place() + ": INFO END is empty; expected a position");
      } else if (key == "SVLEN" && !has_svlen && equals != std::string_view::npos) {
        has_svlen = true;
        set_svlen(record, field.substr(equals + 1));
      }
      if (!odd && !key.empty() && header->info.find(key) == header->info.end()) {
        odd = true;
        oddities.add(Oddity::info, [&] {
          return name() + ": " + record.place() + ": INFO field " + quote(key) +
                 " is not declared in the header; it is kept as it is";
        });
      }
    }
  }
  set_span(record, end);
}

void VariantReader::Impl::check_filter(std::string_view filter, const VariantRecord& record) {
  if (filter == known_filter || filter == "." || filter == "PASS") return;
  bool odd = false;
  for_each_piece(filter, ';', [&](std::string_view id) {
    if (odd || header->filters.find(id) != header->filters.end()) return;
    odd = true;
    oddities.add(Oddity::filter, [&] {
      return name() + ": " + record.place() + ": FILTER " + quote(id) +
             " is not declared in the header; it is kept as it is";
    });
  });
  if (!odd) known_filter = filter;
}

void VariantReader::Impl::check_format(std::string_view format, const VariantRecord& record) {
  if (format == known_format || format == ".") return;
  bool odd = false;
  for_each_piece(format, ':', [&](std::string_view id) {
    if (odd || header->formats.find(id) != header->formats.end()) return;
    odd = true;
    oddities.add(Oddity::format, [&] {
      return name() + ": " + record.place() + ": FORMAT field " + quote(id) +
             " is not declared in the header; it is kept as it is";
    });
  });
  if (!odd) known_format = format;
}

void VariantReader::Impl::split_line(std::string_view line, VariantRecord& record) {
  record.carriage_return_ = !line.empty() && line.back() == '\r';
  line = without_carriage_return(line);
  if (std::memchr(line.data(), '\0', line.size()) != nullptr) {
    fail_line("holds a NUL byte; the file is damaged or not text");
  }
  const auto columns = static_cast<size_t>(std::count(line.begin(), line.end(), '\t')) + 1;
  if (columns != header->columns) {
    fail_line("has " + std::to_string(columns) + (columns == 1 ? " column" : " columns") +
              "; expected " + std::to_string(header->columns) + ", separated by tabs" +
              (line_was_ended ? "" : " (the file is probably cut short)"));
  }
  record.text_.assign(line);
  std::array<std::string_view, kFixedColumns + 1> field;
  std::string_view rest = record.text_;
  for (size_t i = 0; i < std::min(columns, field.size()); ++i) field[i] = take_until(rest, '\t');
  const auto [contig, pos, id, ref, alt, qual, filter, info, format] = field;

  record.line = line_number;
  record.info_begin_ = static_cast<size_t>(info.data() - record.text_.data());
  record.info_end_ = record.info_begin_ + info.size();
  const std::optional<int64_t> position = parse_integer(pos);
  if (!position || *position < 0) {
    fail_line("POS is " + quote(pos) + "; expected a position, from 1");
  }
  record.position = *position - 1;
  if (record.contig != contig || record.header_ != shared_header) {
    if (contig.empty()) fail_line("CHROM is empty; expected the name of a contig");
    const auto found = header->contig_index.find(contig);
    if (found == header->contig_index.end() && !header->contigs.empty()) {
      fail_line("contig " + quote(contig) + " is not in the header; expected a line ##contig=<ID=" +
                std::string(contig) + "> there: add it with 'bcftools reheader --fai'");
    }
    record.contig = contig;
    record.contig_index = found != header->contig_index.end() ? found->second : -1;
    record.header_ = shared_header;
  }
  if (header->contigs.empty()) {
    oddities.add(Oddity::contig, [&] {
      return name() + ": the header lists no contigs; they are taken from the records";
    });
  }
  record.id = id;
  if (ref.empty()) fail_line("REF is empty; expected bases");
  record.ref = ref;
  size_t alleles = 0;
  if (alt != ".") {
    for_each_piece(alt, ',', [&, &all = alt](std::string_view allele) {
      if (allele.empty()) {
        fail_line("ALT " + quote(all) + " has an empty allele; expected '.' for none");
      }
      if (alleles == record.alts.size()) record.alts.emplace_back();
      record.alts[alleles++] = allele;
    });
  }
  record.alts.resize(alleles);
  if (qual != "." && !is_number(qual)) {
    fail_line("QUAL is " + quote(qual) + "; expected a number or '.'");
  }
  check_filter(filter, record);
  if (columns > kFixedColumns) check_format(format, record);
  read_info(info, record);
}

bool VariantReader::Impl::next_vcf(VariantRecord& record) {
  std::string_view line;
  if (!next_line(line)) return false;
  if (without_carriage_return(line).empty()) {
    const int64_t blank = line_number;
    while (next_line(line)) {
      if (!without_carriage_return(line).empty()) {
        fail("line " + std::to_string(blank) + " is blank; expected a record");
      }
    }
    return false;
  }
  record.binary_.reset();
  record.number = ++records;
  split_line(line, record);
  note_open_line();
  return true;
}

bool VariantReader::Impl::next_bcf(VariantRecord& record) {
  if (options.poll && records % kPollRecords == 0) options.poll();
  if (record.binary_ == nullptr) {
    record.binary_.reset(bcf_init());
    if (record.binary_ == nullptr) throw std::bad_alloc();
  }
  bcf1_t* rec = record.binary_.get();
  const int status = bcf_read(binary.get(), header->parsed.get(), rec);
  const BGZF* file = binary->fp.bgzf;
  if (status == -1 && file->errcode == 0) {
    if (file->is_compressed != 0 && file->no_eof_block != 0) {
      fail(
          "the bgzip data has no end-of-file block, so the file is probably cut short; copy it "
          "again");
    }
    return false;
  }
  const std::string where = "record " + std::to_string(records + 1);
  if (status != 0 || rec->errcode != 0 || bcf_unpack(rec, BCF_UN_ALL) != 0) {
    fail(where + ": the BCF data is cut short or damaged; copy the file again");
  }
  if (rec->n_fmt > 0 && static_cast<int>(rec->n_sample) != bcf_hdr_nsamples(header->parsed)) {
    fail(where + ": has " + std::to_string(rec->n_sample) + " samples; the header has " +
         std::to_string(bcf_hdr_nsamples(header->parsed)));
  }
  // 64-bit values have no place in a file, and htslib ends the program when it prints some.
  for (int i = 0; i < static_cast<int>(rec->n_info); ++i) {
    if (rec->d.info[i].type == BCF_BT_INT64) fail(where + ": the BCF data is damaged");
  }
  for (int i = 0; i < static_cast<int>(rec->n_fmt); ++i) {
    if (rec->d.fmt[i].type == BCF_BT_INT64) fail(where + ": the BCF data is damaged");
  }
  record.number = ++records;
  record.line = 0;
  record.text_.clear();
  record.header_ = shared_header;
  record.contig_index = header->contig_of_rid[static_cast<size_t>(rec->rid)];
  record.contig = header->contigs[static_cast<size_t>(record.contig_index)].name;
  record.position = rec->pos;
  if (record.position < -1) fail(where + ": the position is negative");
  record.id = rec->d.id;
  record.ref = rec->d.allele[0];
  record.alts.resize(rec->n_allele - 1U);
  for (size_t i = 0; i < record.alts.size(); ++i) record.alts[i] = rec->d.allele[i + 1];
  // A lone '.' is how some writers store "no ALT".
  if (record.alts.size() == 1 && record.alts[0] == ".") record.alts.clear();
  const auto is_broken = [](const std::string& text) {
    return text.empty() || std::any_of(text.begin(), text.end(),
                                       [](char c) { return static_cast<unsigned char>(c) < ' '; });
  };
  if (is_broken(record.ref) || is_broken(record.id) ||
      std::any_of(record.alts.begin(), record.alts.end(), is_broken)) {
    fail(record.place() + ": ID, REF or ALT holds nothing or control bytes; expected text");
  }

  // END and SVLEN of any integer type, or as text where the header says String.
  const auto info_text = [&](const char* key) -> std::string {
    const bcf_info_t* info = bcf_get_info(header->parsed.get(), rec, key);
    if (info == nullptr || info->vptr == nullptr || info->len <= 0) return {};
    Text text;
    if (bcf_fmt_array(&text, info->len, info->type, info->vptr) < 0) throw std::bad_alloc();
    return std::string(text.view());
  };
  record.svlen.clear();
  const std::string svlen = info_text("SVLEN");
  if (!svlen.empty()) set_svlen(record, svlen);
  set_span(record, info_text("END"));
  return true;
}

VariantReader::VariantReader(const std::string& path, VariantReaderOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  impl_->header = std::make_shared<VariantHeader>();
  impl_->shared_header = impl_->header;
  impl_->open(path);
}

VariantReader::~VariantReader() = default;
VariantReader::VariantReader(VariantReader&&) noexcept = default;
VariantReader& VariantReader::operator=(VariantReader&&) noexcept = default;

bool VariantReader::next(VariantRecord& record) {
  if (impl_->done) return false;
  const bool any = impl_->binary != nullptr ? impl_->next_bcf(record) : impl_->next_vcf(record);
  impl_->done = !any;
  return any;
}

const std::vector<ContigInfo>& VariantReader::contigs() const { return impl_->header->contigs; }

std::vector<std::string> VariantReader::samples() const {
  const bcf_hdr_t* header = impl_->header->parsed.get();
  return {header->samples, header->samples + bcf_hdr_nsamples(header)};
}

int64_t VariantReader::sample_index(const std::string& name) const {
  constexpr size_t kShown = 10;
  const std::vector<std::string> names = samples();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return found - names.begin();
  std::string known = names.empty() ? "no samples" : "the samples";
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    known += (i > 0 ? ", " : " ") + quote(names[i]);
  }
  if (names.size() > kShown) {
    known += " and " + std::to_string(names.size() - kShown) + " more";
  }
  throw UsageError("sample " + quote(name) + " is not in " + display_name() + ", which has " +
                   known);
}

bool VariantReader::is_bcf() const { return impl_->binary != nullptr; }
const std::string& VariantReader::display_name() const { return impl_->header->name; }
const std::shared_ptr<const VariantHeader>& VariantReader::header() const {
  return impl_->shared_header;
}
const std::vector<VariantWarning>& VariantReader::warnings() const {
  return impl_->oddities.warnings();
}

// ------------------------------------------------------------------------------------ writer

void VariantOrder::check(const VariantRecord& next, const std::string& file) {
  const auto fail = [&](const std::string& what) {
    throw DataError(file + ": " + next.place() + ": " + what +
                    "; an index needs sorted records: sort the file with 'bcftools sort' or leave "
                    "out the index");
  };
  if (next.contig != last_contig_) {
    if (!last_contig_.empty()) finished_.insert(last_contig_);
    if (finished_.count(next.contig) != 0) {
      fail("records of contig " + quote(next.contig) + " go on after those of " +
           quote(last_contig_));
    }
    last_contig_ = next.contig;
  } else if (next.position < last_position_) {
    fail("comes after " + last_place_);
  }
  if (next.position != last_position_ || last_place_.empty()) last_place_ = next.place();
  last_position_ = next.position;
}

std::string format_info_number(float value) {
  if (std::isnan(value)) return ".";
  if (value == 0) return "0";
  // Sums over long alleles are known to a thousandth.
  const int digits = std::fabs(value) < 1000 ? 6 : 7;
  std::array<char, 32> text{};  // "-1.17549e-38" is the longest
  const auto result = std::to_chars(text.data(), text.data() + text.size(),
                                    static_cast<double>(value), std::chars_format::general, digits);
  return {text.data(), result.ptr};
}

namespace {

std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, ' ');
  return text;
}

const char* type_name(VariantInfo::Type type) {
  return type == VariantInfo::Type::number ? "Float" : "String";
}

std::string info_line(const VariantInfo& info, const char* index) {
  std::string description;
  for (const char c : one_line(info.description)) {
    if (c == '"' || c == '\\') description += '\\';
    description += c;
  }
  std::string line = "##INFO=<ID=" + info.id + ",Number=" + info.count +
                     ",Type=" + type_name(info.type) + ",Description=\"" + description + "\"";
  if (index != nullptr) line += std::string(",IDX=") + index;
  return line + ">";
}

std::string_view key_of(std::string_view header_line) {
  return header_line.substr(2, header_line.find('=') - 2);
}

// The input's header lines with ours.
std::string compose_header(const VariantHeader& header, const VariantWriterOptions& options) {
  std::vector<std::string> lines;
  StringSet keys;
  for (const std::string& raw : options.header_lines) {
    std::string line = one_line(raw);
    if (!starts_with(line, "##") || line.find('=') == std::string::npos) {
      throw InternalError("VariantWriter: header line " + quote(line) + "; expected ##key=value");
    }
    if (starts_with(line, "##contig=")) {
      const HeaderLine parsed = parse_header_line(line);
      const char* id = parsed != nullptr ? value_of(parsed.get(), "ID") : nullptr;
      if (id != nullptr && header.contig_index.find(id) != header.contig_index.end()) continue;
    } else {
      keys.emplace(key_of(line));
    }
    lines.push_back(std::move(line));
  }
  std::vector<bool> declared(options.info.size());
  std::string text;
  std::string_view rest = header.text;
  while (!rest.empty()) {
    const std::string_view line = take_until(rest, '\n');
    const std::string_view line_end = !line.empty() && line.back() == '\r' ? "\r\n" : "\n";
    if (starts_with(line, "##chromamba_") &&
        (options.forget_lines || keys.find(key_of(line)) != keys.end())) {
      continue;
    }
    if (starts_with(line, "##INFO=<")) {
      const HeaderLine parsed = parse_header_line(line);
      const char* id = parsed != nullptr ? value_of(parsed.get(), "ID") : nullptr;
      if (id != nullptr && std::find(options.forgotten.begin(), options.forgotten.end(), id) !=
                               options.forgotten.end()) {
        continue;
      }
      const auto ours =
          std::find_if(options.info.begin(), options.info.end(),
                       [id](const VariantInfo& info) { return id != nullptr && info.id == id; });
      if (ours != options.info.end()) {
        const char* count = value_of(parsed.get(), "Number");
        const char* type = value_of(parsed.get(), "Type");
        if (count == nullptr || type == nullptr || ours->count != count ||
            std::strcmp(type, type_name(ours->type)) != 0) {
          throw DataError(header.name + ": the header declares INFO field " + ours->id +
                          " with Number=" + (count != nullptr ? count : "nothing") +
                          " and Type=" + (type != nullptr ? type : "nothing") +
                          "; we would write it with Number=" + ours->count +
                          " and Type=" + type_name(ours->type) +
                          ": remove it first with 'bcftools annotate -x INFO/" + ours->id + "'");
        }
        const auto which = static_cast<size_t>(ours - options.info.begin());
        if (declared[which]) continue;
        declared[which] = true;
        text.append(info_line(*ours, value_of(parsed.get(), "IDX"))).append(line_end);
        continue;
      }
    }
    if (starts_with(line, "#CHROM")) {
      for (size_t i = 0; i < options.info.size(); ++i) {
        if (!declared[i]) text.append(info_line(options.info[i], nullptr)).append(line_end);
      }
      // Contigs first: what a second run replaces stands last, and the header stays the same.
      for (const bool contigs : {true, false}) {
        for (const std::string& ours : lines) {
          if (starts_with(ours, "##contig=") == contigs) text.append(ours).append(line_end);
        }
      }
    }
    text.append(line).append(1, '\n');
  }
  return text;
}

// What INFO and FORMAT fields may hold in BCF, where htslib would take parts of a number.
enum class Kind { integer, real, other };

bool fits(std::string_view value, Kind kind) {
  if (value == "." || kind == Kind::other) return true;
  if (kind == Kind::real) return is_number(value);
  const std::optional<int64_t> number = parse_integer(value);
  // The lowest eight are BCF's missing, end-of-vector and reserved values.
  constexpr int64_t kLowest = -(int64_t{1} << 31) + 8;
  constexpr int64_t kHighest = (int64_t{1} << 31) - 1;
  return number && *number >= kLowest && *number <= kHighest;
}

}  // namespace

struct VariantWriter::Impl {
  std::string path;
  std::string name;
  std::shared_ptr<const VariantHeader> header;
  VariantWriterOptions options;
  Oddities oddities;
  bool to_bcf = false;
  bool open = false;

  std::unique_ptr<TextOutput> text;
  HtsFile binary;
  HeaderPointer output_header;  // for BCF
  StringMap<Kind> info_kinds;
  StringMap<Kind> format_kinds;

  std::string addition;  // our fields of this record, "A=1;B=x"
  std::string line;
  Text scratch;
  VariantRecord record;  // its bcf1_t is written

  VariantOrder order;  // with an index

  void open_output();
  void open_bcf();
  void format_values(const VariantRecord& from, std::span<const VariantInfoValues> values);
  void splice(std::string_view from, size_t info_begin, size_t info_end);
  void blank_misfits(const VariantRecord& from);
  void write_as_bcf(const VariantRecord& from, std::span<const VariantInfoValues> values);
  void put(bcf1_t* rec, const VariantRecord& from) const;
  bcf1_t* binary_of(const VariantRecord& from);
  void build_index() const;
  [[noreturn]] void fail(const VariantRecord& from, const std::string& what) const {
    throw DataError(header->name + ": " + from.place() + ": " + what);
  }
};

void VariantWriter::Impl::open_output() {
  silence_htslib();
  name = path == "-" ? "standard output" : path;
  to_bcf =
      options.format == VariantFormat::bcf || options.format == VariantFormat::bcf_uncompressed;
  if (!options.index_path.empty()) {
    if (path == "-") {
      throw UsageError("an index of standard output cannot be written; name an output file");
    }
    if (options.format == VariantFormat::vcf || options.format == VariantFormat::bcf_uncompressed) {
      throw UsageError("an index needs a compressed output; write .vcf.gz or .bcf");
    }
  }
  const std::string composed = compose_header(*header, options);
  if (to_bcf || header->from_bcf) {
    output_header = parse_header(composed);
    if (output_header == nullptr) {
      throw InternalError("VariantWriter: htslib cannot read the header made for " + name);
    }
  }
  if (to_bcf) {
    open_bcf();
  } else {
    text = std::make_unique<TextOutput>(path, options.format == VariantFormat::vcf_gz);
    text->write(header->from_bcf ? format_header(output_header.get(), false) : composed);
  }
  open = true;
}

void VariantWriter::Impl::open_bcf() {
  const bcf_hdr_t* hdr = output_header.get();
  const auto kind_of = [hdr](int type, int id) {
    const auto declared = bcf_hdr_id2type(hdr, type, id);
    return declared == BCF_HT_INT ? Kind::integer
                                  : (declared == BCF_HT_REAL ? Kind::real : Kind::other);
  };
  for (int i = 0; i < hdr->n[BCF_DT_ID]; ++i) {
    const bcf_idpair_t& pair = hdr->id[BCF_DT_ID][i];
    if (pair.key == nullptr) continue;
    if (pair.val->hrec[BCF_HL_INFO] != nullptr) {
      info_kinds.emplace(pair.key, kind_of(BCF_HL_INFO, i));
    }
    if (pair.val->hrec[BCF_HL_FMT] != nullptr && std::strcmp(pair.key, "GT") != 0) {
      format_kinds.emplace(pair.key, kind_of(BCF_HL_FMT, i));
    }
  }
  record.binary_.reset(bcf_init());
  if (record.binary_ == nullptr) throw std::bad_alloc();

  constexpr mode_t kMode = 0666;
  const int descriptor =
      path == "-" ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
                  : ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (descriptor < 0) {
    throw ResourceError("cannot open " + name + " for writing: " + std::strerror(errno));
  }
  hFILE* file = hdopen(descriptor, "w");
  if (file == nullptr) {
    const std::string cause = std::strerror(errno);
    (void)::close(descriptor);
    throw ResourceError("cannot open " + name + " for writing: " + cause);
  }
  binary.reset(hts_hopen(file, path.c_str(), options.format == VariantFormat::bcf ? "wb" : "wbu"));
  if (binary == nullptr) {
    hclose_abruptly(file);
    throw ResourceError("cannot open " + name + " for writing BCF");
  }
  if (options.threads > 1 && hts_set_threads(binary.get(), options.threads) != 0) {
    throw ResourceError("cannot start " + std::to_string(options.threads) +
                        " threads to compress " + name);
  }
  if (bcf_hdr_write(binary.get(), output_header.get()) != 0) {
    throw ResourceError("cannot write to " + name + ": " + std::strerror(errno));
  }
}

void VariantWriter::Impl::format_values(const VariantRecord& from,
                                        std::span<const VariantInfoValues> values) {
  if (values.size() != options.info.size()) {
    throw InternalError("VariantWriter: values of " + std::to_string(values.size()) +
                        " INFO fields; expected " + std::to_string(options.info.size()));
  }
  addition.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    const VariantInfo& info = options.info[i];
    const bool number = info.type == VariantInfo::Type::number;
    const size_t count = number ? values[i].numbers.size() : values[i].texts.size();
    const size_t wrong = number ? values[i].texts.size() : values[i].numbers.size();
    if (wrong != 0 || (count != 0 && info.count == "A" && count != from.alts.size()) ||
        (count != 0 && info.count == "1" && count != 1)) {
      throw InternalError("VariantWriter: " + std::to_string(count) + " values of " + info.id +
                          ", Number=" + info.count + ", and " + std::to_string(wrong) +
                          " of the other type, for " + std::to_string(from.alts.size()) +
                          " ALT alleles at " + from.place());
    }
    if (count == 0) continue;
    if (!addition.empty()) addition += ';';
    addition.append(info.id).append(1, '=');
    for (size_t v = 0; v < count; ++v) {
      if (v > 0) addition += ',';
      if (number) {
        addition += format_info_number(values[i].numbers[v]);
        continue;
      }
      const std::string& value = values[i].texts[v];
      if (std::any_of(value.begin(), value.end(), [](char c) {
            return static_cast<unsigned char>(c) <= ' ' || c == ';' || c == ',' || c == '=';
          })) {
        throw InternalError("VariantWriter: INFO " + info.id + " value " + quote(value) +
                            " holds a separator");
      }
      addition += value.empty() ? "." : value;
    }
  }
}

// `line` becomes `from` with our fields in its INFO column.
void VariantWriter::Impl::splice(std::string_view from, size_t info_begin, size_t info_end) {
  const std::string_view info = from.substr(info_begin, info_end - info_begin);
  line.assign(from.substr(0, info_begin));
  const auto is_ours = [this](std::string_view field) {
    const std::string_view key = field.substr(0, field.find('='));
    const auto same = [key](const auto& ours) { return key == ours; };
    return std::any_of(options.info.begin(), options.info.end(),
                       [key](const VariantInfo& ours) { return ours.id == key; }) ||
           std::any_of(options.forgotten.begin(), options.forgotten.end(), same);
  };
  if (info != "." && !info.empty()) {
    bool removed = false;
    for_each_piece(info, ';', [&](std::string_view field) { removed = removed || is_ours(field); });
    if (!removed) {
      line.append(info);
    } else {
      for_each_piece(info, ';', [&](std::string_view field) {
        if (is_ours(field)) return;
        if (line.size() > info_begin) line += ';';
        line.append(field);
      });
    }
  }
  if (!addition.empty()) {
    // A ';' at the end of INFO is no separator that could be missing.
    if (line.size() > info_begin && line.back() != ';') line += ';';
    line += addition;
  } else if (line.size() == info_begin) {
    line += info.empty() ? "" : ".";
  }
  line.append(from.substr(info_end));
}

// In `line`, values that their declared type cannot hold become '.'.
void VariantWriter::Impl::blank_misfits(const VariantRecord& from) {
  const auto blank_list = [&](std::string& values, Kind kind, std::string_view key) {
    bool good = true;
    for_each_piece(values, ',', [&](std::string_view value) { good = good && fits(value, kind); });
    if (good) return false;
    oddities.add(Oddity::value, [&] {
      return header->name + ": " + from.place() + ": " + std::string(key) + "=" + quote(values) +
             " does not fit its declared type; BCF gets a missing value there";
    });
    std::string replaced;
    for_each_piece(values, ',', [&](std::string_view value) {
      replaced.append(fits(value, kind) ? value : std::string_view(".")).append(1, ',');
    });
    replaced.pop_back();
    values = replaced;
    return true;
  };

  std::string_view rest = line;
  for (size_t i = 0; i < kInfoColumn; ++i) (void)take_until(rest, '\t');
  const std::string_view info = take_until(rest, '\t');
  const auto info_begin = static_cast<size_t>(info.data() - line.data());
  std::string new_info;
  bool changed = false;
  std::string values;
  for_each_piece(info, ';', [&](std::string_view field) {
    if (!new_info.empty()) new_info += ';';
    const size_t equals = field.find('=');
    const auto kind = info_kinds.find(field.substr(0, equals));
    if (equals == std::string_view::npos || kind == info_kinds.end() ||
        kind->second == Kind::other) {
      new_info.append(field);
      return;
    }
    values = field.substr(equals + 1);
    if (blank_list(values, kind->second, "INFO " + kind->first)) changed = true;
    new_info.append(field.substr(0, equals + 1)).append(values);
  });
  // rest starts behind the tab after INFO.
  std::string new_samples;
  bool samples_changed = false;
  if (!rest.empty()) {
    const std::string_view format = take_until(rest, '\t');
    std::vector<std::pair<std::string_view, Kind>> kinds;
    for_each_piece(format, ':', [&](std::string_view id) {
      const auto kind = format_kinds.find(id);
      kinds.emplace_back(id, kind == format_kinds.end() ? Kind::other : kind->second);
    });
    const bool any = std::any_of(kinds.begin(), kinds.end(),
                                 [](const auto& kind) { return kind.second != Kind::other; });
    if (any) {
      new_samples.append(1, '\t').append(format);
      for_each_piece(rest, '\t', [&](std::string_view sample) {
        new_samples += '\t';
        size_t i = 0;
        for_each_piece(sample, ':', [&](std::string_view value) {
          if (i > 0) new_samples += ':';
          const auto [id, kind] = i < kinds.size() ? kinds[i] : std::pair(format, Kind::other);
          ++i;
          if (kind == Kind::other || value.empty()) {
            new_samples.append(value);
            return;
          }
          values = value;
          if (blank_list(values, kind, "FORMAT " + std::string(id))) samples_changed = true;
          new_samples.append(values);
        });
      });
    }
  }
  if (!changed && !samples_changed) return;
  const std::string tail = samples_changed ? new_samples : line.substr(info_begin + info.size());
  line = line.substr(0, info_begin) + new_info + tail;
}

void VariantWriter::Impl::put(bcf1_t* rec, const VariantRecord& from) const {
  errno = 0;
  if (rec->pos > INT32_MAX - 1 || rec->rlen > INT32_MAX) {
    fail(from, "the position or END is beyond 2^31, which BCF cannot hold; write VCF instead");
  }
  if (bcf_write(binary.get(), output_header.get(), rec) != 0) {
    throw ResourceError("cannot write to " + name + ": " +
                        (errno != 0 ? std::strerror(errno)
                                    : "htslib refuses record " + std::to_string(from.number)));
  }
}

// A BCF record without what is forgotten; where it had any, a copy in `record`.
bcf1_t* VariantWriter::Impl::binary_of(const VariantRecord& from) {
  bcf_hdr_t* hdr = header->parsed.get();
  bcf1_t* rec = from.binary_.get();
  for (const std::string& id : options.forgotten) {
    if (bcf_hdr_id2int(hdr, BCF_DT_ID, id.c_str()) < 0 || !bcf_get_info(hdr, rec, id.c_str())) {
      continue;
    }
    if (rec != record.binary_.get()) {
      rec = record.binary_.get();
      if (bcf_copy(rec, from.binary_.get()) == nullptr) throw std::bad_alloc();
    }
    if (bcf_update_info(hdr, rec, id.c_str(), nullptr, 0, BCF_HT_INT) != 0) {
      throw InternalError("bcf_update_info cannot remove " + id);
    }
  }
  return rec;
}

void VariantWriter::Impl::write_as_bcf(const VariantRecord& from,
                                       std::span<const VariantInfoValues> values) {
  bcf1_t* rec = record.binary_.get();
  bcf_hdr_t* hdr = output_header.get();
  if (from.binary_ == nullptr) {
    splice(from.text_, from.info_begin_, from.info_end_);
    blank_misfits(from);
    scratch.assign(line);
    const int tags = hdr->n[BCF_DT_ID];
    const int status = vcf_parse(&scratch, hdr, rec);
    if ((rec->errcode & BCF_ERR_CTG_UNDEF) != 0) {
      fail(from, "contig " + quote(from.contig) +
                     " is not in the header, and BCF cannot hold it; write VCF instead, or add "
                     "##contig lines with 'bcftools reheader --fai'");
    }
    if ((rec->errcode & BCF_ERR_TAG_UNDEF) != 0) {
      // htslib declared it on its own, but the header is written already.
      const std::string tag = hdr->n[BCF_DT_ID] > tags
                                  ? quote(hdr->id[BCF_DT_ID][hdr->n[BCF_DT_ID] - 1].key) + " "
                                  : "";
      fail(from, "an INFO, FILTER or FORMAT field " + tag +
                     "is not declared in the header, and BCF cannot hold it; write VCF instead, "
                     "or declare it with 'bcftools annotate -h'");
    }
    if (status != 0 || rec->errcode != 0) {
      fail(from,
           "htslib cannot store the record as BCF; write VCF instead, or correct its INFO, "
           "FORMAT and sample columns");
    }
    put(rec, from);
    return;
  }
  bcf1_t* const without = binary_of(from);
  if (without != rec && bcf_copy(rec, without) == nullptr) throw std::bad_alloc();
  for (size_t i = 0; i < options.info.size(); ++i) {
    const VariantInfo& info = options.info[i];
    int status = 0;
    if (info.type == VariantInfo::Type::number) {
      std::vector<float> rounded;
      for (const float value : values[i].numbers) {
        float kept = 0;
        if (std::isnan(value)) {
          bcf_float_set_missing(kept);
        } else {
          const std::string digits = format_info_number(value);
          (void)std::from_chars(digits.data(), digits.data() + digits.size(), kept);
        }
        rounded.push_back(kept);
      }
      status = bcf_update_info_float(hdr, rec, info.id.c_str(), rounded.data(),
                                     static_cast<int>(rounded.size()));
    } else {
      std::string joined;
      for (const std::string& value : values[i].texts) {
        if (!joined.empty()) joined += ',';
        joined += value.empty() ? "." : value;
      }
      status = bcf_update_info(hdr, rec, info.id.c_str(), joined.empty() ? nullptr : joined.c_str(),
                               joined.empty() ? 0 : 1, BCF_HT_STR);
    }
    if (status != 0) throw InternalError("bcf_update_info failed for " + info.id);
  }
  put(rec, from);
}

void VariantWriter::Impl::build_index() const {
  const int status = to_bcf ? bcf_index_build3(path.c_str(), options.index_path.c_str(),
                                               kCsiMinShift, options.threads)
                            : tbx_index_build3(path.c_str(), options.index_path.c_str(),
                                               kCsiMinShift, options.threads, &tbx_conf_vcf);
  if (status == 0) return;
  constexpr int kCannotSave = -4;
  if (status == kCannotSave) {
    throw ResourceError("cannot write the index " + options.index_path);
  }
  throw DataError("htslib cannot index the records (status " + std::to_string(status) +
                  "): one may end far beyond its contig's length in the header; leave out the "
                  "index");
}

VariantWriter::VariantWriter(const std::string& path_or_dash,
                             std::shared_ptr<const VariantHeader> header,
                             VariantWriterOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path_or_dash;
  impl_->header = std::move(header);
  impl_->options = std::move(options);
  impl_->open_output();
}

VariantWriter::~VariantWriter() = default;
VariantWriter::VariantWriter(VariantWriter&&) noexcept = default;
VariantWriter& VariantWriter::operator=(VariantWriter&&) noexcept = default;

void VariantWriter::write(const VariantRecord& record, std::span<const VariantInfoValues> values) {
  Impl& self = *impl_;
  if (!self.open) throw InternalError("VariantWriter: a record for " + self.name + ", closed");
  if (record.header_ != self.header) {
    throw InternalError("VariantWriter: a record that belongs to another header");
  }
  self.format_values(record, values);
  if (!self.options.index_path.empty()) self.order.check(record, self.header->name);
  if (self.to_bcf) {
    self.write_as_bcf(record, values);
    return;
  }
  if (record.binary_ == nullptr) {
    self.splice(record.text_, record.info_begin_, record.info_end_);
    self.line.append(record.carriage_return_ ? "\r\n" : "\n");
  } else {
    self.scratch.l = 0;
    if (vcf_format(self.output_header.get(), self.binary_of(record), &self.scratch) != 0) {
      self.fail(record, "htslib cannot print the BCF record; it is damaged");
    }
    const std::string_view all = self.scratch.view();
    std::string_view rest = all;
    for (size_t i = 0; i < kInfoColumn; ++i) (void)take_until(rest, '\t');
    const auto info_begin = static_cast<size_t>(rest.data() - all.data());
    const size_t info_end = std::min(all.find_first_of("\t\n", info_begin), all.size());
    self.splice(all, info_begin, info_end);
  }
  self.text->write(self.line);
}

void VariantWriter::close() {
  Impl& self = *impl_;
  if (!self.open) return;
  self.open = false;
  if (self.text != nullptr) self.text->close();
  if (self.binary != nullptr) {
    errno = 0;
    if (hts_close(self.binary.release()) != 0) {
      throw ResourceError("cannot finish writing " + self.name + ": " +
                          (errno != 0 ? std::strerror(errno) : "unknown cause"));
    }
  }
  if (!self.options.index_path.empty()) self.build_index();
}

const std::vector<VariantWarning>& VariantWriter::warnings() const {
  return impl_->oddities.warnings();
}

}  // namespace chromamba::io
