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
      for (int64_t k = 0; k < args.in_features; ++k)
        sum += static_cast<double>(x[k]) * args.weight_KN[k * args.out_features + n];
      y[n] = static_cast<float>(sum);
    }
  }
}

}  // namespace

void linear(Exec& exec, const LinearArgs& args) {
  require(args.rows >= 0 && args.in_features > 0 && args.out_features > 0, "linear: sizes");
  require(args.x_stride >= args.in_features && args.y_stride >= args.out_features,
          "linear: strides");
  require(args.rows <= INT32_MAX && args.x_stride <= INT32_MAX && args.y_stride <= INT32_MAX,
          "linear: sizes beyond BLAS's 32 bits");
  if (args.rows == 0) return;
  switch (exec.backend()) {
    case Backend::reference:
      return linear_reference(args);
    case Backend::cpu:
      return detail::linear_blas(args);
  }
}

}  // namespace chromamba::kernels
