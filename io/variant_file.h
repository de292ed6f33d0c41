// VCF and BCF, read record by record, and written back with INFO fields added.
//
// Source: VCF 4.3 specification (samtools.github.io/hts-specs/VCFv4.3.pdf), §1 and §6.
//
// Read: VCF (plain, gzip, bgzip) and BCF 2.2 (bgzip or uncompressed), from a path or "-"; the kind
// is read from the content. VCF text is split here and not by htslib, which invents records for
// blank lines, reads a position that is no number as 0 and rewrites numbers; BCF is read by htslib.
//
// VCF to VCF, every byte of the input comes out again but those of the INFO fields that the writer
// adds: numbers are not reformatted, line ends (LF or CRLF) and the order of INFO stay. A missing
// last line end is added; blank lines at the end go. From or to BCF, text is what htslib makes
// of it: "0.50" becomes "0.5", trailing missing FORMAT values are dropped.
//
// Positions are 0-based in the program; in messages they are 1-based.
//
// DataError, naming the file and the line (VCF) or record (BCF): no header, or one that htslib
// refuses; content that is neither VCF nor BCF; another number of columns than the header has; a
// contig that the header does not list (a header without any contig line: see warnings); POS, QUAL,
// END or SVLEN that are no numbers; an empty REF or ALT allele; a NUL byte; a blank line between
// records; a damaged BCF record; all that InputStream refuses (cut or damaged compression).
// What no reader can see: a plain VCF cut between two lines, an uncompressed BCF between records.
//
// Memory: twice the longest record and a block of 2 MiB, whatever the length of the file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "io/fasta.h"
#include "io/genotype.h"

struct bcf1_t;  // htslib's

namespace chromamba::io {

struct VariantHeader;  // opaque; immutable, shared by a reader, its records and the writers

// Something odd that was let through, for the caller to show once: "a.vcf: line 7: INFO field 'XX'
// is not declared in the header; it is kept as it is", and how many records had it.
struct VariantWarning {
  std::string message;  // of the first record
  int64_t records = 0;
};

// One record. The fields are what the file says; nothing is checked against a reference.
// A record lives on its own: it may be moved, kept and written long after its reader went on.
class VariantRecord {
 public:
  VariantRecord();
  ~VariantRecord();
  VariantRecord(VariantRecord&&) noexcept;
  VariantRecord& operator=(VariantRecord&&) noexcept;

  std::string contig;
  int64_t contig_index = -1;      // in VariantReader::contigs(); -1 where the header lists none
  int64_t position = 0;           // 0-based; -1 for POS 0, the telomere
  int64_t reference_length = 0;   // bases of the reference: END - position, or the length of REF
  std::string id;                 // "." when missing
  std::string ref;                // as in the file: lower case and IUPAC codes stay
  std::vector<std::string> alts;  // bases, "*", "<DEL>", breakends; empty where ALT is "."
  std::optional<int64_t> end;     // INFO END: 0-based, exclusive; absent where it lies before POS
  std::vector<std::optional<int64_t>> svlen;  // INFO SVLEN, with its sign; '.' is nullopt
  int64_t number = 0;                         // in the file, from 1
  int64_t line = 0;                           // in the file, from 1; 0 in BCF

  // "line 12 (chr1:1001)" or "record 5 (chr1:1001)".
  std::string place() const;

  // Of the sample with this index in VariantReader::samples(); nullopt where the record has no GT field. A value that
  // the sample leaves out is missing. DataError: GT is no genotype or names an allele that the record does not have, or PS
  // holds control bytes.
  std::optional<Genotype> genotype(int64_t sample) const;

 private:
  std::optional<Genotype> text_genotype(int64_t sample) const;
  std::optional<Genotype> binary_genotype(int64_t sample) const;
  [[noreturn]] void fail_sample(int64_t sample, const std::string& what) const;

  friend class VariantReader;
  friend class VariantWriter;
  struct DestroyBinary {
    void operator()(bcf1_t* record) const;
  };
  std::shared_ptr<const VariantHeader> header_;
  std::string text_;       // VCF: the line without its line end
  size_t info_begin_ = 0;  // the INFO column in text_
  size_t info_end_ = 0;
  bool carriage_return_ = false;                   // the line ended with CRLF
  std::unique_ptr<bcf1_t, DestroyBinary> binary_;  // BCF
};

struct VariantReaderOptions {
  int threads = 1;             // that inflate bgzip blocks; plain and gzip input ignore it
  std::string display_name;    // for messages; empty: the path, or "standard input"
  std::function<void()> poll;  // called once a block; may throw to stop the reading
};

// One thread at a time per object; records may be written by another thread meanwhile.
class VariantReader {
 public:
  // Reads the header.
  explicit VariantReader(const std::string& path, VariantReaderOptions options = {});
  ~VariantReader();
  VariantReader(VariantReader&&) noexcept;
  VariantReader& operator=(VariantReader&&) noexcept;

