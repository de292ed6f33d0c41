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
    : bases_(contig, strand),
      changes_(changes),
      position_(bases_.start_of(start, end)),
      end_(position_ + end - start) {
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

// Bases of the reference from position_ on.
void EditedBases::read_reference(int64_t n, char* out) {
  while (n > 0) {
    const auto held = static_cast<int64_t>(block_.size());
    if (position_ < block_start_ || position_ >= block_start_ + held) {
      block_start_ = position_;
      block_.resize(static_cast<size_t>(std::min(kBlockBases, end_ - position_)));
      bases_.read(block_start_, static_cast<int64_t>(block_.size()), block_.data());
      continue;
    }
    const int64_t count = std::min(n, block_start_ + held - position_);
    std::copy_n(block_.data() + (position_ - block_start_), count, out);
    position_ += count;
    out += count;
    n -= count;
  }
}

int64_t EditedBases::read(int64_t n, char* out) {
  const bool forward = bases_.forward();
  int64_t filled = 0;
  while (filled < n) {
    const bool more = done_ < changes_.size();
    const Change* change =
        more ? &changes_[forward ? done_ : changes_.size() - 1 - done_] : nullptr;
    const int64_t stop = more ? bases_.start_of(change->start, change->end) : end_;
    if (stop > position_) {
      const int64_t count = std::min(n - filled, stop - position_);
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
      position_ = stop + change->end - change->start;
      letters_ = 0;
      ++done_;
    }
  }
  return filled;
}

}  // namespace chromamba::pipelines
