// Models of two directions: the published numbers, and whole = parts.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "kernels/base/error.h"
#include "mamba/sweep_engine.h"
#include "tests/mamba/fixture.h"
#include "tests/mamba/made_caduceus.h"
#include "tests/mamba/naive_model.h"
#include "tests/tolerances.h"

namespace chromamba::mamba {
namespace {

using tests::Fixture;
using tests::poisoned;
using tests::relative_error;
using tests::same_bits;

constexpr int32_t kMask = 3;  // of the fixtures' vocabulary

// A file in the sense of SweepEngine: not in memory as far as it can see.
class FakeFile : public Store {
 public:
  // Fails after so many reads and writes, if given.
  explicit FakeFile(int64_t bytes, std::atomic<int>* uses_left = nullptr)
      : bytes_(static_cast<size_t>(bytes), std::byte{0xff}), uses_left_(uses_left) {}
  void read(int64_t offset, void* to, int64_t bytes) const override {
    use(offset, bytes);
    std::memcpy(to, bytes_.data() + offset, static_cast<size_t>(bytes));
  }
  void write(int64_t offset, const void* from, int64_t bytes) override {
    use(offset, bytes);
    std::memcpy(bytes_.data() + offset, from, static_cast<size_t>(bytes));
  }

 private:
  // On any thread, where Catch's macros may not be used.
  void use(int64_t offset, int64_t bytes) const {
    if (offset < 0 || bytes < 0 || offset + bytes > static_cast<int64_t>(bytes_.size())) {
      throw InternalError("outside the store");
    }
    if (uses_left_ != nullptr && (*uses_left_)-- <= 0) throw ResourceError("the disk is full");
  }

