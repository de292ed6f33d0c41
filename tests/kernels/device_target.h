// Lets a test body that was written for host buffers run on a GPU: the kernels' host-side arguments are
// copied to the device, padded as the device overloads want them, run, and copied back.
#pragma once

#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/causal_conv1d.h"
#include "kernels/device.h"
#include "kernels/gated_norm.h"
#include "kernels/linear.h"
#include "kernels/pool_rows.h"
#include "kernels/selective_scan.h"
#include "kernels/ssd_scan.h"

namespace chromamba::tests {

struct DeviceTarget {
  kernels::DeviceExec exec;
  // Bases of a segment; 0: a scan takes its sequence as one, whatever the length.
  int64_t segment_bases = 0;
  // A scan adds to outputs that are this; NaN: it does not add.
  float adds_to = std::numeric_limits<float>::quiet_NaN();
};

void selective_scan(DeviceTarget& target, const kernels::SelectiveScanArgs& args);
void ssd_scan(DeviceTarget& target, const kernels::SsdScanArgs& args);
void gated_norm(DeviceTarget& target, const kernels::GatedNormArgs& args);
void causal_conv1d(DeviceTarget& target, const kernels::CausalConv1dArgs& args);
void add_norm(DeviceTarget& target, const kernels::AddNormArgs& args);
void linear(DeviceTarget& target, const kernels::LinearArgs& args);
void pool_rows(DeviceTarget& target, const kernels::PoolRowsArgs& args);

// A test's inputs and outputs on the device.
struct OnDevice {
  explicit OnDevice(kernels::DeviceExec& on) : exec(on) {}

  template <typename T>
  const T* table(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    buffers.emplace_back(exec, bytes, "a test");
    kernels::copy_to_device(exec, buffers.back().data(), values.data(), bytes);
    exec.synchronize();
    return buffers.back().as<const T>();
  }

  kernels::DeviceExec& exec;
  std::vector<kernels::DeviceBuffer> buffers;
};

// Calls body with the first GPU; without one, says so once and does nothing.
template <typename Body>
void on_gpu(const Body& body, kernels::DType dtype = kernels::DType::f32) {
  std::string why;
  const auto devices = kernels::cuda_devices(&why);
  if (devices.empty()) {
    static const bool said = std::printf("SKIPPED on a GPU: %s\n", why.c_str()) > 0;
    (void)said;
    return;
  }
  DeviceTarget target{kernels::DeviceExec(devices.front().ordinal, dtype)};
  body(target);
}

}  // namespace chromamba::tests
