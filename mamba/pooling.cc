#include "mamba/pooling.h"

#include <algorithm>
#include <string>

#include "kernels/base/error.h"

namespace chromamba::mamba {
namespace {

[[noreturn]] void fail(const std::string& what, const BaseGroup& group) {
  throw InternalError("pooled bases " + std::to_string(group.start) + " to " +
                      std::to_string(group.end) + ": " + what);
}

}  // namespace

void GroupWalk::begin_chunk(std::span<const BaseGroup> groups, int64_t position, int64_t length) {
  for (size_t i = 0; i < groups.size(); ++i) {
    const BaseGroup& group = groups[i];
    if (group.start < 0 || group.start >= group.end || group.start >= position + length ||
        group.end <= position) {
      fail("not in the chunk of " + std::to_string(length) + " from " + std::to_string(position),
           group);
    }
    if (i > 0 && (group.start < groups[i - 1].start ||
                  (group.start == groups[i - 1].start && group.end < groups[i - 1].end))) {
      fail("not in ascending order", group);
    }
    const bool open = i < open_.size() && group == open_[i].bases;
    if (open != (group.start < position)) fail("began in a chunk that did not have them", group);
  }
  if (groups.size() < open_.size()) fail("left open and not given again", open_.back().bases);
  for (size_t i = 0; i < open_.size(); ++i) open_[i].group = static_cast<int64_t>(i);
  groups_ = groups;
  next_ = open_.size();
  position_ = position;
}

const std::vector<GroupPart>& GroupWalk::next_piece(int64_t end) {
  parts_.clear();
  std::vector<int64_t> freed;
  size_t kept = 0;
  for (const Open& open : open_) {
    const bool ends = open.bases.end <= end;
    parts_.push_back({open.group, position_, std::min(end, open.bases.end),
                      open.bases.end - open.bases.start, open.slot, false, ends});
    if (ends) {
      freed.push_back(open.slot);
    } else {
      open_[kept++] = open;
    }
  }
  open_.resize(kept);
  for (; next_ < groups_.size() && groups_[next_].start < end; ++next_) {
    const BaseGroup& group = groups_[next_];
    const auto index = static_cast<int64_t>(next_);
    int64_t slot = -1;
    if (group.end > end) {
      if (free_slots_.empty()) {
        slot = slots_++;
      } else {
        slot = free_slots_.back();
        free_slots_.pop_back();
      }
      open_.push_back({group, index, slot});
    }
    parts_.push_back({index, group.start, std::min(end, group.end), group.end - group.start, slot,
                      true, slot < 0});
  }
  free_slots_.insert(free_slots_.end(), freed.begin(), freed.end());
  position_ = end;
  return parts_;
}

}  // namespace chromamba::mamba
