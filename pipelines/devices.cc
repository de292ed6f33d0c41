#include "pipelines/devices.h"

#include <algorithm>
#include <cctype>

#include "kernels/base/error.h"

namespace chromamba::pipelines {

mamba::ComputeDevice choose_device(const std::string& device, const std::string& dtype,
                                   int64_t memory,
                                   const std::function<void(const std::string&)>& note) {
  if (dtype != "auto" && dtype != "f32" && dtype != "bf16") {
    throw UsageError("--dtype " + dtype + ": use auto, f32 or bf16");
  }
  mamba::ComputeDevice result;
  result.memory = memory;
  std::string why;
  if (device == "auto") {
    const std::vector<kernels::DeviceInfo> devices = kernels::cuda_devices(&why);
    result.cuda = !devices.empty();
    if (result.cuda) {
      result.ordinal = devices.front().ordinal;
    } else if (note) {
      note("computing on the CPU: " + why);
    }
  } else if (device == "reference") {
    result.backend = kernels::Backend::reference;
  } else if (device.compare(0, 4, "cuda") == 0) {
    const std::string number = device.size() > 5 && device[4] == ':' ? device.substr(5) : "";
    const bool valid =
        device == "cuda" || (!number.empty() && number.size() < 4 &&
                             std::all_of(number.begin(), number.end(),
                                         [](unsigned char c) { return std::isdigit(c) != 0; }));
    if (!valid) throw UsageError("--device " + device + ": use cuda or cuda:N");
    const std::vector<kernels::DeviceInfo> devices = kernels::cuda_devices(&why);
    if (devices.empty()) throw ResourceError("--device " + device + ": " + why);
    result.cuda = true;
    result.ordinal = number.empty() ? devices.front().ordinal : std::stoi(number);
    const bool found = std::any_of(devices.begin(), devices.end(), [&](const auto& info) {
      return info.ordinal == result.ordinal;
    });
    if (!found) {
      throw ResourceError("--device " + device + ": no such GPU; this machine has " +
                          std::to_string(devices.size()) + " (see chromamba info)");
    }
  } else if (device != "cpu") {
    throw UsageError("--device " + device + ": use auto, cpu, cuda, cuda:N or reference");
  }
  if (result.cuda) {
    result.dtype = dtype == "f32" ? kernels::DType::f32 : kernels::DType::bf16;
  } else if (dtype == "bf16") {
    throw UsageError("--dtype bf16: the CPU computes in f32 (bf16 is for --device cuda)");
  }
  return result;
}

std::string device_name(const mamba::ComputeDevice& device) {
  if (!device.cuda) {
    return device.backend == kernels::Backend::reference ? "reference (double precision)"
                                                         : "cpu " + kernels::cpu_backend_name();
  }
  for (const kernels::DeviceInfo& info : kernels::cuda_devices()) {
    if (info.ordinal == device.ordinal) return "cuda " + info.name;
  }
  return "cuda";
}

std::string dtype_name(const mamba::ComputeDevice& device) {
  return device.cuda ? kernels::dtype_name(device.dtype) : "f32";
}

}  // namespace chromamba::pipelines
