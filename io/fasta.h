// FASTA, read once from front to back: plain, gzip, bgzip, or "-" for standard input.
//
// Memory is bounded by one block (about 1 MiB) plus the names of the contigs, whatever the length
// of a line or a contig. Positions are 0-based in the program and 1-based in messages.
//
// Kept: the order of contigs, names (up to the first space or tab), comments (the rest of the
// header line, cut at 64 KiB), bases as ACGTN. Lost: lower case, U against T, which IUPAC code
// became N, line lengths. Blank lines, CRLF, white space at the end of lines and a missing last
// line end are fine.
//
// DataError, naming file, contig, 1-based position and line: a byte that is no base, white space
// between the bases of a line, an IUPAC code where FastaOptions refuses them, an empty name, a
// name twice, a name that could escape a folder ('/' first, a '.' or '..' component) or holds
// control bytes, an empty file, content that is not FASTA, and all that InputStream refuses.
//
// One thread at a time per object.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/bases.h"
#include "io/input_stream.h"

namespace chromamba::io {

struct FastaOptions {
  bool iupac_error = false;    // refuse IUPAC codes instead of reading N
  int threads = 1;             // that inflate bgzip blocks; plain and gzip input ignore it
  std::string display_name;    // for messages; empty: the path, or "standard input"
  std::function<void()> poll;  // called once a block; may throw to stop the reading
};

class FastaReader {
 public:
  explicit FastaReader(const std::string& path, FastaOptions options = {});

  // Moves to the next record; false at the end of the file. What is left of the present record is
  // skipped, but checked all the same.
  bool next_contig();

  const std::string& name() const { return name_; }
  const std::string& comment() const { return comment_; }
  int64_t record_number() const { return record_number_; }  // of the present record, from 1

  // Up to n upper-case bases of the present contig into out; fewer than n only at its end, and 0
  // there and before the first next_contig().
  int64_t read(char* out, int64_t n);

  int64_t position() const { return position_; }        // bases of the present contig read so far
  int64_t iupac_count() const { return iupac_count_; }  // codes turned to N so far, all contigs
  const std::string& display_name() const { return stream_->display_name(); }
  Compression compression() const { return stream_->compression(); }

 private:
  bool refill();
  void skip_to_first_header();
  void read_header();
  int64_t take_slowly(const char* in, int64_t n, char* out);

  FastaOptions options_;
  std::unique_ptr<InputStream> stream_;
  std::vector<char> buffer_;
  int64_t buffer_position_ = 0;
  int64_t buffer_end_ = 0;
  std::vector<char> skipped_;

  std::string name_;
  std::string comment_;
  std::unordered_map<std::string, int64_t> header_lines_;  // name -> line of its header
  int64_t record_number_ = 0;
  int64_t line_ = 1;  // of the byte at buffer_position_
  int64_t position_ = 0;
  int64_t iupac_count_ = 0;
  bool started_ = false;
  bool in_contig_ = false;
  bool at_line_start_ = true;
  char blank_ = 0;  // white space seen on this line: a base must not follow it
};

struct ContigInfo {
  std::string name;
  int64_t length = 0;  // bases
};

struct FastaSummary {
  std::vector<ContigInfo> contigs;  // in the order of the file
  int64_t bases = 0;
  int64_t n_bases = 0;  // N after normalisation, IUPAC codes included
  int64_t iupac = 0;
};

// One pass over the file that checks everything and keeps nothing but names and lengths.
FastaSummary scan_fasta(const std::string& path, const FastaOptions& options = {});

// Throws the DataError for a contig name that a file or group name must not hold; `where` starts
// the message (file and line).
void check_contig_name(const std::string& name, const std::string& where);

}  // namespace chromamba::io
