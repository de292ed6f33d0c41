// Does this program, on this machine, give the published implementation's numbers?
#pragma once

#include <string>
#include <vector>

#include "kernels/exec.h"

namespace chromamba::pipelines {

struct SelftestCase {
  std::string device;        // "cpu AVX2, 2 threads"
  double largest_error = 0;  // |ln p - golden|
  double tolerance = 0;
  bool invariant = true;  // the same bits for other chunk sizes and thread counts
  bool passed() const { return largest_error <= tolerance && invariant; }
};

// Runs the built-in model over 1,024 bases of human chromosome 20 on every device and instruction
// set of this machine and compares with the ln p that the published implementation gave. Also runs
// it in other chunks and thread counts, whose bits must not differ.
std::vector<SelftestCase> run_selftest();

}  // namespace chromamba::pipelines
