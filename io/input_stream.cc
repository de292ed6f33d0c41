#include "io/input_stream.h"

#include <fcntl.h>
#include <htslib/bgzf.h>
#include <htslib/hfile.h>
#include <htslib/hts_log.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

// A BGZF block starts with an 18-byte gzip header whose first extra field is BC.
constexpr size_t kBgzfHeaderBytes = 18;
// Compressed bytes per inflate call: large beside a system call, small beside memory.
constexpr size_t kGzipInputBytes = size_t{1} << 18;
// Blocks handed to a worker at once; htslib advises 64 to 256.
constexpr int kBlocksPerJob = 64;
constexpr size_t kLongestLine = size_t{1} << 20;

bool starts_with_bytes(std::string_view bytes, std::string_view magic) {
  return bytes.substr(0, magic.size()) == magic;
}

bool is_bgzf_header(std::string_view bytes) {
  return bytes.size() >= kBgzfHeaderBytes && starts_with_bytes(bytes, "\x1f\x8b\x08") &&
         (static_cast<unsigned char>(bytes[3]) & 4U) != 0 && bytes[12] == 'B' && bytes[13] == 'C';
}

}  // namespace

void silence_htslib() { hts_set_log_level(HTS_LOG_OFF); }

struct InputStream::Impl {
  std::string name;
  Compression compression = Compression::none;
  hFILE* file = nullptr;  // owned unless bgzf took it
  BGZF* bgzf = nullptr;
  z_stream inflater{};
  bool inflater_open = false;
  bool member_done = true;  // gzip: between members
  bool at_end = false;
  std::vector<char> compressed;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (inflater_open) inflateEnd(&inflater);
    if (bgzf != nullptr) {
      (void)bgzf_close(bgzf);
    } else if (file != nullptr) {
      hclose_abruptly(file);
    }
  }

  [[noreturn]] void fail(const std::string& what) const { throw DataError(name + ": " + what); }

  int64_t read_file(char* out, int64_t n) const {
    const ssize_t got = hread(file, out, static_cast<size_t>(n));
    if (got < 0) fail(std::string("cannot be read: ") + std::strerror(errno));
    return got;
  }

  int64_t read_bgzf(char* out, int64_t n) const {
    const ssize_t got = bgzf_read(bgzf, out, static_cast<size_t>(n));
    if (got < 0 || bgzf->errcode != 0) {
      if ((bgzf->errcode & BGZF_ERR_CRC) != 0) {
        fail(
            "the bgzip data is damaged (a block's checksum does not match its bytes); copy or "
            "compress the file again");
      }
      fail("the bgzip data is cut short or damaged near compressed byte " +
           std::to_string(bgzf->block_address) + "; copy or compress the file again");
    }
    if (got < n && bgzf->no_eof_block != 0) {
      fail(
          "the bgzip data has no end-of-file block, so the file is probably cut short; copy it "
          "again, or compress it again with bgzip");
    }
    return got;
  }

  int64_t read_gzip(char* out, int64_t n) {
    inflater.next_out = reinterpret_cast<Bytef*>(out);
    inflater.avail_out = static_cast<uInt>(std::min<int64_t>(n, int64_t{1} << 30));
    const uInt wanted = inflater.avail_out;
    while (inflater.avail_out > 0) {
      if (inflater.avail_in == 0) {
        const int64_t got = read_file(compressed.data(), static_cast<int64_t>(compressed.size()));
        if (got == 0) {
          if (!member_done) fail("the gzip data is cut short; copy or compress the file again");
          at_end = true;
          break;
        }
        inflater.next_in = reinterpret_cast<Bytef*>(compressed.data());
        inflater.avail_in = static_cast<uInt>(got);
      }
      if (member_done) {
        // The next byte starts a member; anything but the gzip magic makes inflate fail below.
        if (inflateReset(&inflater) != Z_OK) throw InternalError("inflateReset failed");
        member_done = false;
      }
      const int status = inflate(&inflater, Z_NO_FLUSH);
      if (status == Z_STREAM_END) {
        member_done = true;
        after_member = true;
      } else if (status == Z_MEM_ERROR) {
        throw ResourceError("out of memory while decompressing " + name);
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        if (after_member && inflater.total_out == 0 && inflater.total_in <= 10) {
          fail(
              "there are bytes after the end of the gzip data that are not gzip; the file is "
              "damaged: copy or compress it again");
        }
        fail(std::string("the gzip data is damaged (") +
             (inflater.msg != nullptr ? inflater.msg : "unknown cause") +
             "); copy or compress the file again");
      }
    }
    return static_cast<int64_t>(wanted - inflater.avail_out);
  }
  bool after_member = false;
};

