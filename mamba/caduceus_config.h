// Configurations of Caduceus (CaduceusConfig of the published code gives the defaults): Mamba-1 or
// Mamba-2 mixers in one or two directions, reverse-complement equivariant where `rcps` is set.
// Caduceus-Ph and -PS, PlantCaduceus and PlantCAD2. Part of parse_config (config.h).
#pragma once

#include "mamba/config.h"
#include "mamba/config_keys.h"
#include "mamba/tensor_store.h"

namespace chromamba::mamba {

// By model_type, else by the names of the tensors, else by the keys that only Caduceus has.
bool is_caduceus(const Keys& keys, const TensorStore& tensors);

void parse_caduceus(const Keys& keys, const Keys& ssm, const TensorStore& tensors,
                    ModelConfig& model);

}  // namespace chromamba::mamba
