// Whole = parts: chunk sizes, threads, batch mates and strands never change a bit.
#include "kernels/base/error.h"
#include "tests/mamba/fixture.h"
#include "tests/tolerances.h"

#include <atomic>

namespace chromamba::mamba {
namespace {

using tests::Fixture;
using tests::ModelOutputs;
using tests::poisoned;
using tests::relative_error;
using tests::same_bits;

const ComputeDevice kCpu;

void check_same(const ModelOutputs& a, const ModelOutputs& b) {
  CHECK(same_bits(a.log_likelihood, b.log_likelihood));
  CHECK(same_bits(a.logits, b.logits));
  for (size_t i = 0; i < a.hidden.size(); ++i) CHECK(same_bits(a.hidden[i], b.hidden[i]));
  CHECK(a.position == b.position);
  CHECK(same_bits(a.next_log_p, b.next_log_p));
  REQUIRE(a.layer_states.size() == b.layer_states.size());
  for (size_t k = 0; k < a.layer_states.size(); ++k) {
    CHECK(same_bits(a.layer_states[k].conv, b.layer_states[k].conv));
    CHECK(same_bits(a.layer_states[k].ssm, b.layer_states[k].ssm));
  }
}

void check_chunks_and_threads(const std::string& name) {
  INFO(name);
  const Fixture fixture(name);
  const auto all = static_cast<int64_t>(fixture.tokens.size());
  const std::vector<int64_t> layers = {0, 2, kFinalLayer};
  const ModelOutputs whole(fixture.model, fixture.tokens, kCpu, 1, all, layers);
  for (const int64_t chunk :
       {int64_t{1000}, int64_t{255}, int64_t{256}, int64_t{257}, int64_t{1}, all - 1}) {
    // One base at a time is slow: its first bases will do.
    std::vector<int32_t> tokens = fixture.tokens;
    if (chunk == 1) tokens.resize(300);
    for (const int threads : {1, 2, 5}) {
      INFO("chunk " << chunk << ", threads " << threads);
      const ModelOutputs parts(fixture.model, tokens, kCpu, threads, chunk, layers);
      if (chunk == 1) {
        check_same(parts, ModelOutputs(fixture.model, tokens, kCpu, 1, 300, layers));
      } else {
        check_same(parts, whole);
      }
    }
  }
}

TEST_CASE("any chunk size and any number of threads give the same bits") {
  check_chunks_and_threads("mamba1_ref");
  check_chunks_and_threads("mamba2_ref");
}

TEST_CASE("the whole lambda genome: chunks of 1,000, 4,096, 65,536 and 1 or 2 threads") {
  const Fixture fixture("mamba1_long");
  std::vector<int32_t> reverse = fixture.tokens;
  std::reverse(reverse.begin(), reverse.end());
  for (int32_t& token : reverse) {
    token = fixture.model.tokenizer().complement[static_cast<size_t>(token)];
  }
  for (const std::vector<int32_t>* tokens :
       std::initializer_list<const std::vector<int32_t>*>{&fixture.tokens, &reverse}) {
    const ModelOutputs whole(fixture.model, *tokens, kCpu, 1, 1 << 20, {kFinalLayer});
    for (const int64_t chunk : {1000, 4096, 65536}) {
      for (const int threads : {1, 2}) {
        check_same(ModelOutputs(fixture.model, *tokens, kCpu, threads, chunk, {kFinalLayer}),
                   whole);
      }
    }
  }
}

// A Mamba-2 model of the shapes that config asks for, and the lambda genome's tokens.
struct Made {
  explicit Made(const char* config) : model(tests::made_checkpoint(config, 11)) {
    tokens = Fixture("mamba1_long").tokens;
  }
  Model model;
  std::vector<int32_t> tokens;
};

template <typename Sequence>
void check_gpu_chunks(Sequence fixture) {
  // N where chunks and segments begin: its NaN has the same bits whoever writes it.
  for (const size_t base : {512, 1000, 4096, 7000, 20000}) {
    std::fill_n(fixture.tokens.begin() + static_cast<int64_t>(base), 3,
                fixture.model.tokenizer().n);
  }
  for (const ComputeDevice& device :
       tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    if (!device.cuda) continue;
    INFO(tests::label(device));
    const std::vector<int64_t> layers = {0, 1, kFinalLayer};
    const ModelOutputs whole(fixture.model, fixture.tokens, device, 1, 1 << 20, layers);
    for (const int64_t chunk : {1 << 20, 1000, 4096, 65536, 511, 512, 513, 20000, 2048, 16383}) {
      INFO("chunk " << chunk);
      check_same(ModelOutputs(fixture.model, fixture.tokens, device, 1, chunk, layers), whole);
    }
    ComputeDevice small = device;
    small.pass_rows = 2048;  // 24 passes, on both lanes
    check_same(ModelOutputs(fixture.model, fixture.tokens, small, 1, 1 << 20, layers), whole);
    const std::vector<int32_t> start(fixture.tokens.begin(), fixture.tokens.begin() + 700);
    check_same(ModelOutputs(fixture.model, start, device, 1, 1, layers),
               ModelOutputs(fixture.model, start, device, 1, 700, layers));
  }
}

TEST_CASE("on a GPU, any chunk size gives the same bits, and so does every run") {
  // The fixtures' genome is what makes it slow: no need of it without a GPU.
  if (tests::test_devices().size() == 1) return;
  check_gpu_chunks(Fixture("mamba1_long"));
  check_gpu_chunks(Made(R"({"d_model": 48, "n_layer": 2, "vocab_size": 12,
      "ssm_cfg": {"layer": "Mamba2", "d_state": 32, "headdim": 16, "ngroups": 2}})"));
}

TEST_CASE("several GPUs share the layers and give the bits of one") {
  const Fixture fixture("mamba1_long");
  for (const ComputeDevice& one :
       tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    if (!one.cuda || one.ordinals.size() > 1) continue;
    INFO(tests::label(one));
    const int64_t n_layer = fixture.model.config().n_layer;
    for (const std::vector<int64_t>& layers :
         std::initializer_list<std::vector<int64_t>>{{0, 1, kFinalLayer}, {0}, {n_layer}}) {
      const ModelOutputs whole(fixture.model, fixture.tokens, one, 1, 1 << 20, layers);
      for (const size_t gpus :
           {2, 3, 20}) {  // some have one layer; of 20 most have none and stay out
        ComputeDevice several = one;
        several.ordinals.assign(gpus, one.ordinals[0]);
        const auto last = kernels::cuda_devices().back().ordinal;
        for (size_t i = 1; i < gpus; i += 2) several.ordinals[i] = last;
        several.pass_rows = 2048;
        INFO(gpus << " GPUs, " << layers.size() << " layers");
        check_same(ModelOutputs(fixture.model, fixture.tokens, several, 1, 1 << 20, layers), whole);
        check_same(ModelOutputs(fixture.model, fixture.tokens, several, 1, 20000, layers), whole);
      }
    }
    // A layer alone: GPUs behind it have nothing to do.
    ComputeDevice two = one;
    two.ordinals.push_back(kernels::cuda_devices().back().ordinal);
    two.pass_rows = 2048;
    const auto n = static_cast<int64_t>(fixture.tokens.size());
    for (int64_t layer = 0; layer <= n_layer; ++layer) {
      std::vector<AlignedFloats> rows;
      for (const ComputeDevice& device : {one, two}) {
        Engine engine(fixture.model, device, 1);
        SequenceState state = engine.new_sequence();
        rows.push_back(poisoned(n * fixture.model.config().d_model));
        Chunk chunk;
        chunk.state = &state;
        chunk.tokens_L = fixture.tokens.data();
        chunk.length = n;
        chunk.taps.push_back({layer, rows.back().data()});
        engine.forward({&chunk, 1});
      }
      CHECK(same_bits(rows[0], rows[1]));
    }
  }
}

TEST_CASE("a GPU without room for the model says what it needs") {
  const Fixture fixture("mamba1_ref");
  for (const ComputeDevice& device : tests::test_devices()) {
    if (!device.cuda) continue;
    ComputeDevice small = device;
    small.memory = int64_t{20} << 20;
    CHECK_THROWS_AS(Engine(fixture.model, small, 1), ResourceError);
    ComputeDevice absent = device;
    absent.ordinals = {99};
    CHECK_THROWS_AS(Engine(fixture.model, absent, 1), ResourceError);
  }
}

TEST_CASE("a Mamba-2 model whose heads do not fit a GPU runs on the CPU, and its upload says so") {
  const Model model(tests::made_checkpoint(R"({"d_model": 72, "n_layer": 1, "vocab_size": 12,
      "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 144}})",
                                           5));
  const std::vector<int32_t> tokens(20, model.tokenizer().g);
  CHECK(std::isfinite(ModelOutputs(model, tokens, kCpu, 1, 20, {}).log_likelihood.back()));
  for (const ComputeDevice& device : tests::test_devices()) {
    if (device.cuda) CHECK_THROWS_AS(Engine(model, device, 1), ResourceError);
  }
}

void check_batch_mates(const std::string& name, const ComputeDevice& device) {
  INFO(name << ", " << tests::label(device));
  const Fixture fixture(name);
  const Model& model = fixture.model;
  Engine engine(model, device, 3);
  // Sequences of odd lengths, each started in an earlier call, advance together.
  const std::vector<int64_t> lengths = {
      1, 2, 255, 256, 257, 700, 0, 33, static_cast<int64_t>(fixture.tokens.size()) - 100};
  std::vector<SequenceState> states;
  std::vector<AlignedFloats> log_p;
  for (const int64_t n : lengths) {
    states.push_back(engine.new_sequence());
    log_p.push_back(poisoned(n));
  }
  for (const auto& [from, to] : {std::pair{0.0, 0.3}, {0.3, 1.0}}) {
    std::vector<Chunk> chunks;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const auto begin = static_cast<int64_t>(from * static_cast<double>(lengths[i]));
      const auto end = static_cast<int64_t>(to * static_cast<double>(lengths[i]));
      Chunk chunk;
      chunk.state = &states[i];
      chunk.tokens_L = fixture.tokens.data() + 10 * i + begin;
      chunk.length = end - begin;
      chunk.log_likelihood_L = log_p[i].data() + begin;
      chunks.push_back(chunk);
    }
    engine.forward(chunks);
  }
  for (size_t i = 0; i < lengths.size(); ++i) {
    INFO("sequence " << i);
    const std::vector<int32_t> alone(
        fixture.tokens.begin() + 10 * static_cast<int64_t>(i),
        fixture.tokens.begin() + 10 * static_cast<int64_t>(i) + lengths[i]);
    if (alone.empty()) {
      CHECK(states[i].position == 0);
      continue;
    }
    CHECK(
        same_bits(log_p[i], ModelOutputs(model, alone, device, 1, lengths[i], {}).log_likelihood));
  }
}

TEST_CASE("batch mates never change a bit") {
  for (const ComputeDevice& device :
       tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
    check_batch_mates("mamba1_ref", device);
    check_batch_mates("mamba2_ref", device);
  }
}

TEST_CASE("the first base and every N have no log-likelihood, the others agree with the logits") {
  const Fixture fixture("mamba1_ref");
  std::vector<int32_t> tokens(fixture.tokens.begin(), fixture.tokens.begin() + 600);
  for (const size_t i : {0, 5, 6, 255, 256, 400}) tokens[i] = fixture.model.tokenizer().n;
  const ModelOutputs out(fixture.model, tokens, kCpu, 2, 100, {});
  const int64_t vocab = fixture.model.config().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    INFO("base " << i);
    if (i == 0 || tokens[i] == fixture.model.tokenizer().n) {
      CHECK(std::isnan(out.log_likelihood[i]));
      continue;
    }
    const float* logits = out.logits.data() + (static_cast<int64_t>(i) - 1) * vocab;
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v]));
    CHECK(out.log_likelihood[i] ==
          Approx(static_cast<double>(logits[tokens[i]]) - std::log(sum)).margin(1e-5));
  }
}

