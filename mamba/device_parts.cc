#include "mamba/device_parts.h"

#include <algorithm>

#include "kernels/linear.h"

namespace chromamba::mamba {
namespace {

kernels::DeviceBuffer upload_rows(kernels::DeviceExec& exec, const AlignedFloats& values,
                                  int64_t rows, int64_t width) {
  const int64_t stride = padded_width(width);
  AlignedFloats padded(static_cast<size_t>(rows * stride), 0.0F);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * width, width, padded.begin() + r * stride);
  }
  return kernels::upload_f32(exec, padded.data(), rows * stride, "weights");
}

}  // namespace

DeviceNorm upload_norm(kernels::DeviceExec& exec, const NormWeights& norm) {
  const auto width = static_cast<int64_t>(norm.weight.size());
  DeviceNorm result;
  result.weight = upload_rows(exec, norm.weight, 1, width);
  if (!norm.bias.empty()) result.bias = upload_rows(exec, norm.bias, 1, width);
  return result;
}

kernels::DeviceBuffer upload_embedding(kernels::DeviceExec& exec, const Model& model) {
  return upload_rows(exec, model.embedding_VD(), model.config().vocab_size, model.config().d_model);
}

kernels::DeviceBuffer upload_head(kernels::DeviceExec& exec, const Model& model,
                                  const AlignedFloats& panels) {
  const int64_t vocab = model.config().vocab_size;
  const int64_t width = model.config().d_model;
  AlignedFloats head(static_cast<size_t>(vocab * width));
  for (int64_t v = 0; v < vocab; ++v) {
    for (int64_t d = 0; d < width; ++d) {
      head[static_cast<size_t>(v * width + d)] =
          panels[static_cast<size_t>(kernels::panel_index(v, d, width))];
    }
  }
  return upload_rows(exec, head, vocab, width);
}

kernels::DeviceAddNormArgs norm_args(const Model& model, const DeviceNorm& norm, int64_t rows,
                                     float* residual) {
  kernels::DeviceAddNormArgs args;
  args.kind = model.norm_kind();
  args.rows = rows;
  args.d_model = model.config().d_model;
  args.stride = padded_width(args.d_model);
  args.eps = static_cast<float>(model.config().norm_eps);
  args.residual_LD = residual;
  args.weight_D = norm.weight.as<const float>();
  args.bias_D = norm.bias.as<const float>();
  return args;
}

kernels::DeviceHeadArgs head_args(const Model& model, const DeviceNorm& final_norm,
                                  const kernels::DeviceBuffer& head, int64_t rows,
                                  const float* residual) {
  kernels::DeviceHeadArgs args;
  args.norm = model.norm_kind();
  args.rows = rows;
  args.d_model = model.config().d_model;
  args.stride = padded_width(args.d_model);
  args.vocab_size = model.config().vocab_size;
  args.eps = static_cast<float>(model.config().norm_eps);
  args.residual_LD = residual;
  args.norm_weight_D = final_norm.weight.as<const float>();
  args.norm_bias_D = final_norm.bias.as<const float>();
  args.weight_VD = head.as<const float>();
  return args;
}

kernels::DeviceBatch TableBlock::put_batch(std::vector<kernels::DeviceSpan>& spans, int64_t rows,
                                           const std::vector<kernels::DeviceSnapshot>& snapshots) {
  const std::vector<kernels::DeviceSegment> segments = kernels::cut_segments(spans);
  kernels::DeviceBatch batch;
  batch.spans = put(spans);
  batch.segments = put(segments);
  batch.snapshots = put(snapshots);
  batch.rows = rows;
  batch.span_count = static_cast<int64_t>(spans.size());
  batch.segment_count = static_cast<int64_t>(segments.size());
  batch.snapshot_count = static_cast<int64_t>(snapshots.size());
  return batch;
}

}  // namespace chromamba::mamba
