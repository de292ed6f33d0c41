#include "kernels/add_norm.h"

#include <cmath>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

void add_norm_reference(const AddNormArgs& args) {
  for (int64_t t = 0; t < args.length; ++t) {
    float* residual = args.residual_LD + t * args.d_model;
    float* out = args.out_LD + t * args.d_model;
    double sum = 0;
    double sum_squares = 0;
    for (int64_t d = 0; d < args.d_model; ++d) {
      if (args.hidden_LD != nullptr) residual[d] += args.hidden_LD[t * args.d_model + d];
      sum += residual[d];
      sum_squares += static_cast<double>(residual[d]) * residual[d];
    }
    const double mean = args.kind == NormKind::layer ? sum / args.d_model : 0.0;
    double variance = sum_squares / args.d_model;
    if (args.kind == NormKind::layer) {
      variance = 0;
      for (int64_t d = 0; d < args.d_model; ++d) {
        variance += (residual[d] - mean) * (residual[d] - mean);
      }
      variance /= args.d_model;
    }
    const double scale = 1.0 / std::sqrt(variance + args.eps);
    for (int64_t d = 0; d < args.d_model; ++d) {
      const double bias = args.bias_D != nullptr ? args.bias_D[d] : 0.0;
      out[d] = static_cast<float>((residual[d] - mean) * scale * args.weight_D[d] + bias);
    }
  }
}

}  // namespace

void add_norm(Exec& exec, const AddNormArgs& args) {
  require(args.length >= 0 && args.d_model > 0, "add_norm: sizes");
  require(args.residual_LD != args.out_LD, "add_norm: out aliases the residual");
  switch (exec.backend()) {
    case Backend::reference:
      return add_norm_reference(args);
    case Backend::cpu:
      return detail::add_norm_simd(args);
  }
}

}  // namespace chromamba::kernels
