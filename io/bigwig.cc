#include "io/bigwig.h"

#include <fcntl.h>
#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <utility>

#include "io/pending_file.h"
#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {
namespace {

constexpr uint32_t kBigWigMagic = 0x888ffc26;
constexpr uint32_t kNameTreeMagic = 0x78ca8c91;
constexpr uint32_t kRangeTreeMagic = 0x2468ace0;
constexpr uint16_t kVersion = 4;
constexpr int64_t kHeaderBytes = 64;
constexpr int64_t kZoomHeaderBytes = 24;
constexpr int64_t kSummaryBytes = 40;
constexpr size_t kSectionHeaderBytes = 24;
constexpr size_t kZoomRecordBytes = 32;
constexpr uint8_t kFixedStep = 3;
// 16 KiB before compression: one disk page or two after it, so a genome browser's view of a few
// hundred bases reads little, and deflate has enough to work on. The format's limit is 65,535.
constexpr size_t kValuesPerSection = 4096;
constexpr size_t kZoomRecordsPerSection = 512;  // 16 KiB too
// Children of an index node; UCSC's own choice.
constexpr size_t kNodeChildren = 256;
// The first level halves a browser's work at 32 bases a pixel; it costs 1 byte a base before
// compression. Each next one is 4 times wider, UCSC's own step.
constexpr int64_t kFirstZoom = 32;
constexpr int64_t kZoomStep = 4;
constexpr int kMostZooms = 10;
// Log-likelihoods barely compress; the fastest level leaves the cores to the model.
constexpr int kDeflateLevel = 1;

// Bytes in the order of the machine, which is little-endian on every target; the magic numbers
// tell readers.
class Bytes {
 public:
  template <typename T>
  Bytes& add(T value) {
    const size_t at = data_.size();
    data_.resize(at + sizeof value);
    std::memcpy(data_.data() + at, &value, sizeof value);
    return *this;
  }
  Bytes& add_text(const std::string& text, size_t width) {
    data_.insert(data_.end(), text.begin(), text.end());
    data_.insert(data_.end(), width - text.size(), '\0');
    return *this;
  }
  const char* data() const { return data_.data(); }
  size_t size() const { return data_.size(); }
  void clear() { data_.clear(); }

 private:
  std::vector<char> data_;
};

// Where a section lies: its bases and its bytes.
struct Section {
  uint32_t contig = 0;
  uint32_t start = 0;
  uint32_t end = 0;
  uint32_t bytes = 0;   // compressed; at most 64 KiB
  uint64_t offset = 0;  // from the start of its data
};

struct ZoomRecord {
  uint32_t contig = 0;
  uint32_t start = 0;
  uint32_t end = 0;
  uint32_t valid = 0;
  float min = 0;
  float max = 0;
  double sum = 0;
  double sum_squares = 0;
};

struct ZoomLevel {
  int64_t width = 0;
  ScratchFile scratch;
  int64_t scratch_bytes = 0;
  std::vector<Section> sections;
  std::optional<ZoomRecord> open;  // the bin that still takes values
  Bytes pending;                   // finished records, not yet compressed
  Section pending_span;
  size_t pending_records = 0;
  uint32_t records = 0;

  ZoomLevel(int64_t bases, const std::string& folder) : width(bases), scratch(folder) {}
};

}  // namespace

struct BigWigWriter::Impl {
  std::string path;
  int descriptor = -1;
  int64_t size = 0;
  std::vector<ContigInfo> contigs;
  std::unordered_map<std::string, uint32_t> ids;
  std::vector<ZoomLevel> zooms;

  std::vector<Section> sections;
  std::vector<float> values;  // of the open section
  uint32_t contig = 0;
  int64_t section_start = 0;
  int64_t next_base = 0;  // within contig: values before it are refused
  std::vector<char> compressed;
  std::unique_ptr<libdeflate_compressor, void (*)(libdeflate_compressor*)> compressor{
      libdeflate_alloc_compressor(kDeflateLevel), libdeflate_free_compressor};
  Bytes bytes;

  uint64_t covered = 0;
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double sum = 0;
  double sum_squares = 0;

