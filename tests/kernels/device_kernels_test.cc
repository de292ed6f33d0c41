// What only a GPU has: batches, segments, snapshots, bf16, and the fused head.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/conv_project.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/token_embedding.h"
#include "tests/kernels/kernel_test.h"
#include "tests/random_values.h"
#include "tests/tolerances.h"

namespace chromamba::kernels {
namespace {

using tests::DeviceTarget;
using tests::on_gpu;
using tests::OnDevice;
using tests::poisoned;
using tests::random_values;
using tests::relative_error;
using tests::rounded;
using tests::same_bits;

struct Scan {
  Scan(int64_t l, int64_t e, int64_t n)
      : length(l),
        channels(e),
        d_state(n),
        u(rounded(random_values(l * e, 1))),
        dt(rounded(random_values(l * e, 2, -2, 1))),
        z(rounded(random_values(l * e, 3))),
        b(rounded(random_values(l * n, 4))),
        c(rounded(random_values(l * n, 5))),
        bias(random_values(e, 6, -1)),
        decay(random_values(n * e, 7)),
        skip(random_values(e, 8)),
        h0(random_values(n * e, 9)) {
    for (float& a : decay) a = -0.01F - std::fabs(4 * a);
  }

  template <typename Target>
  AlignedFloats run(Target& target, AlignedFloats& state, bool reverse = false) const {
    AlignedFloats out = poisoned(length * channels);
    SelectiveScanArgs args;
    args.length = length;
    args.channels = channels;
    args.d_state = d_state;
    args.reverse = reverse;
    args.u_LE = u.data();
    args.u_stride = channels;
    args.dt_LE = dt.data();
    args.dt_stride = channels;
    args.dt_bias_E = bias.data();
    args.A_NE = decay.data();
    args.Bmat_LN = b.data();
    args.Cmat_LN = c.data();
    args.bc_stride = d_state;
    args.D_E = skip.data();
    args.z_LE = z.data();
    args.z_stride = channels;
    args.state_NE = state.data();
    args.out_LE = out.data();
    args.out_stride = channels;
    selective_scan(target, args);
    return out;
  }

  int64_t length, channels, d_state;
  AlignedFloats u, dt, z, b, c, bias, decay, skip, h0;
};

TEST_CASE("GPU scan in segments agrees with the double reference, f32 and bf16") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          target.segment_bases = kSegmentBases;
          const double tolerance = dtype == DType::f32 ? tests::kKernel : tests::kBf16Kernel;
          for (const int64_t length : {1, 511, 512, 513, 1024, 2900}) {
            for (const int64_t d_state : {1, 5, 16, 40}) {
              for (const bool reverse : {false, true}) {
                // Odd channel counts leave lanes idle; slow decay keeps the carry alive.
                Scan scan(length, d_state == 16 ? 160 : 33, d_state);
                for (float& a : scan.decay) a *= 0.05F;
                INFO(dtype_name(dtype)
                     << ", L " << length << ", N " << d_state << (reverse ? ", reverse" : ""));
                Exec reference(Backend::reference);
                AlignedFloats expected_state = scan.h0;
                const AlignedFloats expected = scan.run(reference, expected_state, reverse);
                AlignedFloats state = scan.h0;
                const AlignedFloats actual = scan.run(target, state, reverse);
                CHECK(relative_error(actual, expected) <= tolerance);
                CHECK(relative_error(state, expected_state) <= tolerance);
                AlignedFloats again = scan.h0;
                CHECK(same_bits(scan.run(target, again, reverse), actual));
              }
            }
          }
        },
        dtype);
  }
}

TEST_CASE("GPU scan: what it adds to outputs is what it gives alone, rounded") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          target.segment_bases = kSegmentBases;
          for (const int64_t length : {1, 31, 512, 700}) {
            for (const int64_t channels : {33, 96, 160}) {
              const Scan scan(length, channels, 16);
              INFO(dtype_name(dtype) << ", L " << length << ", E " << channels);
              AlignedFloats state = scan.h0;
              target.adds_to = std::nanf("");
              AlignedFloats expected = scan.run(target, state, length % 2 == 0);
              for (float& value : expected) value += 3;
              if (dtype == DType::bf16) expected = rounded(expected);
              state = scan.h0;
              target.adds_to = 3;
              CHECK(same_bits(scan.run(target, state, length % 2 == 0), expected));
            }
          }
        },
        dtype);
  }
}

