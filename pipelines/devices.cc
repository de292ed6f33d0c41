#include "pipelines/devices.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "kernels/base/error.h"

namespace chromamba::pipelines {

namespace {

// The GPUs of "cuda", "cuda:all" or "cuda:N[,N...]", in that order.
std::vector<int> choose_gpus(const std::string& device) {
  constexpr const char* kUse = ": use cuda, cuda:N, cuda:N,N or cuda:all";
  std::vector<int> wanted;
  const std::string list = device.size() > 4 ? device.substr(4) : "";
  const bool all = list == ":all";
  if (!list.empty() && !all) {
    std::string number;
    for (size_t i = 1; i <= list.size(); ++i) {
      if (list[0] == ':' && i < list.size() &&
          std::isdigit(static_cast<unsigned char>(list[i])) != 0 && number.size() < 3) {
        number += list[i];
      } else if (list[0] == ':' && !number.empty() && (i == list.size() || list[i] == ',')) {
        wanted.push_back(std::stoi(number));
        number.clear();
        if (std::count(wanted.begin(), wanted.end(), wanted.back()) > 1) {
          throw UsageError("--device " + device + ": GPU " + std::to_string(wanted.back()) +
                           " twice");
        }
        if (i + 1 == list.size()) throw UsageError("--device " + device + kUse);
      } else {
        throw UsageError("--device " + device + kUse);
      }
    }
  }
  std::string why;
  const std::vector<kernels::DeviceInfo> devices = kernels::cuda_devices(&why);
  if (devices.empty()) throw ResourceError("--device " + device + ": " + why);
  if (wanted.empty()) {
    for (const kernels::DeviceInfo& info : devices) {
      if (all || wanted.empty()) wanted.push_back(info.ordinal);
    }
  }
  for (const int ordinal : wanted) {
    const bool found = std::any_of(devices.begin(), devices.end(),
                                   [&](const auto& info) { return info.ordinal == ordinal; });
    if (!found) {
      throw ResourceError("--device " + device + ": no GPU " + std::to_string(ordinal) +
                          "; this machine has " + std::to_string(devices.size()) +
                          " (see chromamba info)");
    }
  }
  return wanted;
}

}  // namespace

mamba::ComputeDevice choose_device(const std::string& device, const std::string& dtype,
                                   int64_t memory,
                                   const std::function<void(const std::string&)>& note) {
  if (dtype != "auto" && dtype != "f32" && dtype != "bf16") {
    throw UsageError("--dtype " + dtype + ": use auto, f32 or bf16");
  }
  mamba::ComputeDevice result;
  result.memory = memory;
  if (device == "auto") {
    std::string why;
    const std::vector<kernels::DeviceInfo> devices = kernels::cuda_devices(&why);
    result.cuda = !devices.empty();
    if (result.cuda) {
      result.ordinals = {devices.front().ordinal};
    } else if (note) {
      note("computing on the CPU: " + why);
    }
  } else if (device == "reference") {
    result.backend = kernels::Backend::reference;
  } else if (device.compare(0, 4, "cuda") == 0) {
    result.cuda = true;
    result.ordinals = choose_gpus(device);
  } else if (device != "cpu") {
    throw UsageError("--device " + device +
                     ": use auto, cpu, cuda, cuda:N, cuda:N,N, cuda:all or reference");
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
  const std::vector<kernels::DeviceInfo> devices = kernels::cuda_devices();
  std::vector<std::string> names;
  for (const int ordinal : device.ordinals) {
    for (const kernels::DeviceInfo& info : devices) {
      if (info.ordinal == ordinal &&
          std::find(names.begin(), names.end(), info.name) == names.end()) {
        names.push_back(info.name);
      }
    }
  }
  std::string result = "cuda";
  for (const std::string& name : names) result += (result == "cuda" ? " " : " + ") + name;
  return result;
}

std::string dtype_name(const mamba::ComputeDevice& device) {
  return device.cuda ? kernels::dtype_name(device.dtype) : "f32";
}

}  // namespace chromamba::pipelines
