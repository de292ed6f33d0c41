// The execution context of a kernel call: where it runs and the memory it may scratch in.
//
// An Exec is passed down to every kernel and never global. It belongs to one thread at a time:
// kernels that run concurrently each get their own Exec. Above kernels/ nobody asks which backend
// an Exec has; a kernel's .cc file dispatches on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/aligned.h"

namespace chromamba::kernels {

enum class Backend {
  reference,  // plain loops, double precision inside each kernel: slow, the yardstick of the others
  cpu,        // SIMD (Highway, best instruction set of this machine at run time)
};

class Exec {
 public:
  explicit Exec(Backend backend = Backend::cpu) : backend_(backend) {}

  Backend backend() const { return backend_; }

  // At least n floats, 64-byte aligned, contents undefined; valid until the next call. A kernel
  // that needs scratch takes it once and returns it implicitly, so kernels must not nest.
  float* scratch(int64_t n);

 private:
  Backend backend_;
  AlignedFloats scratch_;
};

// Sets this thread's SSE unit to flush subnormals to zero while in scope. A state that decays
// towards zero would otherwise cost a microcode assist (~150 cycles) an operation. All compute
// threads hold one, so that results do not depend on which thread ran a tile. With `flush` false the
// opposite: subnormals are kept, as IEEE 754 has it, whatever the thread does outside the scope.
class ScopedFlushDenormals {
 public:
  explicit ScopedFlushDenormals(bool flush = true);
  ~ScopedFlushDenormals();
  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
  unsigned saved_;
};

// What the CPU backend computes with, for provenance: "AVX2".
std::string cpu_backend_name();

// SIMD instruction sets compiled in that this machine can run, best first ("AVX-512", "AVX2",
// "SSE4", "portable").
std::vector<std::string> simd_targets();

// Restricts the CPU backend to one instruction set, by a name of simd_targets() (any case, "-"
// optional); "auto" takes the restriction back. UsageError when this machine cannot run it. Affects
// the whole process: call it before computing.
void use_simd_target(const std::string& name);

// One line for each GPU that the CUDA runtime reports ("cuda:0 NVIDIA H100 80GB HBM3, 79.1 GiB,
// sm_90"); empty without a GPU, without a driver, or when built without CUDA.
std::vector<std::string> describe_cuda_devices();

}  // namespace chromamba::kernels
