// The part of a configuration that says what a mixer is: the arguments of mamba_ssm's Mamba and
// Mamba2 classes (`ssm_cfg`), and what the dialects share. Part of parse_config (config.h).
#pragma once

#include "mamba/config.h"
#include "mamba/config_keys.h"
#include "mamba/tensor_store.h"

namespace chromamba::mamba {

// Fills the mixer's fields; model.d_model is set. Where `layer` is not given, the tensors decide
// between Mamba-1 and Mamba-2, and give the sizes of Mamba-2 that are not given either.
void parse_ssm(const Keys& ssm, const TensorStore& tensors, ModelConfig& model);

int64_t parse_dt_rank(const Keys& keys, const char* key, const ModelConfig& model);

// vocab_size and its padded size; pad_vocab_size_multiple is 8 where it is not given.
void set_vocabulary(const Keys& keys, ModelConfig& model);

// d_inner from expand and d_model.
void set_inner(const Keys& keys, ModelConfig& model);

// n_heads from d_inner and head_dim; n_groups is known.
void set_heads(const Keys& keys, const char* head_key, const char* group_key, ModelConfig& model);

// dt_min and dt_max, neither below 0.
void set_dt_limits(const Keys& keys, const char* key, ModelConfig& model);

}  // namespace chromamba::mamba
