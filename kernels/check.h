// Argument checks shared by the kernels' dispatchers. A failure is a bug of the caller's.
#pragma once

#include <string>

#include "kernels/base/error.h"

namespace chromamba::kernels {

inline void require(bool condition, const char* what) {
  if (!condition) throw InternalError(std::string("kernel argument: ") + what);
}

}  // namespace chromamba::kernels