  int64_t zoom_headers_at = 0;
  int64_t summary_at = 0;
  int64_t name_tree_at = 0;
  int64_t data_at = 0;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (descriptor >= 0) (void)::close(descriptor);
  }

  void write_at(int64_t offset, const char* data, size_t n) const;
  void append(const char* data, size_t n) {
    write_at(size, data, n);
    size += static_cast<int64_t>(n);
  }
  void append(const Bytes& data) { append(data.data(), data.size()); }
  size_t deflate_to_buffer(const Bytes& data);
  void write_name_tree();
  void write_range_tree(const std::vector<Section>& entries, int64_t data_start);
  void flush_section();
  void add_to_zoom(size_t level, const ZoomRecord& record);
  void finish_bin(size_t level);
  void flush_zoom(ZoomLevel& level);
  void finish();
};

void BigWigWriter::Impl::write_at(int64_t offset, const char* data, size_t n) const {
  while (n > 0) {
    const ssize_t written = pwrite(descriptor, data, n, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      throw ResourceError("cannot write to " + path + ": " + std::strerror(errno));
    }
    data += written;
    offset += written;
    n -= static_cast<size_t>(written);
  }
}

size_t BigWigWriter::Impl::deflate_to_buffer(const Bytes& data) {
  if (!compressor) throw ResourceError("out of memory for compressing values for " + path);
  compressed.resize(libdeflate_zlib_compress_bound(compressor.get(), data.size()));
  return libdeflate_zlib_compress(compressor.get(), data.data(), data.size(), compressed.data(),
                                  compressed.size());
}

// A B+ tree from names, sorted, to ids and lengths. Nodes are written level by level, root first.
void BigWigWriter::Impl::write_name_tree() {
  std::vector<uint32_t> order(contigs.size());
  std::iota(order.begin(), order.end(), uint32_t{0});
  std::sort(order.begin(), order.end(),
            [this](uint32_t a, uint32_t b) { return contigs[a].name < contigs[b].name; });
  size_t key_bytes = 1;
  for (const ContigInfo& info : contigs) key_bytes = std::max(key_bytes, info.name.size());
  const size_t children = std::min(kNodeChildren, contigs.size());
  const size_t node_bytes = 4 + children * (key_bytes + 8);  // both kinds of items are 8 + key

  bytes.clear();
  bytes.add(kNameTreeMagic)
      .add(static_cast<uint32_t>(children))
      .add(static_cast<uint32_t>(key_bytes))
      .add(uint32_t{8})
      .add(static_cast<uint64_t>(contigs.size()))
      .add(uint64_t{0});
  append(bytes);

  // spans[d]: leaf items below one child of a node at depth d, from the leaves up.
  std::vector<size_t> spans{1};
  while (spans.back() * children < contigs.size()) spans.push_back(spans.back() * children);
  for (size_t depth = spans.size(); depth-- > 0;) {
    const size_t per_child = spans[depth];
    const size_t per_node = per_child * children;
    const size_t nodes = (contigs.size() + per_node - 1) / per_node;
    const int64_t next_level = size + static_cast<int64_t>(nodes * node_bytes);
    size_t child_node = 0;
    for (size_t first = 0; first < contigs.size(); first += per_node) {
      const size_t last = std::min(first + per_node, contigs.size());
      const size_t count = (last - first + per_child - 1) / per_child;
      bytes.clear();
      bytes.add(static_cast<uint8_t>(depth == 0 ? 1 : 0))
          .add(uint8_t{0})
          .add(static_cast<uint16_t>(count));
      for (size_t item = first; item < last; item += per_child) {
        const ContigInfo& info = contigs[order[item]];
        bytes.add_text(info.name, key_bytes);
        if (depth == 0) {
          bytes.add(order[item]).add(static_cast<uint32_t>(info.length));
        } else {
          bytes.add(static_cast<uint64_t>(next_level) + child_node++ * node_bytes);
        }
      }
      // Nodes have one size, whatever they hold.
      bytes.add_text({}, node_bytes - bytes.size());
      append(bytes);
    }
  }
}

