#include "kernels/selective_scan.h"

#include <cmath>
#include <vector>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

void selective_scan_reference(const SelectiveScanArgs& args) {
  std::vector<double> h(static_cast<size_t>(args.d_state));
  for (int64_t e = 0; e < args.channels; ++e) {
    for (int64_t n = 0; n < args.d_state; ++n) h[n] = args.state_NE[n * args.channels + e];
    for (int64_t i = 0; i < args.length; ++i) {
      const int64_t t = args.reverse ? args.length - 1 - i : i;
      const double u = args.u_LE[t * args.u_stride + e];
      const double bias = args.dt_bias_E != nullptr ? args.dt_bias_E[e] : 0.0;
      const double delta = softplus(args.dt_LE[t * args.dt_stride + e] + bias);
      double y = args.D_E[e] * u;
      for (int64_t n = 0; n < args.d_state; ++n) {
        h[n] = std::exp(delta * args.A_NE[n * args.channels + e]) * h[n] +
               delta * u * args.Bmat_LN[t * args.bc_stride + n];
        y += h[n] * args.Cmat_LN[t * args.bc_stride + n];
      }
      if (args.z_LE != nullptr) {
        const double z = args.z_LE[t * args.z_stride + e];
        y *= z / (1.0 + std::exp(-z));
      }
      args.out_LE[t * args.out_stride + e] = static_cast<float>(y);
    }
    for (int64_t n = 0; n < args.d_state; ++n) {
      args.state_NE[n * args.channels + e] = static_cast<float>(h[n]);
    }
  }
}

}  // namespace

void selective_scan(Exec& exec, const SelectiveScanArgs& args) {
  require(args.length >= 0 && args.channels > 0 && args.d_state > 0, "selective_scan: sizes");
  require(args.u_stride >= args.channels && args.dt_stride >= args.channels &&
              args.out_stride >= args.channels && args.bc_stride >= args.d_state &&
              (args.z_LE == nullptr || args.z_stride >= args.channels),
          "selective_scan: strides");
  if (args.length == 0) return;
  switch (exec.backend()) {
    case Backend::reference:
      return selective_scan_reference(args);
    case Backend::cpu:
      return detail::selective_scan_simd(args);
  }
}

}  // namespace chromamba::kernels
