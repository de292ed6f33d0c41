// A loaded model: weights in memory, ready to run. Immutable after loading, so any number of engines
// and threads may share one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/base/aligned.h"
#include "mamba/checkpoint.h"
#include "mamba/config.h"
#include "mamba/mixer.h"
#include "mamba/tokenizer.h"

namespace chromamba::mamba {

// Weights of one RMSNorm or LayerNorm.
struct NormWeights {
  AlignedFloats weight;  // [D]
  AlignedFloats bias;    // [D], empty for RMSNorm
};

// One layer. A causal model's blocks have only the forward mixer.
struct Block {
  NormWeights norm;
  std::unique_ptr<Mixer> forward;
  std::unique_ptr<Mixer> reverse;  // reads the sequence from its last base to its first
};

// How a reverse-complement equivariant model is held (Caduceus-PS, Schiff et al. 2024, arXiv 2403.03234).
//
// The published code has two halves of D channels in every row: of the sequence, and of its reverse complement in
// reverse order with its channels turned round. No operation mixes them but the head, so each half is a sequence of its
// own here, x and RC(x), and one set of blocks runs both. Where the halves swap before each block (`rcps_swaps`), a
// sequence keeps its place instead and every other block, the first included, has its channels turned round and its
// directions exchanged when it is loaded: swapping twice is no swap.
//
// After k swaps row t of the published stream is [F[t], flip(G[L-1-t])] for even k and [flip(G[L-1-t]), F[t]] for odd k,
// with F the rows of x, G those of RC(x), and flip turning the D channels round.

class Model {
 public:
  // Reads every weight of a checkpoint. DataError when a tensor is missing, extra, misshapen or not
  // finite, or when the configuration is not a model this version runs.
  explicit Model(const Checkpoint& checkpoint);

  // The model that is compiled into the program: human-d128, causal, 935,040 parameters.
  static Model built_in();

  const ModelConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const std::string& name() const { return name_; }      // the path as given, or "human-d128"
  const std::string& sha256() const { return sha256_; }  // of the weights, as sha256sum prints it
  int64_t parameter_count() const { return parameter_count_; }

  const AlignedFloats& embedding_VD() const { return embedding_VD_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const NormWeights& final_norm() const { return final_norm_; }
  const AlignedFloats& head_panels() const { return head_panels_; }
  // RC-equivariant models: the head for the rows of RC(x); logits are the sum of both heads' products.
  const AlignedFloats& mirror_head_panels() const { return mirror_head_panels_; }
  bool causal() const { return config_.objective == "causal"; }
  // Whether row t of layer `layer` (n_layer: also of the final norm) begins with RC(x)'s half.
  bool halves_swapped(int64_t layer) const { return config_.rcps_swaps && layer % 2 == 1; }

  kernels::NormKind norm_kind() const {
    return config_.rms_norm ? kernels::NormKind::rms : kernels::NormKind::layer;
  }
  // Bytes of the state one sequence carries (all layers and the last base's log-probabilities).
  int64_t state_bytes() const;
  // Floating-point operations of all matrix products, per base: blocks, and with the head.
  int64_t matmul_flops() const;

 private:
  ModelConfig config_;
  Tokenizer tokenizer_;
  std::string name_;
  std::string sha256_;
  int64_t parameter_count_ = 0;
  AlignedFloats embedding_VD_;
  std::vector<Block> blocks_;
  NormWeights final_norm_;
  AlignedFloats head_panels_;  // [V, D] in panels, see kernels/linear.h
  AlignedFloats mirror_head_panels_;
};

}  // namespace chromamba::mamba