  std::vector<std::byte> bytes_;
  std::atomic<int>* uses_left_;
};

SweepMemory in_memory(int64_t block_rows = 65536) {
  SweepMemory memory;
  memory.block_rows = block_rows;
  memory.rows_bytes = int64_t{1} << 40;
  return memory;
}
SweepMemory in_host_memory(int64_t block_rows) {  // also with a GPU
  SweepMemory memory = in_memory(block_rows);
  memory.device_rows_bytes = 0;
  return memory;
}
SweepMemory in_file(int64_t block_rows) {
  SweepMemory memory = in_host_memory(block_rows);
  memory.rows_bytes = 0;
  memory.scratch = [](int64_t bytes) { return std::make_unique<FakeFile>(bytes); };
  return memory;
}

struct Outputs {
  AlignedFloats hidden;
  AlignedFloats logits;
  AlignedFloats log_likelihood;
};

// What the engine gives for some sequences of one call.
std::vector<Outputs> sweep(SweepEngine& engine, const Model& model,
                           const std::vector<std::vector<int32_t>>& inputs, int64_t layer,
                           Halves halves = Halves::both, bool head = true,
                           const std::vector<int32_t>* targets = nullptr) {
  SweepWanted wanted;
  wanted.layer = layer;
  wanted.halves = halves;
  wanted.logits = head;
  wanted.log_likelihood = head;
  const int64_t width = SweepEngine::hidden_width(model, halves);
  const int64_t vocab = model.config().vocab_size;
  std::vector<Outputs> outputs(inputs.size());
  std::vector<SweepSequence> sequences(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto n = static_cast<int64_t>(inputs[i].size());
    outputs[i].hidden = poisoned(n * width);
    outputs[i].logits = poisoned(head ? n * vocab : 0);
    outputs[i].log_likelihood = poisoned(head ? n : 0);
    sequences[i].length = n;
    sequences[i].tokens = [&inputs, i](int64_t start, int64_t count, int32_t* tokens) {
      std::copy_n(inputs[i].begin() + start, count, tokens);
    };
    if (targets != nullptr) {
      sequences[i].targets = [targets](int64_t start, int64_t count, int32_t* tokens) {
        std::copy_n(targets->begin() + start, count, tokens);
      };
    }
    sequences[i].consume = [&outputs, i, width, vocab, head,
                            next = int64_t{0}](const SweepRows& rows) mutable {
      CHECK(rows.start == next);
      next += rows.length;
      std::copy_n(rows.hidden, rows.length * width, outputs[i].hidden.begin() + rows.start * width);
      if (!head) return;
      std::copy_n(rows.logits_LV, rows.length * vocab,
                  outputs[i].logits.begin() + rows.start * vocab);
      std::copy_n(rows.log_likelihood_L, rows.length,
                  outputs[i].log_likelihood.begin() + rows.start);
    };
  }
  engine.run(sequences, wanted);
  return outputs;
}

Outputs sweep_one(const Model& model, const std::vector<int32_t>& tokens,
                  const ComputeDevice& device, int threads, SweepMemory memory, int64_t layer,
                  Halves halves = Halves::both) {
  SweepEngine engine(model, device, threads, std::move(memory));
  return sweep(engine, model, {tokens}, layer, halves, layer == kFinalLayer).front();
}

void check(const std::string& name, double error, double allowed) {
  INFO(name << ": error " << error << ", " << 100 * error / allowed << " % of the tolerance");
  CHECK(error <= allowed);
  std::printf("%-40s %.1e  %5.1f %% of the tolerance\n", name.c_str(), error,
              100 * error / allowed);
}

void check_same(const Outputs& a, const Outputs& b) {
  CHECK(same_bits(a.hidden, b.hidden));
  CHECK(same_bits(a.logits, b.logits));
  CHECK(same_bits(a.log_likelihood, b.log_likelihood));
}

// ln softmax of a row of logits.
std::vector<double> log_softmax(const float* logits, int64_t vocab) {
  double largest = logits[0];
  for (int64_t v = 0; v < vocab; ++v) largest = std::max<double>(largest, logits[v]);
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(logits[v] - largest);
  std::vector<double> log_p;
  for (int64_t v = 0; v < vocab; ++v) log_p.push_back(logits[v] - largest - std::log(sum));
  return log_p;
}

void check_caduceus(const std::string& name, const ComputeDevice& device,
                    const std::string& device_name, int64_t block_rows = 512) {
  const Fixture fixture(name);
  const Model& model = fixture.model;
  const std::string label = name + " " + device_name + " ";
  SweepEngine engine(model, device, 2, in_memory(block_rows));
  const auto compare = [&](const std::string& tensor, const AlignedFloats& actual) {
    check(label + tensor, relative_error(actual, fixture.tensor(tensor)), tests::kFixture);
  };
  for (int64_t k = 0; k < model.config().n_layer; ++k) {
    compare("residual." + std::to_string(k),
            sweep(engine, model, {fixture.tokens}, k + 1, Halves::both, false).front().hidden);
  }
  const Outputs whole = sweep(engine, model, {fixture.tokens}, kFinalLayer).front();
  compare("final_hidden", whole.hidden);
  compare("logits", whole.logits);

  const int64_t vocab = model.config().vocab_size;
  const mamba::TensorInfo* info = fixture.expected->find("masked_positions");
  REQUIRE(info != nullptr);
  std::vector<int64_t> positions(static_cast<size_t>(info->numel));
  fixture.expected->read_raw(*info, positions.data(), info->bytes);
  AlignedFloats masked_log_p;
  std::vector<std::vector<int32_t>> masked;
  for (const int64_t position : positions) {
    masked.push_back(fixture.tokens);
    masked.back()[static_cast<size_t>(position)] = kMask;
  }
  const std::vector<Outputs> out =
      sweep(engine, model, masked, kFinalLayer, Halves::both, true, &fixture.tokens);
  for (size_t i = 0; i < positions.size(); ++i) {
    const std::vector<double> log_p =
        log_softmax(out[i].logits.data() + positions[i] * vocab, vocab);
    masked_log_p.insert(masked_log_p.end(), log_p.begin(), log_p.end());
    const auto target = static_cast<size_t>(fixture.tokens[static_cast<size_t>(positions[i])]);
    CHECK(out[i].log_likelihood[static_cast<size_t>(positions[i])] ==
          Approx(log_p[target]).margin(1e-5));
  }
  compare("masked_logprob", masked_log_p);
}

TEST_CASE("caduceus_ph and caduceus_ps: every tensor of the published code") {
  for (const char* name : {"caduceus_ph", "caduceus_ps"}) {
    for (const std::string& target : kernels::simd_targets()) {
      kernels::use_simd_target(target);
      check_caduceus(name, tests::on_cpu(), target);
    }
    kernels::use_simd_target("auto");
    check_caduceus(name, tests::on_reference(), "reference");
    for (const ComputeDevice& device : tests::test_devices()) {
      if (!device.cuda) continue;
      check_caduceus(name, device, tests::label(device), 65536);
      check_caduceus(name, device, tests::label(device) + " in sweeps");
    }
  }
}

TEST_CASE("a sweep's blocks, threads and stores do not change a bit") {
  for (const char* name : {"caduceus_ph", "caduceus_ps"}) {
    const Fixture fixture(name);
    for (const ComputeDevice& device :
         tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
      for (const int64_t layer : {int64_t{0}, int64_t{2}, kFinalLayer}) {
        const Outputs whole =
            sweep_one(fixture.model, fixture.tokens, device, 1, in_memory(), layer);
        for (const int64_t block : {1, 256, 300, 512, 1000, 1024}) {
          INFO(name << ", " << tests::label(device) << ", layer " << layer << ", blocks of "
                    << block);
          ComputeDevice small = device;
          if (device.cuda) small.pass_rows = block;
          check_same(sweep_one(fixture.model, fixture.tokens, small, 2, in_memory(block), layer),
                     whole);
          check_same(
              sweep_one(fixture.model, fixture.tokens, small, 3, in_host_memory(block), layer),
              whole);
          check_same(sweep_one(fixture.model, fixture.tokens, small, 3, in_file(block), layer),
                     whole);
        }
      }
    }
  }
}

TEST_CASE("sequences of one call do not change each other") {
  for (const char* name : {"caduceus_ph", "caduceus_ps"}) {
    const Fixture fixture(name);
    std::vector<std::vector<int32_t>> inputs;
    for (const int64_t length : {700, 0, 1, 512, 30, 1024, 5, 255, 257, 511, 513}) {
      inputs.emplace_back(fixture.tokens.begin(), fixture.tokens.begin() + length);
      if (length > 100) std::reverse(inputs.back().begin(), inputs.back().end());
    }
    for (const ComputeDevice& device :
         tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
      ComputeDevice small = device;
      if (device.cuda) small.pass_rows = 512;
      for (const ComputeDevice& each : {device, small}) {
        SweepEngine engine(fixture.model, each, 3, in_memory(device.cuda ? 65536 : 512));
        const std::vector<Outputs> together = sweep(engine, fixture.model, inputs, kFinalLayer);
        for (size_t i = 0; i < inputs.size(); ++i) {
          INFO(name << ", " << tests::label(device) << ", sequence " << i);
          SweepEngine fresh(fixture.model, device, 1, in_memory());
          check_same(together[i], sweep(fresh, fixture.model, {inputs[i]}, kFinalLayer).front());
        }
      }
    }
  }
}

TEST_CASE("the halves of an RC-equivariant model") {
  const Fixture fixture("caduceus_ps");
  const int64_t width = fixture.model.config().d_model;
  SweepEngine engine(fixture.model, tests::on_cpu(), 2, in_memory());
  for (const int64_t layer : {int64_t{0}, int64_t{1}, int64_t{2}, kFinalLayer}) {
    const auto rows = [&](Halves halves) {
      return sweep(engine, fixture.model, {fixture.tokens}, layer, halves, false).front().hidden;
    };
    const AlignedFloats both = rows(Halves::both);
    const AlignedFloats forward = rows(Halves::forward);
    const AlignedFloats reverse = rows(Halves::reverse);
    const AlignedFloats mean = rows(Halves::mean);
    bool forward_ok = true;
    bool reverse_ok = true;
    bool mean_ok = true;
    for (size_t i = 0; i < forward.size(); ++i) {
      const auto t = static_cast<int64_t>(i) / width;
      const auto d = static_cast<int64_t>(i) % width;
      forward_ok = forward_ok && forward[i] == both[static_cast<size_t>(2 * width * t + d)];
      reverse_ok =
          reverse_ok && reverse[i] == both[static_cast<size_t>(2 * width * t + 2 * width - 1 - d)];
      mean_ok = mean_ok && mean[i] == 0.5F * (forward[i] + reverse[i]);
    }
    INFO("layer " << layer);
    CHECK(forward_ok);
    CHECK(reverse_ok);
    CHECK(mean_ok);
  }
}

std::vector<int32_t> reverse_complement(const Model& model, std::vector<int32_t> tokens) {
  std::reverse(tokens.begin(), tokens.end());
  for (int32_t& token : tokens) token = model.tokenizer().complement[static_cast<size_t>(token)];
  return tokens;
}

// Largest difference of the rows of x and the mirrored rows of RC(x), as a share of the largest value.
double mirror_error(const Model& model, const Outputs& x, const Outputs& rc, int64_t width) {
  const int64_t vocab = model.config().vocab_size;
  const auto n = static_cast<int64_t>(x.log_likelihood.size());
  double worst = 0;
  double largest = 0;
  const auto compare = [&](const AlignedFloats& a, const AlignedFloats& b, int64_t columns,
                           const auto& mirrored) {
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t c = 0; c < columns; ++c) {
        const double left = a[static_cast<size_t>(t * columns + c)];
        const double right = b[static_cast<size_t>((n - 1 - t) * columns + mirrored(c))];
        worst = std::max(worst, std::fabs(left - right));
        largest = std::max(largest, std::fabs(left));
      }
    }
  };
  compare(x.hidden, rc.hidden, width, [width](int64_t d) { return width - 1 - d; });
  compare(x.logits, rc.logits, vocab,
          [&model](int64_t v) { return model.tokenizer().complement[static_cast<size_t>(v)]; });
  return worst / largest;
}