// An R-tree over sections that are sorted by contig and start. data_start: the file offset that
// the sections' own offsets count from.
void BigWigWriter::Impl::write_range_tree(const std::vector<Section>& entries, int64_t data_start) {
  constexpr size_t kLeafItem = 32;
  constexpr size_t kBranchItem = 24;
  const Section first = entries.empty() ? Section{} : entries.front();
  const Section last = entries.empty() ? Section{} : entries.back();
  bytes.clear();
  bytes.add(kRangeTreeMagic)
      .add(static_cast<uint32_t>(kNodeChildren))
      .add(static_cast<uint64_t>(entries.size()))
      .add(first.contig)
      .add(first.start)
      .add(last.contig)
      .add(last.end)
      .add(static_cast<uint64_t>(size))  // the end of the data, which the index follows
      .add(uint32_t{1})                  // sections per leaf item
      .add(uint32_t{0});
  append(bytes);

  std::vector<size_t> spans{1};
  while (spans.back() * kNodeChildren < entries.size()) {
    spans.push_back(spans.back() * kNodeChildren);
  }
  for (size_t depth = spans.size(); depth-- > 0;) {
    const size_t per_child = spans[depth];
    const size_t per_node = per_child * kNodeChildren;
    const size_t nodes = std::max<size_t>(1, (entries.size() + per_node - 1) / per_node);
    // Every node of a level is padded to full width, so a child's place follows from its number.
    const size_t node_bytes = 4 + kNodeChildren * (depth == 0 ? kLeafItem : kBranchItem);
    const size_t child_bytes = 4 + kNodeChildren * (depth <= 1 ? kLeafItem : kBranchItem);
    const int64_t next_level = size + static_cast<int64_t>(nodes * node_bytes);
    size_t child_node = 0;
    for (size_t node = 0; node < nodes; ++node) {
      const size_t begin = node * per_node;
      const size_t end = std::min(begin + per_node, entries.size());
      const size_t count = (end - begin + per_child - 1) / per_child;
      bytes.clear();
      bytes.add(static_cast<uint8_t>(depth == 0 ? 1 : 0))
          .add(uint8_t{0})
          .add(static_cast<uint16_t>(count));
      for (size_t item = begin; item < end; item += per_child) {
        // Sections do not overlap and are sorted: the first and the last bound all between.
        const Section& low = entries[item];
        const Section& high = entries[std::min(item + per_child, entries.size()) - 1];
        bytes.add(low.contig).add(low.start).add(high.contig).add(high.end);
        if (depth == 0) {
          bytes.add(static_cast<uint64_t>(data_start) + low.offset)
              .add(static_cast<uint64_t>(low.bytes));
        } else {
          bytes.add(static_cast<uint64_t>(next_level) + child_node++ * child_bytes);
        }
      }
      bytes.add_text({}, node_bytes - bytes.size());
      append(bytes);
    }
  }
}

void BigWigWriter::Impl::flush_section() {
  if (values.empty()) return;
  const auto start = static_cast<uint32_t>(section_start);
  const auto end = static_cast<uint32_t>(section_start + static_cast<int64_t>(values.size()));
  bytes.clear();
  bytes.add(contig)
      .add(start)
      .add(end)
      .add(uint32_t{1})  // step
      .add(uint32_t{1})  // span
      .add(kFixedStep)
      .add(uint8_t{0})
      .add(static_cast<uint16_t>(values.size()));
  for (const float value : values) bytes.add(value);
  const size_t n = deflate_to_buffer(bytes);
  sections.push_back(
      {contig, start, end, static_cast<uint32_t>(n), static_cast<uint64_t>(size - data_at)});
  append(compressed.data(), n);

  for (const float value : values) {
    const auto wide = static_cast<double>(value);
    min = std::min(min, wide);
    max = std::max(max, wide);
    sum += wide;
    sum_squares += wide * wide;
  }
  covered += values.size();
  if (!zooms.empty()) {
    const int64_t width = zooms.front().width;
    for (int64_t base = start; base < int64_t{end};) {
      const int64_t stop = std::min<int64_t>((base / width + 1) * width, end);
      ZoomRecord record{contig, static_cast<uint32_t>(base), static_cast<uint32_t>(stop),
                        static_cast<uint32_t>(stop - base)};
      const float* value = values.data() + (base - section_start);
      record.min = record.max = *value;
      for (; base < stop; ++base, ++value) {
        record.min = std::min(record.min, *value);
        record.max = std::max(record.max, *value);
        record.sum += static_cast<double>(*value);
        record.sum_squares += static_cast<double>(*value) * static_cast<double>(*value);
      }
      add_to_zoom(0, record);
    }
  }
  values.clear();
}

// Puts a piece that lies within one bin of the level into that bin. Finished bins are the pieces
// of the next level, so each value is looked at once.
void BigWigWriter::Impl::add_to_zoom(size_t level, const ZoomRecord& record) {
  ZoomLevel& zoom = zooms[level];
  if (zoom.open && (zoom.open->contig != record.contig ||
                    zoom.open->start / zoom.width != record.start / zoom.width)) {
    finish_bin(level);
  }
  if (!zoom.open) {
    zoom.open = record;
    return;
  }
  ZoomRecord& bin = *zoom.open;
  bin.end = record.end;
  bin.valid += record.valid;
  bin.min = std::min(bin.min, record.min);
  bin.max = std::max(bin.max, record.max);
  bin.sum += record.sum;
  bin.sum_squares += record.sum_squares;
}

