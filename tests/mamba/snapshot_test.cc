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
      for (size_t k = 0; k < edited.size(); ++k) {
        if (std::isnan(edited[k])) {
          CHECK(std::isnan(whole[i][k]));
        } else {
          const float allowed = device.dtype == kernels::DType::f32 ? 2e-5F : 5e-2F;
          CHECK(whole[i][k] == Approx(edited[k]).margin(allowed));
        }
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
