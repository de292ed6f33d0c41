#include "mamba/tokenizer.h"

#include <cctype>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

// A table that its family ships as code, or has under one name only.
struct FamilyTable {
  int32_t a, c, g, t, n, mask;
  int64_t tokens;
};
constexpr FamilyTable kCharacters{7, 8, 9, 10, 11, 3, 12};
constexpr FamilyTable kPlantCaduceus{3, 4, 5, 6, 2, 1, 7};

// The hub's configurations state the vocabulary with its padding, to a multiple of 8.
const FamilyTable& family_table(const Checkpoint& checkpoint, const ModelConfig& config) {
  const int64_t size = config.vocab_size_unpadded;
  if (size >= kCharacters.tokens) return kCharacters;
  if (config.family == "caduceus" && (size == kPlantCaduceus.tokens || size == 8)) {
    return kPlantCaduceus;
  }
  throw DataError(checkpoint.config_path + ": vocab_size is " + std::to_string(size) +
                  ", but the character table A 7, C 8, G 9, T 10, N 11 needs 12" +
                  (config.family == "caduceus" ? " and that of PlantCaduceus has 7" : "") +
                  "; put the model's tokenizer.json or vocab.json beside it");
}

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

  int32_t mask() const { return first({"[MASK]", "<mask>", "<MASK>", "mask"}).value_or(-1); }

  int32_t unknown() const {
    if (const auto id = first({"N", "n", "[UNK]", "<unk>", "<UNK>", "unk"}); id.has_value()) {
      return *id;
    }
    throw DataError(where_ + ": neither a token for 'N' nor an unknown token ('[UNK]', '<unk>')");
  }

 private:
  std::optional<int32_t> first(std::initializer_list<const char*> spellings) const {
    for (const char* token : spellings) {
      if (const auto id = find(token); id.has_value()) return id;
    }
    return std::nullopt;
  }

  const json& table_;
  std::string where_;
  int64_t vocab_size_;
};

std::vector<int32_t> complement_of_letters(const Tokenizer& tokenizer, int64_t vocab_size) {
  std::vector<int32_t> complement(static_cast<size_t>(vocab_size));
  std::iota(complement.begin(), complement.end(), 0);
  std::swap(complement[static_cast<size_t>(tokenizer.a)],
            complement[static_cast<size_t>(tokenizer.t)]);
  std::swap(complement[static_cast<size_t>(tokenizer.c)],
            complement[static_cast<size_t>(tokenizer.g)]);
  return complement;
}

// A map that pairs other tokens belongs to another alphabet than the one we read with.
void check_complement(const Tokenizer& tokenizer, const Checkpoint& checkpoint,
                      const ModelConfig& config) {
  struct Pair {
    const char* name;
    const char* other_name;
    int32_t token, other;
  };
  for (const Pair& pair :
       {Pair{"A", "T", tokenizer.a, tokenizer.t}, Pair{"C", "G", tokenizer.c, tokenizer.g},
        Pair{"N", "N", tokenizer.n, tokenizer.n}}) {
    const int32_t mapped = config.complement.at(static_cast<size_t>(pair.token));
    if (mapped == pair.other) continue;
    throw DataError(checkpoint.config_path + ": complement_map pairs " + pair.name + " (token " +
                    std::to_string(pair.token) + ") with token " + std::to_string(mapped) +
                    ", expected " + pair.other_name + " (token " + std::to_string(pair.other) +
                    " of " +
                    (checkpoint.vocabulary.has_value() ? checkpoint.vocabulary_path
                                                       : std::string("the family's table")) +
                    "); the model reads other tokens than these");
  }
}

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
    tokenizer.mask = vocabulary.mask();
    constexpr const char* kNames[] = {"A", "C", "G", "T", "N", "mask"};
    const int32_t ids[] = {tokenizer.a, tokenizer.c, tokenizer.g,
                           tokenizer.t, tokenizer.n, tokenizer.mask};
    for (size_t i = 0; i < std::size(ids); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (ids[i] != ids[j]) continue;
        throw DataError(checkpoint.vocabulary_path + ": '" + kNames[j] + "' and '" + kNames[i] +
                        "' share token " + std::to_string(ids[i]));
      }
    }
  } else {
    const FamilyTable& table = family_table(checkpoint, config);
    tokenizer.a = table.a;
    tokenizer.c = table.c;
    tokenizer.g = table.g;
    tokenizer.t = table.t;
    tokenizer.n = table.n;
    tokenizer.mask = table.mask;
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

  if (config.complement.empty()) {
    tokenizer.complement = complement_of_letters(tokenizer, config.vocab_size);
  } else {
    check_complement(tokenizer, checkpoint, config);
    tokenizer.complement = config.complement;
  }
  return tokenizer;
}

}  // namespace chromamba::mamba
