// Runs one test body on every instruction set of this machine, and on its GPU.
#pragma once

#include <catch2/catch.hpp>
#include <cstdio>
#include <string>

#include "kernels/base/error.h"
#include "kernels/exec.h"
#include "tests/kernels/device_target.h"

namespace chromamba::tests {

template <typename Body>
void on_every_instruction_set(const Body& body) {
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    INFO("instruction set " << target);
    kernels::Exec exec(kernels::Backend::cpu);
    body(exec);
  }
  kernels::use_simd_target("auto");
}

template <typename Body>
void on_every_target(const Body& body) {
  on_every_instruction_set(body);
  on_gpu([&](DeviceTarget& target) {
    INFO("GPU");
    body(target);
  });
}

}  // namespace chromamba::tests
