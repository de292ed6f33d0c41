// Means of groups of consecutive rows, row after row in double:
//
//   sum = 0;  sum += double(rows[t]) for the group's rows in ascending order;  mean = float(sum / bases)
//
// A group that does not end with a call's rows leaves its sum behind, and the next call goes on from it, so
// its mean has the same bits wherever it was cut. Groups may overlap.
//
// Shapes   rows_LD [L, D] f32, `stride` elements apart; of each group sum_D [D] f64 and mean_D [D] f32.
// Cost     one addition in double a base and column; 4·D bytes read a base and group, 4·D written a group,
//          and 16·D more where a sum is carried.
// Split    columns are independent, rows are not: the order of summation is the contract.
// Numerics f64 throughout, subnormals kept whatever the thread's mode: a CPU and a GPU give the same bits for
//          the same rows.
// A group outside the rows, without bases, or that goes on and has no sum is an InternalError.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/exec.h"

namespace chromamba::kernels {

struct PoolGroup {
  int64_t row = 0;          // its first row in this call
  int64_t rows = 0;         // 1 or more
  int64_t bases = 0;        // of all calls together
  double* sum_D = nullptr;  // read unless the group begins here, written unless it ends here
  float* mean_D = nullptr;  // written; null: the group goes on
  bool begins = true;
};

struct PoolRowsArgs {
  int64_t length = 0;  // L
  int64_t width = 0;   // D
  int64_t stride = 0;
  const float* rows_LD = nullptr;
  int64_t count = 0;  // of groups
  const PoolGroup* groups = nullptr;
};

void pool_rows(Exec& exec, const PoolRowsArgs& args);

// The same on a device: `groups` and everything they point to lie there. No two groups of a call may share a
// sum. One thread owns a column of a group and adds its rows one after the other, while those ahead are on
// their way to shared memory. A single group that fills the rows (a whole contig) is bound by the latency of the
// additions: with D = 256 on an H100 `embed --pool mean` of 63 Mb ran at 10.3 M bases/s where --bin 128 ran at 13.1.
void pool_rows(DeviceExec& exec, const PoolRowsArgs& args);

}  // namespace chromamba::kernels
