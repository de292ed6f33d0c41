// `bench`: verify, then measure. Rates of the whole program, of the model alone and of each kernel,
// beside what this machine's matrix products and memory allow, measured in the same run.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "mamba/engine.h"
#include "mamba/model.h"
#include "pipelines/interrupt.h"

namespace chromamba::pipelines {

struct BenchOptions {
  int threads = 1;
  int64_t bases = 1 << 20;  // of the longest sequence
  int64_t chunk_size = 65536;
  std::string scratch_folder = ".";
  std::string version;
  std::string simd = "auto";  // instruction set to measure
  mamba::ComputeDevice device;
  bool with_files = true;  // also score from FASTA to files
  StopSignal stop = nullptr;
};

// Keys (units in their names; medians where a thing is repeated):
//   version, device, threads, model, model_sha256
//   ceilings: sgemm_gflops, copy_gbytes_per_s
//   kernels[]: kernel, shape, microseconds, gbytes_per_s, gflops, percent_of_sgemm, percent_of_copy, error
//   model_rates: gemm_flops_per_base, gemm_bound_bases_per_s, bases_per_s, share_of_gemm_bound
//   lengths[]: bases, seconds, bases_per_s        quarter length and whole, model alone
//   linearity: time of the whole / time of the quarter (4 when linear)
//   score: seconds, bases_per_s, read_percent, write_percent   FASTA to HDF5, bigWig and TSV
// InternalError when a verification fails: nothing is timed then.
nlohmann::json run_benchmark(const BenchOptions& options, const mamba::Model& model);

// The same for a GPU (options.device). Keys beside those above:
//   dtype; kernels at options.bases rows of one sequence, percentages of the device's ceilings
//   scans[]: sequences, length, channels, carried, updates_per_s (N = 16)
//   lengths[]: also gpu_peak_mib, of 8,192, 131,072 and options.bases bases
nlohmann::json run_device_benchmark(const BenchOptions& options, const mamba::Model& model);

}  // namespace chromamba::pipelines
