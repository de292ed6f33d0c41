// The architecture of a checkpoint, from its config.json and, where that is silent, its tensors.
//
// Two dialects are read: that of the mamba_ssm package (d_model, n_layer, ssm_cfg; its MambaConfig
// and Mamba classes give the defaults) and that of Hugging Face Transformers' `mamba` (hidden_size,
// num_hidden_layers, state_size). Families that this version does not run (Mamba-2, Caduceus,
// blocks with attention or an MLP) are refused by name.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "mamba/tensor_store.h"

namespace chromamba::mamba {

struct ModelConfig {
  std::string family;     // "mamba_ssm" or "hf_mamba": the dialect of the config
  std::string objective;  // "causal"

  int64_t d_model = 0;              // D
  int64_t n_layer = 0;              // blocks
  int64_t vocab_size = 0;           // V: rows of the embedding, padding included
  int64_t vocab_size_unpadded = 0;  // as the config states it
  int64_t d_state = 16;             // N
  int64_t d_conv = 4;               // K
  int64_t expand = 2;
  int64_t d_inner = 0;  // E = expand · D
  int64_t dt_rank = 0;  // R

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
};

// `where` (the path of config.json) begins every message. DataError for a missing key, a wrong JSON
// type, a value out of range, or a family that is not run. All sizes are bounded so that products
// of any three of them fit 63 bits; unknown keys are ignored.
ModelConfig parse_config(const nlohmann::json& config, const TensorStore& tensors,
                         const std::string& where);

}  // namespace chromamba::mamba
