// Measures the kernels and the machine they run on. Each kernel is verified against its double
// reference before it is timed; times are medians.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/exec.h"

namespace chromamba::kernels {

// The sizes of one model's kernels (letters as in the headers), for a tile of `rows` bases.
struct KernelShapes {
  int64_t rows = 256;
  int64_t d_model = 0;
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;  // Mamba-1
  int64_t heads = 0;    // Mamba-2, else 0
  int64_t groups = 1;   // Mamba-2
  int64_t vocab_size = 0;
};

struct KernelTiming {
  std::string kernel;  // "selective_scan"
  std::string shape;   // "256 x 256, N 16"
  double seconds = 0;  // median of one call on one thread
  double bytes = 0;    // read and written by one call, each operand once
  double flops = 0;    // of one call; an exponential counts as one
  double error = 0;    // largest |difference| to the double reference / largest |value|
};

// Times every kernel of a block on one thread. InternalError when a kernel's error is above 1e-5.
std::vector<KernelTiming> bench_kernels(const KernelShapes& shapes);

struct MachineCeilings {
  double sgemm_flops = 0;  // flop/s of BLAS on 1024³ products, one on each of `threads` threads
  double copy_bytes = 0;   // byte/s (read + written) of copies far larger than the caches
};

MachineCeilings measure_ceilings(int threads);

}  // namespace chromamba::kernels
