// The Mamba-2 mixer on a device.
#include "kernels/base/error.h"
#include "mamba/mamba2_mixer.h"

namespace chromamba::mamba {

std::unique_ptr<DeviceMixer> Mamba2Mixer::upload(kernels::DeviceExec&) const {
  throw ResourceError("Mamba-2 models do not run on GPUs yet; use --device cpu");
}

}  // namespace chromamba::mamba
