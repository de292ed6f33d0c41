// Runs one test body on every instruction set of this machine.
#pragma once

#include <catch2/catch.hpp>
#include <string>

#include "kernels/base/error.h"
#include "kernels/exec.h"

namespace chromamba::tests {

template <typename Body>
void on_every_target(const Body& body) {
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    INFO("instruction set " << target);
    kernels::Exec exec(kernels::Backend::cpu);
    body(exec);
  }
  kernels::use_simd_target("auto");
}

}  // namespace chromamba::tests
