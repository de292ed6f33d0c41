#include "mamba/safetensors.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "mamba/json_text.h"
#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using testing::as_bytes;
using testing::contains;
using testing::data_error;
using testing::data_path;
using testing::floats;
using testing::raw;
using testing::raw_all;
using testing::safetensors;

std::string failure(const std::string& file) {
  return data_error([&] { open_safetensors_memory(as_bytes(file), "weights.st"); });
}

std::string failure(const std::string& header, const std::string& data) {
  return failure(safetensors(header, data));
}

TEST_CASE("the reference fixtures open and read") {
  for (const char* folder : {"mamba1_ref", "mamba1_hf", "mamba1_long", "human-d128"}) {
    for (const char* file : {"model.safetensors", "expected.safetensors"}) {
      const std::string path = data_path(std::string(folder) + "/" + file);
      CAPTURE(path);
      const auto store = open_safetensors(path);
      CHECK(!store->tensors().empty());
      testing::read_everything(*store);
      const std::string text = testing::file_text(path);
      const auto in_memory = open_safetensors_memory(as_bytes(text), "memory");
      REQUIRE(in_memory->tensors().size() == store->tensors().size());
    }
  }
}

TEST_CASE("integers are read raw, not as weights") {
  const auto store = open_safetensors(data_path("mamba1_ref/expected.safetensors"));
  const TensorInfo* ids = store->find("input_ids");
  REQUIRE(ids != nullptr);
  CHECK(ids->dtype == DType::other);
  CHECK(ids->dtype_name == "I64");
  std::vector<int64_t> values(static_cast<size_t>(ids->numel));
  store->read_raw(*ids, values.data(), values.size() * sizeof(int64_t));
  for (const int64_t id : values) CHECK((id >= 7 && id <= 11));
  std::vector<float> wide(values.size());
  CHECK(contains(data_error([&] { store->read_f32(*ids, wide.data()); }), "I64"));
  CHECK_THROWS_AS(store->read_raw(*ids, values.data(), 3), InternalError);
  CHECK(store->find("nothing") == nullptr);
}

