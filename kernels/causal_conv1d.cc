#include "kernels/causal_conv1d.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace chromamba::kernels {
namespace {

void causal_conv1d_reference(const CausalConv1dArgs& args) {
  for (int64_t t = 0; t < args.length; ++t) {
    float* out = args.out_LE + (args.reverse ? args.length - 1 - t : t) * args.out_stride;
    for (int64_t e = 0; e < args.channels; ++e) {
      double sum = args.bias_E != nullptr ? args.bias_E[e] : 0.0;
      for (int64_t k = 0; k < args.taps; ++k) {
        sum += static_cast<double>(args.weight_KE[k * args.channels + e]) *
               detail::conv_row(args, t - (args.taps - 1) + k)[e];
      }
      out[e] = static_cast<float>(args.silu ? sum / (1.0 + std::exp(-sum)) : sum);
    }
  }
}

// Shifts the last K inputs into the state, oldest first.
void update_state(const CausalConv1dArgs& args) {
  for (int64_t k = 0; k < args.taps; ++k) {
    // For a short call the row may itself be in the state, at a later index than k: reading upwards
    // never reads a row that was already overwritten.
    const float* row = detail::conv_row(args, args.length - args.taps + k);
    float* slot = args.state_KE + k * args.channels;
    if (row != slot) std::copy_n(row, args.channels, slot);
  }
}

}  // namespace

void causal_conv1d(Exec& exec, const CausalConv1dArgs& args) {
  require(args.length >= 0 && args.channels > 0, "causal_conv1d: sizes");
  require(args.taps >= 2 && args.taps <= kMaxConvTaps, "causal_conv1d: taps");
  require(args.u_stride >= args.channels && args.out_stride >= args.channels,
          "causal_conv1d: strides");
  if (args.length == 0) return;
  switch (exec.backend()) {
    case Backend::reference:
      causal_conv1d_reference(args);
      break;
    case Backend::cpu:
      detail::causal_conv1d_simd(args);
      break;
  }
  update_state(args);
}

}  // namespace chromamba::kernels
