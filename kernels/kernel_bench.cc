#include "kernels/kernel_bench.h"

#include <cblas.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "kernels/add_norm.h"
#include "kernels/base/aligned.h"
#include "kernels/base/error.h"
#include "kernels/bench_values.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gated_norm.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/selective_scan.h"
#include "kernels/ssd_scan.h"
#include "kernels/token_embedding.h"

namespace chromamba::kernels {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Median time of one call, over at least 0.1 s and 9 calls.
double median_seconds(const std::function<void()>& call) {
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  while (times.size() < 9 || seconds_since(start) < 0.1) {
    const Clock::time_point begin = Clock::now();
    call();
    times.push_back(seconds_since(begin));
  }
  return median(std::move(times));
}

// Runs a kernel on both backends into fresh outputs and compares, then times the CPU backend.
class Bench {
 public:
  // `run` computes into the vector it is given, from inputs it restores itself.
  void measure(const std::string& kernel, const std::string& shape, double bytes, double flops,
               int64_t outputs, const std::function<void(Exec&, AlignedFloats&)>& run) {
    AlignedFloats expected(static_cast<size_t>(outputs), std::nanf(""));
    AlignedFloats actual(static_cast<size_t>(outputs), std::nanf(""));
    Exec reference(Backend::reference);
    Exec cpu(Backend::cpu);
    run(reference, expected);
    run(cpu, actual);
    KernelTiming timing{kernel, shape, 0, bytes, flops, relative_error(actual, expected)};
    if (!(timing.error <= 1e-5)) {
      throw InternalError("bench: kernel " + kernel + " differs from its reference by " +
                          std::to_string(timing.error) + " of its largest value");
    }
    timing.seconds = median_seconds([&] { run(cpu, actual); });
    timings_.push_back(timing);
  }

  std::vector<KernelTiming> take() { return std::move(timings_); }

 private:
  std::vector<KernelTiming> timings_;
};

void bench_linear(Bench& bench, const std::string& name, int64_t rows, int64_t in, int64_t out) {
  const AlignedFloats x = normal_values(rows * in, 0, 1, 1);
  const AlignedFloats weight = pack_panels(normal_values(out * in, 0, 0.1F, 2), out, in);
  bench.measure(
      "linear " + name, dims(in, out), 4.0 * static_cast<double>(rows * (in + out) + in * out),
      2.0 * static_cast<double>(rows * in * out), rows * out, [&](Exec& exec, AlignedFloats& y) {
        linear(exec, {.rows = rows,
                      .in_features = in,
                      .out_features = out,
                      .x = x.data(),
                      .x_stride = in,
                      .weight_panels = weight.data(),
                      .y = y.data(),
                      .y_stride = out});
      });
}

// The scan of Mamba-2 and the gated norm after it.
void bench_ssd(Bench& bench, const KernelShapes& s) {
  const int64_t rows = s.rows;
  const int64_t inner = s.d_inner;
  const int64_t shared = s.groups * s.d_state;
  const int64_t mixed = inner + 2 * shared;
  const AlignedFloats xbc = normal_values(rows * mixed, 0, 1, 1);
  const AlignedFloats dt = normal_values(rows * s.heads, -3, 1, 2);
  const AlignedFloats decay(static_cast<size_t>(s.heads), -4.0F);
  const AlignedFloats skip = normal_values(inner, 1, 0.1F, 3);
  AlignedFloats state(static_cast<size_t>(s.d_state * inner));
  bench.measure("ssd_scan", dims(rows, inner) + ", N " + std::to_string(s.d_state),
                4.0 * static_cast<double>(rows * (2 * inner + 2 * shared + s.heads)),
                6.0 * static_cast<double>(rows * inner * s.d_state), rows * inner,
                [&](Exec& exec, AlignedFloats& out) {
                  std::fill(state.begin(), state.end(), 0.5F);
                  ssd_scan(exec, {.length = rows,
                                  .heads = s.heads,
                                  .head_dim = inner / s.heads,
                                  .groups = s.groups,
                                  .d_state = s.d_state,
                                  .x_LE = xbc.data(),
                                  .x_stride = mixed,
                                  .dt_LH = dt.data(),
                                  .dt_stride = s.heads,
                                  .A_H = decay.data(),
                                  .Bmat_LGN = xbc.data() + inner,
                                  .Cmat_LGN = xbc.data() + inner + shared,
                                  .bc_stride = mixed,
                                  .D_E = skip.data(),
                                  .state_NE = state.data(),
                                  .out_LE = out.data(),
                                  .out_stride = inner});
                });
  const AlignedFloats y = normal_values(rows * inner, 0, 1, 4);
  const AlignedFloats z = normal_values(rows * inner, 0, 1, 5);
  bench.measure("gated_norm", dims(rows, inner), 12.0 * static_cast<double>(rows * inner),
                12.0 * static_cast<double>(rows * inner), rows * inner,
                [&](Exec& exec, AlignedFloats& out) {
                  gated_norm(exec, {.length = rows,
                                    .channels = inner,
                                    .y_LE = y.data(),
                                    .y_stride = inner,
                                    .z_LE = z.data(),
                                    .z_stride = inner,
                                    .weight_E = skip.data(),
                                    .out_LE = out.data(),
                                    .out_stride = inner});
                });
}

}  // namespace

