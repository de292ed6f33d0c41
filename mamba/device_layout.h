// How a mixer's weights and states lie on a device: padded, and with the elements of an axis at other places than in the
// checkpoint.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/aligned.h"
#include "kernels/device.h"
#include "mamba/mixer.h"

namespace chromamba::mamba {

// Where each element of an axis goes on the device.
using Places = std::vector<int64_t>;

Places in_order(int64_t n, int64_t first = 0);
Places joined(Places a, const Places& b);
Places shifted(Places places, int64_t by);

inline int64_t padded_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Panels of an [N, K] product (kernels/linear.h) as a padded [N', K'] matrix, with its rows and columns at their places.
AlignedFloats place_product(const AlignedFloats& panels, const Places& rows, int64_t padded_rows,
                            const Places& columns, int64_t padded_columns);

// [rows, n] as [rows, padded] with the columns at their places and `fill` elsewhere.
AlignedFloats place_columns(const AlignedFloats& values, int64_t rows, const Places& columns,
                            int64_t padded, float fill = 0);
// The way back.
AlignedFloats take_columns(const float* values, int64_t rows, const Places& columns,
                           int64_t padded);

// A projection in the context's element type, its axes at their places.
struct DeviceProjection {
  kernels::DeviceBuffer weight;
  kernels::DeviceBuffer bias;  // empty where it has none
};
DeviceProjection upload_projection(kernels::DeviceExec& exec, const Projection& projection,
                                   const Places& rows, int64_t padded_rows, const Places& columns,
                                   int64_t padded_columns, float bias_times = 1);

// Weights in the context's element type, and as f32.
kernels::DeviceBuffer upload_weights(kernels::DeviceExec& exec, const AlignedFloats& values);
kernels::DeviceBuffer upload_weights_f32(kernels::DeviceExec& exec, const AlignedFloats& values);

}  // namespace chromamba::mamba