TEST_CASE("GPU scan: segments whose states decay to nothing leave them out, and only them") {
  on_gpu([&](DeviceTarget& target) {
    target.segment_bases = kSegmentBases;
    Scan scan(2048, 64, 16);
    // From states that live for ever to ones that last a base, within one warp.
    for (size_t i = 0; i < scan.decay.size(); ++i) {
      scan.decay[i] = -std::pow(10.0F, static_cast<float>(i * 7 % 64) / 8.0F - 5.0F);
    }
    Exec reference(Backend::reference);
    AlignedFloats expected_state = scan.h0;
    const AlignedFloats expected = scan.run(reference, expected_state);
    AlignedFloats state = scan.h0;
    CHECK(relative_error(scan.run(target, state), expected) <= tests::kKernel);
    CHECK(relative_error(state, expected_state) <= tests::kKernel);
  });
}

// Several sequences in one batch, with snapshots.
struct Batch : OnDevice {
  static constexpr int64_t kChannels = 72;
  static constexpr int64_t kStates = 16;

  Batch(DeviceTarget& target, const std::vector<int64_t>& lengths) : OnDevice(target.exec) {
    int64_t rows = 0;
    for (const int64_t n : lengths) rows += n;
    scan = std::make_unique<Scan>(rows, kChannels, kStates);
    const int64_t floats = 2 * kStates * kChannels;
    states = upload_f32(exec, random_values(floats * count(lengths), 20).data(),
                        floats * count(lengths), "a test");
    int64_t row = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      DeviceSpan span;
      span.row = row;
      span.length = lengths[i];
      span.state = states.as<float>() + static_cast<int64_t>(i) * floats;
      spans.push_back(span);
      row += lengths[i];
    }
    segments = cut_segments(spans);
    const auto up = [&](const AlignedFloats& values) {
      buffers.push_back(upload(exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
      return buffers.back().data();
    };
    const auto up_f32 = [&](const AlignedFloats& values) {
      buffers.push_back(
          upload_f32(exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
      return buffers.back().as<const float>();
    };
    args.batch.spans = table(spans);
    args.batch.segments = table(segments);
    args.batch.rows = rows;
    args.batch.span_count = count(spans);
    args.batch.segment_count = count(segments);
    args.channels = kChannels;
    args.d_state = kStates;
    args.u_LE = up(scan->u);
    args.dt_LE = up(scan->dt);
    args.z_LE = up(scan->z);
    args.Bmat_LN = up(scan->b);
    args.Cmat_LN = up(scan->c);
    args.u_stride = args.dt_stride = args.z_stride = args.out_stride = kChannels;
    args.bc_stride = kStates;
    args.dt_bias_E = up_f32(scan->bias);
    args.A_NE = up_f32(scan->decay);
    args.D_E = up_f32(scan->skip);
    args.state.ssm_last = kStates * kChannels;
    buffers.emplace_back(exec, 4 * scan_workspace_floats(count(segments), kChannels, kStates),
                         "a test");
    args.workspace = buffers.back().as<float>();
    buffers.emplace_back(exec, rows * kChannels * dtype_bytes(exec.dtype()), "a test");
    args.out_LE = buffers.back().data();
  }

  template <typename T>
  static int64_t count(const std::vector<T>& values) {
    return static_cast<int64_t>(values.size());
  }
  AlignedFloats run() {
    selective_scan(exec, args);
    AlignedFloats out(static_cast<size_t>(args.batch.rows * kChannels));
    download(exec, args.out_LE, static_cast<int64_t>(out.size()), out.data());
    return out;
  }

  std::unique_ptr<Scan> scan;
  std::vector<DeviceSpan> spans;
  std::vector<DeviceSegment> segments;
  DeviceBuffer states;
  DeviceSelectiveScanArgs args;
};

TEST_CASE("GPU scan: snapshots are the states that a shorter sequence ends with") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          const std::vector<int64_t> lengths = {700, 3, 1600};
          // Several within the bases that a thread takes at once, and in those that are left over.
          const std::vector<std::pair<int32_t, int64_t>> wanted = {
              {0, 0},   {0, 1},   {0, 5}, {0, 7}, {0, 8},    {0, 512},
              {0, 513}, {0, 699}, {1, 0}, {1, 2}, {2, 1030}, {2, 1599}};
          const int64_t size = Batch::kStates * Batch::kChannels;
          const int64_t kept_size = 2 * size * Batch::count(wanted);
          Batch plain(target, lengths);
          Batch batch(target, lengths);
          const AlignedFloats poison = poisoned(kept_size);
          const DeviceBuffer kept = upload_f32(target.exec, poison.data(), kept_size, "a test");
          std::vector<DeviceSnapshot> snapshots;
          for (const auto& [span, base] : wanted) {
            snapshots.push_back(
                {span, base, kept.as<float>() + 2 * size * Batch::count(snapshots)});
          }
          batch.args.batch.snapshots = batch.table(snapshots);
          batch.args.batch.snapshot_count = Batch::count(snapshots);
          CHECK(same_bits(batch.run(), plain.run()));  // outputs are what they are without
          AlignedFloats actual(static_cast<size_t>(kept_size));
          copy_to_host(target.exec, actual.data(), kept.data(), 4 * kept_size);
          target.exec.synchronize();
          for (size_t k = 0; k < wanted.size(); ++k) {
            INFO(dtype_name(dtype) << ", snapshot " << k);
            const auto s = static_cast<size_t>(wanted[k].first);
            const auto from = actual.begin() + static_cast<int64_t>(k) * 2 * size;
            const AlignedFloats snapshot(from, from + size);
            CHECK(std::all_of(from + size, from + 2 * size, [](float v) { return std::isnan(v); }));
            Batch shorter(target, lengths);  // the same inputs, one span cut short
            AlignedFloats last(static_cast<size_t>(size));
            const float* state = shorter.spans[s].state;
            if (wanted[k].second > 0) {
              std::vector<DeviceSpan> one = {shorter.spans[s]};
              one[0].length = wanted[k].second;
              const std::vector<DeviceSegment> segments = cut_segments(one);
              shorter.args.batch.spans = shorter.table(one);
              shorter.args.batch.segments = shorter.table(segments);
              shorter.args.batch.span_count = 1;
              shorter.args.batch.segment_count = Batch::count(segments);
              selective_scan(target.exec, shorter.args);
              state += size;
            }
            copy_to_host(target.exec, last.data(), state, 4 * size);
            target.exec.synchronize();
            CHECK(same_bits(snapshot, last));
          }
        },
        dtype);
  }
}

