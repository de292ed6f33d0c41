#include "kernels/gated_norm.h"

#include <cmath>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

void gated_norm_reference(const GatedNormArgs& args) {
  const int64_t width = args.channels / args.groups;
  for (int64_t t = 0; t < args.length; ++t) {
    for (int64_t group = 0; group < args.groups; ++group) {
      const float* y = args.y_LE + t * args.y_stride + group * width;
      const float* z = args.z_LE + t * args.z_stride + group * width;
      float* out = args.out_LE + t * args.out_stride + group * width;
      const bool gate_first = args.kind == GatedNormKind::gate_first;
      double squares = 0;
      for (int64_t e = 0; e < width; ++e) {
        const double value = gate_first ? y[e] * silu(z[e]) : y[e];
        squares += value * value;
      }
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + args.eps);
      for (int64_t e = 0; e < width; ++e) {
        double value = y[e] * silu(z[e]);
        if (args.kind != GatedNormKind::none) value *= scale * args.weight_E[group * width + e];
        out[e] = static_cast<float>(value);
      }
    }
  }
}

}  // namespace

void gated_norm(Exec& exec, const GatedNormArgs& args) {
  require(
      args.length >= 0 && args.channels > 0 && args.groups > 0 && args.channels % args.groups == 0,
      "gated_norm: sizes");
  require(args.y_stride >= args.channels && args.z_stride >= args.channels &&
              args.out_stride >= args.channels,
          "gated_norm: strides");
  require((args.kind == GatedNormKind::none) == (args.weight_E == nullptr), "gated_norm: weight");
  switch (exec.backend()) {
    case Backend::reference:
      return gated_norm_reference(args);
    case Backend::cpu:
      return detail::gated_norm_simd(args);
  }
}

}  // namespace chromamba::kernels