void BigWigWriter::Impl::finish_bin(size_t level) {
  ZoomLevel& zoom = zooms[level];
  if (!zoom.open) return;
  const ZoomRecord bin = *zoom.open;
  zoom.open.reset();
  if (zoom.pending_records > 0 &&
      (zoom.pending_records == kZoomRecordsPerSection || zoom.pending_span.contig != bin.contig)) {
    flush_zoom(zoom);
  }
  if (zoom.pending_records == 0) zoom.pending_span = {bin.contig, bin.start, bin.end, 0, 0};
  zoom.pending_span.end = bin.end;
  zoom.pending.add(bin.contig)
      .add(bin.start)
      .add(bin.end)
      .add(bin.valid)
      .add(bin.min)
      .add(bin.max)
      .add(static_cast<float>(bin.sum))
      .add(static_cast<float>(bin.sum_squares));
  ++zoom.pending_records;
  ++zoom.records;
  if (level + 1 < zooms.size()) add_to_zoom(level + 1, bin);
}

void BigWigWriter::Impl::flush_zoom(ZoomLevel& level) {
  if (level.pending_records == 0) return;
  const size_t n = deflate_to_buffer(level.pending);
  level.pending_span.bytes = static_cast<uint32_t>(n);
  level.pending_span.offset = static_cast<uint64_t>(level.scratch_bytes);
  level.sections.push_back(level.pending_span);
  level.scratch.write(level.scratch_bytes, compressed.data(), static_cast<int64_t>(n));
  level.scratch_bytes += static_cast<int64_t>(n);
  level.pending.clear();
  level.pending_records = 0;
}

void BigWigWriter::Impl::finish() {
  flush_section();
  for (size_t level = 0; level < zooms.size(); ++level) {
    finish_bin(level);
    flush_zoom(zooms[level]);
  }
  const int64_t index_at = size;
  write_range_tree(sections, data_at);

  Bytes zoom_headers;
  std::vector<char> copy(size_t{1} << 18);
  for (ZoomLevel& level : zooms) {
    const int64_t records_at = size;
    bytes.clear();
    bytes.add(level.records);
    append(bytes);
    const int64_t zoom_data_at = size;
    for (int64_t done = 0; done < level.scratch_bytes;) {
      const int64_t n = std::min(level.scratch_bytes - done, static_cast<int64_t>(copy.size()));
      level.scratch.read(done, copy.data(), n);
      append(copy.data(), static_cast<size_t>(n));
      done += n;
    }
    zoom_headers.add(static_cast<uint32_t>(level.width))
        .add(uint32_t{0})
        .add(static_cast<uint64_t>(records_at))
        .add(static_cast<uint64_t>(size));
    write_range_tree(level.sections, zoom_data_at);
  }
  bytes.clear();
  bytes.add(kBigWigMagic);  // the format repeats it at the end
  append(bytes);

  write_at(zoom_headers_at, zoom_headers.data(), zoom_headers.size());
  bytes.clear();
  bytes.add(covered)
      .add(covered > 0 ? min : 0.0)
      .add(covered > 0 ? max : 0.0)
      .add(sum)
      .add(sum_squares);
  write_at(summary_at, bytes.data(), bytes.size());
  bytes.clear();
  bytes.add(static_cast<uint64_t>(sections.size()));
  write_at(data_at, bytes.data(), bytes.size());

  // The header last: before it the file has no magic number and nobody takes it for whole.
  constexpr size_t kBuffer = std::max(kSectionHeaderBytes + kValuesPerSection * sizeof(float),
                                      kZoomRecordsPerSection * kZoomRecordBytes);
  bytes.clear();
  bytes.add(kBigWigMagic)
      .add(kVersion)
      .add(static_cast<uint16_t>(zooms.size()))
      .add(static_cast<uint64_t>(name_tree_at))
      .add(static_cast<uint64_t>(data_at))
      .add(static_cast<uint64_t>(index_at))
      .add(uint16_t{0})
      .add(uint16_t{0})
      .add(uint64_t{0})
      .add(static_cast<uint64_t>(summary_at))
      .add(static_cast<uint32_t>(kBuffer))
      .add(uint64_t{0});
  write_at(0, bytes.data(), bytes.size());
  if (fsync(descriptor) != 0 && errno != EINVAL && errno != EROFS) {
    throw ResourceError("cannot finish writing " + path + ": " + std::strerror(errno));
  }
  if (::close(std::exchange(descriptor, -1)) != 0) {
    throw ResourceError("cannot finish writing " + path + ": " + std::strerror(errno));
  }
}

