// Bases to tokens, one token a base.
//
// The table is the checkpoint's own vocabulary where it has one. Else it is the character table that
// HyenaDNA and Caduceus share ([MASK] 3, A 7, C 8, G 9, T 10, N 11), which they ship as Python code;
// a Caduceus model of 7 tokens, or 8 with padding, has that of PlantCaduceus ([MASK] 1, [UNK] 2 for N,
// a 3, c 4, g 5, t 6). Lower case is the same base, U is T, and every other character is N (what else is in
// the input is the reader's business).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "mamba/checkpoint.h"
#include "mamba/config.h"

namespace chromamba::mamba {

struct Tokenizer {
  std::array<int32_t, 256> token_of_base{};  // by unsigned char; all below vocab_size
  int32_t a = 0;
  int32_t c = 0;
  int32_t g = 0;
  int32_t t = 0;
  int32_t n = 0;  // the vocabulary's N, or its unknown token
  int32_t mask =
      -1;  // the token that hides a base from a masked model; -1: the vocabulary has none
  // [V] the token of the other strand: the configuration's map where it has one, else A <-> T,
  // C <-> G, every other token itself.
  std::vector<int32_t> complement;

  void encode(const char* bases, int64_t count, int32_t* tokens) const {
    for (int64_t i = 0; i < count; ++i) {
      tokens[i] = token_of_base[static_cast<unsigned char>(bases[i])];
    }
  }
};

// DataError when the vocabulary lacks a base or an unknown token, names ids outside [0, V), gives
// two bases one token, or has tokens of several bases (such a model does not read base by base); and
// when the configuration's complement_map does not pair A with T and C with G.
Tokenizer make_tokenizer(const Checkpoint& checkpoint, const ModelConfig& config);

}  // namespace chromamba::mamba
