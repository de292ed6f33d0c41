#include "mamba/mixer.h"

#include "mamba/mamba1_mixer.h"

namespace chromamba::mamba {

// parse_config refuses every other family by name, so there is one line here until there are two.
std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, TensorLoader& tensors) {
  return std::make_unique<Mamba1Mixer>(config, tensors);
}

}  // namespace chromamba::mamba
