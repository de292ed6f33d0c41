#include "mamba/torch_pickle.h"

#include <catch2/catch.hpp>
#include <random>

#include "mamba/safetensors.h"
#include "tests/mamba/checkpoint_bytes.h"
#include "tests/mamba/pickle_bytes.h"

namespace chromamba::mamba {
namespace {

using testing::as_bytes;
using testing::contains;
using testing::data_error;
using testing::data_path;
using testing::floats;
using testing::global;
using testing::joined;
using testing::kOrdered;
using testing::long_number;
using testing::program;
using testing::raw;
using testing::raw_all;
using testing::state;
using testing::storage;
using testing::tensor;
using testing::text;
using testing::tuple;
using testing::zip;
using testing::ZipEntry;

const std::string kSixFloats = raw_all<float>({0, 1, 2, 3, 4, 5});

std::string archive(const std::string& pickle, const std::string& bytes = kSixFloats) {
  return zip({{"m/data.pkl", pickle},
              {"m/byteorder", "little"},
              {"m/data/0", bytes},
              {"m/version", "3\n"}});
}

std::unique_ptr<TensorStore> open(const std::string& file) {
  return open_torch_checkpoint_memory(as_bytes(file), "m.bin");
}

std::string failure(const std::string& file) {
  return data_error([&] { testing::read_everything(*open(file)); });
}

std::string six_floats(const std::vector<int64_t>& size, const std::vector<int64_t>& stride,
                       int64_t offset = 0) {
  return tensor(storage("FloatStorage", "0", 6), offset, size, stride);
}

TEST_CASE("a torch checkpoint equals its safetensors, tensor for tensor") {
  const auto torch = open_torch_checkpoint(data_path("mamba1_ref/pytorch_model.bin"));
  const auto safe = open_safetensors(data_path("mamba1_ref/model.safetensors"));
  for (const TensorInfo& info : safe->tensors()) {
    CAPTURE(info.name);
    const TensorInfo* other = torch->find(info.name);
    REQUIRE(other != nullptr);
    CHECK(other->shape == info.shape);
    CHECK(other->dtype == info.dtype);
    CHECK(floats(*torch, info.name) == floats(*safe, info.name));
  }
  for (const TensorInfo& info : torch->tensors()) {
    CAPTURE(info.name);
    CHECK((safe->find(info.name) != nullptr || info.name == "lm_head.weight"));
  }
  CHECK(floats(*torch, "lm_head.weight") == floats(*torch, "backbone.embedding.weight"));
}

TEST_CASE("types, views and shared storages") {
  const std::string halves = raw_all<uint16_t>({0x3c00, 0xc000, 0x3f80, 0x4000, 0, 0x8000});
  const std::string file =
      zip({{"m/data.pkl", program(state({
                              {"whole", six_floats({2, 3}, {3, 1})},
                              {"transposed", six_floats({3, 2}, {1, 3})},
                              {"column", six_floats({2}, {3}, 1)},
                              {"cube", six_floats({2, 1, 3}, {3, INT64_MAX, 1})},
                              {"thin", six_floats({3, 1, 2}, {1, INT64_MAX, 3})},
                              {"scalar", six_floats({}, {}, 5)},
                              {"empty", six_floats({0, 4}, {4, 1})},
                              {"half", tensor(storage("HalfStorage", "1", 6), 0, {2}, {1})},
                              {"brain", tensor(storage("BFloat16Storage", "1", 6), 2, {2}, {1})},
                              {"bytes", tensor(storage("ByteStorage", "1", 12), 0, {12}, {1})},
                              {"parameter", global("torch._utils", "_rebuild_parameter") + "(" +
                                                six_floats({6}, {1}) + "\x88" + kOrdered + "tR"},
                          }))},
           {"m/data/0", kSixFloats},
           {"m/data/1", halves}});
  const auto store = open(file);
  CHECK(floats(*store, "whole") == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(floats(*store, "transposed") == std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(floats(*store, "column") == std::vector<float>{1, 4});
  CHECK(floats(*store, "cube") == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(floats(*store, "scalar") == std::vector<float>{5});
  CHECK(floats(*store, "empty").empty());
  CHECK(floats(*store, "half") == std::vector<float>{1, -2});
  CHECK(floats(*store, "brain") == std::vector<float>{1, 2});
  CHECK(floats(*store, "parameter") == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(floats(*store, "thin") == std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(store->find("bytes")->dtype_name == "U8");
  // Any part of a view.
  float part[3] = {};
  store->read_part(*store->find("transposed"), 1, 3, part);
  CHECK(std::vector<float>(part, part + 3) == std::vector<float>{3, 1, 4});
}

TEST_CASE("protocol 4 and wrapped dictionaries") {
  const auto memoized = [](const std::string& value) {
    return joined({"\x8c", std::string(1, static_cast<char>(value.size())), value, "\x94"});
  };
  const std::string ordered = memoized("collections") + memoized("OrderedDict") + "\x93\x94)R";
  const std::string stacked = memoized("torch._utils") + memoized("_rebuild_tensor_v2") +
                              "\x93\x94((" + memoized("storage") + memoized("torch") +
                              memoized("FloatStorage") + "\x93" + memoized("0") + memoized("cpu") +
                              "K\x06tQK" + std::string(1, '\0') + "K\x06\x85K\x01\x85\x89" +
                              ordered + "tR";
  const std::string body = std::string("}\x94(") + memoized("w") + stacked + "u";
  const std::string pickle = joined({"\x80\x04\x95", raw<uint64_t>(body.size() + 1), body, "."});
  CHECK(floats(*open(archive(pickle)), "w").size() == 6);

  const std::string inner = state({{"w", six_floats({6}, {1})}});
  for (const char* key : {"state_dict", "model"}) {
    const std::string wrapped = program("}(" + text("epoch") + "K\x03" + text(key) + inner + "u");
    CHECK(floats(*open(archive(wrapped)), "w").size() == 6);
  }
  CHECK(contains(failure(archive(program(joined({"}(", text("epoch"), "K\x03u"})))),
                 "'epoch' is an int"));
  CHECK(contains(failure(archive(program("}(K\x03K\x03u"))), "a key of the dictionary is an int"));
  CHECK(contains(failure(archive(program("]"))), "holds a list"));
  // Attributes of a state dictionary, as torch.save writes them.
  const std::string with_metadata =
      program(state({{"w", six_floats({6}, {1})}}) + "}" + text("_metadata") + kOrdered + "sb");
  CHECK(open(archive(with_metadata))->tensors().size() == 1);
}

TEST_CASE("names that run code are refused by name") {
  const std::vector<std::pair<std::string, std::string>> hostile = {{"os", "system"},
                                                                    {"posix", "system"},
                                                                    {"builtins", "eval"},
                                                                    {"builtins", "getattr"},
                                                                    {"subprocess", "Popen"},
                                                                    {"torch", "load"},
                                                                    {"torch", "floatstorage"},
                                                                    {"torch.hub", "load"},
                                                                    {"collections", "OrderedDict "},
                                                                    {"", ""}};
  for (const auto& [module, name] : hostile) {
    const std::string full = std::string("'").append(module).append(".").append(name).append("'");
    CAPTURE(full);
    CHECK(contains(failure(archive(program(global(module, name) + text("id") + "\x85R"))), full));
    CHECK(contains(
        failure(archive(program(text(module) + text(name) + "\x93" + text("id") + "\x85R"))),
        full));
  }
  CHECK(contains(failure(archive(program(global("os\x1b[2J", "system")))), "\\x1b"));
  CHECK(contains(failure(archive(program("K\x01K\x02\x93"))), "two strings"));
}

TEST_CASE("instructions that a dictionary of tensors does not need are refused by number") {
  CHECK(contains(failure(archive(program(joined({"(", text("id"), "ios\nsystem\n"})))),
                 "105 (INST)"));
  CHECK(contains(failure(archive(program("(" + kOrdered + "o"))), "111 (OBJ)"));
  CHECK(contains(failure(archive(program(kOrdered + ")\x81"))), "129 (NEWOBJ)"));
  CHECK(contains(failure(archive(program("Pabc\n"))), "80 (PERSID)"));
  int refused = 0;
  for (int opcode = 0; opcode < 256; ++opcode) {
    const std::string one(1, static_cast<char>(opcode));
    const std::string message = failure(archive("\x80\x02" + one));
    CAPTURE(opcode, message);
    CHECK(contains(message, "m.bin"));
    if (contains(message, joined({"pickle opcode ", std::to_string(opcode)}))) {
      ++refused;
      CHECK(contains(message, "at byte 2 "));
    }
  }
  CHECK(refused > 200);
}

TEST_CASE("REDUCE and BUILD work on nothing but what they are for") {
  CHECK(contains(failure(archive(program(text("f") + ")R"))), "calls a string"));
  CHECK(contains(failure(archive(program("})R"))), "calls a dict"));
  CHECK(
      contains(failure(archive(program(global("torch", "FloatStorage") + ")R"))), "storage class"));
  CHECK(contains(failure(archive(program(global("collections", "OrderedDict") + "]\x85R"))),
                 "OrderedDict with arguments"));
  CHECK(contains(failure(archive(program(global("torch._utils", "_rebuild_tensor_v2") + ")R"))),
                 "a tensor that is not"));
  CHECK(contains(failure(archive(
                     program(global("torch._utils", "_rebuild_parameter") + "(K\x01K\x01K\x01tR"))),
                 "a parameter of no tensor"));
  CHECK(contains(failure(archive(program("]}b"))), "sets the state of a list"));
  CHECK(contains(failure(archive(program(global("collections", "OrderedDict") + "}b"))),
                 "sets the state of a class"));
  CHECK(contains(failure(archive(program("})b"))), "from a tuple"));
}

TEST_CASE("stack, marks and memo are checked") {
  const std::string programs[] = {"",
                                  "0",
                                  "(0",
                                  "t",
                                  "\x85",
                                  "K\x01\x86",
                                  "R",
                                  ")R",
                                  "u",
                                  "}u",
                                  "](K\x01u",
                                  "}(K\x01u",
                                  "}K\x01s",
                                  "](K\x01K\x02u",
                                  "e",
                                  "a",
                                  std::string("K\x01K\x01") + "a",
                                  "b",
                                  "Q",
                                  "K\x01Q",
                                  ")Q",
                                  "q\x01",
                                  "h\x01",
                                  "j\xff\xff\xff\xff",
                                  "K\x01r\xff\xff\xff\xff",
                                  "\x94",
                                  "\x93",
                                  "K\x01(\x94",
                                  "}(r\x01\x01\x01\x01",
                                  std::string("\x8a\x09") + "123456789",
                                  "\x8b\xff\xff\xff\xff",
                                  "X\xff\xff\xff\xff",
                                  "U\xff",
                                  "\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
                                  "\x95\xff\xff\xff\xff\xff\xff\xff\xff",
                                  "cos",
                                  "cos\nsystem",
                                  "\x80\x09",
                                  "\x80\x01",
                                  "\x80"};
  for (const std::string& body : programs) {
    CAPTURE(body);
    failure(archive("\x80\x02" + body));
    failure(archive(program(body)));
  }
}

TEST_CASE("bombs are bounded") {
  CHECK(contains(failure(archive(program(std::string(2'000'000, 'N')))), "stack"));
  CHECK(contains(failure(archive(program(std::string(2'000'000, '(')))), "MARK"));
  std::string lists;
  for (int i = 0; i < 5'000'000; ++i) lists += "]0";
  CHECK(contains(failure(archive(program(lists))), "objects"));
  // A tuple of a tuple of ...: nothing may recurse, not even the clean-up.
  std::string nested = ")";
  for (int i = 0; i < 1'000'000; ++i) nested += "\x85";
  CHECK(contains(failure(archive(program(nested))), "holds a tuple"));
  // Doubling through the memo names 2^60 elements without holding them.
  std::string doubling = ")";
  for (int i = 0; i < 60; ++i) {
    const std::string slot(1, static_cast<char>(i));
    doubling.append("q").append(slot).append("h").append(slot).append("\x86");
  }
  CHECK(contains(failure(archive(program(doubling))), "holds a tuple"));
  // One dictionary inside itself.
  CHECK(contains(failure(archive(program(joined({"}q\x01", text("a"), "h\x01s"})))),
                 "'a' is a dict"));
}

TEST_CASE("views stay inside their storage") {
  const auto view = [](int64_t offset, const std::vector<int64_t>& size,
                       const std::vector<int64_t>& stride) {
    return failure(archive(program(state({{"w", six_floats(size, stride, offset)}}))));
  };
  CHECK(contains(view(0, {7}, {1}), "does not fit its storage of 6"));
  CHECK(contains(view(1, {6}, {1}), "does not fit"));
  CHECK(contains(view(6, {1}, {1}), "does not fit"));
  CHECK(contains(view(0, {2, 3}, {4, 1}), "does not fit"));
  CHECK(contains(view(0, {2}, {INT64_MAX}), "does not fit"));
  CHECK(contains(view(INT64_MAX, {2}, {1}), "does not fit"));
  CHECK(contains(view(0, {INT64_MAX, INT64_MAX}, {0, 0}), "does not fit"));
  CHECK(contains(view(0, {1'000'000'000'000}, {0}), "does not fit"));  // expanded
  CHECK(contains(view(0, {4294967296, 4294967296}, {1, 1}), "does not fit"));
  CHECK(contains(view(0, {6}, {1, 1}), "strides"));
  CHECK(contains(view(0, {-1}, {1}), "-1"));
  CHECK(contains(view(0, {2}, {-1}), "-1"));
  CHECK(contains(view(-1, {2}, {1}), "a tensor that is not"));
  // The shortest spelling of a negative number.
  const std::string short_number = global("torch._utils", "_rebuild_tensor_v2") + "(" +
                                   storage("FloatStorage", "0", 6) +
                                   "K\x01(\x8a\x01\xfet(K\x01t\x89" + kOrdered + "tR";
  CHECK(contains(failure(archive(program(short_number))), "size has -2"));
  const std::vector<int64_t> many(65, 1);
  CHECK(contains(view(0, many, many), "at most 64"));
}

TEST_CASE("storages must be in the archive, with the size they claim") {
  const auto stored = [](const std::string& from) {
    return failure(archive(program(state({{"w", tensor(from, 0, {1}, {1})}}))));
  };
  CHECK(contains(stored(storage("FloatStorage", "1", 6)), "'m/data/1' is not in the archive"));
  CHECK(contains(stored(storage("FloatStorage", "../data.pkl", 6)), "is not in the archive"));
  CHECK(contains(stored(storage("FloatStorage", "0", 5)), "has 24 bytes, expected 5"));
  CHECK(contains(stored(storage("FloatStorage", "0", INT64_MAX)), "has 24 bytes"));
  CHECK(contains(stored(storage("DoubleStorage", "0", 6)), "has 24 bytes"));
  CHECK(contains(stored(storage("FloatStorage", "0", -6)), "persistent id"));
  CHECK(contains(failure(archive(program(joined({"(", text("module"), "K\x01K\x01K\x01K\x01tQ"})))),
                 "persistent id"));
}

TEST_CASE("archives that are not what torch.save writes") {
  const std::string pickle = program(state({{"w", six_floats({6}, {1})}}));
  const std::string good = archive(pickle);
  CHECK_NOTHROW(testing::read_everything(*open(good)));
  CHECK(contains(failure(""), "no zip archive"));
  CHECK(contains(failure("PK"), "zip"));
  CHECK(contains(failure("PK\x03\x04 and no more"), "zip"));
  CHECK(contains(failure("\x80\x02\x8a\x0al\xfc\x9c"), "before version 1.6"));
  CHECK(contains(failure(zip({})), "zip"));
  CHECK(contains(failure(zip({{"data.pkl", pickle}})), "data.pkl"));
  CHECK(contains(failure(zip({{"a/b/data.pkl", pickle}})), "data.pkl"));
  CHECK(contains(failure(zip({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}})), "second"));
  CHECK(contains(failure(zip({{"m/data.pkl", pickle}, {"m/data.pkl", pickle}})), "twice"));
  CHECK(contains(failure(zip({{"m/data.pkl", pickle}, {"m/byteorder", "big"}})), "'big'"));
  CHECK(contains(failure(zip({{"m/data.pkl", pickle, 1 << 30}})), "declares"));
  CHECK(contains(failure(zip({{"m/data.pkl", pickle, 3}})), "declares"));
  CHECK(contains(failure(zip({{"m/data.pkl", pickle, -1, 8}})), "damaged"));
  CHECK(contains(failure(zip({{"m/data.pkl", pickle, -1, 14}})), "method 14"));
  std::string wrong = good;  // one byte of the values: the checksum must notice
  wrong[wrong.find(kSixFloats) + 5] ^= 1;
  CHECK(contains(failure(wrong), "damaged"));
}

TEST_CASE("deflated archives are read, and only to the size they declare") {
  // "little" as one stored deflate block, and the same claiming another length.
  const auto stored_block = [](const std::string& bytes) {
    const auto size = static_cast<uint16_t>(bytes.size());
    return std::string("\x01") + raw(size) + raw(static_cast<uint16_t>(~size)) + bytes;
  };
  const std::string pickle = program(state({}));
  std::string file = zip({{"m/data.pkl", pickle}, {"m/byteorder", stored_block("little"), 6, 8}});
  // The helper's checksum is that of the packed bytes; libzip compares the unpacked ones.
  const std::string packed = raw(testing::crc32(stored_block("little")));
  for (size_t at = file.find(packed); at != std::string::npos; at = file.find(packed, at + 1)) {
    file.replace(at, 4, raw(testing::crc32("little")));
  }
  CHECK(open(file)->tensors().empty());
  CHECK(contains(
      failure(zip({{"m/data.pkl", pickle}, {"m/byteorder", stored_block("little"), 3, 8}})),
      "m/byteorder"));
  CHECK(contains(
      failure(zip({{"m/data.pkl", pickle}, {"m/byteorder", stored_block("little"), 9, 8}})),
      "m/byteorder"));
  CHECK(contains(
      failure(zip({{"m/data.pkl", pickle}, {"m/byteorder", stored_block("little"), 1 << 30, 8}})),
      "declares"));
}

TEST_CASE("a torch file truncated anywhere is an error") {
  const std::string pickle =
      program(state({{"w", six_floats({2, 3}, {3, 1})}, {"v", six_floats({6}, {1})}}));
  const std::string file = archive(pickle);
  for (size_t size = 0; size < file.size(); ++size) failure(file.substr(0, size));
  for (size_t size = 0; size < pickle.size(); ++size) failure(archive(pickle.substr(0, size)));
  const std::string real = testing::file_text(data_path("mamba1_ref/pytorch_model.bin"));
  for (size_t size = 0; size < real.size(); size += 4999) failure(real.substr(0, size));
  for (size_t cut = 1; cut < 64; ++cut) failure(real.substr(0, real.size() - cut));
}

TEST_CASE("random damage of a torch file never does worse than a DataError") {
  const std::string pickle = program(state({{"w", six_floats({2, 3}, {3, 1})},
                                            {"t", six_floats({3, 2}, {1, 3})},
                                            {"v", six_floats({6}, {1})}}));
  std::mt19937 random(2);
  int accepted = 0;
  const auto try_open = [&](const std::string& file) {
    try {
      testing::read_everything(*open(file));
      ++accepted;
    } catch (const DataError&) {
    }
  };
  const auto damage = [&](std::string bytes) {
    for (uint32_t flips = 1 + random() % 3; flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    return bytes;
  };
  const std::string file = archive(pickle);
  for (int round = 0; round < 4000; ++round) try_open(damage(file));
  // Past the checksum, into the interpreter.
  for (int round = 0; round < 6000; ++round) try_open(archive(damage(pickle)));
  CHECK(accepted > 0);
}

}  // namespace
}  // namespace chromamba::mamba
