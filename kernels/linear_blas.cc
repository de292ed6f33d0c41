#include <cblas.h>

#include <algorithm>

#include "kernels/linear.h"

namespace chromamba::kernels::detail {

void linear_blas(const LinearArgs& args) {
  float beta = 0.0F;
  if (args.bias_N != nullptr) {
    for (int64_t r = 0; r < args.rows; ++r) {
      std::copy_n(args.bias_N, args.out_features, args.y + r * args.y_stride);
    }
    beta = 1.0F;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(args.rows),
              static_cast<int>(args.out_features), static_cast<int>(args.in_features), 1.0F, args.x,
              static_cast<int>(args.x_stride), args.weight_KN, static_cast<int>(args.out_features),
              beta, args.y, static_cast<int>(args.y_stride));
}

}  // namespace chromamba::kernels::detail