BigWigWriter::BigWigWriter(const std::string& path, const std::vector<ContigInfo>& contigs,
                           int zoom_levels)
    : impl_(std::make_unique<Impl>()) {
  Impl& self = *impl_;
  self.path = path;
  self.contigs = contigs;
  if (contigs.empty()) throw DataError(path + ": a bigWig file needs contigs; the input has none");
  int64_t longest = 0;
  for (const ContigInfo& info : contigs) {
    if (info.length < 0 || info.length > int64_t{std::numeric_limits<uint32_t>::max()}) {
      throw DataError(path + ": contig " + quote(info.name) + " has " +
                      std::to_string(info.length) +
                      " bases; bigWig holds at most 4294967295: write HDF5 or bedGraph instead");
    }
    if (!self.ids.emplace(info.name, static_cast<uint32_t>(self.ids.size())).second) {
      throw DataError(path + ": two contigs are named " + quote(info.name) + "; rename one");
    }
    longest = std::max(longest, info.length);
  }
  constexpr mode_t kMode = 0666;
  self.descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  if (self.descriptor < 0) {
    throw ResourceError("cannot open " + path + " for writing: " + std::strerror(errno));
  }
  if (lseek(self.descriptor, 0, SEEK_CUR) < 0) {
    throw ResourceError("cannot write a bigWig file to " + path +
                        ": it cannot seek; write to a regular file");
  }
  int64_t width = kFirstZoom;
  for (int i = 0; i < std::min(zoom_levels, kMostZooms) && width <= longest; ++i) {
    self.zooms.emplace_back(width, folder_of(path));
    width *= kZoomStep;
  }
  // Room for what is known only at the end.
  self.zoom_headers_at = kHeaderBytes;
  self.summary_at =
      self.zoom_headers_at + static_cast<int64_t>(self.zooms.size()) * kZoomHeaderBytes;
  self.name_tree_at = self.summary_at + kSummaryBytes;
  const std::vector<char> blank(static_cast<size_t>(self.name_tree_at), '\0');
  self.append(blank.data(), blank.size());
  self.write_name_tree();
  self.data_at = self.size;
  self.append(blank.data(), sizeof(uint64_t));
  self.values.reserve(kValuesPerSection);
}

BigWigWriter::~BigWigWriter() = default;
BigWigWriter::BigWigWriter(BigWigWriter&&) noexcept = default;
BigWigWriter& BigWigWriter::operator=(BigWigWriter&&) noexcept = default;

void BigWigWriter::add(const std::string& contig, int64_t start, const float* values, int64_t n) {
  Impl& self = *impl_;
  const auto found = self.ids.find(contig);
  const auto fail = [&](const std::string& what) {
    throw InternalError(self.path + ": values for contig " + quote(contig) + " from base " +
                        std::to_string(start) + ": " + what);
  };
  if (self.descriptor < 0) fail("the file is closed");
  if (found == self.ids.end()) fail("the contig is not in the file's list");
  const uint32_t id = found->second;
  if (id < self.contig) fail("a later contig has values already");
  if (start < 0 || n < 0 || start > self.contigs[id].length - n) {
    fail(std::to_string(n) + " of them leave the contig (length " +
         std::to_string(self.contigs[id].length) + ")");
  }
  if (id == self.contig && start < self.next_base) {
    fail("a later base (" + std::to_string(self.next_base - 1) + ") has a value already");
  }
  if (n == 0) return;
  if (id != self.contig) {
    self.flush_section();
    self.contig = id;
  }
  self.next_base = start + n;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(values[i])) continue;
    const int64_t base = start + i;
    if (self.values.size() == kValuesPerSection ||
        base != self.section_start + static_cast<int64_t>(self.values.size())) {
      self.flush_section();
    }
    if (self.values.empty()) self.section_start = base;
    self.values.push_back(values[i]);
  }
}

void BigWigWriter::close() {
  if (impl_->descriptor < 0) return;
  try {
    impl_->finish();
  } catch (...) {
    if (impl_->descriptor >= 0) (void)::close(std::exchange(impl_->descriptor, -1));
    throw;
  }
}

}  // namespace chromamba::io
