// What both engines have of a model on a device: its norms and tables, and the tables of a pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/batch.h"
#include "kernels/device.h"
#include "kernels/head.h"
#include "mamba/model.h"

namespace chromamba::mamba {

// Rows are padded (padded_width), f32.
struct DeviceNorm {
  kernels::DeviceBuffer weight;
  kernels::DeviceBuffer bias;  // empty where the norm has none
};
DeviceNorm upload_norm(kernels::DeviceExec& exec, const NormWeights& norm);

// [V, D] from the embedding, and from a head's panels.
kernels::DeviceBuffer upload_embedding(kernels::DeviceExec& exec, const Model& model);
kernels::DeviceBuffer upload_head(kernels::DeviceExec& exec, const Model& model,
                                  const AlignedFloats& panels);

// The arguments that the model decides; the rest is the caller's.
kernels::DeviceAddNormArgs norm_args(const Model& model, const DeviceNorm& norm, int64_t rows,
                                     float* residual);
kernels::DeviceHeadArgs head_args(const Model& model, const DeviceNorm& final_norm,
                                  const kernels::DeviceBuffer& head, int64_t rows,
                                  const float* residual);

// Tables laid one after the other in page-locked memory, for one copy to the device.
class TableBlock {
 public:
  TableBlock(const kernels::PinnedBuffer& host, const kernels::DeviceBuffer& device)
      : begin_(host.as<std::byte>()), at_(begin_), device_(device.as<std::byte>()) {}

  // Room for n values, to be written before send(), and where they will be on the device.
  template <typename T>
  T* take(int64_t n, const T*& on_device) {
    on_device = reinterpret_cast<const T*>(device_ + (at_ - begin_));
    auto* room = reinterpret_cast<T*>(at_);
    at_ += (n * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return room;
  }
  template <typename T>
  const T* put(const std::vector<T>& values) {
    const T* on_device = nullptr;
    T* room = take(static_cast<int64_t>(values.size()), on_device);
    if (!values.empty()) std::memcpy(room, values.data(), values.size() * sizeof(T));
    return on_device;
  }
  // Completes the spans, and puts them, their segments and snapshots of them.
  kernels::DeviceBatch put_batch(std::vector<kernels::DeviceSpan>& spans, int64_t rows,
                                 const std::vector<kernels::DeviceSnapshot>& snapshots = {});

  void send(kernels::DeviceExec& exec) const {
    kernels::copy_to_device(exec, device_, begin_, at_ - begin_);
  }

 private:
  std::byte* begin_;
  std::byte* at_;
  std::byte* device_;
};

}  // namespace chromamba::mamba
