// Where the tests' data is: the source tree's test_data/, or CHROMAMBA_TEST_DATA where the tests run
// on another machine than the one they were built on (tests/run_gpu.sh).
#pragma once

#include <cstdlib>
#include <string>

namespace chromamba::tests {

inline std::string test_data() {
  const char* folder = std::getenv("CHROMAMBA_TEST_DATA");  // NOLINT(concurrency-mt-unsafe)
  return folder != nullptr ? folder : CHROMAMBA_TEST_DATA;
}

}  // namespace chromamba::tests