TEST_CASE("16-bit floats widen exactly, every pattern") {
  std::vector<uint16_t> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  const std::string header =
      R"({"b":{"dtype":"BF16","shape":[256,256],"data_offsets":[0,131072]},)"
      R"("h":{"dtype":"F16","shape":[65536],"data_offsets":[131072,262144]},)"
      R"("f":{"dtype":"F32","shape":[],"data_offsets":[262144,262148]}})";
  const std::string file = safetensors(
      header, raw_all(patterns) + raw_all(patterns) + raw(std::bit_cast<float>(0x12345678U)));
  const auto store = open_safetensors_memory(as_bytes(file), "weights.st");
  const std::vector<float> b = floats(*store, "b");
  const std::vector<float> h = floats(*store, "h");
  CHECK(std::bit_cast<uint32_t>(floats(*store, "f")[0]) == 0x12345678U);
  int wrong = 0;
  for (uint32_t i = 0; i < 65536; ++i) {
    if (std::bit_cast<uint32_t>(b[i]) != i << 16) ++wrong;
    const int exponent = static_cast<int>((i >> 10) & 31);
    const double fraction = i & 1023;
    const double sign = (i & 0x8000) != 0 ? -1.0 : 1.0;
    if (exponent == 31) {
      if (fraction == 0 ? h[i] != sign * HUGE_VAL : !std::isnan(h[i])) ++wrong;
      continue;
    }
    const double value =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (static_cast<double>(h[i]) != sign * value || std::signbit(h[i]) != (sign < 0)) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("scalars, empty tensors, metadata and padding are part of the format") {
  const auto file = safetensors(
      R"({"__metadata__":{"format":"pt","x":"y"},"e":{"dtype":"F32","shape":[0,5],)"
      R"("data_offsets":[0,0]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )",
      raw(2.5F));
  const auto store = open_safetensors_memory(as_bytes(file), "weights.st");
  CHECK(store->metadata().at("x") == "y");
  CHECK(floats(*store, "e").empty());
  CHECK(floats(*store, "s") == std::vector<float>{2.5F});
  const std::string nothing = safetensors("{}", "");
  CHECK(open_safetensors_memory(as_bytes(nothing), "n")->tensors().empty());
}

TEST_CASE("malformed headers are refused, each by its own message") {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string eight(8, '\0');
  const std::string sixteen(16, '\0');
  CHECK_NOTHROW(open_safetensors_memory(as_bytes(safetensors(good, eight)), "x"));

  CHECK(contains(failure(""), "0 bytes"));
  CHECK(contains(failure(std::string(7, '\0')), "7 bytes"));
  CHECK(contains(failure(raw<uint64_t>(uint64_t{1} << 60) + good), "1152921504606846976"));
  CHECK(contains(failure(raw<uint64_t>(~uint64_t{0}) + good), "header of"));
  CHECK(contains(failure(raw<uint64_t>(good.size() + 1) + good), "truncated"));
  CHECK(contains(failure(raw<uint64_t>(0)), "does not start with '{'"));
  CHECK(contains(failure("[1]", ""), "does not start with '{'"));
  CHECK(contains(failure(" " + good, eight), "does not start with '{'"));
  CHECK(contains(failure("{\"a\":\n}", ""), "line 2"));
  CHECK(contains(failure("{} {}", ""), "JSON"));
  CHECK(contains(failure("{\"a\xff\":1}", ""), "JSON"));
  CHECK(contains(failure(R"({"a":7})", ""), "must be an object"));
  CHECK(contains(failure(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", eight), "dtype"));
  CHECK(contains(failure(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", eight), "shape"));
  CHECK(contains(failure(R"({"a":{"dtype":"F32","shape":[2]}})", eight), "data_offsets"));
  CHECK(
      contains(failure(R"({"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}})", eight), "'Q4'"));
  for (const char* bad :
       {"-2", "2.0", "\"2\"", "18446744073709551615", "99999999999999999999", "null", "[2]"}) {
    const std::string header =
        std::string(R"({"a":{"dtype":"F32","shape":[)") + bad + R"(],"data_offsets":[0,8]}})";
    CHECK(contains(failure(header, eight), "'a'"));
  }
  for (const char* bad :
       {"[-1,8]", "[0]", "[0,8,9]", "[0,8.0]", "8", "[8,0]", "[0,9]", "[0,12]",
        "[0,18446744073709551615]", "[18446744073709551608,18446744073709551615]", "[0,4]"}) {
    const std::string header =
        std::string(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)") + bad + "}}";
    CHECK(contains(failure(header, eight), "'a'"));
  }
  // Products that overflow 64 bits, to 0 or to the right size among others.
  for (const char* shape : {"[4294967296,4294967296]", "[9223372036854775807,2]",
                            "[4611686018427387904,4]", "[2305843009213693954,2]"}) {
    const std::string header =
        std::string(R"({"a":{"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,8]}})";
    CHECK(contains(failure(header, eight), "too large to exist"));
  }
  CHECK(contains(failure(R"({"__metadata__":[]})", ""), "__metadata__"));
  CHECK(contains(failure(R"({"__metadata__":{"a":1}})", ""), "__metadata__"));
  CHECK(contains(failure(good.substr(0, good.size() - 1) +
                             R"(,"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
                         sixteen),
                 "occurs twice"));
  CHECK(contains(
      failure(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight),
      "occurs twice"));
}

TEST_CASE("data must be covered once, without holes") {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  const std::string data(12, '\1');
  CHECK(contains(failure(two("[0,4]", "[2,6]"), data), "overlaps"));
  CHECK(contains(failure(two("[0,4]", "[0,4]"), data), "overlaps"));
  CHECK(contains(failure(two("[0,4]", "[8,12]"), data), "gap"));
  CHECK(contains(failure(two("[8,12]", "[4,8]"), data), "gap"));
  CHECK(contains(failure(two("[4,8]", "[0,4]"), data), "4 bytes after the last tensor"));
  CHECK_NOTHROW(
      open_safetensors_memory(as_bytes(safetensors(two("[4,8]", "[0,4]"), data.substr(4))), "x"));
  CHECK(contains(failure("{}", "x"), "1 bytes after the last tensor"));
}

TEST_CASE("hostile JSON is bounded") {
  const std::string deep(1'000'000, '[');
  CHECK(contains(failure("{\"a\":" + deep, ""), "nested deeper"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK(contains(failure(objects, ""), "nested deeper"));
  std::string many = "{\"a\":[0";
  for (int i = 0; i < 5'000'000; ++i) many += ",0";
  CHECK(contains(failure(many + "]}", ""), "JSON values"));
  const std::string name(100'000, 'n');
  CHECK(failure("{\"" + name + "\":3}", "").size() < 500);
  CHECK(contains(failure("{\"a\\n\\u0001\":3}", ""), "\\x0a\\x01"));
}

TEST_CASE("a file truncated anywhere is an error") {
  const std::string file = testing::float_file({{"a", {2, 3}}, {"b", {4}}}, R"({"format":"pt"})");
  for (size_t size = 0; size < file.size(); ++size) {
    const std::string cut = file.substr(0, size);
    data_error([&] { open_safetensors_memory(as_bytes(cut), "cut"); });
  }
}

TEST_CASE("random damage never does worse than a DataError") {
  const std::string file = testing::float_file({{"a", {2, 3}}, {"b", {4}}, {"c", {}}});
  std::mt19937 random(1);
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string damaged = file;
    for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    try {
      testing::read_everything(*open_safetensors_memory(as_bytes(damaged), "damaged"));
      ++accepted;
    } catch (const DataError&) {
    }
  }
  CHECK(accepted > 0);  // flips in the data alone
}

TEST_CASE("files that are no regular files, or not there") {
  const testing::TemporaryFolder folder;
  CHECK(contains(data_error([&] { open_safetensors(folder.file("none")); }), "cannot open"));
  CHECK(contains(data_error([&] { open_safetensors(folder.path()); }), "not a regular file"));
  CHECK(contains(data_error([] { open_safetensors("/dev/zero"); }), "not a regular file"));
}

class Shards {
 public:
  Shards() {
    folder_.write("one.safetensors", testing::float_file({{"b", {2}}, {"d", {3}}}));
    folder_.write("two.safetensors", testing::float_file({{"a", {4}}, {"c", {}}}, R"({"z":"a"})"));
  }
  std::unique_ptr<TensorStore> open(const std::string& map) const {
    const std::string index =
        folder_.write("model.safetensors.index.json",
                      R"({"metadata":{"total_size":40},"weight_map":)" + map + "}");
    return open_safetensors_shards(folder_.path(), index);
  }
  std::string failure(const std::string& map) const {
    return data_error([&] { open(map); });
  }
  const testing::TemporaryFolder& folder() const { return folder_; }

 private:
  testing::TemporaryFolder folder_;
};

TEST_CASE("shards are one store") {
  const Shards shards;
  const auto store = shards.open(R"({"a":"two.safetensors","b":"one.safetensors",)"
                                 R"("c":"two.safetensors","d":"one.safetensors"})");
  REQUIRE(store->tensors().size() == 4);
  CHECK(store->tensors()[0].name == "a");
  CHECK(store->tensors()[0].file == shards.folder().file("two.safetensors"));
  CHECK(floats(*store, "a") == std::vector<float>{0.0F, 0.5F, 1.0F, 1.5F});
  CHECK(floats(*store, "d") == std::vector<float>{0.0F, 0.5F, 1.0F});
  CHECK(store->metadata().at("z") == "a");
}

TEST_CASE("shards outside the folder are refused before anything is opened") {
  const Shards shards;
  for (const char* name : {"../one.safetensors", "/etc/passwd", "..", ".", "", "x/../one", "a\\\\b",
                           "sub/one.safetensors", "one\\u0000.safetensors"}) {
    CAPTURE(name);
    CHECK(contains(shards.failure(R"({"a":")" + std::string(name) + "\"}"), "escapes"));
  }
}

TEST_CASE("the index and the shards must agree") {
  const Shards shards;
  CHECK(contains(shards.failure(R"({"a":"three.safetensors"})"), "three.safetensors"));
  CHECK(contains(shards.failure(R"({"b":"one.safetensors","d":"one.safetensors",)"
                                R"("x":"one.safetensors"})"),
                 "'x' is not in this shard"));
  CHECK(contains(shards.failure(R"({"b":"one.safetensors"})"), "'d' is not listed"));
  CHECK(contains(shards.failure(R"({"b":"one.safetensors","d":"two.safetensors",)"
                                R"("a":"two.safetensors","c":"two.safetensors"})"),
                 "one shard"));
  CHECK(contains(shards.failure(R"({"a":7})"), "must be a file name"));
  CHECK(contains(shards.failure("[]"), "weight_map"));
  CHECK(contains(shards.failure("{}"), "weight_map"));
  CHECK(contains(shards.failure(R"({"a":"one.safetensors","a":"two.safetensors"})"), "twice"));
  // A tensor in two shards, listed in one of them.
  shards.folder().write("three.safetensors", testing::float_file({{"b", {2}}, {"e", {1}}}));
  CHECK(contains(shards.failure(R"({"b":"one.safetensors","d":"one.safetensors",)"
                                R"("e":"three.safetensors"})"),
                 "one shard"));
}

TEST_CASE("JSON of Python: infinities outside strings only") {
  const JsonRules lenient{.allow_infinity = true};
  const auto parsed = parse_json(
      R"({"a":[0.0,Infinity,-Infinity,NaN],"b":"Infinity \" NaN","c":-1})", "f", lenient);
  CHECK(parsed["a"][1]["__float__"] == "Infinity");
  CHECK(parsed["a"][2]["__float__"] == "-Infinity");
  CHECK(parsed["a"][3]["__float__"] == "NaN");
  CHECK(parsed["b"] == "Infinity \" NaN");
  CHECK(parsed["c"] == -1);
  for (const char* bad : {"[Infinityx]", "[xNaN]", "[--Infinity]", "\"abc\\", "[\"", "", "Inf"}) {
    data_error([&] { parse_json(bad, "f", lenient); });
  }
  data_error([] { parse_json("[Infinity]", "f", JsonRules{}); });
  CHECK(parse_json(R"({"a":1,"a":2})", "f", lenient)["a"] == 2);
}

}  // namespace
}  // namespace chromamba::mamba