TEST_CASE("taps of an early layer do not depend on what else is computed") {
  const Fixture fixture("mamba1_ref");
  const ModelOutputs all(fixture.model, fixture.tokens, kCpu, 2, 2048,
                         {0, 1, 2, 3, 4, kFinalLayer});
  for (int64_t layer = 0; layer <= 4; ++layer) {
    AlignedFloats rows =
        poisoned(static_cast<int64_t>(fixture.tokens.size()) * fixture.model.config().d_model);
    Engine engine(fixture.model, kCpu, 2);
    SequenceState state = engine.new_sequence();
    Chunk chunk;
    chunk.state = &state;
    chunk.tokens_L = fixture.tokens.data();
    chunk.length = static_cast<int64_t>(fixture.tokens.size());
    chunk.taps.push_back({layer, rows.data()});
    engine.forward({&chunk, 1});
    CHECK(same_bits(rows, all.hidden[static_cast<size_t>(layer)]));
  }
}

TEST_CASE("a failure in one worker stops the call with its error") {
  const Fixture fixture("mamba1_ref");
  std::vector<int32_t> tokens(3000, fixture.model.tokenizer().a);
  tokens[700] = 1000;  // outside the vocabulary
  AlignedFloats log_p = poisoned(3000);
  Engine engine(fixture.model, kCpu, 3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    SequenceState state = engine.new_sequence();
    Chunk chunk;
    chunk.state = &state;
    chunk.tokens_L = tokens.data();
    chunk.length = 3000;
    chunk.log_likelihood_L = log_p.data();
    CHECK_THROWS_AS(engine.forward({&chunk, 1}), InternalError);
  }
}

