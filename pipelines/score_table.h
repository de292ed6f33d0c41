// The scores of a job's alleles by their number, in bounded memory: beyond it they live in an unlinked file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/pending_file.h"
#include "pipelines/allele.h"

namespace chromamba::pipelines {

// A row for each allele: a status and `columns` floats, 1 + 4 * columns bytes. Rows are kept in blocks of 8 KiB, as
// many in memory as it holds. Beyond that, numbers that go up or down cost a read and a write for a block of them,
// numbers at random for each.
//
// ResourceError: scratch folder missing or full. InternalError: a negative number, a column that is not there, reading
// a row beyond size(). One thread at a time.
class ScoreTable {
 public:
  // memory_bytes: for blocks; four of them (32 KiB) are held in any case, and 5 bytes a block on top. The file is
  // made when it is first needed.
  ScoreTable(int columns, int64_t memory_bytes, std::string scratch_folder);

  // Rows up to `number` come into being: scored, with NaN in all columns.
  void set_status(int64_t number, AlleleStatus status);
  void set(int64_t number, int column, float value);

  AlleleStatus status(int64_t number);
  float get(int64_t number, int column);

  int64_t size() const { return size_; }  // the highest number set, + 1

 private:
  // Where a block is.
  enum class Place : uint8_t { nowhere, memory, file };
  struct Slot {
    int64_t block = 0;
    bool dirty = false;  // not in the file as it is
    bool used = false;   // since the clock hand last passed
    std::unique_ptr<char[]> rows;
  };

  char* row(int64_t number, bool write);
  Slot& load(int64_t block);
  Slot& free_slot();

  int64_t columns_;
  int64_t row_bytes_;
  int64_t block_rows_;
  size_t most_slots_;
  std::string scratch_folder_;
  std::optional<io::ScratchFile> file_;
  std::vector<Slot> slots_;
  size_t hand_ = 0;               // the next slot that may be given to another block
  std::vector<int32_t> slot_of_;  // by block, where it is in memory
  std::vector<Place> place_of_;   // by block
  int64_t size_ = 0;
};

}  // namespace chromamba::pipelines