void CloseInputFile::operator()(hFILE* file) const { hclose_abruptly(file); }

std::string input_display_name(const std::string& path, const std::string& chosen) {
  return !chosen.empty() ? chosen : path == "-" ? "standard input" : path;
}

InputFile open_input(const std::string& path, const std::string& display_name) {
  silence_htslib();
  if (path.empty()) throw DataError("the name of an input file is empty");
  // Our own open: htslib would take some names for URLs, and hides errno behind a log line.
  const int descriptor = path == "-" ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
                                     : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw DataError(display_name + ": cannot be opened: " + std::strerror(errno));
  }
  struct stat status {};
  if (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) {
    close(descriptor);
    throw DataError(display_name + ": is a directory; expected a file");
  }
  InputFile file(hdopen(descriptor, "r"));
  if (file == nullptr) {
    const std::string cause = std::strerror(errno);
    close(descriptor);
    throw DataError(display_name + ": cannot be read: " + cause);
  }
  return file;
}

InputStream::InputStream(const std::string& path, int threads, const std::string& display_name)
    : InputStream(open_input(path, input_display_name(path, display_name)), threads,
                  input_display_name(path, display_name)) {}

InputStream::InputStream(InputFile file, int threads, std::string display_name)
    : impl_(std::make_unique<Impl>()) {
  Impl& self = *impl_;
  self.name = std::move(display_name);
  self.file = file.release();
  std::array<char, kBgzfHeaderBytes> head{};
  const ssize_t peeked = hpeek(self.file, head.data(), head.size());
  if (peeked < 0) self.fail(std::string("cannot be read: ") + std::strerror(errno));
  const std::string_view bytes(head.data(), static_cast<size_t>(peeked));
  for (const auto& [magic, kind] : {std::pair{std::string_view("BZh"), "bzip2"},
                                    std::pair{std::string_view("\xfd"
                                                               "7zXZ"),
                                              "xz"},
                                    std::pair{std::string_view("\x28\xb5\x2f\xfd"), "zstd"}}) {
    if (starts_with_bytes(bytes, magic)) {
      self.fail(std::string("is compressed with ") + kind +
                "; expected plain text, gzip or bgzip: decompress it first");
    }
  }
  if (is_bgzf_header(bytes)) {
    self.compression = Compression::bgzf;
    self.bgzf = bgzf_hopen(self.file, "r");
    if (self.bgzf == nullptr) self.fail("cannot be read as bgzip");
    if (threads > 1 && bgzf_mt(self.bgzf, threads, kBlocksPerJob) != 0) {
      throw ResourceError("cannot start " + std::to_string(threads) + " threads to decompress " +
                          self.name);
    }
  } else if (starts_with_bytes(bytes, "\x1f\x8b")) {
    self.compression = Compression::gzip;
    self.compressed.resize(kGzipInputBytes);
    constexpr int kGzipWrapper = 16;
    if (inflateInit2(&self.inflater, MAX_WBITS + kGzipWrapper) != Z_OK) {
      throw ResourceError("out of memory while opening " + self.name);
    }
    self.inflater_open = true;
  }
}

InputStream::~InputStream() = default;
InputStream::InputStream(InputStream&&) noexcept = default;
InputStream& InputStream::operator=(InputStream&&) noexcept = default;

int64_t InputStream::read(char* out, int64_t n) {
  if (impl_->at_end || n <= 0) return 0;
  int64_t got = 0;
  switch (impl_->compression) {
    case Compression::none:
      got = impl_->read_file(out, n);
      break;
    case Compression::gzip:
      return impl_->read_gzip(out, n);
    case Compression::bgzf:
      got = impl_->read_bgzf(out, n);
      break;
  }
  if (got == 0) impl_->at_end = true;
  return got;
}

