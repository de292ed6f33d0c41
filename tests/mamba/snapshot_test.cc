// States kept in the middle of a chunk: what goes on from one is what a run of the whole edited sequence gives.
#include "kernels/base/error.h"
#include "tests/mamba/fixture.h"
#include "tests/tolerances.h"

#include <cmath>

namespace chromamba::mamba {
namespace {

using tests::Fixture;
using tests::same_bits;

using Tokens = std::vector<int32_t>;
using Values = std::vector<float>;

// Beside the ends of tiles and segments, in a segment that is not whole, and one base after another.
const std::vector<int64_t> kPlaces = {0,   1,   2,   3,   4,   5,   255,  256,
                                      257, 511, 512, 513, 514, 700, 1023, 1299};

constexpr int64_t kLength = 1300;

Tokens reference_bases(const Fixture& fixture) {
  Tokens bases;
  for (size_t i = 0; i < kLength; ++i) bases.push_back(fixture.tokens[i % fixture.tokens.size()]);
  return bases;
}

// What a run gives from a place on when it goes on with these bases.
Tokens other_bases(const Fixture& fixture, int64_t place, int64_t count) {
  Tokens other;
  for (int64_t i = 0; i < count; ++i) {
    other.push_back(
        fixture.tokens[static_cast<size_t>(3 * place + i + 17) % fixture.tokens.size()]);
  }
  return other;
}

// ln p of other bases after the snapshots at kPlaces of a reference that is run in chunks of so many.
std::vector<Values> run_from_snapshots(const Fixture& fixture, Engine& engine, int64_t chunk_size,
                                       int64_t other_length, bool together) {
  const Tokens reference = reference_bases(fixture);
  SequenceState sequence = engine.new_sequence();
  std::vector<SequenceState> kept(kPlaces.size());
  for (SequenceState& state : kept) state = engine.new_sequence();
  Values log_p(kLength);
  size_t next = 0;
  for (int64_t at = 0; at < kLength;) {
    Chunk chunk;
    chunk.state = &sequence;
    chunk.tokens_L = reference.data() + at;
    chunk.length = std::min(chunk_size, kLength - at);
    chunk.log_likelihood_L = log_p.data() + at;
    for (; next < kPlaces.size() && kPlaces[next] < at + chunk.length; ++next) {
      chunk.snapshots.push_back({kPlaces[next] - at, &kept[next]});
    }
    engine.forward({&chunk, 1});
    at += chunk.length;
  }
  std::vector<Values> results;
  std::vector<Tokens> tokens;
  std::vector<Chunk> chunks(kPlaces.size());
  for (size_t i = 0; i < kPlaces.size(); ++i) {
    CHECK(kept[i].position == kPlaces[i]);
    tokens.push_back(other_bases(fixture, kPlaces[i], other_length));
    results.emplace_back(static_cast<size_t>(other_length));
  }
  for (size_t i = 0; i < kPlaces.size(); ++i) {
    chunks[i].state = &kept[i];
    chunks[i].tokens_L = tokens[i].data();
    chunks[i].length = other_length;
    chunks[i].log_likelihood_L = results[i].data();
  }
  if (together) {
    engine.forward(chunks);
  } else {
    for (Chunk& chunk : chunks) engine.forward({&chunk, 1});
  }
  return results;
}

// The same by running each edited sequence as a whole.
Values run_edited(const Fixture& fixture, Engine& engine, int64_t place, int64_t other_length) {
  Tokens edited = reference_bases(fixture);
  edited.resize(static_cast<size_t>(place));
  const Tokens other = other_bases(fixture, place, other_length);
  edited.insert(edited.end(), other.begin(), other.end());
  SequenceState sequence = engine.new_sequence();
  Values log_p(edited.size());
  Chunk chunk;
  chunk.state = &sequence;
  chunk.tokens_L = edited.data();
  chunk.length = static_cast<int64_t>(edited.size());
  chunk.log_likelihood_L = log_p.data();
  engine.forward({&chunk, 1});
  return Values(log_p.begin() + place, log_p.end());
}

// Infinite where a NaN meets a number.
double mean_difference(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    sum += std::isnan(a[i]) || std::isnan(b[i]) ? INFINITY : std::fabs(a[i] - b[i]);
  }
  return sum / static_cast<double>(a.size());
}

void check_snapshots(const std::string& name, const ComputeDevice& device) {
  INFO(name);
  const Fixture fixture(name);
  Engine engine(fixture.model, device, 2);
  for (const int64_t length : {1, 60, 600, 1100}) {
    INFO("then " << length << " other bases");
    const std::vector<Values> whole = run_from_snapshots(fixture, engine, kLength, length, true);
    for (size_t i = 0; i < kPlaces.size(); ++i) {
      INFO("snapshot before base " << kPlaces[i]);
      const Values edited = run_edited(fixture, engine, kPlaces[i], length);
      REQUIRE(edited.size() == whole[i].size());
      if (!device.cuda) {
        CHECK(same_bits(whole[i], edited));
        continue;
      }
      if (device.dtype == kernels::DType::f32) {
        CHECK(tests::relative_error(whole[i], edited) <= tests::kFixture);
      } else {
        CHECK(mean_difference(whole[i], edited) <= tests::kBf16FixtureLogP);
      }
    }
    for (const int64_t chunk : {300, 512, 1}) {
      if (chunk == 1 && length != 60) continue;
      INFO("chunks of " << chunk);
      const std::vector<Values> parts =
          run_from_snapshots(fixture, engine, chunk, length, chunk != 300);
      for (size_t i = 0; i < kPlaces.size(); ++i) {
        INFO("snapshot before base " << kPlaces[i]);
        CHECK(same_bits(parts[i], whole[i]));
      }
    }
  }
}

TEST_CASE("a run goes on from a snapshot as the whole edited sequence does") {
  for (const ComputeDevice& device :
       tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    check_snapshots("mamba1_ref", device);
    check_snapshots("mamba2_ref", device);
  }
}

// A snapshot before every base: more than a pass of a GPU takes.
void check_every_base(const std::string& name, const ComputeDevice& device) {
  INFO(name << ", " << tests::label(device) << ", passes of " << device.pass_rows);
  constexpr int64_t kBases = 4200;
  const Fixture fixture(name);
  Tokens bases;
  for (size_t i = 0; i < kBases; ++i) bases.push_back(fixture.tokens[i % fixture.tokens.size()]);
  Engine engine(fixture.model, device, 2);
  SequenceState sequence = engine.new_sequence();
  std::vector<SequenceState> kept(kBases);  // made by the call, where it is a GPU's
  Values log_p(kBases);
  // A chunk that ends within a segment leaves the next one a tail that holds no snapshots.
  for (int64_t at = 0; at < kBases;) {
    Chunk chunk;
    chunk.state = &sequence;
    chunk.tokens_L = bases.data() + at;
    chunk.length = at == 0 ? 100 : kBases - at;
    chunk.log_likelihood_L = log_p.data() + at;
    for (int64_t i = 0; i < chunk.length; ++i) {
      chunk.snapshots.push_back({i, &kept[static_cast<size_t>(at + i)]});
    }
    engine.forward({&chunk, 1});
    at += chunk.length;
  }
  // Each predicts the base that came, as the sequence did.
  Values predicted;
  for (size_t i = 0; i < kBases; ++i) {
    REQUIRE(kept[i].position == static_cast<int64_t>(i));
    predicted.push_back(std::isnan(log_p[i]) ? log_p[i]
                                             : kept[i].next_log_p[static_cast<size_t>(bases[i])]);
  }
  CHECK(same_bits(predicted, log_p));
  // Each layer's state is that of a sequence which ends there.
  SequenceState shorter = engine.new_sequence();
  for (const int64_t place : {0, 1, 3, 99, 100, 101, 511, 512, 513, 3000, 4095, 4096, 4097}) {
    INFO("before base " << place);
    Chunk chunk;
    chunk.state = &shorter;
    chunk.tokens_L = bases.data() + shorter.position;
    chunk.length = place - shorter.position;
    chunk.log_likelihood_L = log_p.data();
    if (chunk.length > 0) engine.forward({&chunk, 1});
    const std::vector<LayerState> expected = engine.layer_states(shorter);
    const std::vector<LayerState> actual = engine.layer_states(kept[static_cast<size_t>(place)]);
    REQUIRE(actual.size() == expected.size());
    for (size_t k = 0; k < actual.size(); ++k) {
      CHECK(same_bits(actual[k].conv, expected[k].conv));
      // In bf16 the scan of Mamba-2 multiplies matrices, and its snapshots do not.
      if (device.cuda && device.dtype == kernels::DType::bf16 && name == "mamba2_ref") {
        CHECK(tests::relative_error(actual[k].ssm, expected[k].ssm) <= tests::kBf16Kernel);
      } else {
        CHECK(same_bits(actual[k].ssm, expected[k].ssm));
      }
    }
  }
}

TEST_CASE("snapshots before every base have the states and predictions of the sequence there") {
  for (ComputeDevice device : tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    for (const int64_t pass_rows : {0, 1024}) {
      if (pass_rows > 0 && !device.cuda) continue;
      device.pass_rows = pass_rows;
      check_every_base("mamba1_ref", device);
      check_every_base("mamba2_ref", device);
    }
  }
}

// What a caller plans with.
TEST_CASE("the bytes of a state count what a GPU pads") {
  const auto bytes = [](const std::string& config) {
    const Model model(tests::made_checkpoint(config, 1));
    ComputeDevice gpu;
    gpu.cuda = true;
    return Engine::state_bytes(model, gpu);
  };
  // E = 20 as 24 channels; 16 states and 4 taps, of two and three copies.
  CHECK(bytes(R"({"d_model": 10, "n_layer": 3, "vocab_size": 12, "ssm_cfg": {}})") ==
        4 * 3 * 24 * (2 * 16 + 3 * 4));
  // Four heads of 8 channels as 16, and 24 states as 32; the convolution has the states' Bmat and Cmat too.
  CHECK(bytes(R"({"d_model": 16, "n_layer": 1, "vocab_size": 12,
                  "ssm_cfg": {"layer": "Mamba2", "d_state": 24, "headdim": 8}})") ==
        4 * (2 * 32 * 64 + 3 * 4 * (64 + 2 * 32)));
}

