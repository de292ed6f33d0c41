#include "kernels/token_embedding.h"

#include <algorithm>

#include "kernels/check.h"

namespace chromamba::kernels {

// A copy has nothing to vectorise beyond memcpy, so both CPU backends share it.
void token_embedding(Exec&, const TokenEmbeddingArgs& args) {
  require(args.length >= 0 && args.vocab_size > 0 && args.d_model > 0, "token_embedding: sizes");
  for (int64_t t = 0; t < args.length; ++t) {
    const int32_t token = args.tokens_L[t];
    require(token >= 0 && token < args.vocab_size, "token_embedding: token outside the vocabulary");
    std::copy_n(args.table_VD + token * args.d_model, args.d_model, args.out_LD + t * args.d_model);
  }
}

}  // namespace chromamba::kernels