TEST_CASE("GPU scan: spans without a whole segment are computed as without the first steps") {
  on_gpu([&](DeviceTarget& target) {
    const std::vector<int64_t> lengths = {511, 1, 200};
    Batch batch(target, lengths);
    Batch alone(target, lengths);
    alone.args.workspace = nullptr;
    CHECK(same_bits(batch.run(), alone.run()));
    const int64_t size = 2 * Batch::kStates * Batch::kChannels * Batch::count(lengths);
    std::vector<AlignedFloats> states;
    for (const Batch* each : {&batch, &alone}) {
      states.emplace_back(static_cast<size_t>(size));
      copy_to_host(target.exec, states.back().data(), each->states.data(), 4 * size);
      target.exec.synchronize();
    }
    CHECK(same_bits(states[0], states[1]));
  });
}

TEST_CASE("GPU scan: a sequence's results do not depend on the others of the batch") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          const std::vector<int64_t> lengths = {513, 64, 2000};
          Batch batch(target, lengths);
          const AlignedFloats together = batch.run();
          for (size_t s = 0; s < lengths.size(); ++s) {
            Batch alone(target, lengths);
            std::vector<DeviceSpan> one = {alone.spans[s]};
            const std::vector<DeviceSegment> segments = cut_segments(one);
            alone.args.batch.spans = alone.table(one);
            alone.args.batch.segments = alone.table(segments);
            alone.args.batch.span_count = 1;
            alone.args.batch.segment_count = Batch::count(segments);
            const AlignedFloats out = alone.run();
            const auto from = one[0].row * Batch::kChannels;
            const auto to = from + one[0].length * Batch::kChannels;
            CHECK(same_bits(AlignedFloats(out.begin() + from, out.begin() + to),
                            AlignedFloats(together.begin() + from, together.begin() + to)));
          }
        },
        dtype);
  }
}

