// What --device and --dtype ask for, as what an engine runs on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "mamba/engine.h"

namespace chromamba::pipelines {

// `device`: auto (a GPU where there is one), cpu, reference, cuda (the first GPU), cuda:N, cuda:N,N (several share
// the layers) or cuda:all. `dtype`: auto (bf16 on a
// GPU), f32 or bf16. `memory` bounds the GPU's memory. `note` hears why auto took the CPU.
// UsageError for words that mean nothing; ResourceError when the GPU asked for is not there.
mamba::ComputeDevice choose_device(const std::string& device, const std::string& dtype,
                                   int64_t memory,
                                   const std::function<void(const std::string&)>& note);

// For provenance, without what differs between equal machines or does not change results, such as the number of equal
// GPUs: "cpu AVX2", "cuda NVIDIA H100 80GB HBM3".
std::string device_name(const mamba::ComputeDevice& device);
std::string dtype_name(const mamba::ComputeDevice& device);

}  // namespace chromamba::pipelines