TEST_CASE("an RC-equivariant model of the reverse complement gives the mirrored output") {
  for (const bool equivariant : {true, false}) {
    const Fixture fixture(equivariant ? "caduceus_ps" : "caduceus_ph");
    const Model& model = fixture.model;
    const int64_t width = SweepEngine::hidden_width(model, Halves::both);
    for (const ComputeDevice& device :
         tests::test_devices({kernels::DType::f32, kernels::DType::bf16})) {
      INFO(fixture.folder << ", " << tests::label(device));
      const Outputs x = sweep_one(model, fixture.tokens, device, 2, in_memory(), kFinalLayer);
      const Outputs rc = sweep_one(model, reverse_complement(model, fixture.tokens), device, 2,
                                   in_memory(), kFinalLayer);
      const double error = mirror_error(model, x, rc, width);
      if (equivariant) {
        CHECK(error <= tests::kKernel);
      } else {
        CHECK(error > 0.1);
      }
    }
  }
}

TEST_CASE("GPU sweeps: ln p of masked bases in bf16") {
  for (const char* name : {"caduceus_ph", "caduceus_ps"}) {
    const Fixture fixture(name);
    // Of a base that it sees a model is sure, and no rounding shows.
    std::vector<int32_t> masked = fixture.tokens;
    for (size_t i = 0; i < masked.size(); i += 8) masked[i] = kMask;
    const auto log_p = [&](const ComputeDevice& device) {
      SweepEngine engine(fixture.model, device, 2, in_memory());
      const Outputs out =
          sweep(engine, fixture.model, {masked}, kFinalLayer, Halves::both, true, &fixture.tokens)
              .front();
      std::vector<double> values;
      for (size_t i = 0; i < masked.size(); i += 8) values.push_back(out.log_likelihood[i]);
      return values;
    };
    const std::vector<double> expected = log_p(tests::on_cpu());
    for (const ComputeDevice& device : tests::test_devices({kernels::DType::bf16})) {
      if (!device.cuda) continue;
      const std::vector<double> actual = log_p(device);
      double sum = 0;
      double size = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        sum += std::fabs(actual[i] - expected[i]);
        size += std::fabs(expected[i]);
      }
      check(std::string(name) + " " + tests::label(device) + " ln p, mean share", sum / size,
            tests::kBf16SweepLogP);
    }
  }
}

