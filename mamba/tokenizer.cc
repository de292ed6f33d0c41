#include "mamba/tokenizer.h"

#include <cctype>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

constexpr int32_t kFamilyTable[] = {7, 8, 9, 10, 11};  // A C G T N

// Reads one vocabulary. `where` is its file.
class Vocabulary {
 public:
  Vocabulary(const json& table, std::string where, int64_t vocab_size)
      : table_(table), where_(std::move(where)), vocab_size_(vocab_size) {
    if (!table_.is_object()) {
      throw DataError(where_ + ": expected a table of tokens and their numbers, found " +
                      table_.type_name());
    }
    for (const auto& [token, id] : table_.items()) {
      if (token.size() > 1 && token.find_first_not_of("ACGTacgt") == std::string::npos) {
        throw DataError(where_ + ": has a token of several bases, " + quote(token) +
                        "; only models that read one base a token are run");
      }
    }
  }

  std::optional<int32_t> find(const std::string& token) const {
    const auto found = table_.find(token);
    if (found == table_.end()) return std::nullopt;
    const auto id = found->is_number_integer() ? found->get<int64_t>() : -1;
    if (id < 0 || id >= vocab_size_) {
      throw DataError(where_ + ": token " + quote(token) + " has number " +
                      quote(found->dump(-1, ' ', true, json::error_handler_t::replace)) +
                      ", expected 0 to " + std::to_string(vocab_size_ - 1) +
                      " (vocab_size of config.json)");
    }
    return static_cast<int32_t>(id);
  }

  int32_t base(char letter) const {
    const auto lower = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    for (const char spelling : {letter, lower}) {
      if (const auto id = find(std::string(1, spelling)); id.has_value()) return *id;
    }
    throw DataError(where_ + ": no token for base '" + std::string(1, letter) +
                    "'; is this a DNA model?");
  }

  int32_t unknown() const {
    for (const char* token : {"N", "n", "[UNK]", "<unk>", "<UNK>", "unk"}) {
      if (const auto id = find(token); id.has_value()) return *id;
    }
    throw DataError(where_ + ": neither a token for 'N' nor an unknown token ('[UNK]', '<unk>')");
  }

 private:
  const json& table_;
  std::string where_;
  int64_t vocab_size_;
};

}  // namespace

Tokenizer make_tokenizer(const Checkpoint& checkpoint, const ModelConfig& config) {
  Tokenizer tokenizer;
  if (checkpoint.vocabulary.has_value()) {
    const Vocabulary vocabulary(*checkpoint.vocabulary, checkpoint.vocabulary_path,
                                config.vocab_size);
    tokenizer.a = vocabulary.base('A');
    tokenizer.c = vocabulary.base('C');
    tokenizer.g = vocabulary.base('G');
    tokenizer.t = vocabulary.base('T');
    tokenizer.n = vocabulary.unknown();
    const int32_t ids[] = {tokenizer.a, tokenizer.c, tokenizer.g, tokenizer.t, tokenizer.n};
    for (size_t i = 0; i < std::size(ids); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (ids[i] != ids[j]) continue;
        throw DataError(checkpoint.vocabulary_path + ": '" + "ACGTN"[j] + "' and '" + "ACGTN"[i] +
                        "' share token " + std::to_string(ids[i]));
      }
    }
  } else {
    constexpr int64_t kNeeded = 12;
    if (config.vocab_size_unpadded < kNeeded) {
      throw DataError(checkpoint.config_path + ": vocab_size is " +
                      std::to_string(config.vocab_size_unpadded) +
                      ", but the character table A 7, C 8, G 9, T 10, N 11 needs 12; put the "
                      "model's tokenizer.json or vocab.json beside it");
    }
    tokenizer.a = kFamilyTable[0];
    tokenizer.c = kFamilyTable[1];
    tokenizer.g = kFamilyTable[2];
    tokenizer.t = kFamilyTable[3];
    tokenizer.n = kFamilyTable[4];
  }

  tokenizer.token_of_base.fill(tokenizer.n);
  const auto set = [&tokenizer](std::string_view letters, int32_t token) {
    for (const char letter : letters) {
      tokenizer.token_of_base[static_cast<unsigned char>(letter)] = token;
    }
  };
  set("Aa", tokenizer.a);
  set("Cc", tokenizer.c);
  set("Gg", tokenizer.g);
  set("TtUu", tokenizer.t);

  tokenizer.complement.resize(static_cast<size_t>(config.vocab_size));
  std::iota(tokenizer.complement.begin(), tokenizer.complement.end(), 0);
  const auto pair = [&tokenizer](int32_t one, int32_t other) {
    tokenizer.complement[static_cast<size_t>(one)] = other;
    tokenizer.complement[static_cast<size_t>(other)] = one;
  };
  pair(tokenizer.a, tokenizer.t);
  pair(tokenizer.c, tokenizer.g);
  return tokenizer;
}

}  // namespace chromamba::mamba
