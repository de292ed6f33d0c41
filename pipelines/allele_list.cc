#include "pipelines/allele_list.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>

#include "kernels/base/error.h"
#include "pipelines/allele_runs.h"

namespace chromamba::pipelines {
namespace {

// Runs of a kind that wait to be merged: 32 blocks are read at a time, and 30,000 runs are two merges deep.
constexpr size_t kFanIn = 32;
// The share of the memory that a kind's lists of contigs may take before it is merged.
constexpr int64_t kExtentShare = 16;
// Of a run that is read or written. Above the upper bound the system calls no longer count.
constexpr int64_t kLeastBlock = int64_t{1} << 12;
constexpr int64_t kMostBlock = int64_t{1} << 18;
constexpr std::array<Strand, 2> kStrands = {Strand::forward, Strand::reverse};

// Text that stays where it is until clear().
class TextPool {
 public:
  // Of the next add(), beyond what bytes() says.
  int64_t growth(std::string_view text) const {
    return text.size() <= left_ ? 0 : static_cast<int64_t>(std::max(text.size(), kPiece));
  }
  int64_t bytes() const { return bytes_; }

  std::string_view add(std::string_view text) {
    if (text.empty()) return {};
    if (text.size() > left_) {
      left_ = std::max(text.size(), kPiece);
      bytes_ += static_cast<int64_t>(left_);
      next_ = pieces_.emplace_back(std::make_unique<char[]>(left_)).get();
    }
    std::memcpy(next_, text.data(), text.size());
    const std::string_view kept(next_, text.size());
    next_ += text.size();
    left_ -= text.size();
    return kept;
  }

  void clear() { *this = {}; }

 private:
  static constexpr size_t kPiece = size_t{1} << 14;

  std::vector<std::unique_ptr<char[]>> pieces_;
  char* next_ = nullptr;
  size_t left_ = 0;
  int64_t bytes_ = 0;
};

struct Entry {
  int64_t contig = 0;
  AlleleView allele;
};

void sort_entries(std::span<Entry> entries, Strand strand) {
  const auto before = [strand](const Entry& a, const Entry& b) {
    return a.contig != b.contig ? a.contig < b.contig : comes_before(a.allele, b.allele, strand);
  };
  // Most files are sorted.
  if (std::is_sorted(entries.begin(), entries.end(), before)) return;
  std::sort(entries.begin(), entries.end(), before);
}

class EntrySource : public AlleleSource {
 public:
  EntrySource(std::span<const Entry> entries, Strand strand) : entries_(entries) {
    if (strand == Strand::forward) return;
    // Close to the order of the other strand.
    sorted_.assign(entries.rbegin(), entries.rend());
    sort_entries(sorted_, strand);
    entries_ = sorted_;
  }

  bool next(Allele& allele) override {
    if (entries_.empty()) return false;
    const AlleleView& from = entries_.front().allele;
    allele.number = from.number;
    allele.start = from.start;
    allele.end = from.end;
    allele.alt.assign(from.alt);
    entries_ = entries_.subspan(1);
    return true;
  }

 private:
  std::span<const Entry> entries_;
  std::vector<Entry> sorted_;
};

}  // namespace

struct AlleleList::Impl {
  // Runs of one strand by how often they were merged, a few of each kind.
  using Levels = std::vector<std::vector<AlleleRun>>;

  int64_t memory = 0;
  int64_t block_bytes = 0;
  std::string folder;
  bool finished = false;
  std::vector<ContigLoad> loads;  // by contig until finish(), then those that have alleles
  std::vector<Entry> entries;     // not in runs; after finish() sorted for the forward strand
  TextPool alts;
  std::array<Levels, 2> levels;
  std::array<std::vector<AlleleRun>, 2> runs;  // all of the levels, after finish()

  // An entry counts twice: for the copy that sorts the other strand, or that grows the vector.
  static constexpr int64_t kEntryBytes = 2 * static_cast<int64_t>(sizeof(Entry));

