#include "pipelines/edited_bases.h"

#include <algorithm>

#include "io/bases.h"
#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// What one BGZF block holds: less would inflate the same block again for the next read.
constexpr int64_t kBlockBases = int64_t{1} << 16;

}  // namespace

EditedBases::EditedBases(const ContigBases& contig, Strand strand, int64_t start, int64_t end,
                         std::span<const Change> changes)
    : contig_(&contig),
      strand_(strand),
      start_(start),
      end_(end),
      changes_(changes),
      position_(strand == Strand::forward ? start : end) {
  int64_t free = start;
  for (const Change& change : changes) {
    if (change.start < free || change.end < change.start) {
      throw InternalError("changes of a haplotype must ascend and not overlap");
    }
    free = change.end;
  }
  if (start < 0 || end > contig.length || free > end) {
    throw InternalError("bases outside of contig " + contig.name);
  }
}

// Bases of the reference from position_ on, as the strand reads them.
void EditedBases::read_reference(int64_t n, char* out) {
  const bool forward = strand_ == Strand::forward;
  while (n > 0) {
    const auto held = static_cast<int64_t>(block_.size());
    const int64_t first = forward ? position_ : position_ - 1;
    if (first < block_start_ || first >= block_start_ + held) {
      const int64_t size = std::min(kBlockBases, forward ? end_ - position_ : position_ - start_);
      block_start_ = forward ? position_ : position_ - size;
      block_.resize(static_cast<size_t>(size));
      contig_->bases->read(block_start_, size, block_.data());
      continue;
    }
    const int64_t left = forward ? block_start_ + held - position_ : position_ - block_start_;
    const int64_t count = std::min(n, left);
    const int64_t from = forward ? position_ : position_ - count;
    std::copy_n(block_.data() + (from - block_start_), count, out);
    if (!forward) io::reverse_complement(out, count);
    position_ += forward ? count : -count;
    out += count;
    n -= count;
  }
}

int64_t EditedBases::read(int64_t n, char* out) {
  const bool forward = strand_ == Strand::forward;
  int64_t filled = 0;
  while (filled < n) {
    const bool more = done_ < changes_.size();
    const Change* change =
        more ? &changes_[forward ? done_ : changes_.size() - 1 - done_] : nullptr;
    const int64_t stop = more ? (forward ? change->start : change->end) : (forward ? end_ : start_);
    const int64_t before = forward ? stop - position_ : position_ - stop;
    if (before > 0) {
      const int64_t count = std::min(n - filled, before);
      read_reference(count, out + filled);
      filled += count;
      continue;
    }
    if (!more) break;
    const size_t size = change->alt.size();
    const size_t count = std::min(static_cast<size_t>(n - filled), size - letters_);
    const size_t from = forward ? letters_ : size - letters_ - count;
    change->alt.copy(out + filled, count, from);
    if (!forward) io::reverse_complement(out + filled, static_cast<int64_t>(count));
    filled += static_cast<int64_t>(count);
    letters_ += count;
    if (letters_ == size) {
      position_ = forward ? change->end : change->start;
      letters_ = 0;
      ++done_;
    }
  }
  return filled;
}

}  // namespace chromamba::pipelines
