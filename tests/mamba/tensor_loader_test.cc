#include "mamba/tensor_loader.h"

#include <catch2/catch.hpp>
#include <cstdint>
#include <limits>

#include "mamba/safetensors.h"
#include "tests/mamba/checkpoint_bytes.h"

namespace chromamba::mamba {
namespace {

using testing::as_bytes;
using testing::contains;
using testing::data_error;
using testing::float_file;

TEST_CASE("tensors are taken by name and shape") {
  const std::string file = float_file({{"x.a", {2, 3}}, {"x.b", {4}}, {"c", {}}});
  const auto store = open_safetensors_memory(as_bytes(file), "weights");
  TensorLoader loader(*store, "model");
  TensorLoader scoped = loader.scope("x.");
  const AlignedFloats a = scoped.take("a", {2, 3});
  REQUIRE(a.size() == 6);
  CHECK(a[5] == 2.5F);
  CHECK(reinterpret_cast<uintptr_t>(a.data()) % 64 == 0);
  CHECK(loader.has("x.b"));
  CHECK_FALSE(scoped.has("x.b"));
  CHECK(scoped.take_or_empty("missing", {4}, false).empty());
  CHECK(contains(data_error([&] { scoped.take_or_empty("missing", {4}, true); }), "'x.missing'"));
  const std::string missing = data_error([&] { scoped.take("q", {7, 8}); });
  CHECK(contains(missing, "model: tensor 'x.q' is missing, expected with shape [7, 8]"));
  const std::string shape = data_error([&] { scoped.take("b", {5}); });
  CHECK(contains(shape, "'x.b' has shape [4], expected [5]"));
  CHECK(contains(data_error([&] { loader.finish(); }), "2 tensors have"));
  scoped.take("b", {4});
  CHECK(contains(data_error([&] { loader.finish(); }),
                 "1 tensor has no place in the model of "
                 "config.json, the first 'c' []"));
  loader.ignore("c");
  CHECK_NOTHROW(loader.finish());
  CHECK(loader.parameter_count() == 10);
  CHECK(scoped.parameter_count() == 10);
  scoped.take("b", {4});
  CHECK(loader.parameter_count() == 10);
}

TEST_CASE("a bias that is there but not expected is named as extra") {
  const std::string file = float_file({{"bias", {4}}});
  const auto store = open_safetensors_memory(as_bytes(file), "weights");
  TensorLoader loader(*store, "model");
  CHECK(loader.take_or_empty("bias", {4}, false).empty());
  CHECK(contains(data_error([&] { loader.finish(); }), "'bias' [4]"));
}

TEST_CASE("a map of complements is no weight and may stay behind") {
  const auto finish = [](const std::string& header) {
    const std::string file = testing::safetensors(header, testing::raw_all<int64_t>({0, 1}));
    const auto store = open_safetensors_memory(as_bytes(file), "weights");
    TensorLoader loader(*store, "model");
    loader.finish();
    CHECK(loader.parameter_count() == 0);
  };
  CHECK_NOTHROW(
      finish(R"({"e.complement_map":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}})"));
  CHECK(contains(
      data_error([&] { finish(R"({"e.map":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}})"); }),
      "'e.map'"));
  CHECK(contains(data_error([&] {
                   finish(R"({"e.complement_map":{"dtype":"F32","shape":[4],
                              "data_offsets":[0,16]}})");
                 }),
                 "'e.complement_map'"));
}

TEST_CASE("tied tensors") {
  const std::string header_of_both = R"({"e":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                     R"("h":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})";
  const auto bytes = [](const std::vector<float>& values) { return testing::raw_all(values); };
  const std::string same = testing::safetensors(header_of_both, bytes({1, 2, 1, 2}));
  const std::string other = testing::safetensors(header_of_both, bytes({1, 2, 1, 3}));
  const auto take = [](const std::string& file) {
    const auto store = open_safetensors_memory(as_bytes(file), "weights");
    TensorLoader loader(*store, "model");
    AlignedFloats values = loader.take_tied("e", "h", {2});
    loader.finish();
    CHECK(loader.parameter_count() == 2);
    return values;
  };
  CHECK(take(same).size() == 2);
  CHECK(contains(data_error([&] { take(other); }), "'e' and 'h' differ"));
  CHECK(take(float_file({{"e", {2}}})).size() == 2);
  CHECK(take(float_file({{"h", {2}}})).size() == 2);
  CHECK(take(float_file({{"e", {2}}}, R"({"h":"e"})")).size() == 2);
  CHECK(take(float_file({{"h", {2}}}, R"({"e":"h"})")).size() == 2);
  const std::string neither = data_error([&] { take(float_file({})); });
  CHECK(contains(neither, "'e' is missing (and so is 'h'"));
  CHECK(contains(data_error([&] { take(float_file({{"e", {2}}, {"h", {3}}})); }), "[3]"));
}

TEST_CASE("an alias in the metadata stands for a missing tensor") {
  const std::string file = float_file({{"e", {2}}}, R"({"h":"e","g":"nothing","format":"pt"})");
  const auto store = open_safetensors_memory(as_bytes(file), "weights");
  TensorLoader loader(*store, "model");
  CHECK(loader.has("h"));
  CHECK_FALSE(loader.has("g"));
  CHECK_FALSE(loader.has("format"));
  CHECK(loader.take("e", {2}) == loader.take("h", {2}));
  CHECK(loader.parameter_count() == 2);
  CHECK_NOTHROW(loader.finish());

  const std::string chain =
      float_file({{"e", {2}}}, R"({"g":"h","h":"e","a":"a","b":"c","c":"b"})");
  const auto chained = open_safetensors_memory(as_bytes(chain), "weights");
  TensorLoader follower(*chained, "model");
  CHECK(follower.take("g", {2}) == follower.take("e", {2}));
  CHECK(contains(data_error([&] { follower.take("a", {2}); }),
                 "tensor 'a' is missing, and its alias"));
  CHECK(contains(data_error([&] { follower.take_tied("x", "b", {2}); }),
                 "in a circle by way of 'b'"));
}

TEST_CASE("weights are finite floats") {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    const std::string file =
        testing::safetensors(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})",
                             testing::raw_all<float>({1, bad, 2}));
    const auto store = open_safetensors_memory(as_bytes(file), "weights");
    TensorLoader loader(*store, "model");
    const std::string message = data_error([&] { loader.take("w", {3}); });
    CHECK(contains(message, "'w' [3] holds"));
    CHECK(contains(message, "at element 1"));
  }
  const std::string doubles = testing::safetensors(
      R"({"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", testing::raw(1.0));
  const auto store = open_safetensors_memory(as_bytes(doubles), "weights");
  TensorLoader loader(*store, "model");
  CHECK(contains(data_error([&] { loader.take("w", {1}); }), "is F64"));
}

}  // namespace
}  // namespace chromamba::mamba
