#include "kernels/linear.h"

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

void linear_reference(const LinearArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    for (int64_t n = 0; n < args.out_features; ++n) {
      double sum = args.bias_N != nullptr ? args.bias_N[n] : 0.0;
      for (int64_t k = 0; k < args.in_features; ++k) {
        sum += static_cast<double>(x[k]) * args.weight_panels[panel_index(n, k, args.in_features)];
      }
      y[n] = static_cast<float>(sum);
    }
  }
}

}  // namespace

AlignedFloats pack_panels(const AlignedFloats& weight_NK, int64_t out_features,
                          int64_t in_features) {
  require(static_cast<int64_t>(weight_NK.size()) == out_features * in_features,
          "pack_panels: sizes");
  const int64_t panels = (out_features + kPanelWidth - 1) / kPanelWidth;
  AlignedFloats result(static_cast<size_t>(panels * kPanelWidth * in_features), 0.0F);
  for (int64_t n = 0; n < out_features; ++n) {
    for (int64_t k = 0; k < in_features; ++k) {
      result[static_cast<size_t>(panel_index(n, k, in_features))] =
          weight_NK[static_cast<size_t>(n * in_features + k)];
    }
  }
  return result;
}

void linear(Exec& exec, const LinearArgs& args) {
  require(args.rows >= 0 && args.in_features > 0 && args.out_features > 0, "linear: sizes");
  require(args.x_stride >= args.in_features && args.y_stride >= args.out_features,
          "linear: strides");
  if (args.rows == 0) return;
  switch (exec.backend()) {
    case Backend::reference:
      return linear_reference(args);
    case Backend::cpu:
      return detail::linear_simd(args);
  }
}

}  // namespace chromamba::kernels