// A fused pass and its three parts from the same inputs.
struct ConvProject : OnDevice {
  static constexpr int64_t kTaps = 4;

  ConvProject(DeviceExec& on, int64_t l, int64_t e, int64_t r, int64_t w, bool reverse)
      : OnDevice(on), length(l), channels(e), rank(r), width(w) {
    x_weight = rounded(random_values(w * e, 31));
    dt_weight = rounded(random_values(e * r, 32));
    DeviceSpan span;
    span.length = length;
    const int64_t floats = state_floats(channels, 0, kTaps);
    states = random_values(floats, 33);
    span.state = up_f32(states);
    std::vector<DeviceSpan> spans = {span};
    const std::vector<DeviceSegment> segments = cut_segments(spans);
    args.conv.batch.spans = table(spans);
    args.conv.batch.segments = table(segments);
    args.conv.batch.rows = length;
    args.conv.batch.span_count = 1;
    args.conv.batch.segment_count = static_cast<int64_t>(segments.size());
    args.conv.channels = channels;
    args.conv.taps = kTaps;
    args.conv.reverse = reverse;
    args.conv.u_LE = up(random_values(length * 2 * channels, 34));
    args.conv.u_stride = 2 * channels;
    args.conv.weight_KE = up_f32(random_values(kTaps * channels, 35));
    args.conv.bias_E = up_f32(random_values(channels, 36));
    args.conv.state = state_layout(0, channels, 0, kTaps);
    args.conv.out_LE = up(poisoned(length * channels));
    args.conv.out_stride = channels;
    args.rank = rank;
    args.width = width;
    args.x_LW = up(poisoned(length * width));
    args.x_stride = width;
    args.dt_LE = up(poisoned(length * channels));
    args.dt_stride = channels;
  }

  void fused() {
    args.x_weight = up(pack_x_weight(x_weight, width, channels));
    args.dt_weight = up(pack_dt_weight(dt_weight, channels, rank));
    conv_project(exec, args);
  }
  void parts() {
    causal_conv1d(exec, args.conv);
    linear(exec, {length, channels, width, args.conv.out_LE, channels, up(x_weight), nullptr,
                  args.x_LW, width});
    linear(exec, {length, rank, channels, args.x_LW, width, up(dt_weight), nullptr, args.dt_LE,
                  channels});
  }
  AlignedFloats read(const void* from, int64_t n) {
    AlignedFloats values(static_cast<size_t>(n));
    download(exec, from, n, values.data());
    return values;
  }
  AlignedFloats u() { return read(args.conv.out_LE, length * channels); }
  AlignedFloats x() { return read(args.x_LW, length * width); }
  AlignedFloats dt() { return read(args.dt_LE, length * channels); }
  AlignedFloats state() {
    AlignedFloats values(states.size());
    copy_to_host(exec, values.data(), buffers.front().data(),
                 4 * static_cast<int64_t>(values.size()));
    exec.synchronize();
    return values;
  }