TEST_CASE("weights that overflow are an error, not a flat distribution") {
  const char* config = R"({"d_model": 16, "n_layer": 2, "vocab_size": 12})";
  // Scaling one tensor by 1e36 leaves every weight finite and makes the residual stream's squares
  // overflow in the next norm.
  const Model model(tests::made_checkpoint(config, 3, "backbone.layers.0.mixer.out_proj.weight"));
  std::vector<int32_t> tokens(400, model.tokenizer().c);
  CHECK_THROWS_AS(ModelOutputs(model, tokens, kCpu, 2, 400, {}), DataError);
}

TEST_CASE("a poll that throws stops the call with its error") {
  const Fixture fixture("mamba1_ref");
  AlignedFloats log_p = poisoned(2048);
  Engine engine(fixture.model, kCpu, 2);
  SequenceState state = engine.new_sequence();
  Chunk chunk;
  chunk.state = &state;
  chunk.tokens_L = fixture.tokens.data();
  chunk.length = 2048;
  chunk.log_likelihood_L = log_p.data();
  std::atomic<int> calls{0};
  CHECK_THROWS_AS(engine.forward({&chunk, 1},
                                 [&] {
                                   if (++calls == 3) throw UsageError("stop");
                                 }),
                  UsageError);
}

TEST_CASE("odd shapes agree with the double reference") {
  // Made-up models: every optional part on or off, sizes that fill no vector.
  for (
      const char* config :
      {R"({"d_model": 20, "n_layer": 2, "vocab_size": 12, "rms_norm": false, "tie_embeddings": false,
            "ssm_cfg": {"d_state": 5, "d_conv": 2, "expand": 3, "dt_rank": 7, "bias": true}})",
       R"({"d_model": 9, "n_layer": 1, "vocab_size": 12, "rms_norm": true,
            "ssm_cfg": {"d_state": 1, "d_conv": 8, "expand": 1, "conv_bias": false}})",
       R"({"d_model": 33, "n_layer": 3, "vocab_size": 12, "rms_norm": true,
            "ssm_cfg": {"d_state": 40, "d_conv": 3, "bias": true, "conv_bias": false}})",
       R"({"d_model": 20, "n_layer": 2, "vocab_size": 12, "rms_norm": false, "tie_embeddings": false,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 5, "headdim": 5, "ngroups": 2, "d_conv": 2, "bias": true}})",
       R"({"d_model": 33, "n_layer": 2, "vocab_size": 12,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 40, "headdim": 33, "expand": 3, "d_conv": 3,
                        "norm_before_gate": true, "conv_bias": false, "D_has_hdim": true}})",
       R"({"d_model": 32, "n_layer": 2, "vocab_size": 12,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 8, "ngroups": 4, "norm_before_gate": true,
                        "dt_limit": [0.1, 0.6]}})",
       R"({"d_model": 64, "n_layer": 2, "vocab_size": 12,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 256, "headdim": 128, "rmsnorm": false, "D_has_hdim": true}})",
       R"({"d_model": 96, "n_layer": 1, "vocab_size": 12,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 128, "headdim": 64, "ngroups": 3}})"}) {
    INFO(config);
    const Model model(tests::made_checkpoint(config, 7));
    std::vector<int32_t> tokens(700);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = 7 + static_cast<int32_t>(i * i % 5);
    const std::vector<int64_t> layers = {model.config().n_layer, kFinalLayer};
    const ModelOutputs fast(model, tokens, kCpu, 2, 300, layers);
    const ModelOutputs slow(model, tokens, tests::on_reference(), 1, 700, layers);
    CHECK(relative_error(fast.hidden[0], slow.hidden[0]) <= tests::kFixture);
    CHECK(relative_error(fast.hidden[1], slow.hidden[1]) <= tests::kFixture);
    CHECK(relative_error(fast.logits, slow.logits) <= tests::kFixture);
    check_same(ModelOutputs(model, tokens, kCpu, 1, 77, layers), fast);
    for (const ComputeDevice& device : tests::test_devices()) {
      if (!device.cuda) continue;
      const ModelOutputs gpu(model, tokens, device, 1, 300, layers);
      CHECK(relative_error(gpu.hidden[0], slow.hidden[0]) <= tests::kFixture);
      CHECK(relative_error(gpu.hidden[1], slow.hidden[1]) <= tests::kFixture);
      CHECK(relative_error(gpu.logits, slow.logits) <= tests::kFixture);
      check_same(ModelOutputs(model, tokens, device, 1, 77, layers), gpu);
    }
  }
}

}  // namespace
}  // namespace chromamba::mamba
