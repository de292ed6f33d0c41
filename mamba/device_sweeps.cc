#include "kernels/base/error.h"
#include "mamba/sweep_plan.h"

namespace chromamba::mamba {

std::unique_ptr<SweepEngine::Backend> make_device_sweeps(const Model&, const ComputeDevice&,
                                                         SweepMemory) {
  throw ResourceError("bidirectional models need --device cpu in this build");
}

}  // namespace chromamba::mamba