struct Variant {
  const char* name;
  tests::MadeCaduceus shape;
};

std::vector<Variant> variants() {
  std::vector<Variant> list;
  const auto add = [&](const char* name, const auto& change) {
    tests::MadeCaduceus shape;
    shape.n_layer = 3;
    change(shape);
    list.push_back({name, shape});
  };
  using Shape = tests::MadeCaduceus;
  add("Ph", [](Shape&) {});
  add("Ph untied", [](Shape& s) { s.tied = false; });
  add("Ph product", [](Shape& s) { s.strategy = "ew_multiply"; });
  add("Ph product untied", [](Shape& s) {
    s.strategy = "ew_multiply";
    s.tied = false;
  });
  add("Ph one direction", [](Shape& s) { s.bidirectional = false; });
  add("Ph LayerNorm, biases", [](Shape& s) {
    s.rms_norm = false;
    s.proj_bias = true;
  });
  for (const int64_t layers : {2, 3}) {
    add(layers == 2 ? "PS, 2 layers" : "PS, 3 layers", [=](Shape& s) {
      s.rcps = true;
      s.n_layer = layers;
    });
    add(layers == 2 ? "PS unfused, 2 layers" : "PS unfused, 3 layers", [=](Shape& s) {
      s.rcps = true;
      s.fused_add_norm = false;
      s.n_layer = layers;
    });
    add(layers == 2 ? "PS one direction, 2 layers" : "PS one direction, 3 layers", [=](Shape& s) {
      s.rcps = true;
      s.bidirectional = false;
      s.n_layer = layers;
    });
  }
  add("PS product untied, biases", [](Shape& s) {
    s.rcps = true;
    s.strategy = "ew_multiply";
    s.tied = false;
    s.proj_bias = true;
  });
  add("PS biases, LayerNorm", [](Shape& s) {
    s.rcps = true;
    s.proj_bias = true;
    s.rms_norm = false;
  });
  for (const int64_t groups : {1, 2}) {
    add(groups == 1 ? "Mamba-2 PS" : "Mamba-2 PS, 2 groups", [=](Shape& s) {
      s.mamba2 = true;
      s.rcps = true;
      s.d_model = 24;  // 6 heads
      s.ngroups = groups;
    });
    add(groups == 1 ? "Mamba-2 Ph untied product" : "Mamba-2 Ph untied product, 2 groups",
        [=](Shape& s) {
          s.mamba2 = true;
          s.tied = false;
          s.strategy = "ew_multiply";
          s.d_model = 24;  // 6 heads
          s.ngroups = groups;
        });
  }
  return list;
}

