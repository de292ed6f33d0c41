// A model of any size with untrained weights, drawn as the mamba_ssm package initialises them: for
// measuring speed, and for tests that need realistic time steps and decay rates.
#pragma once

#include <cstdint>

#include "mamba/model.h"

namespace chromamba::mamba {

enum class RandomFamily {
  mamba1,       // causal, N = 16
  mamba2,       // causal, N = 128, heads of 64 channels
  caduceus_ph,  // Mamba-1 in both directions, add, tied
  caduceus_ps,  // the same, RC-equivariant: D channels for each strand
};

struct RandomModelShape {
  RandomFamily family = RandomFamily::mamba1;
  int64_t d_model = 256;
  int64_t n_layer = 8;
};

// Vocabulary of 16, tied head; otherwise the defaults of mamba_ssm and Caduceus. The same shape and seed
// give the same weights. Mamba-2 needs a d_model that is a multiple of 32.
Model random_model(const RandomModelShape& shape, unsigned seed = 1);

}  // namespace chromamba::mamba
