#include "mamba/device_layout.h"

#include <numeric>

#include "kernels/linear.h"

namespace chromamba::mamba {

Places in_order(int64_t n, int64_t first) {
  Places places(static_cast<size_t>(n));
  std::iota(places.begin(), places.end(), first);
  return places;
}

Places joined(Places a, const Places& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Places shifted(Places places, int64_t by) {
  for (int64_t& place : places) place += by;
  return places;
}

AlignedFloats place_product(const AlignedFloats& panels, const Places& rows, int64_t padded_rows,
                            const Places& columns, int64_t padded_columns) {
  AlignedFloats weight(static_cast<size_t>(padded_rows * padded_columns), 0.0F);
  const auto in = static_cast<int64_t>(columns.size());
  for (size_t n = 0; n < rows.size(); ++n) {
    for (size_t k = 0; k < columns.size(); ++k) {
      weight[static_cast<size_t>(rows[n] * padded_columns + columns[k])] =
          panels[static_cast<size_t>(
              kernels::panel_index(static_cast<int64_t>(n), static_cast<int64_t>(k), in))];
    }
  }
  return weight;
}

AlignedFloats place_columns(const AlignedFloats& values, int64_t rows, const Places& columns,
                            int64_t padded, float fill) {
  AlignedFloats result(static_cast<size_t>(rows * padded), fill);
  const float* from = values.data();
  for (int64_t r = 0; r < rows; ++r) {
    for (const int64_t column : columns) {
      result[static_cast<size_t>(r * padded + column)] = *from++;
    }
  }
  return result;
}

AlignedFloats take_columns(const float* values, int64_t rows, const Places& columns,
                           int64_t padded) {
  AlignedFloats result;
  result.reserve(static_cast<size_t>(rows) * columns.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (const int64_t column : columns) result.push_back(values[r * padded + column]);
  }
  return result;
}

DeviceProjection upload_projection(kernels::DeviceExec& exec, const Projection& projection,
                                   const Places& rows, int64_t padded_rows, const Places& columns,
                                   int64_t padded_columns, float bias_times) {
  DeviceProjection result;
  result.weight = upload_weights(
      exec, place_product(projection.panels, rows, padded_rows, columns, padded_columns));
  if (!projection.bias.empty()) {
    AlignedFloats bias = projection.bias;
    for (float& value : bias) value *= bias_times;
    result.bias = upload_weights(exec, place_columns(bias, 1, rows, padded_rows));
  }
  return result;
}

kernels::DeviceBuffer upload_weights(kernels::DeviceExec& exec, const AlignedFloats& values) {
  return kernels::upload(exec, values.data(), static_cast<int64_t>(values.size()), "weights");
}

kernels::DeviceBuffer upload_weights_f32(kernels::DeviceExec& exec, const AlignedFloats& values) {
  return kernels::upload_f32(exec, values.data(), static_cast<int64_t>(values.size()), "weights");
}

}  // namespace chromamba::mamba
