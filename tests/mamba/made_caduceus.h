// Caduceus checkpoints of any shape, made up in memory, for what no published fixture covers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "mamba/checkpoint.h"

namespace chromamba::tests {

// What the two directions of a Caduceus model that shares in_proj and out_proj keep of them in the file.
enum class TiedStorage { forward_name, reverse_name, both_names };

// A Caduceus model to make up. E = expand · d_model must be whole heads, and the heads whole groups.
struct MadeCaduceus {
  int64_t d_model = 20;
  int64_t n_layer = 2;
  bool bidirectional = true;
  std::string strategy = "add";  // or "ew_multiply"
  bool tied = true;
  TiedStorage tied_storage = TiedStorage::forward_name;
  bool rcps = false;
  bool fused_add_norm = true;
  bool rms_norm = true;
  bool head_stored = true;  // else the embedding alone, which is the head too

  bool mamba2 = false;
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;
  bool conv_bias = true;
  bool proj_bias = false;
  // Mamba-2.
  int64_t headdim = 8;
  bool headdim_in_config = true;  // else only the rows of A_log tell it
  int64_t ngroups = 1;
  bool D_per_channel = false;
  bool gated_norm = true;
  bool norm_before_gate = false;
  std::optional<std::pair<double, double>> dt_limit;
};

// The checkpoint with the published names and keys, 12 tokens padded to 16, and seeded random weights
// such that steps are around 0.001 to 0.3 and no activation grows far beyond 1. A tensor's values depend
// on the seed, its name and its shape only: models of the same seed share what they have in common.
mamba::Checkpoint made_caduceus(const MadeCaduceus& shape, unsigned seed);

}  // namespace chromamba::tests