  void* up(const AlignedFloats& values) {
    buffers.push_back(upload(exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
    return buffers.back().data();
  }
  float* up_f32(const AlignedFloats& values) {
    buffers.push_back(
        upload_f32(exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
    return buffers.back().as<float>();
  }

  int64_t length, channels, rank, width;
  AlignedFloats x_weight, dt_weight, states;
  DeviceConvProjectArgs args;
};

TEST_CASE("GPU convolution with its projections agrees with the three kernels apart") {
  on_gpu(
      [&](DeviceTarget& target) {
        for (const int64_t channels : {128, 256, 384, 512}) {
          for (const int64_t rank : {16, 48}) {
            const int64_t width = rank + 32 + 8;
            REQUIRE(conv_project_fits(DType::bf16, channels, 4, rank, width));
            for (const int64_t length : {1, 2, 31, 33, 512, 1100}) {
              for (const bool reverse : {false, true}) {
                INFO("E " << channels << ", R " << rank << ", L " << length
                          << (reverse ? ", reverse" : ""));
                ConvProject one(target.exec, length, channels, rank, width, reverse);
                ConvProject apart(target.exec, length, channels, rank, width, reverse);
                one.fused();
                apart.parts();
                CHECK(same_bits(one.u(), apart.u()));
                CHECK(same_bits(one.state(), apart.state()));
                CHECK(relative_error(one.x(), apart.x()) <= tests::kBf16Kernel);
                CHECK(relative_error(one.dt(), apart.dt()) <= tests::kBf16Kernel);
              }
            }
          }
        }
        // Rows do not depend on how many there are.
        ConvProject whole(target.exec, 700, 512, 16, 48, false);
        ConvProject start(target.exec, 700, 512, 16, 48, false);
        whole.fused();
        start.args.conv.batch.rows = 333;
        std::vector<DeviceSpan> span(1);
        span[0].length = 333;
        span[0].state = start.buffers.front().as<float>();
        const std::vector<DeviceSegment> segments = cut_segments(span);
        start.args.conv.batch.spans = start.table(span);
        start.args.conv.batch.segments = start.table(segments);
        start.args.conv.batch.segment_count = 1;
        start.fused();
        const AlignedFloats dt = whole.dt();
        const AlignedFloats first = start.dt();
        CHECK(same_bits(AlignedFloats(first.begin(), first.begin() + 333 * 512),
                        AlignedFloats(dt.begin(), dt.begin() + 333 * 512)));
      },
      DType::bf16);
}

TEST_CASE("GPU head: ln p, logits and the whole distribution from the residual stream") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t vocab : {2, 8, 16, 17, 50}) {
      for (const int64_t width : {20, 128, 264, 700}) {
        on_gpu(
            [&](DeviceTarget& target) {
              INFO(dtype_name(dtype) << ", V " << vocab << ", D " << width);
              constexpr int64_t kRows = 11;
              const int64_t stride = (width + 7) / 8 * 8;
              const auto padded = [&](const AlignedFloats& values, int64_t rows) {
                AlignedFloats result(static_cast<size_t>(rows * stride), 0.0F);
                for (int64_t r = 0; r < rows; ++r) {
                  std::copy_n(values.begin() + r * width, width, result.begin() + r * stride);
                }
                return result;
              };
              const AlignedFloats hidden = rounded(random_values(kRows * width, 1));
              const AlignedFloats residual = random_values(kRows * width, 2);
              const AlignedFloats norm = random_values(width, 3, 1, 0.2F);
              const AlignedFloats weight = random_values(vocab * width, 4, 0, 0.2F);
              std::vector<int32_t> targets(kRows);
              for (int32_t i = 0; i < kRows; ++i) {
                targets[static_cast<size_t>(i)] = i == 4 ? -1 : i % static_cast<int32_t>(vocab);
              }
              DeviceExec& exec = target.exec;
              const AlignedFloats hidden_rows = padded(hidden, kRows);
              const DeviceBuffer device_hidden =
                  upload(exec, hidden_rows.data(), kRows * stride, "a test");
              const auto up = [&](const AlignedFloats& values, int64_t rows) {
                const AlignedFloats all = padded(values, rows);
                return upload_f32(exec, all.data(), rows * stride, "a test");
              };
              const DeviceBuffer device_residual = up(residual, kRows);
              const DeviceBuffer device_norm = up(norm, 1);
              const DeviceBuffer device_weight = up(weight, vocab);
              const DeviceBuffer device_targets(exec, 4 * kRows, "a test");
              copy_to_device(exec, device_targets.data(), targets.data(), 4 * kRows);
              const DeviceBuffer out(exec, 4 * kRows, "a test");
              const DeviceBuffer all(exec, 4 * kRows * vocab, "a test");
              const DeviceBuffer logits(exec, 4 * kRows * vocab, "a test");
              DeviceHeadArgs args;
              args.rows = kRows;
              args.d_model = width;
              args.stride = stride;
              args.vocab_size = vocab;
              args.hidden_LD = device_hidden.data();
              args.residual_LD = device_residual.as<const float>();
              args.norm_weight_D = device_norm.as<const float>();
              args.weight_VD = device_weight.as<const float>();
              args.target_L = device_targets.as<const int32_t>();
              args.out_L = out.as<float>();
              args.log_p_LV = all.as<float>();
              args.logits_LV = logits.as<float>();
              head_log_likelihood(exec, args);
              const auto down = [&](const DeviceBuffer& from, int64_t n) {
                AlignedFloats values(static_cast<size_t>(n));
                copy_to_host(exec, values.data(), from.data(), 4 * n);
                exec.synchronize();
                return values;
              };
              const AlignedFloats actual = down(out, kRows);
              const AlignedFloats actual_all = down(all, kRows * vocab);
              const AlignedFloats actual_logits = down(logits, kRows * vocab);
              // The other strand's logits, of the rows in reverse order, are added to these.
              const AlignedFloats mirror = random_values(kRows * vocab, 9);
              const DeviceBuffer device_mirror =
                  upload_f32(exec, mirror.data(), kRows * vocab, "a test");
              args.mirror_logits_LV = device_mirror.as<const float>();
              head_log_likelihood(exec, args);
              const AlignedFloats joined = down(logits, kRows * vocab);
              bool adds = true;
              for (int64_t r = 0; r < kRows; ++r) {
                for (int64_t v = 0; v < vocab; ++v) {
                  const auto i = static_cast<size_t>(r * vocab + v);
                  const float other = mirror[static_cast<size_t>((kRows - 1 - r) * vocab + v)];
                  adds = adds && joined[i] == actual_logits[i] + other;
                }
              }
              CHECK(adds);
              for (int64_t r = 0; r < kRows; ++r) {
                std::vector<double> x(static_cast<size_t>(width));
                double squares = 0;
                for (int64_t d = 0; d < width; ++d) {
                  const auto i = static_cast<size_t>(r * width + d);
                  x[static_cast<size_t>(d)] = static_cast<double>(hidden[i]) + residual[i];
                  squares += x[static_cast<size_t>(d)] * x[static_cast<size_t>(d)];
                }
                const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
                std::vector<double> logit(static_cast<size_t>(vocab), 0.0);
                double sum = 0;
                for (int64_t v = 0; v < vocab; ++v) {
                  for (int64_t d = 0; d < width; ++d) {
                    logit[static_cast<size_t>(v)] += x[static_cast<size_t>(d)] * scale *
                                                     norm[static_cast<size_t>(d)] *
                                                     weight[static_cast<size_t>(v * width + d)];
                  }
                  sum += std::exp(logit[static_cast<size_t>(v)]);
                }
                for (int64_t v = 0; v < vocab; ++v) {
                  const auto i = static_cast<size_t>(r * vocab + v);
                  const double expected = logit[static_cast<size_t>(v)];
                  CHECK(actual_logits[i] == Approx(expected).margin(2e-5));
                  CHECK(actual_all[i] == Approx(expected - std::log(sum)).margin(2e-5));
                }
                const int32_t token = targets[static_cast<size_t>(r)];
                if (token < 0) {
                  CHECK(std::isnan(actual[static_cast<size_t>(r)]));
                } else {
                  CHECK(actual[static_cast<size_t>(r)] ==
                        Approx(actual_all[static_cast<size_t>(r * vocab + token)]).margin(2e-6));
                }
              }
            },
            dtype);
      }
    }
  }
}

TEST_CASE("GPU add_norm: hidden times another is added in f32") {
  constexpr int64_t kRows = 9;
  for (const int64_t width : {20, 118, 600}) {
    const int64_t stride = (width + 7) / 8 * 8;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      on_gpu(
          [&](DeviceTarget& target) {
            DeviceExec& exec = target.exec;
            const int64_t n = kRows * stride;
            const AlignedFloats hidden = rounded(random_values(n, 1));
            const AlignedFloats times = rounded(random_values(n, 2));
            const AlignedFloats residual = random_values(n, 3);
            const DeviceBuffer device_hidden = upload(exec, hidden.data(), n, "a test");
            const DeviceBuffer device_times = upload(exec, times.data(), n, "a test");
            const DeviceBuffer device_residual = upload_f32(exec, residual.data(), n, "a test");
            DeviceAddNormArgs args;
            args.rows = kRows;
            args.d_model = width;
            args.stride = stride;
            args.hidden_LD = device_hidden.data();
            args.times_LD = device_times.data();
            args.residual_LD = device_residual.as<float>();
            add_norm(exec, args);
            AlignedFloats actual(residual.size());
            copy_to_host(exec, actual.data(), device_residual.data(), 4 * n);
            exec.synchronize();
            AlignedFloats expected = residual;
            for (size_t i = 0; i < expected.size(); ++i) {
              expected[i] = static_cast<float>(residual[i] + double{hidden[i]} * times[i]);
            }
            CHECK(relative_error(actual, expected) <= tests::kKernel);
          },
          dtype);
    }
  }
}

