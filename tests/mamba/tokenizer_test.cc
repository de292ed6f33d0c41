#include "mamba/tokenizer.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;
using testing::contains;
using testing::data_error;

ModelConfig sized(int64_t padded, int64_t unpadded) {
  ModelConfig config;
  config.vocab_size = padded;
  config.vocab_size_unpadded = unpadded;
  return config;
}

Tokenizer from(const json& vocabulary, int64_t vocab_size = 16) {
  Checkpoint checkpoint;
  checkpoint.config_path = "config.json";
  checkpoint.vocabulary = vocabulary;
  checkpoint.vocabulary_path = "vocab.json";
  return make_tokenizer(checkpoint, sized(vocab_size, vocab_size));
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& bases) {
  std::vector<int32_t> tokens(bases.size(), -99);
  tokenizer.encode(bases.data(), static_cast<int64_t>(bases.size()), tokens.data());
  return tokens;
}

TEST_CASE("the family table") {
  const Tokenizer tokenizer = make_tokenizer(Checkpoint{}, sized(16, 12));
  CHECK(encode(tokenizer, "ACGTNacgtnUuRY-") ==
        std::vector<int32_t>{7, 8, 9, 10, 11, 7, 8, 9, 10, 11, 10, 10, 11, 11, 11});
  CHECK(tokenizer.n == 11);
  REQUIRE(tokenizer.complement.size() == 16);
  CHECK(tokenizer.complement ==
        std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15});
  for (int byte = 0; byte < 256; ++byte) {
    const int32_t token = tokenizer.token_of_base[static_cast<size_t>(byte)];
    CHECK((token >= 7 && token <= 11));
  }
  CHECK(contains(data_error([] { make_tokenizer(Checkpoint{}, sized(16, 11)); }),
                 "vocab_size is 11"));
}

TEST_CASE("a vocabulary of the checkpoint comes first") {
  const Tokenizer plain = from({{"A", 1}, {"C", 2}, {"G", 3}, {"T", 4}, {"N", 5}, {"[CLS]", 0}});
  CHECK(encode(plain, "ACGTN") == std::vector<int32_t>{1, 2, 3, 4, 5});
  CHECK(plain.complement[1] == 4);
  CHECK(plain.complement[3] == 2);
  const Tokenizer lower =
      from({{"[PAD]", 0}, {"[UNK]", 2}, {"a", 3}, {"c", 4}, {"g", 5}, {"t", 6}}, 8);
  CHECK(encode(lower, "ACGTN") == std::vector<int32_t>{3, 4, 5, 6, 2});
}

TEST_CASE("vocabularies that do not fit are refused") {
  const json good = {{"A", 1}, {"C", 2}, {"G", 3}, {"T", 4}, {"N", 5}};
  const auto with = [&](const std::string& token, const json& id) {
    json changed = good;
    changed[token] = id;
    return data_error([&] { from(changed); });
  };
  for (const json& id : {json(16), json(-1), json("7"), json(1.5), json(nullptr), json::array()}) {
    CHECK(contains(with("G", id), "vocab.json: token 'G' has number"));
  }
  CHECK(contains(with("G", 1), "'A' and 'G' share token 1"));
  CHECK(contains(with("N", 4), "'T' and 'N' share token 4"));
  CHECK(contains(with("ACG", 9), "several bases, 'ACG'"));
  CHECK(contains(data_error([] {
                   from({{"A", 1}, {"C", 2}, {"G", 3}, {"N", 5}});
                 }),
                 "no token for base 'T'"));
  CHECK(contains(data_error([] { from({{"A", 1}, {"C", 2}, {"G", 3}, {"T", 5}}); }), "'N'"));
  CHECK(contains(data_error([] { from(json::array()); }), "expected a table"));
}

}  // namespace
}  // namespace chromamba::mamba