  void add(int64_t contig, const Allele& allele);
  void spill();
  void write_run(Strand strand);
  void finish();
};

void AlleleList::Impl::add(int64_t contig, const Allele& allele) {
  if (finished || contig < 0 || allele.start < 0 || allele.end <= allele.start) {
    throw InternalError("AlleleList: allele " + std::to_string(allele.number) + " at " +
                        std::to_string(allele.start) + "-" + std::to_string(allele.end) +
                        " of contig " + std::to_string(contig) +
                        (finished ? ", after the last" : ""));
  }
  if (static_cast<size_t>(contig) >= loads.size()) loads.resize(static_cast<size_t>(contig) + 1);
  const auto alt_bases = static_cast<int64_t>(allele.alt.size());
  ContigLoad& load = loads[static_cast<size_t>(contig)];
  ++load.alleles;
  load.bases += allele.end - allele.start + alt_bases;
  load.longest = std::max({load.longest, allele.end - allele.start, alt_bases});

  const int64_t count = static_cast<int64_t>(entries.size()) + 1;
  if (!entries.empty() && count * kEntryBytes + alts.bytes() + alts.growth(allele.alt) > memory) {
    spill();
  }
  if (entries.size() == entries.capacity()) {
    // Never more than the memory has room for.
    const auto most = static_cast<size_t>(std::max(memory / kEntryBytes, int64_t{1}));
    entries.reserve(std::min(std::max(2 * entries.size(), size_t{16}), most));
  }
  entries.push_back({contig, {allele.number, allele.start, allele.end, alts.add(allele.alt)}});
}

void AlleleList::Impl::write_run(Strand strand) {
  RunWriter writer(folder, block_bytes);
  for (const Entry& entry : entries) writer.add(entry.contig, entry.allele);
  Levels& kinds = levels[static_cast<size_t>(strand)];
  AlleleRun run = writer.finish();
  for (size_t level = 0;; ++level) {
    if (level == kinds.size()) kinds.emplace_back();
    std::vector<AlleleRun>& waiting = kinds[level];
    waiting.push_back(std::move(run));
    size_t extents = 0;  // many when runs of few alleles each have most of the contigs
    for (const AlleleRun& of : waiting) extents += of.extents.size();
    const bool large = static_cast<int64_t>(extents * sizeof(RunExtent)) > memory / kExtentShare;
    if (waiting.size() < (large ? 2 : kFanIn)) return;
    run = merge_into_one(waiting, strand, folder, block_bytes);
    waiting.clear();
  }
}

void AlleleList::Impl::spill() {
  sort_entries(entries, Strand::forward);
  write_run(Strand::forward);
  std::reverse(entries.begin(), entries.end());
  sort_entries(entries, Strand::reverse);
  write_run(Strand::reverse);
  entries.clear();
  alts.clear();
}

void AlleleList::Impl::finish() {
  if (finished) throw InternalError("AlleleList: finished twice");
  finished = true;
  for (size_t i = 0; i < loads.size(); ++i) loads[i].contig = static_cast<int64_t>(i);
  std::erase_if(loads, [](const ContigLoad& load) { return load.alleles == 0; });
  loads.shrink_to_fit();
  if (levels.front().empty()) {
    sort_entries(entries, Strand::forward);
    return;
  }
  spill();
  entries.shrink_to_fit();
  for (const Strand strand : kStrands) {
    const auto index = static_cast<size_t>(strand);
    for (std::vector<AlleleRun>& level : levels[index]) {
      std::move(level.begin(), level.end(), std::back_inserter(runs[index]));
    }
    levels[index].clear();
  }
}

AlleleList::AlleleList(int64_t memory_bytes, std::string scratch_folder)
    : impl_(std::make_unique<Impl>()) {
  impl_->memory = memory_bytes;
  // Both strands may be read at a time, each from the runs of two kinds.
  impl_->block_bytes =
      std::clamp(memory_bytes / static_cast<int64_t>(4 * kFanIn), kLeastBlock, kMostBlock);
  impl_->folder = std::move(scratch_folder);
}

AlleleList::~AlleleList() = default;
AlleleList::AlleleList(AlleleList&&) noexcept = default;
AlleleList& AlleleList::operator=(AlleleList&&) noexcept = default;

void AlleleList::add(int64_t contig, const Allele& allele) { impl_->add(contig, allele); }

void AlleleList::finish() { impl_->finish(); }

const std::vector<ContigLoad>& AlleleList::contigs() const {
  if (!impl_->finished) throw InternalError("AlleleList: contigs before the last allele");
  return impl_->loads;
}

std::unique_ptr<AlleleSource> AlleleList::alleles(int64_t contig, Strand strand) const {
  const Impl& self = *impl_;
  if (!self.finished) throw InternalError("AlleleList: alleles before the last was added");
  const std::vector<AlleleRun>& runs = self.runs[static_cast<size_t>(strand)];
  if (!runs.empty()) return merge_runs(runs, contig, strand, self.block_bytes);
  const auto [begin, end] =
      std::equal_range(self.entries.begin(), self.entries.end(), Entry{contig, {}},
                       [](const Entry& a, const Entry& b) { return a.contig < b.contig; });
  return std::make_unique<EntrySource>(std::span(begin, end), strand);
}

}  // namespace chromamba::pipelines
