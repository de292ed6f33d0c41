#include "kernels/ssd_scan.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

void ssd_scan_reference(const SsdScanArgs& args) {
  const int64_t channels = args.heads * args.head_dim;
  std::vector<double> state(static_cast<size_t>(args.d_state));
  for (int64_t e = 0; e < channels; ++e) {
    const int64_t head = e / args.head_dim;
    const int64_t group = head / (args.heads / args.groups);
    const double bias = args.dt_bias_H != nullptr ? args.dt_bias_H[head] : 0.0;
    for (int64_t n = 0; n < args.d_state; ++n) state[n] = args.state_NE[n * channels + e];
    for (int64_t i = 0; i < args.length; ++i) {
      const int64_t t = args.reverse ? args.length - 1 - i : i;
      const double x = args.x_LE[t * args.x_stride + e];
      const double delta =
          std::clamp(softplus(args.dt_LH[t * args.dt_stride + head] + bias),
                     static_cast<double>(args.dt_min), static_cast<double>(args.dt_max));
      const double factor = std::exp(delta * args.A_H[head]);
      const float* b = args.Bmat_LGN + t * args.bc_stride + group * args.d_state;
      const float* c = args.Cmat_LGN + t * args.bc_stride + group * args.d_state;
      double y = args.D_E[e] * x;
      for (int64_t n = 0; n < args.d_state; ++n) {
        state[n] = factor * state[n] + delta * x * b[n];
        y += state[n] * c[n];
      }
      args.out_LE[t * args.out_stride + e] = static_cast<float>(y);
    }
    for (int64_t n = 0; n < args.d_state; ++n) {
      args.state_NE[n * channels + e] = static_cast<float>(state[n]);
    }
  }
}

}  // namespace

void ssd_scan(Exec& exec, const SsdScanArgs& args) {
  require(args.length >= 0 && args.heads > 0 && args.head_dim > 0 && args.d_state > 0 &&
              args.groups > 0 && args.heads % args.groups == 0,
          "ssd_scan: sizes");
  require(args.x_stride >= args.heads * args.head_dim &&
              args.out_stride >= args.heads * args.head_dim && args.dt_stride >= args.heads &&
              args.bc_stride >= args.groups * args.d_state,
          "ssd_scan: strides");
  require(args.dt_min >= 0 && args.dt_min <= args.dt_max, "ssd_scan: limits of the time step");
  if (args.length == 0) return;
  switch (exec.backend()) {
    case Backend::reference:
      return ssd_scan_reference(args);
    case Backend::cpu:
      return detail::ssd_scan_simd(args);
  }
}

void require_ssd_sizes(int64_t head_dim, int64_t d_state) {
  if (head_dim <= kSsdMostHeadDim && d_state <= kSsdMostStates) return;
  throw ResourceError("Mamba-2 with head_dim " + std::to_string(head_dim) + " and d_state " +
                      std::to_string(d_state) + ": heads above " + std::to_string(kSsdMostHeadDim) +
                      " channels or " + std::to_string(kSsdMostStates) +
                      " states do not fit a GPU's registers; use --device cpu");
}

}  // namespace chromamba::kernels
