#include "kernels/pool_rows.h"

#include <algorithm>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

// Columns whose sums stay in registers while the rows go by; 64 bytes, a cache line of a row.
constexpr int64_t kColumns = 16;

// `columns` is kColumns but for the last ones of a row.
void pool_columns(const PoolGroup& group, const PoolRowsArgs& args, int64_t first,
                  int64_t columns) {
  double sum[kColumns] = {};
  if (!group.begins) std::copy_n(group.sum_D + first, columns, sum);
  const float* row = args.rows_LD + group.row * args.stride + first;
  if (columns == kColumns) {
    for (int64_t t = 0; t < group.rows; ++t, row += args.stride) {
      for (int64_t d = 0; d < kColumns; ++d) sum[d] += row[d];
    }
  } else {
    for (int64_t t = 0; t < group.rows; ++t, row += args.stride) {
      for (int64_t d = 0; d < columns; ++d) sum[d] += row[d];
    }
  }
  if (group.mean_D == nullptr) {
    std::copy_n(sum, columns, group.sum_D + first);
    return;
  }
  const auto bases = static_cast<double>(group.bases);
  for (int64_t d = 0; d < columns; ++d) {
    group.mean_D[first + d] = static_cast<float>(sum[d] / bases);
  }
}

}  // namespace

// The order of the additions is fixed, so both CPU backends share it; across columns the compiler vectorises.
void pool_rows(Exec&, const PoolRowsArgs& args) {
  require(args.width > 0 && args.stride >= args.width, "pool_rows: sizes");
  const ScopedFlushDenormals keep(false);
  for (int64_t g = 0; g < args.count; ++g) {
    const PoolGroup& group = args.groups[g];
    require(group.row >= 0 && group.rows > 0 && group.row + group.rows <= args.length,
            "pool_rows: a group outside the rows");
    require(group.bases >= group.rows, "pool_rows: bases of a group");
    require(group.sum_D != nullptr || (group.begins && group.mean_D != nullptr),
            "pool_rows: a group that goes on has no sum");
    for (int64_t d = 0; d < args.width; d += kColumns) {
      pool_columns(group, args, d, std::min(kColumns, args.width - d));
    }
  }
}

}  // namespace chromamba::kernels
