// Stopping on a signal: the handler stores its number, long loops ask between chunks.
#pragma once

#include <csignal>
#include <string>

#include "kernels/base/error.h"

namespace chromamba::pipelines {

class Interrupted : public Error {
 public:
  explicit Interrupted(int signal_number)
      : Error("stopped by signal " + std::to_string(signal_number)), signal_(signal_number) {}
  int signal_number() const { return signal_; }

 private:
  int signal_;
};

// 0 until a signal arrives. Null means that nothing can interrupt.
using StopSignal = const volatile std::sig_atomic_t*;

inline void throw_if_stopped(StopSignal stop) {
  if (stop != nullptr && *stop != 0) throw Interrupted(*stop);
}

}  // namespace chromamba::pipelines
