// The architecture of a checkpoint, from its config.json and, where that is silent, its tensors.
//
// Two dialects are read: that of the mamba_ssm package (d_model, n_layer, ssm_cfg; its MambaConfig,
// Mamba and Mamba2 classes give the defaults) and that of Hugging Face Transformers' `mamba` and
// `mamba2` (hidden_size, num_hidden_layers, state_size). Caduceus, PlantCaduceus and PlantCAD2 speak
// the first with keys of their own (caduceus_config.h). What this version does not run (blocks with
// attention or an MLP, mixtures of experts, other model types) is refused by name.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "mamba/tensor_store.h"

namespace chromamba::mamba {

struct Checkpoint;

enum class MixerKind { mamba1, mamba2 };

// How a bidirectional block joins its two directions.
enum class Directions { forward, add, multiply };

struct ModelConfig {
  std::string family;     // "mamba_ssm", "hf_mamba", "hf_mamba2" or "caduceus"
  std::string objective;  // "causal" (next base) or "masked"
  MixerKind mixer = MixerKind::mamba1;

  int64_t d_model = 0;              // D
  int64_t n_layer = 0;              // blocks
  int64_t vocab_size = 0;           // V: rows of the embedding, padding included
  int64_t vocab_size_unpadded = 0;  // as the config states it
  int64_t d_state = 16;             // N
  int64_t d_conv = 4;               // K
  int64_t expand = 2;
  int64_t d_inner = 0;  // E = expand · D
  int64_t dt_rank = 0;  // R; Mamba-1

  // Mamba-2 (heads of P = head_dim channels, E = n_heads * head_dim).
  int64_t n_heads = 0;   // H
  int64_t head_dim = 0;  // P
  int64_t n_groups = 1;  // G: heads of a group share Bmat and Cmat
  double dt_min = 0;     // dt_limit: the time step is clamped to it
  double dt_max = std::numeric_limits<double>::infinity();
  bool D_per_channel = false;     // D [E] in place of [H]
  bool gated_norm = true;         // RMSNorm with the gate; without it y * SiLU(z)
  bool norm_before_gate = false;  // RMSNorm(y) * SiLU(z) in place of RMSNorm(y * SiLU(z))
  int64_t gated_norm_groups = 1;  // channels are normalised in so many groups
  double gated_norm_eps = 1e-5;

  // Caduceus.
  Directions directions = Directions::forward;
  bool tied_directions = false;     // both directions share in_proj and out_proj
  bool rcps = false;                // reverse-complement equivariant, two halves of channels
  bool rcps_swaps = false;          // the halves swap before each block (fused_add_norm)
  std::vector<int32_t> complement;  // [V] from complement_map; empty where there is none
  int64_t trained_bases = 0;        // context in training; 0: not known

  bool rms_norm = true;  // else LayerNorm
  double norm_eps = 1e-5;
  bool conv_bias = true;
  bool proj_bias = false;  // of in_proj and out_proj
  bool tie_embeddings = true;

  // Names in the checkpoint. `backbone` begins those of the blocks and the final norm:
  // "backbone." or, where the bare backbone was saved, "".
  std::string backbone = "backbone.";
  std::string embedding_name;  // "backbone.embedding.weight" or "backbone.embeddings.weight"
  std::string head_name = "lm_head.weight";
  std::string block_norm = "norm";      // after "…layers.k."
  std::string final_norm = "norm_f";    // after `backbone`
  std::string mixer_prefix = "mixer.";  // after "…layers.k."; Caduceus adds "submodule."
  // After mixer_prefix, of each direction's mixer: "mamba_fwd." and "mamba_rev." in Caduceus.
  std::string forward_prefix;
  std::string reverse_prefix;
};

// `where` (the path of config.json) begins every message. DataError for a missing key, a wrong JSON
// type, a value out of range, or a family that is not run. All sizes are bounded so that products
// of any three of them fit 63 bits; unknown keys are ignored.
ModelConfig parse_config(const nlohmann::json& config, const TensorStore& tensors,
                         const std::string& where);

// Of a checkpoint; trained_bases is its model_max_length where config.json does not say.
ModelConfig parse_config(const Checkpoint& checkpoint);

}  // namespace chromamba::mamba
