#include "pipelines/allele_runs.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// An allele in a run: this, then its alt.
struct RunHeader {
  int64_t number;
  int64_t start;
  int64_t end;
  int64_t alt_bytes;
};

class RunReader {
 public:
  RunReader(std::shared_ptr<const io::ScratchFile> file, const RunExtent& extent,
            int64_t block_bytes)
      : file_(std::move(file)),
        offset_(extent.offset),
        end_(extent.offset + extent.bytes),
        block_(static_cast<size_t>(std::min(block_bytes, extent.bytes))) {}

  // False after the last; else allele() is the next one.
  bool advance() {
    if (position_ == filled_ && offset_ == end_) return false;
    RunHeader header{};
    take(reinterpret_cast<char*>(&header), sizeof header);
    allele_.number = header.number;
    allele_.start = header.start;
    allele_.end = header.end;
    allele_.alt.resize(static_cast<size_t>(header.alt_bytes));
    take(allele_.alt.data(), allele_.alt.size());
    return true;
  }
  Allele& allele() { return allele_; }
  const Allele& allele() const { return allele_; }

 private:
  void take(char* to, size_t bytes) {
    while (bytes > 0) {
      if (position_ == filled_) {
        filled_ =
            static_cast<size_t>(std::min(static_cast<int64_t>(block_.size()), end_ - offset_));
        if (filled_ == 0) throw InternalError("RunReader: an allele goes on beyond its contig");
        file_->read(offset_, block_.data(), static_cast<int64_t>(filled_));
        offset_ += static_cast<int64_t>(filled_);
        position_ = 0;
      }
      const size_t n = std::min(bytes, filled_ - position_);
      std::memcpy(to, block_.data() + position_, n);
      to += n;
      bytes -= n;
      position_ += n;
    }
  }

  std::shared_ptr<const io::ScratchFile> file_;
  int64_t offset_;  // in the file, of what follows the block
  int64_t end_;
  std::vector<char> block_;
  size_t position_ = 0;
  size_t filled_ = 0;
  Allele allele_;
};

class MergedRuns : public AlleleSource {
 public:
  MergedRuns(std::span<const AlleleRun> runs, int64_t contig, Strand strand, int64_t block_bytes)
      : strand_(strand) {
    for (const AlleleRun& run : runs) {
      const RunExtent* extent = run.extent(contig);
      if (extent == nullptr) continue;
      auto reader = std::make_unique<RunReader>(run.file, *extent, block_bytes);
      if (reader->advance()) heap_.push_back(std::move(reader));
    }
    std::make_heap(heap_.begin(), heap_.end(), after());
  }

  bool next(Allele& allele) override {
    if (heap_.empty()) return false;
    std::pop_heap(heap_.begin(), heap_.end(), after());
    RunReader& first = *heap_.back();
    std::swap(allele, first.allele());
    if (first.advance()) {
      std::push_heap(heap_.begin(), heap_.end(), after());
    } else {
      heap_.pop_back();
    }
    return true;
  }

 private:
  using Reader = std::unique_ptr<RunReader>;
  // Of a heap whose front comes first.
  struct After {
    Strand strand;
    bool operator()(const Reader& a, const Reader& b) const {
      return comes_before(std::as_const(*b).allele(), std::as_const(*a).allele(), strand);
    }
  };
  After after() const { return {strand_}; }

  Strand strand_;
  std::vector<Reader> heap_;
};

}  // namespace

const RunExtent* AlleleRun::extent(int64_t contig) const {
  const auto found =
      std::lower_bound(extents.begin(), extents.end(), contig,
                       [](const RunExtent& at, int64_t wanted) { return at.contig < wanted; });
  return found != extents.end() && found->contig == contig ? &*found : nullptr;
}

RunWriter::RunWriter(const std::string& folder, int64_t block_bytes)
    : file_(std::make_shared<io::ScratchFile>(folder)),
      block_bytes_(static_cast<size_t>(block_bytes)) {}

void RunWriter::flush() {
  file_->write(written_, block_.data(), static_cast<int64_t>(block_.size()));
  written_ += static_cast<int64_t>(block_.size());
  block_.clear();
}

void RunWriter::add(int64_t contig, const AlleleView& allele) {
  if (extents_.empty() || extents_.back().contig != contig) {
    extents_.push_back({contig, written_ + static_cast<int64_t>(block_.size()), 0});
  }
  const RunHeader header{allele.number, allele.start, allele.end,
                         static_cast<int64_t>(allele.alt.size())};
  const size_t bytes = sizeof header + allele.alt.size();
  extents_.back().bytes += static_cast<int64_t>(bytes);
  if (block_.size() + bytes > block_bytes_) flush();
  block_.append(reinterpret_cast<const char*>(&header), sizeof header).append(allele.alt);
}

AlleleRun RunWriter::finish() {
  flush();
  return {std::move(file_), std::move(extents_)};
}

std::unique_ptr<AlleleSource> merge_runs(std::span<const AlleleRun> runs, int64_t contig,
                                         Strand strand, int64_t block_bytes) {
  return std::make_unique<MergedRuns>(runs, contig, strand, block_bytes);
}

AlleleRun merge_into_one(std::span<const AlleleRun> runs, Strand strand, const std::string& folder,
                         int64_t block_bytes) {
  std::set<int64_t> contigs;
  for (const AlleleRun& run : runs) {
    for (const RunExtent& extent : run.extents) contigs.insert(extent.contig);
  }
  RunWriter writer(folder, block_bytes);
  Allele allele;
  for (const int64_t contig : contigs) {
    MergedRuns merged(runs, contig, strand, block_bytes);
    while (merged.next(allele)) {
      writer.add(contig, {allele.number, allele.start, allele.end, allele.alt});
    }
  }
  return writer.finish();
}

}  // namespace chromamba::pipelines
