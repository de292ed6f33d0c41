#include "mamba/mixer.h"

#include <algorithm>

#include "kernels/linear.h"
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

namespace {

AlignedFloats take_shared(TensorLoader& tensors, const MixerOptions& options,
                          const std::string& name, const std::vector<int64_t>& shape) {
  return options.shared ? tensors.take_tied(options.name + name, options.shares + name, shape)
                        : tensors.take(options.name + name, shape);
}

}  // namespace

void Projection::apply(kernels::Exec& exec, int64_t rows, const float* x, int64_t x_stride,
                       float* y, int64_t y_stride) const {
  kernels::linear(exec, {.rows = rows,
                         .in_features = in_features,
                         .out_features = out_features,
                         .x = x,
                         .x_stride = x_stride,
                         .weight_panels = panels.data(),
                         .bias_N = data_or_null(bias),
                         .y = y,
                         .y_stride = y_stride});
}

Projection take_in_proj(const ModelConfig& config, TensorLoader& tensors,
                        const MixerOptions& options, int64_t width) {
  AlignedFloats weight = take_shared(tensors, options, "in_proj.weight", {width, config.d_model});
  if (options.flipped_width) {
    for (int64_t row = 0; row < width; ++row) {
      float* values = weight.data() + row * config.d_model;
      std::reverse(values, values + config.d_model);
    }
  }
  Projection result{width, config.d_model, kernels::pack_panels(weight, width, config.d_model), {}};
  if (config.proj_bias) result.bias = take_shared(tensors, options, "in_proj.bias", {width});
  return result;
}

Projection take_out_proj(const ModelConfig& config, TensorLoader& tensors,
                         const MixerOptions& options) {
  const int64_t rows = config.d_model;
  const int64_t inner = config.d_inner;
  AlignedFloats weight = take_shared(tensors, options, "out_proj.weight", {rows, inner});
  if (options.flipped_width) {
    for (int64_t row = 0; row < rows / 2; ++row) {
      float* values = weight.data() + row * inner;
      std::swap_ranges(values, values + inner, weight.data() + (rows - 1 - row) * inner);
    }
  }
  Projection result{rows, inner, kernels::pack_panels(weight, rows, inner), {}};
  if (config.proj_bias) {
    result.bias = take_shared(tensors, options, "out_proj.bias", {rows});
    if (options.flipped_width) std::reverse(result.bias.begin(), result.bias.end());
  }
  return result;
}

Projection take_projection(TensorLoader& own, const std::string& name, int64_t out_features,
                           int64_t in_features) {
  return {
      out_features,
      in_features,
      kernels::pack_panels(own.take(name, {out_features, in_features}), out_features, in_features),
      {}};
}

}  // namespace chromamba::mamba