TEST_CASE("made variants of Caduceus agree with the plain double-precision model") {
  const Fixture fixture("caduceus_ph");
  // Longer than two segments and than a tile, and not a multiple of either.
  const std::vector<int32_t> tokens(fixture.tokens.begin(), fixture.tokens.begin() + 777);
  for (const Variant& variant : variants()) {
    const Checkpoint checkpoint = tests::made_caduceus(variant.shape, 7);
    const Model model(checkpoint);
    const tests::NaiveOutputs expected =
        tests::naive_forward(*checkpoint.tensors, checkpoint.config, tokens);
    const auto as_floats = [](const std::vector<double>& values) {
      return AlignedFloats(values.begin(), values.end());
    };
    std::vector<ComputeDevice> devices = tests::test_devices();
    devices.push_back(tests::on_reference());
    for (const ComputeDevice& each : devices) {
      for (const bool small_passes : {false, true}) {
        if (small_passes && !each.cuda) continue;
        ComputeDevice device = each;
        if (small_passes) device.pass_rows = 512;
        const std::string label = std::string(variant.name) + ", " + tests::label(device) +
                                  (small_passes ? " in sweeps" : "");
        SweepEngine engine(model, device, 2, in_memory(device.cuda ? 65536 : 512));
        const auto hidden = [&](int64_t layer) {
          return sweep(engine, model, {tokens}, layer, Halves::both, false).front().hidden;
        };
        double worst = relative_error(hidden(0), as_floats(expected.embedding));
        for (int64_t k = 0; k < model.config().n_layer; ++k) {
          const double error =
              relative_error(hidden(k + 1), as_floats(expected.residual[static_cast<size_t>(k)]));
          INFO(label << ", residual." << k);
          CHECK(error <= tests::kFixture);
          worst = std::max(worst, error);
        }
        const Outputs last = sweep(engine, model, {tokens}, kFinalLayer).front();
        worst = std::max(worst, relative_error(last.hidden, as_floats(expected.final_hidden)));
        worst = std::max(worst, relative_error(last.logits, as_floats(expected.logits)));
        check(label, worst, tests::kFixture);
      }
    }
  }
}

