#include "mamba/tokenizer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <utility>

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
  CHECK(tokenizer.mask == 3);
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

ModelConfig caduceus(int64_t padded, int64_t unpadded, std::vector<int32_t> complement = {}) {
  ModelConfig config = sized(padded, unpadded);
  config.family = "caduceus";
  config.complement = std::move(complement);
  return config;
}

TEST_CASE("the family table of Caduceus") {
  // The hub's configurations state the vocabulary with its padding.
  for (const int64_t stated : {12, 16}) {
    const Tokenizer tokenizer = make_tokenizer(Checkpoint{}, caduceus(16, stated));
    CHECK(encode(tokenizer, "ACGTN") == std::vector<int32_t>{7, 8, 9, 10, 11});
    CHECK(tokenizer.mask == 3);
  }
}

TEST_CASE("the family table of PlantCaduceus") {
  for (const int64_t stated : {7, 8}) {
    const Tokenizer tokenizer = make_tokenizer(Checkpoint{}, caduceus(8, stated));
    CHECK(encode(tokenizer, "ACGTNacgtnUuRY-") ==
          std::vector<int32_t>{3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 6, 6, 2, 2, 2});
    CHECK(tokenizer.n == 2);
    CHECK(tokenizer.mask == 1);
    CHECK(tokenizer.complement == std::vector<int32_t>{0, 1, 2, 6, 5, 4, 3, 7});
  }
  const auto refused = [](const ModelConfig& config) {
    return data_error([&] { make_tokenizer(Checkpoint{}, config); });
  };
  CHECK(contains(refused(caduceus(16, 9)), "that of PlantCaduceus has 7"));
  CHECK(contains(refused(caduceus(8, 6)), "vocab_size is 6"));
  CHECK(contains(refused(sized(8, 7)), "vocab_size is 7"));  // no Caduceus
}

TEST_CASE("the configuration's complements go before the letters'") {
  const std::vector<int32_t> dna = {0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15};
  CHECK(make_tokenizer(Checkpoint{}, caduceus(16, 12, dna)).complement == dna);
  std::vector<int32_t> swapped = dna;  // tokens that are no bases may pair as they like
  std::swap(swapped[0], swapped[1]);
  CHECK(make_tokenizer(Checkpoint{}, caduceus(16, 12, swapped)).complement == swapped);
  const auto refused = [&](const std::vector<int32_t>& map) {
    return data_error([&] { make_tokenizer(Checkpoint{}, caduceus(16, 12, map)); });
  };
  std::vector<int32_t> identity = dna;
  std::sort(identity.begin(), identity.end());
  CHECK(contains(refused(identity),
                 "complement_map pairs A (token 7) with token 7, expected T (token 10 of the "
                 "family's table)"));
  std::vector<int32_t> half = dna;
  std::swap(half[8], half[9]);
  CHECK(contains(refused(half), "pairs C (token 8) with token 8, expected G (token 9"));
  std::vector<int32_t> n = dna;
  std::swap(n[11], n[12]);
  CHECK(contains(refused(n), "pairs N (token 11) with token 12"));

  Checkpoint checkpoint;
  checkpoint.config_path = "config.json";
  checkpoint.vocabulary = {{"A", 1}, {"C", 2}, {"G", 3}, {"T", 4}, {"N", 5}};
  checkpoint.vocabulary_path = "vocab.json";
  CHECK(contains(data_error([&] { make_tokenizer(checkpoint, caduceus(16, 16, dna)); }),
                 "config.json: complement_map pairs A (token 1) with token 1, expected T (token 4 "
                 "of vocab.json)"));
}

TEST_CASE("mask tokens of vocabularies") {
  const json bases = {{"A", 1}, {"C", 2}, {"G", 3}, {"T", 4}, {"N", 5}};
  CHECK(from(bases).mask == -1);
  for (const char* name : {"[MASK]", "<mask>", "<MASK>", "mask"}) {
    json changed = bases;
    changed[name] = 0;
    CHECK(from(changed).mask == 0);
    changed[name] = 5;
    CHECK(contains(data_error([&] { from(changed); }), "'N' and 'mask' share token 5"));
    changed[name] = 16;
    CHECK(contains(data_error([&] { from(changed); }),
                   "token '" + std::string(name) + "' has number '16', expected 0 to 15"));
  }
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
