#include "mamba/model.h"

#include <numeric>

#include "kernels/linear.h"
#include "mamba/built_in_model.h"
#include "mamba/tensor_loader.h"

namespace chromamba::mamba {
namespace {

NormWeights take_norm(const ModelConfig& config, TensorLoader& tensors, const std::string& name) {
  NormWeights norm;
  norm.weight = tensors.take(name + ".weight", {config.d_model});
  norm.bias = tensors.take_or_empty(name + ".bias", {config.d_model}, !config.rms_norm);
  return norm;
}

}  // namespace

Model::Model(const Checkpoint& checkpoint)
    : config_(parse_config(checkpoint.config, *checkpoint.tensors, checkpoint.config_path)),
      tokenizer_(make_tokenizer(checkpoint, config_)),
      name_(checkpoint.path),
      sha256_(checkpoint.sha256) {
  TensorLoader tensors(*checkpoint.tensors, checkpoint.weights_path);
  const std::vector<int64_t> table_shape = {config_.vocab_size, config_.d_model};
  AlignedFloats head_VD;
  if (config_.tie_embeddings) {
    embedding_VD_ = tensors.take_tied(config_.embedding_name, config_.head_name, table_shape);
    head_VD = embedding_VD_;
  } else {
    embedding_VD_ = tensors.take(config_.embedding_name, table_shape);
    head_VD = tensors.take(config_.head_name, table_shape);
  }
  head_panels_ = kernels::pack_panels(head_VD, config_.vocab_size, config_.d_model);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    TensorLoader scoped = tensors.scope(config_.backbone + "layers." + std::to_string(layer) + ".");
    Block block;
    block.norm = take_norm(config_, scoped, config_.block_norm);
    TensorLoader mixer_tensors = scoped.scope(config_.mixer_prefix);
    block.mixer = make_mixer(config_, mixer_tensors, {});
    blocks_.push_back(std::move(block));
  }
  final_norm_ = take_norm(config_, tensors, config_.backbone + config_.final_norm);
  tensors.finish();
  parameter_count_ = tensors.parameter_count();
}

Model Model::built_in() { return Model(open_built_in_checkpoint()); }

int64_t Model::state_bytes() const {
  int64_t floats = config_.vocab_size;
  for (const Block& block : blocks_) {
    const LayerState state = block.mixer->zero_state();
    floats += static_cast<int64_t>(state.conv.size() + state.ssm.size());
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

int64_t Model::matmul_flops() const {
  return std::accumulate(
      blocks_.begin(), blocks_.end(), 2 * config_.d_model * config_.vocab_size,
      [](int64_t sum, const Block& block) { return sum + block.mixer->matmul_flops(); });
}

}  // namespace chromamba::mamba