TEST_CASE("a sweep engine says why it stops") {
  const Fixture fixture("caduceus_ph");
  SweepMemory tight = in_memory();
  tight.rows_bytes = 1000;
  SweepEngine engine(fixture.model, tests::on_cpu(), 2, tight);
  CHECK_THROWS_AS(sweep(engine, fixture.model, {fixture.tokens}, kFinalLayer), ResourceError);
  SweepEngine other(fixture.model, tests::on_cpu(), 2, in_memory(256));
  SweepSequence sequence;
  sequence.length = static_cast<int64_t>(fixture.tokens.size());
  sequence.tokens = [&](int64_t start, int64_t count, int32_t* tokens) {
    std::copy_n(fixture.tokens.begin() + start, count, tokens);
  };
  sequence.consume = [](const SweepRows&) {};
  std::atomic<int> polls = 0;
  CHECK_THROWS_WITH(other.run({&sequence, 1}, {.layer = kFinalLayer},
                              [&] {
                                if (++polls == 5) throw UsageError("stopped");
                              }),
                    "stopped");
  // And works again after that.
  CHECK_NOTHROW(other.run({&sequence, 1}, {.layer = kFinalLayer}));
}

// Tokens of some sequence and results that nobody looks at.
SweepSequence sequence_of(const std::vector<int32_t>& tokens) {
  SweepSequence sequence;
  sequence.length = static_cast<int64_t>(tokens.size());
  sequence.tokens = [&tokens](int64_t start, int64_t count, int32_t* to) {
    std::copy_n(tokens.begin() + start, count, to);
  };
  sequence.consume = [](const SweepRows&) {};
  return sequence;
}