TEST_CASE("GPU add_norm of tokens is an embedding and then add_norm") {
  const std::vector<int32_t> tokens = {3, 0, 15, 7, 16, -1, 3, 9, 1};
  const auto rows = static_cast<int64_t>(tokens.size());
  for (const int64_t width : {20, 118, 600}) {
    const int64_t stride = (width + 7) / 8 * 8;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      on_gpu(
          [&](DeviceTarget& target) {
            DeviceExec& exec = target.exec;
            AlignedFloats table = random_values(16 * stride, 1);
            AlignedFloats weight = random_values(stride, 2);
            for (int64_t d = width; d < stride; ++d) {
              weight[static_cast<size_t>(d)] = 0;
              for (int64_t v = 0; v < 16; ++v) table[static_cast<size_t>(v * stride + d)] = 0;
            }
            const DeviceBuffer device_table = upload_f32(exec, table.data(), 16 * stride, "a test");
            const DeviceBuffer device_weight = upload_f32(exec, weight.data(), stride, "a test");
            const DeviceBuffer device_tokens(exec, 4 * rows, "a test");
            copy_to_device(exec, device_tokens.data(), tokens.data(), 4 * rows);
            const auto run = [&](bool apart) {
              const DeviceBuffer residual(exec, 4 * rows * stride, "a test");
              const DeviceBuffer out(exec, 4 * rows * stride, "a test");
              DeviceAddNormArgs args;
              args.rows = rows;
              args.d_model = width;
              args.stride = stride;
              args.residual_LD = residual.as<float>();
              args.weight_D = device_weight.as<const float>();
              args.out_LD = out.data();
              if (apart) {
                token_embedding(exec, {rows, 16, stride, device_tokens.as<const int32_t>(),
                                       device_table.as<const float>(), residual.as<float>()});
              } else {
                args.tokens_L = device_tokens.as<const int32_t>();
                args.table_VD = device_table.as<const float>();
                args.vocab_size = 16;
              }
              add_norm(exec, args);
              std::vector<AlignedFloats> results(2, AlignedFloats(residual.bytes() / 4));
              copy_to_host(exec, results[0].data(), residual.data(), residual.bytes());
              exec.synchronize();
              download(exec, out.data(), rows * stride, results[1].data());
              return results;
            };
            const std::vector<AlignedFloats> expected = run(true);
            const std::vector<AlignedFloats> actual = run(false);
            for (int64_t r = 0; r < rows; ++r) {
              const int32_t token = tokens[static_cast<size_t>(r)];
              for (int64_t d = 0; d < stride; ++d) {
                const auto i = static_cast<size_t>(r * stride + d);
                if (token < 0 || token >= 16) {
                  if (d < width) CHECK(std::isnan(actual[1][i]));
                  continue;
                }
                CHECK(actual[0][i] == expected[0][i]);
                CHECK(actual[1][i] == expected[1][i]);
              }
            }
          },
          dtype);
    }
  }
}

