// The default model, linked into the program as data: human-d128 (Mamba-1, D128 × 8, causal).
#pragma once

#include "mamba/checkpoint.h"

namespace chromamba::mamba {

Checkpoint open_built_in_checkpoint();

}  // namespace chromamba::mamba