std::vector<KernelTiming> bench_kernels(const KernelShapes& s) {
  const ScopedFlushDenormals flush;
  Bench bench;
  const int64_t rows = s.rows;
  const int64_t inner = s.d_inner;

  {
    const AlignedFloats table = normal_values(s.vocab_size * s.d_model, 0, 1, 1);
    std::vector<int32_t> tokens(static_cast<size_t>(rows));
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<int32_t>(i % static_cast<size_t>(s.vocab_size));
    }
    bench.measure("token_embedding", dims(rows, s.d_model),
                  8.0 * static_cast<double>(rows * s.d_model), 0, rows * s.d_model,
                  [&](Exec& exec, AlignedFloats& out) {
                    token_embedding(exec, {.length = rows,
                                           .vocab_size = s.vocab_size,
                                           .d_model = s.d_model,
                                           .tokens_L = tokens.data(),
                                           .table_VD = table.data(),
                                           .out_LD = out.data()});
                  });
  }
  {
    // Without `hidden`, so that repeated runs see the same residual.
    AlignedFloats residual = normal_values(rows * s.d_model, 0, 1, 1);
    const AlignedFloats weight = normal_values(s.d_model, 1, 0.1F, 2);
    bench.measure("add_norm", dims(rows, s.d_model), 8.0 * static_cast<double>(rows * s.d_model),
                  4.0 * static_cast<double>(rows * s.d_model), rows * s.d_model,
                  [&](Exec& exec, AlignedFloats& out) {
                    add_norm(exec, {.length = rows,
                                    .d_model = s.d_model,
                                    .residual_LD = residual.data(),
                                    .weight_D = weight.data(),
                                    .out_LD = out.data()});
                  });
  }
  const bool second = s.heads > 0;  // Mamba-2
  const int64_t mixed = second ? inner + 2 * s.groups * s.d_state : inner;
  bench_linear(bench, "in_proj", rows, s.d_model, inner + mixed + s.heads);
  if (!second) {
    bench_linear(bench, "x_proj", rows, inner, s.dt_rank + 2 * s.d_state);
    bench_linear(bench, "dt_proj", rows, s.dt_rank, inner);
  }
  bench_linear(bench, "out_proj", rows, inner, s.d_model);
  bench_linear(bench, "head", rows, s.d_model, s.vocab_size);
  {
    const AlignedFloats u = normal_values(rows * mixed, 0, 1, 1);
    const AlignedFloats weight = normal_values(s.d_conv * mixed, 0, 0.5F, 2);
    const AlignedFloats bias = normal_values(mixed, 0, 0.5F, 3);
    AlignedFloats state(static_cast<size_t>(s.d_conv * mixed));
    bench.measure("causal_conv1d", dims(rows, mixed), 8.0 * static_cast<double>(rows * mixed),
                  static_cast<double>((2 * s.d_conv + 4) * rows * mixed), rows * mixed,
                  [&](Exec& exec, AlignedFloats& out) {
                    std::fill(state.begin(), state.end(), 0.5F);
                    causal_conv1d(exec, {.length = rows,
                                         .channels = mixed,
                                         .taps = s.d_conv,
                                         .u_LE = u.data(),
                                         .u_stride = mixed,
                                         .weight_KE = weight.data(),
                                         .bias_E = bias.data(),
                                         .state_KE = state.data(),
                                         .out_LE = out.data(),
                                         .out_stride = mixed});
                  });
  }
  if (second) {
    bench_ssd(bench, s);
  } else {
    const AlignedFloats u = normal_values(rows * inner, 0, 1, 1);
    const AlignedFloats z = normal_values(rows * inner, 0, 1, 2);
    const AlignedFloats dt = normal_values(rows * inner, -3, 1, 3);
    const AlignedFloats bc = normal_values(rows * 2 * s.d_state, 0, 1, 4);
    const AlignedFloats skip = normal_values(inner, 1, 0.1F, 5);
    AlignedFloats decay(static_cast<size_t>(s.d_state * inner));
    for (int64_t n = 0; n < s.d_state; ++n) {
      std::fill_n(decay.begin() + n * inner, inner, -static_cast<float>(n + 1));
    }
    AlignedFloats state(static_cast<size_t>(s.d_state * inner));
    bench.measure("selective_scan", dims(rows, inner) + ", N " + std::to_string(s.d_state),
                  static_cast<double>(rows * (16 * inner + 8 * s.d_state)),
                  6.0 * static_cast<double>(rows * inner * s.d_state), rows * inner,
                  [&](Exec& exec, AlignedFloats& out) {
                    std::fill(state.begin(), state.end(), 0.5F);
                    selective_scan(exec, {.length = rows,
                                          .channels = inner,
                                          .d_state = s.d_state,
                                          .u_LE = u.data(),
                                          .u_stride = inner,
                                          .dt_LE = dt.data(),
                                          .dt_stride = inner,
                                          .A_NE = decay.data(),
                                          .Bmat_LN = bc.data(),
                                          .Cmat_LN = bc.data() + s.d_state,
                                          .bc_stride = 2 * s.d_state,
                                          .D_E = skip.data(),
                                          .z_LE = z.data(),
                                          .z_stride = inner,
                                          .state_NE = state.data(),
                                          .out_LE = out.data(),
                                          .out_stride = inner});
                  });
  }
  {
    const AlignedFloats logits = normal_values(rows * s.vocab_size, 0, 2, 1);
    const std::vector<int32_t> targets(static_cast<size_t>(rows), 1);
    bench.measure("head_log_softmax", dims(rows, s.vocab_size),
                  4.0 * static_cast<double>(rows * (s.vocab_size + 2)),
                  3.0 * static_cast<double>(rows * s.vocab_size), rows,
                  [&](Exec& exec, AlignedFloats& out) {
                    head_log_softmax(exec, {.length = rows,
                                            .vocab_size = s.vocab_size,
                                            .logits_LV = logits.data(),
                                            .logits_stride = s.vocab_size,
                                            .target_L = targets.data(),
                                            .out_L = out.data()});
                  });
  }
  return bench.take();
}

