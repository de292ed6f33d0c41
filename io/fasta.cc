#include "io/fasta.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

// One read: large beside a system call and a BGZF block (64 KiB), and it stays in a 2-MiB L2.
constexpr int64_t kBufferBytes = int64_t{1} << 20;
// Header lines are kept up to here. The longest real ones (merged database entries) are shorter.
constexpr size_t kHeaderBytes = size_t{1} << 16;

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

void check_contig_name(const std::string& name, const std::string& where) {
  if (name.empty()) {
    throw DataError(where + ": the header has no contig name; expected '>' followed by a name");
  }
  if (std::any_of(name.begin(), name.end(), is_control)) {
    throw DataError(where + ": contig name " + quote(name) +
                    " holds control bytes; rename the contig");
  }
  if (name.front() == '/') {
    throw DataError(where + ": contig name " + quote(name) +
                    " starts with '/' and could leave an output folder; rename the contig");
  }
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string_view part(name.data() + start, end - start);
    if (part == "." || part == "..") {
      throw DataError(where + ": contig name " + quote(name) + " has a " + quote(part) +
                      " path component and could leave an output folder; rename the contig");
    }
    start = end + 1;
  }
}

FastaReader::FastaReader(const std::string& path, FastaOptions options)
    : options_(std::move(options)),
      stream_(std::make_unique<InputStream>(path, options_.threads, options_.display_name)),
      buffer_(static_cast<size_t>(kBufferBytes)) {}

bool FastaReader::refill() {
  if (options_.poll) options_.poll();
  buffer_position_ = 0;
  buffer_end_ = stream_->read(buffer_.data(), kBufferBytes);
  return buffer_end_ > 0;
}

void FastaReader::skip_to_first_header() {
  started_ = true;
  bool any = false;
  while (refill()) {
    any = true;
    for (; buffer_position_ < buffer_end_; ++buffer_position_) {
      const char c = buffer_[static_cast<size_t>(buffer_position_)];
      if (c == '\n') ++line_;
      if (is_blank(c)) continue;
      if (c == '>') return;
      const std::string_view rest(buffer_.data() + buffer_position_,
                                  static_cast<size_t>(buffer_end_ - buffer_position_));
      throw DataError(display_name() + ": is not FASTA: it " + describe_content(rest) +
                      "; expected a header line that starts with '>'");
    }
  }
  throw DataError(display_name() + (any ? ": holds only blank lines; expected FASTA records"
                                        : ": is empty; expected FASTA records"));
}

void FastaReader::read_header() {
  // Here buffer_position_ is at '>'.
  ++buffer_position_;
  std::string header;
  bool cut = false;
  const int64_t header_line = line_;
  while (buffer_position_ < buffer_end_ || refill()) {
    const char* begin = buffer_.data() + buffer_position_;
    const auto left = static_cast<size_t>(buffer_end_ - buffer_position_);
    const auto* end = static_cast<const char*>(std::memchr(begin, '\n', left));
    const size_t piece = end != nullptr ? static_cast<size_t>(end - begin) : left;
    const size_t kept = std::min(piece, kHeaderBytes - header.size());
    header.append(begin, kept);
    cut = cut || kept < piece;
    buffer_position_ += static_cast<int64_t>(piece);
    if (end != nullptr) {
      ++buffer_position_;
      ++line_;
      break;
    }
  }
  if (!cut && !header.empty() && header.back() == '\r') header.pop_back();
  const std::string where = display_name() + ": line " + std::to_string(header_line);
  if (header.find('\0') != std::string::npos) {
    throw DataError(where + ": the header holds a NUL byte; the file is damaged or not text");
  }
  const size_t name_end = std::min(header.find_first_of(" \t"), header.size());
  if (cut && name_end == header.size()) {
    throw DataError(where + ": the contig name is longer than 64 KiB; expected a short name");
  }
  name_.assign(header, 0, name_end);
  const size_t comment_start = std::min(header.find_first_not_of(" \t", name_end), header.size());
  comment_.assign(header, comment_start);
  check_contig_name(name_, where);
  const auto [first, is_new] = header_lines_.emplace(name_, header_line);
  if (!is_new) {
    throw DataError(display_name() + ": two contigs are named " + quote(name_) + ", on line " +
                    std::to_string(first->second) + " and on line " + std::to_string(header_line) +
                    "; rename one of them");
  }
  ++record_number_;
  position_ = 0;
  in_contig_ = true;
  at_line_start_ = true;
  blank_ = 0;
}

