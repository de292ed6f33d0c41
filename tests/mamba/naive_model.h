// The models once more, in plain double precision: loops over whole sequences, one function an equation,
// nothing shared with the product but reading the file. What the product computes is compared with this
// where no published implementation's numbers are at hand: other options, other sizes.
//
// Every family of DESIGN §3: causal Mamba-1 and Mamba-2 (the names of mamba_ssm and of Hugging Face), and
// Caduceus (Schiff et al. 2024) around either. The mixer's kind and sizes come from the tensors, the
// options from the config; neither is checked beyond what the arithmetic needs.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mamba/tensor_store.h"

namespace chromamba::tests {

// Row-major [L, width]; width is D, of RC-equivariant models both halves' 2D, stored as the published
// code does: the second half runs backwards in L and in D.
struct NaiveOutputs {
  std::vector<double> embedding;              // the residual stream before the first block
  std::vector<std::vector<double>> residual;  // [k]: hidden + residual as block k returns them
  std::vector<double> final_hidden;           // after the final norm
  std::vector<double> logits;                 // [L, V], V the rows of the embedding
};

// An exception of std::exception's for a tensor or a key that is missing, a shape that does not fit, or a
// token outside V.
NaiveOutputs naive_forward(const mamba::TensorStore& tensors, const nlohmann::json& config,
                           const std::vector<int32_t>& tokens);

// ln p over V of each row of logits [L, V].
std::vector<double> naive_log_softmax(const std::vector<double>& logits, int64_t vocab);

}  // namespace chromamba::tests
