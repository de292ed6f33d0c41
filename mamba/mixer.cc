#include "mamba/mixer.h"

#include <algorithm>

#include "mamba/mamba1_mixer.h"
#include "mamba/mamba2_mixer.h"

namespace chromamba::mamba {

std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, TensorLoader& tensors,
                                  const MixerOptions& options) {
  if (config.mixer == MixerKind::mamba2) {
    return std::make_unique<Mamba2Mixer>(config, tensors, options);
  }
  return std::make_unique<Mamba1Mixer>(config, tensors, options);
}

AlignedFloats take_projection(TensorLoader& tensors, const MixerOptions& options,
                              const std::string& name, int64_t out_features, int64_t in_features,
                              WidthAxis width) {
  const std::vector<int64_t> shape = {out_features, in_features};
  AlignedFloats weight = options.shared
                             ? tensors.take_tied(options.name + name, options.shares + name, shape)
                             : tensors.take(options.name + name, shape);
  if (!options.flipped_width) return weight;
  for (int64_t row = 0; row < out_features; ++row) {
    float* values = weight.data() + row * in_features;
    if (width == WidthAxis::in) {
      std::reverse(values, values + in_features);
    } else if (row < out_features / 2) {
      std::swap_ranges(values, values + in_features,
                       weight.data() + (out_features - 1 - row) * in_features);
    }
  }
  return weight;
}

AlignedFloats take_out_bias(TensorLoader& tensors, const MixerOptions& options, int64_t d_model,
                            bool expected) {
  if (!expected) return {};
  const std::string name = "out_proj.bias";
  AlignedFloats bias =
      options.shared ? tensors.take_tied(options.name + name, options.shares + name, {d_model})
                     : tensors.take(options.name + name, {d_model});
  if (options.flipped_width) std::reverse(bias.begin(), bias.end());
  return bias;
}

}  // namespace chromamba::mamba