Compression InputStream::compression() const { return impl_->compression; }
const std::string& InputStream::display_name() const { return impl_->name; }

LineReader::LineReader(const std::string& path) : stream_(path) {}

bool LineReader::next(std::string& line) {
  size_t searched = position_;
  size_t end = 0;
  while ((end = buffer_.find('\n', searched)) == std::string::npos) {
    buffer_.erase(0, position_);
    position_ = 0;
    searched = buffer_.size();
    if (searched > kLongestLine) {
      throw DataError(display_name() + ": line " + std::to_string(line_number_ + 1) +
                      " is longer than 1 MiB; expected a text file with shorter lines");
    }
    constexpr size_t kStep = size_t{1} << 16;
    buffer_.resize(searched + kStep);
    const int64_t got = stream_.read(buffer_.data() + searched, kStep);
    buffer_.resize(searched + static_cast<size_t>(got));
    if (got == 0) {
      if (buffer_.empty()) return false;
      end = buffer_.size();
      break;
    }
  }
  line.assign(buffer_, position_, end - position_);
  position_ = std::min(end + 1, buffer_.size());
  if (!line.empty() && line.back() == '\r') line.pop_back();
  ++line_number_;
  return true;
}

std::string describe_content(std::string_view bytes) {
  using namespace std::string_view_literals;
  static constexpr std::pair<std::string_view, const char*> kMagics[] = {
      {"@HD\t"sv, "SAM"},
      {"@SQ\t"sv, "SAM"},
      {"@RG\t"sv, "SAM"},
      {"@PG\t"sv, "SAM"},
      {"@CO\t"sv, "SAM"},
      {"@"sv, "FASTQ (a first line that starts with '@')"},
      {"BAM\1"sv, "BAM"},
      {"CRAM"sv, "CRAM"},
      {"BCF\2"sv, "BCF"},
      {"##fileformat=VCF"sv, "VCF"},
      {"##gff"sv, "GFF"},
      {"\x89HDF\r\n"sv, "HDF5"},
      {"\x89PNG"sv, "a PNG image"},
      {"\xff\xd8\xff"sv, "a JPEG image"},
      {"\x1f\x8b"sv, "gzip inside gzip (compressed twice)"},
      {"PK\3\4"sv, "a zip archive"},
      {"%PDF"sv, "PDF"},
      {"\x7f"
       "ELF"sv,
       "a program"},
      {"\x43\x27\x41\x1a"sv, "a UCSC 2bit genome"},
      {"\x26\xfc\x8f\x88"sv, "bigWig"},
      {"\xff\xfe"sv, "UTF-16 text (save it as plain ASCII)"},
      {"\xfe\xff"sv, "UTF-16 text (save it as plain ASCII)"},
      {"\xef\xbb\xbf"sv, "text with a byte-order mark (save it as plain ASCII)"},
      {"LOCUS "sv, "GenBank"},
      {"ID   "sv, "EMBL"},
      {"<"sv, "HTML or XML"},
      {"{"sv, "JSON"},
      {";"sv, "a FASTA file with ';' comment lines (remove them)"},
  };
  for (const auto& [magic, kind] : kMagics) {
    if (starts_with_bytes(bytes, magic)) return std::string("looks like ") + kind;
  }
  const size_t line_end = std::min(bytes.find('\n'), bytes.size());
  std::string_view line = bytes.substr(0, line_end);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  const bool text = !line.empty() && std::all_of(line.begin(), line.end(), [](char c) {
    return (c >= 0x20 && c < 0x7f) || c == '\t';
  });
  if (text) {
    const bool sequence = std::all_of(line.begin(), line.end(), [](char c) {
      return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '*' || c == '-';
    });
    if (sequence) return "starts with letters, without a '>' header line before them";
    constexpr size_t kShown = 40;
    return "starts with the text " + quote(line.substr(0, kShown));
  }
  std::string hex = "starts with the bytes";
  constexpr size_t kBytesShown = 8;
  for (const char c : bytes.substr(0, kBytesShown)) {
    char byte[8];
    (void)std::snprintf(byte, sizeof byte, " %02x", static_cast<unsigned char>(c));
    hex += byte;
  }
  return hex;
}

}  // namespace chromamba::io
