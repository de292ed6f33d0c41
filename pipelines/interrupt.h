// Stopping on a signal: the handler stores its number, long loops ask between chunks.
#pragma once

#include <atomic>
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

// 0 until a signal arrives. Null means that nothing can interrupt. Lock-free, so that a signal
// handler may write it and any thread read it.
using StopSignal = const std::atomic<int>*;
static_assert(std::atomic<int>::is_always_lock_free);

inline void throw_if_stopped(StopSignal stop) {
  if (stop != nullptr && stop->load() != 0) throw Interrupted(stop->load());
}

}  // namespace chromamba::pipelines