MachineCeilings measure_ceilings(int threads) {
#if defined(OPENBLAS_VERSION)
  openblas_set_num_threads(1);  // our threads make the parallelism
#endif
  constexpr int kEdge = 1024;
  constexpr double kSeconds = 0.7;
  // Every thread works for the same stretch of time, so that none runs while others are done.
  const auto sum_rates = [&](const std::function<double(const std::function<bool()>&)>& rate) {
    std::vector<double> rates(static_cast<size_t>(threads));
    std::vector<std::thread> workers;
    const Clock::time_point stop = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                      std::chrono::duration<double>(kSeconds));
    workers.reserve(rates.size());
    for (double& slot : rates) {
      workers.emplace_back([&] { slot = rate([&] { return Clock::now() < stop; }); });
    }
    double sum = 0;
    for (size_t i = 0; i < workers.size(); ++i) {
      workers[i].join();
      sum += rates[i];
    }
    return sum;
  };
  MachineCeilings ceilings;
  ceilings.sgemm_flops = sum_rates([](const std::function<bool()>& more) {
    const AlignedFloats a(kEdge * kEdge, 0.5F);
    const AlignedFloats b(kEdge * kEdge, 0.25F);
    AlignedFloats c(kEdge * kEdge);
    const auto multiply = [&] {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kEdge, kEdge, kEdge, 1.0F, a.data(),
                  kEdge, b.data(), kEdge, 0.0F, c.data(), kEdge);
    };
    multiply();  // warm-up
    const Clock::time_point start = Clock::now();
    int64_t calls = 0;
    while (more() || calls == 0) {
      multiply();
      ++calls;
    }
    return 2.0 * std::pow(kEdge, 3) * static_cast<double>(calls) / seconds_since(start);
  });
  ceilings.copy_bytes = sum_rates([](const std::function<bool()>& more) {
    constexpr size_t kBytes = size_t{256} << 20;
    std::vector<char> from(kBytes, 1);
    std::vector<char> to(kBytes, 2);
    const Clock::time_point start = Clock::now();
    int64_t calls = 0;
    while (more() || calls == 0) {
      std::memcpy(to.data(), from.data(), kBytes);
      from[static_cast<size_t>(calls) % kBytes] = to[0];
      ++calls;
    }
    return 2.0 * static_cast<double>(kBytes) * static_cast<double>(calls) / seconds_since(start);
  });
  return ceilings;
}

}  // namespace chromamba::kernels
