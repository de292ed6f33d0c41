// What the CUDA runtime knows of this machine's GPUs.
#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/exec.h"

namespace chromamba::kernels {

std::vector<std::string> describe_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();  // no driver or no device: not an error of the caller's
    return {};
  }
  std::vector<std::string> lines;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
    char line[512];
    std::snprintf(line, sizeof line, "cuda:%d %s, %.1f GiB, sm_%d%d", device, properties.name,
                  static_cast<double>(properties.totalGlobalMem) / (1024.0 * 1024.0 * 1024.0),
                  properties.major, properties.minor);
    lines.emplace_back(line);
  }
  return lines;
}

}  // namespace chromamba::kernels
