// A model of any size with untrained weights, drawn as the mamba_ssm package initialises them: for
// measuring speed, and for tests that need realistic time steps and decay rates.
#pragma once

#include <cstdint>

#include "mamba/config.h"
#include "mamba/model.h"

namespace chromamba::mamba {

struct RandomModelShape {
  int64_t d_model = 256;
  int64_t n_layer = 8;
  MixerKind mixer = MixerKind::mamba1;
  int64_t d_state = 0;  // 0: as mamba_ssm, 16 or (Mamba-2) 128
};

// Causal, vocabulary of 16, tied head; otherwise the defaults of mamba_ssm. The same shape and seed
// give the same weights.
Model random_model(const RandomModelShape& shape, unsigned seed = 1);

}  // namespace chromamba::mamba