TEST_CASE("GPU product: what it adds to rows") {
  constexpr int64_t kIn = 24;
  constexpr int64_t kOut = 120;
  for (const int64_t rows : {1, 77}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      on_gpu(
          [&](DeviceTarget& target) {
            DeviceExec& exec = target.exec;
            const AlignedFloats x = rounded(random_values(rows * kIn, 1));
            const AlignedFloats weight = rounded(random_values(kIn * kOut, 2));
            const AlignedFloats before = rounded(random_values(rows * kOut, 3));
            const DeviceBuffer device_x = upload(exec, x.data(), rows * kIn, "a test");
            const DeviceBuffer device_weight = upload(exec, weight.data(), kIn * kOut, "a test");
            const DeviceBuffer y = upload(exec, before.data(), rows * kOut, "a test");
            linear(exec, {rows, kIn, kOut, device_x.data(), kIn, device_weight.data(), nullptr,
                          y.data(), kOut, true});
            AlignedFloats actual(before.size());
            download(exec, y.data(), rows * kOut, actual.data());
            double worst = 0;  // in shares of the value's own size
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t o = 0; o < kOut; ++o) {
                const auto i = static_cast<size_t>(r * kOut + o);
                double sum = before[i];
                double size = std::fabs(sum);
                for (int64_t k = 0; k < kIn; ++k) {
                  const double term = double{x[static_cast<size_t>(r * kIn + k)]} *
                                      weight[static_cast<size_t>(o * kIn + k)];
                  sum += term;
                  size += std::fabs(term);
                }
                // In bf16 the sum is rounded, and the product before it; f32 sums.
                const double product = std::fabs(sum - before[i]);
                const double allowed =
                    (dtype == DType::bf16 ? (std::fabs(sum) + product) * 0x1p-8 : 0) +
                    size * 0x1p-19;
                worst = std::max(worst, std::fabs(actual[i] - sum) / allowed);
              }
            }
            CHECK(worst <= 1);
          },
          dtype);
    }
  }
}