TEST_CASE("a store that fails stops the sweeps wherever they are, and the next run is right") {
  const Fixture fixture("caduceus_ps");
  const std::vector<int32_t> few(fixture.tokens.begin(), fixture.tokens.begin() + 300);
  for (const ComputeDevice& each : tests::test_devices()) {
    ComputeDevice device = each;
    if (device.cuda) device.pass_rows = 512;
    std::atomic<int> uses_left = 0;
    SweepMemory memory = in_file(256);
    // The second run's rows fit a GPU, and there is nothing to be written to the file.
    memory.device_rows_bytes = 300 * SweepEngine::store_bytes(fixture.model, device);
    memory.scratch = [&uses_left](int64_t bytes) {
      return std::make_unique<FakeFile>(bytes, &uses_left);
    };
    const Outputs expected = sweep_one(fixture.model, few, device, 1, in_memory(), kFinalLayer);
    SweepEngine engine(fixture.model, device, 3, memory);
    SweepSequence sequence = sequence_of(fixture.tokens);
    constexpr int kEnough = 1 << 20;
    uses_left = kEnough;
    engine.run({&sequence, 1}, {.layer = kFinalLayer});
    const int uses = kEnough - uses_left;
    REQUIRE(uses > 20);
    for (int good = 0; good < uses; good += good < 12 ? 1 : 5) {
      INFO(tests::label(device) << ", fails after " << good << " of " << uses);
      uses_left = good;
      CHECK_THROWS_AS(engine.run({&sequence, 1}, {.layer = kFinalLayer}), ResourceError);
      uses_left = kEnough;
      check_same(sweep(engine, fixture.model, {few}, kFinalLayer).front(), expected);
    }
  }
}

TEST_CASE("callbacks that throw stop the sweeps, and the next run is right") {
  const Fixture fixture("caduceus_ph");
  for (const ComputeDevice& each : tests::test_devices()) {
    ComputeDevice device = each;
    if (device.cuda) device.pass_rows = 512;
    const Outputs expected =
        sweep_one(fixture.model, fixture.tokens, device, 1, in_memory(), kFinalLayer);
    for (const SweepMemory& memory : {in_memory(256), in_file(256)}) {
      SweepEngine engine(fixture.model, device, 3, memory);
      for (const bool in_tokens : {true, false}) {
        SweepSequence sequence = sequence_of(fixture.tokens);
        int calls = 0;
        if (in_tokens) {
          sequence.tokens = [&](int64_t start, int64_t count, int32_t* to) {
            std::copy_n(fixture.tokens.begin() + start, count, to);
            if (++calls == 2) throw UsageError("stopped");
          };
        } else {
          sequence.consume = [&](const SweepRows&) {
            if (++calls == 2) throw UsageError("stopped");
          };
        }
        INFO(tests::label(device) << (in_tokens ? ", tokens" : ", consume"));
        CHECK_THROWS_WITH(engine.run({&sequence, 1}, {.layer = kFinalLayer}), "stopped");
        check_same(sweep(engine, fixture.model, {fixture.tokens}, kFinalLayer).front(), expected);
      }
    }
  }
}

TEST_CASE("rows of an inner layer do not come with results of the head") {
  const Fixture fixture("caduceus_ph");
  SweepEngine engine(fixture.model, tests::on_cpu(), 1, in_memory());
  SweepSequence sequence = sequence_of(fixture.tokens);
  CHECK_THROWS_AS(engine.run({&sequence, 1}, {.layer = 1, .log_likelihood = true}), InternalError);
  CHECK_THROWS_AS(engine.run({&sequence, 1}, {.layer = 1, .logits = true}), InternalError);
  const int64_t last = fixture.model.config().n_layer;
  CHECK_THROWS_AS(engine.run({&sequence, 1}, {.layer = last + 1}), InternalError);
  CHECK_NOTHROW(engine.run({&sequence, 1}, {.layer = last, .log_likelihood = true}));
}

TEST_CASE("GPU sweeps: a pass is no longer than a block") {
  const Fixture fixture("caduceus_ph");
  for (const ComputeDevice& device : tests::test_devices()) {
    if (!device.cuda) continue;
    const SweepEngine large(fixture.model, device, 1, in_memory(65536));
    const SweepEngine small(fixture.model, device, 1, in_memory(1024));
    CHECK(small.device_peak_bytes() < large.device_peak_bytes());
  }
}

}  // namespace
}  // namespace chromamba::mamba
