#include "mamba/model.h"

#include <algorithm>
#include <utility>

#include "kernels/linear.h"
#include "mamba/built_in_model.h"
#include "mamba/tensor_loader.h"

namespace chromamba::mamba {
namespace {

NormWeights take_norm(const ModelConfig& config, TensorLoader& tensors, const std::string& name,
                      bool flipped) {
  NormWeights norm;
  norm.weight = tensors.take(name + ".weight", {config.d_model});
  norm.bias = tensors.take_or_empty(name + ".bias", {config.d_model}, !config.rms_norm);
  if (flipped) {
    std::reverse(norm.weight.begin(), norm.weight.end());
    std::reverse(norm.bias.begin(), norm.bias.end());
  }
  return norm;
}

Block take_block(const ModelConfig& config, TensorLoader tensors, bool flipped) {
  Block block;
  block.norm = take_norm(config, tensors, config.block_norm, flipped);
  TensorLoader mixers = tensors.scope(config.mixer_prefix);
  MixerOptions forward;
  forward.name = config.forward_prefix;
  forward.shares = config.reverse_prefix;
  forward.shared = config.directions != Directions::forward && config.tied_directions;
  forward.flipped_width = flipped;
  block.forward = make_mixer(config, mixers, forward);
  if (config.directions != Directions::forward) {
    MixerOptions reverse = forward;
    std::swap(reverse.name, reverse.shares);
    block.reverse = make_mixer(config, mixers, reverse);
  }
  if (block.reverse) Mixer::pair(*block.forward, *block.reverse);
  if (flipped) std::swap(block.forward, block.reverse);
  return block;
}

// The head's rows as the stream's channels lie, and of every token the row of its complement where asked.
AlignedFloats arranged_head(const AlignedFloats& head_VD, int64_t vocab, int64_t width,
                            const std::vector<int32_t>* complement, bool flipped) {
  AlignedFloats result(head_VD.size());
  for (int64_t v = 0; v < vocab; ++v) {
    const int64_t from = complement == nullptr ? v : (*complement)[static_cast<size_t>(v)];
    const float* row = head_VD.data() + from * width;
    float* to = result.data() + v * width;
    if (flipped) {
      std::reverse_copy(row, row + width, to);
    } else {
      std::copy_n(row, width, to);
    }
  }
  return kernels::pack_panels(result, vocab, width);
}

}  // namespace

Model::Model(const Checkpoint& checkpoint)
    : config_(parse_config(checkpoint)),
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
  const bool flipped_end = halves_swapped(config_.n_layer);
  const std::vector<int32_t>* complement = &tokenizer_.complement;
  const auto arranged = [&](bool mirror) {
    return arranged_head(head_VD, config_.vocab_size, config_.d_model,
                         mirror ? complement : nullptr, flipped_end);
  };
  head_panels_ = arranged(flipped_end);
  if (config_.rcps) mirror_head_panels_ = arranged(!flipped_end);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    TensorLoader scoped = tensors.scope(config_.backbone + "layers." + std::to_string(layer) + ".");
    blocks_.push_back(take_block(config_, scoped, halves_swapped(layer + 1)));
  }
  final_norm_ = take_norm(config_, tensors, config_.backbone + config_.final_norm, flipped_end);
  tensors.finish();
  parameter_count_ = tensors.parameter_count();
}

Model Model::built_in() { return Model(open_built_in_checkpoint()); }

int64_t Model::state_bytes() const {
  int64_t floats = config_.vocab_size;
  for (const Block& block : blocks_) {
    for (const Mixer* mixer : {block.forward.get(), block.reverse.get()}) {
      if (mixer == nullptr) continue;
      const LayerState state = mixer->zero_state();
      floats += static_cast<int64_t>(state.conv.size() + state.ssm.size());
    }
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

int64_t Model::matmul_flops() const {
  int64_t flops = 2 * config_.d_model * config_.vocab_size;
  for (const Block& block : blocks_) {
    for (const Mixer* mixer : {block.forward.get(), block.reverse.get()}) {
      if (mixer != nullptr) flops += mixer->matmul_flops();
    }
  }
  return config_.rcps ? 2 * flops : flops;
}

}  // namespace chromamba::mamba
