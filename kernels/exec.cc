#include "kernels/exec.h"

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cctype>

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#include "kernels/base/error.h"

namespace chromamba::kernels {
namespace {

struct TargetName {
  int64_t target;
  const char* name;
};

constexpr TargetName kTargetNames[] = {
    {HWY_AVX3, "AVX-512"}, {HWY_AVX2, "AVX2"},       {HWY_SSE4, "SSE4"},
    {HWY_NEON, "NEON"},    {HWY_EMU128, "portable"},
};

// Lower-case letters and digits only, so that "avx-512" and "AVX512" are one name.
std::string canonical(const std::string& name) {
  std::string result;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return result;
}

// The targets that are compiled in and that this CPU has, ignoring any restriction in force.
int64_t runnable_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

}  // namespace

float* Exec::scratch(int64_t n) {
  if (static_cast<int64_t>(scratch_.size()) < n) scratch_.resize(static_cast<size_t>(n));
  return scratch_.data();
}

#if HWY_ARCH_X86
ScopedFlushDenormals::ScopedFlushDenormals(bool flush) : saved_(_mm_getcsr()) {
  constexpr unsigned kFlushToZero = 0x8000u;
  constexpr unsigned kDenormalsAreZero = 0x0040u;
  constexpr unsigned kBoth = kFlushToZero | kDenormalsAreZero;
  _mm_setcsr(flush ? saved_ | kBoth : saved_ & ~kBoth);
}
ScopedFlushDenormals::~ScopedFlushDenormals() { _mm_setcsr(saved_); }
#else
ScopedFlushDenormals::ScopedFlushDenormals(bool) : saved_(0) {}
ScopedFlushDenormals::~ScopedFlushDenormals() = default;
#endif

std::string cpu_backend_name() {
  const int64_t active = hwy::SupportedTargets() & HWY_TARGETS;
  for (const TargetName& entry : kTargetNames) {
    if ((active & entry.target) != 0) return entry.name;
  }
  return "scalar";
}

std::vector<std::string> simd_targets() {
  std::vector<std::string> names;
  for (const TargetName& entry : kTargetNames) {
    if ((runnable_targets() & entry.target) != 0) names.emplace_back(entry.name);
  }
  return names;
}

void use_simd_target(const std::string& name) {
  const int64_t runnable = runnable_targets();  // read before a restriction hides targets
  if (canonical(name) == "auto") {
    hwy::SetSupportedTargetsForTest(0);
    return;
  }
  std::string known;
  for (const TargetName& entry : kTargetNames) {
    if ((runnable & entry.target) == 0) continue;
    if (canonical(entry.name) == canonical(name)) {
      hwy::SetSupportedTargetsForTest(entry.target);
      return;
    }
    known += std::string(known.empty() ? "" : ", ") + entry.name;
  }
  throw UsageError("instruction set '" + name +
                   "' is not available here; this machine runs: auto, " + known);
}

}  // namespace chromamba::kernels
