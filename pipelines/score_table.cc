#include "pipelines/score_table.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// Two pages: a jump moves little, and hundreds of rows share the system calls of a pass in order.
constexpr int64_t kBlockBytes = int64_t{1} << 13;
// The scorers of two strands, each at the edge of two blocks.
constexpr int64_t kFewestSlots = 4;

}  // namespace

ScoreTable::ScoreTable(int columns, int64_t memory_bytes, std::string scratch_folder)
    : columns_(columns),
      row_bytes_(1 + static_cast<int64_t>(sizeof(float)) * columns),
      block_rows_(std::max(kBlockBytes / row_bytes_, int64_t{1})),
      most_slots_(static_cast<size_t>(std::clamp<int64_t>(memory_bytes / (block_rows_ * row_bytes_),
                                                          kFewestSlots,
                                                          std::numeric_limits<int32_t>::max()))),
      scratch_folder_(std::move(scratch_folder)) {}

ScoreTable::Slot& ScoreTable::free_slot() {
  if (slots_.size() < most_slots_) {
    Slot& slot = slots_.emplace_back();
    slot.rows = std::make_unique<char[]>(static_cast<size_t>(block_rows_ * row_bytes_));
    return slot;
  }
  // The clock: a block stays as long as it is used between two visits of the hand.
  while (slots_[hand_].used) {
    slots_[hand_].used = false;
    hand_ = (hand_ + 1) % slots_.size();
  }
  Slot& slot = slots_[hand_];
  hand_ = (hand_ + 1) % slots_.size();
  if (slot.dirty) {
    if (!file_) file_.emplace(scratch_folder_);
    const int64_t bytes = block_rows_ * row_bytes_;
    file_->write(slot.block * bytes, slot.rows.get(), bytes);
    slot.dirty = false;
  }
  place_of_[static_cast<size_t>(slot.block)] = Place::file;
  return slot;
}

ScoreTable::Slot& ScoreTable::load(int64_t block) {
  const auto index = static_cast<size_t>(block);
  if (place_of_[index] == Place::memory) return slots_[static_cast<size_t>(slot_of_[index])];
  Slot& slot = free_slot();
  const int64_t bytes = block_rows_ * row_bytes_;
  if (place_of_[index] == Place::file) {
    file_->read(block * bytes, slot.rows.get(), bytes);
  } else {
    constexpr float kUnset = std::numeric_limits<float>::quiet_NaN();
    for (char* row = slot.rows.get(); row < slot.rows.get() + bytes; row += row_bytes_) {
      *row = static_cast<char>(AlleleStatus::scored);
      for (int64_t column = 0; column < columns_; ++column) {
        std::memcpy(row + 1 + column * static_cast<int64_t>(sizeof(float)), &kUnset, sizeof kUnset);
      }
    }
    slot.dirty = true;
  }
  slot.block = block;
  slot_of_[index] = static_cast<int32_t>(&slot - slots_.data());
  place_of_[index] = Place::memory;
  return slot;
}

char* ScoreTable::row(int64_t number, bool write) {
  if (number < 0 || (!write && number >= size_)) {
    throw InternalError("ScoreTable: allele " + std::to_string(number) + " of " +
                        std::to_string(size_));
  }
  const int64_t block = number / block_rows_;
  if (write && number >= size_) {
    const auto blocks = static_cast<size_t>(block + 1);
    if (place_of_.size() < blocks) {
      place_of_.resize(blocks, Place::nowhere);
      slot_of_.resize(blocks, 0);
    }
    size_ = number + 1;
  }
  Slot& slot = load(block);
  slot.used = true;
  slot.dirty = slot.dirty || write;
  return slot.rows.get() + number % block_rows_ * row_bytes_;
}

void ScoreTable::set_status(int64_t number, AlleleStatus status) {
  *row(number, true) = static_cast<char>(status);
}

void ScoreTable::set(int64_t number, int column, float value) {
  if (column < 0 || column >= columns_) {
    throw InternalError("ScoreTable: column " + std::to_string(column) + " of " +
                        std::to_string(columns_));
  }
  std::memcpy(row(number, true) + 1 + column * sizeof(float), &value, sizeof value);
}

AlleleStatus ScoreTable::status(int64_t number) {
  return static_cast<AlleleStatus>(*row(number, false));
}

float ScoreTable::get(int64_t number, int column) {
  if (column < 0 || column >= columns_) {
    throw InternalError("ScoreTable: column " + std::to_string(column) + " of " +
                        std::to_string(columns_));
  }
  float value = 0;
  std::memcpy(&value, row(number, false) + 1 + column * sizeof(float), sizeof value);
  return value;
}

}  // namespace chromamba::pipelines