bool FastaReader::next_contig() {
  if (!started_) {
    skip_to_first_header();
  } else {
    if (in_contig_ && skipped_.empty()) skipped_.resize(static_cast<size_t>(kBufferBytes));
    while (in_contig_ && read(skipped_.data(), kBufferBytes) > 0) {
    }
    if (buffer_position_ >= buffer_end_) {
      name_.clear();
      comment_.clear();
      return false;
    }
  }
  read_header();
  return true;
}

// A piece of one line that holds more than plain bases, or that follows white space.
int64_t FastaReader::take_slowly(const char* in, int64_t n, char* out) {
  int64_t taken = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t code = kBaseCodes[static_cast<uint8_t>(in[i])];
    if (code == kCodeBlank) {
      if (blank_ == 0) blank_ = in[i];
      continue;
    }
    const int64_t here = position_ + taken;
    if (code == kCodeInvalid || (code == kCodeIupac && options_.iupac_error)) {
      throw_bad_base(display_name(), name_, here, line_, in[i]);
    }
    if (blank_ != 0) throw_bad_base(display_name(), name_, here, line_, blank_);
    if (code == kCodeIupac) {
      ++iupac_count_;
      out[taken++] = 'N';
    } else {
      out[taken++] = static_cast<char>(code);
    }
  }
  return taken;
}

int64_t FastaReader::read(char* out, int64_t n) {
  int64_t filled = 0;
  while (in_contig_ && filled < n) {
    if (buffer_position_ >= buffer_end_ && !refill()) {
      in_contig_ = false;
      break;
    }
    const char* in = buffer_.data() + buffer_position_;
    if (at_line_start_) {
      if (*in == '>') {
        in_contig_ = false;
        break;
      }
      at_line_start_ = false;
      blank_ = 0;
    }
    const int64_t left = std::min(buffer_end_ - buffer_position_, n - filled);
    const auto* end = static_cast<const char*>(std::memchr(in, '\n', static_cast<size_t>(left)));
    const int64_t piece = end != nullptr ? end - in : left;
    const bool plain = (translate_bases(in, piece, out + filled) & 0x80U) == 0 && blank_ == 0;
    const int64_t taken = plain ? piece : take_slowly(in, piece, out + filled);
    filled += taken;
    position_ += taken;
    buffer_position_ += piece;
    if (end != nullptr) {
      ++buffer_position_;
      ++line_;
      at_line_start_ = true;
    }
  }
  return filled;
}

FastaSummary scan_fasta(const std::string& path, const FastaOptions& options) {
  FastaReader reader(path, options);
  FastaSummary summary;
  // Small enough for L1 together with its input, so that counting N rereads nothing from L2.
  std::vector<char> bases(size_t{1} << 14);
  while (reader.next_contig()) {
    ContigInfo contig{reader.name(), 0};
    for (int64_t n = 0; (n = reader.read(bases.data(), static_cast<int64_t>(bases.size()))) > 0;) {
      contig.length += n;
      // Counted in bytes first: that lets the compiler use vector adds.
      for (int64_t start = 0; start < n; start += 128) {
        const int64_t stop = std::min<int64_t>(start + 128, n);
        uint8_t count = 0;
        for (int64_t i = start; i < stop; ++i) {
          count = static_cast<uint8_t>(count + (bases[static_cast<size_t>(i)] == 'N' ? 1 : 0));
        }
        summary.n_bases += count;
      }
    }
    summary.bases += contig.length;
    summary.contigs.push_back(std::move(contig));
  }
  summary.iupac = reader.iupac_count();
  return summary;
}

}  // namespace chromamba::io