  // The next record; false at the end of the file. Reuses the memory of `record`.
  bool next(VariantRecord& record);

  // The contigs of the header, in its order; length 0 where it gives none.
  const std::vector<ContigInfo>& contigs() const;
  std::vector<std::string> samples() const;
  // Where a sample is among them. UsageError that names some of them when it is not.
  int64_t sample_index(const std::string& name) const;
  bool is_bcf() const;
  const std::string& display_name() const;
  const std::shared_ptr<const VariantHeader>& header() const;

  // What was let through so far, one entry a kind: undeclared INFO, FILTER or FORMAT (bcftools
  // keeps these too), contigs where the header lists none at all, END before POS, a last line
  // without line end (the file may be cut).
  const std::vector<VariantWarning>& warnings() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

enum class VariantFormat { vcf, vcf_gz, bcf, bcf_uncompressed };

// An INFO field that a writer adds. In records that have it already (of an earlier run) it is
// removed; then the new fields follow at the end of the column, in the order given.
struct VariantInfo {
  enum class Type { number, text };  // Float, String
  std::string id;
  std::string count;  // "A" (one per ALT allele), "." or a number
  Type type = Type::number;
  std::string description;
};

// The values of one field in one record; none at all leaves the field out of the record.
struct VariantInfoValues {
  std::vector<float> numbers;      // for Type::number; NaN is missing
  std::vector<std::string> texts;  // for Type::text; empty is missing
};

struct VariantWriterOptions {
  VariantFormat format = VariantFormat::vcf;
  std::vector<VariantInfo> info;
  // INFO fields that an earlier run may have written and this one does not: they go, with their lines in the header.
  std::vector<std::string> forgotten;
  bool forget_lines = false;  // and so do all header lines whose key starts with "chromamba_"
  // "##key=value" lines, added at the end of the header; control bytes become spaces. A line of the
  // input whose key starts with "chromamba_" goes when one of these has the same key. "##contig"
  // lines are added for contigs that the header lacks.
  std::vector<std::string> header_lines;
  std::string index_path;  // where to write a .csi index on close(); empty: none
  int threads = 1;         // that compress BCF
};

// Writes records in the order of the calls. Numbers are written with six significant digits (seven from 1,000 on), as
// "%.6g" does, never "-0" or "nan"; BCF holds the same rounded numbers.
//
// To BCF go only declared things: a record with an undeclared contig, INFO, FILTER or FORMAT is a
// DataError that names it. INFO and FORMAT values that do not fit their declared Integer or Float
// become missing, as in bcftools, and are counted in warnings().
//
// DataError also: the header declares one of our INFO fields with another Number or Type; with an
// index, the first record out of order, or records that htslib cannot index. UsageError: an index for standard output or plain VCF.
// ResourceError: as TextOutput. InternalError: values that do not fit their field, a record of
// another header. The destructor closes without a word and without an index: call close().
// One thread at a time.
class VariantWriter {
 public:
  // An existing file is truncated: give the temporary path of a PendingFile, or "-". Writes the
  // header, that of the reader with its lines as they were.
  VariantWriter(const std::string& path_or_dash, std::shared_ptr<const VariantHeader> header,
                VariantWriterOptions options);
  ~VariantWriter();
  VariantWriter(VariantWriter&&) noexcept;
  VariantWriter& operator=(VariantWriter&&) noexcept;

  // values[i] belong to options.info[i].
  void write(const VariantRecord& record, std::span<const VariantInfoValues> values);

  void close();

  const std::vector<VariantWarning>& warnings() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether records are sorted as an index needs them: contigs together, positions ascending.
class VariantOrder {
 public:
  // DataError for the first record, of the file named, that is not.
  void check(const VariantRecord& next, const std::string& file);

 private:
  std::string last_contig_;
  int64_t last_position_ = -1;
  std::string last_place_;
  std::set<std::string> finished_;  // contigs
};

// A number as it is written into INFO: "-1.25", "1e-05", "0", "." for NaN.
std::string format_info_number(float value);

}  // namespace chromamba::io