TEST_CASE("a copy of a state goes on by itself") {
  for (const ComputeDevice& device :
       tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    const Fixture fixture("mamba1_ref");
    Engine engine(fixture.model, device, 1);
    SequenceState first = engine.new_sequence();
    Chunk chunk;
    chunk.state = &first;
    chunk.tokens_L = fixture.tokens.data();
    chunk.length = 700;
    Values unused(700);
    chunk.log_likelihood_L = unused.data();
    engine.forward({&chunk, 1});
    SequenceState second = engine.copy_of(first);
    std::vector<Values> log_p(2, Values(300));
    for (SequenceState* state : {&first, &second}) {
      Chunk next;
      next.state = state;
      next.tokens_L = fixture.tokens.data() + 700;
      next.length = 300;
      next.log_likelihood_L = log_p[state == &first ? 0 : 1].data();
      engine.forward({&next, 1});
    }
    CHECK(same_bits(log_p[0], log_p[1]));
  }
}

TEST_CASE("snapshots that do not ascend or lie outside of their chunk are refused") {
  const Fixture fixture("mamba1_ref");
  Engine engine(fixture.model, ComputeDevice{}, 1);
  SequenceState sequence = engine.new_sequence();
  SequenceState kept;
  for (const std::vector<int64_t>& places :
       {std::vector<int64_t>{10}, std::vector<int64_t>{-1}, std::vector<int64_t>{4, 4},
        std::vector<int64_t>{4, 3}}) {
    Chunk chunk;
    chunk.state = &sequence;
    chunk.tokens_L = fixture.tokens.data();
    chunk.length = 10;
    for (const int64_t at : places) chunk.snapshots.push_back({at, &kept});
    CHECK_THROWS_AS(engine.forward({&chunk, 1}), InternalError);
  }
}

}  // namespace
}  // namespace chromamba::mamba
