// Groups of bases whose rows of a layer are averaged while their sequence runs through an engine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace chromamba::mamba {

// Consecutive bases of a sequence, half-open, counted from its first base in the order the model reads them.
struct BaseGroup {
  int64_t start = 0;
  int64_t end = 0;
  bool operator==(const BaseGroup&) const = default;
};

// What a piece of a sequence adds to a group.
struct GroupPart {
  int64_t group = 0;  // index into the chunk's groups
  int64_t start = 0;  // its bases in the piece, counted as the group's
  int64_t end = 0;
  int64_t bases = 0;  // of the whole group
  int64_t slot = -1;  // of its sum between pieces; -1: it begins and ends in this one
  bool begins = false;
  bool ends = false;
};

// Follows the groups of one sequence through its chunks, and through the pieces an engine cuts those
// into. Gives every group that lies in more than one piece a slot for its sum: a number, the engine has
// the memory.
class GroupWalk {
 public:
  // The next chunk is the `length` > 0 bases from `position` on, and `groups` are those that share a base
  // with it, ascending by start and then by end (they may overlap), so that the ones the chunk before
  // left open come first. They must stay valid until the chunk is walked through. InternalError when
  // they are not so.
  void begin_chunk(std::span<const BaseGroup> groups, int64_t position, int64_t length);

  // The parts in the bases from where the walk is to `end`. Valid until the next call. A slot that falls
  // free in a piece is given out again in the next one at the earliest.
  const std::vector<GroupPart>& next_piece(int64_t end);

  bool has_open() const { return !open_.empty(); }
  int64_t slots() const { return slots_; }  // handed out so far, all below this number

 private:
  struct Open {
    BaseGroup bases;
    int64_t group = 0;
    int64_t slot = 0;
  };
  std::span<const BaseGroup> groups_;
  size_t next_ = 0;  // the first of them that has not begun
  int64_t position_ = 0;
  std::vector<Open> open_;  // in the order of the groups
  std::vector<int64_t> free_slots_;
  int64_t slots_ = 0;
  std::vector<GroupPart> parts_;
};

}  // namespace chromamba::mamba