TEST_CASE("GPU embedding copies rows, and a token outside the table is NaN") {
  on_gpu([&](DeviceTarget& target) {
    const AlignedFloats table = random_values(5 * 16, 1);
    const std::vector<int32_t> tokens = {4, 0, 5, -1, 2};
    const DeviceBuffer device_table = upload_f32(target.exec, table.data(), 80, "a test");
    const DeviceBuffer device_tokens(target.exec, 20, "a test");
    copy_to_device(target.exec, device_tokens.data(), tokens.data(), 20);
    const DeviceBuffer out(target.exec, 4 * 80, "a test");
    token_embedding(target.exec, {5, 5, 16, device_tokens.as<const int32_t>(),
                                  device_table.as<const float>(), out.as<float>()});
    AlignedFloats actual(80);
    copy_to_host(target.exec, actual.data(), out.data(), 320);
    target.exec.synchronize();
    for (size_t t = 0; t < 5; ++t) {
      for (size_t d = 0; d < 16; ++d) {
        if (tokens[t] < 0 || tokens[t] > 4) {
          CHECK(std::isnan(actual[16 * t + d]));
        } else {
          CHECK(actual[16 * t + d] == table[static_cast<size_t>(tokens[t]) * 16 + d]);
        }
      }
    }
  });
}

TEST_CASE("without a GPU a context cannot be made, and the message says why") {
  CHECK_THROWS_AS(DeviceExec(99, DType::f32), ResourceError);
  std::string why;
  if (cuda_devices(&why).empty()) CHECK_FALSE(why.empty());
}

}  // namespace
}  // namespace chromamba::kernels
