#include "kernels/device_bench.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "kernels/add_norm.h"
#include "kernels/base/aligned.h"
#include "kernels/base/error.h"
#include "kernels/bench_values.h"
#include "kernels/causal_conv1d.h"
#include "kernels/conv_project.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/selective_scan.h"
#include "kernels/token_embedding.h"

namespace chromamba::kernels {
namespace {

double median_seconds(DeviceExec& exec, const std::function<void()>& call) {
  constexpr int kWarmUp = 3;
  constexpr int kCalls = 11;
  for (int i = 0; i < kWarmUp; ++i) call();
  std::vector<double> times;
  DeviceEvent start(exec);
  DeviceEvent stop(exec);
  for (int i = 0; i < kCalls; ++i) {
    start.record();
    call();
    stop.record();
    stop.wait();
    times.push_back(stop.seconds_since(start));
  }
  return median(std::move(times));
}

// A million random values, repeated: filling a gigabyte from a generator takes longer than all else.
DeviceBuffer random_buffer(DeviceExec& exec, int64_t n, float mean, float deviation, unsigned seed,
                           bool f32 = false) {
  constexpr int64_t kPeriod = 1000003;  // a prime: rows do not repeat in step
  const int64_t element = f32 ? 4 : dtype_bytes(exec.dtype());
  const AlignedFloats values = normal_values(std::min(n, kPeriod), mean, deviation, seed);
  const auto count = static_cast<int64_t>(values.size());
  const DeviceBuffer once = f32 ? upload_f32(exec, values.data(), count, "benchmark data")
                                : upload(exec, values.data(), count, "benchmark data");
  DeviceBuffer result(exec, n * element, "benchmark data");
  for (int64_t at = 0; at < n; at += count) {
    copy_on_device(exec, result.as<std::byte>() + at * element, once.data(),
                   element * std::min(count, n - at));
  }
  exec.synchronize();
  return result;
}

// A batch of equal sequences and everything a scan of it needs.
class ScanProblem {
 public:
  ScanProblem(DeviceExec& exec, int64_t sequences, int64_t length, int64_t channels,
              int64_t d_state, bool carried)
      : d_state_(d_state) {
    const int64_t rows = sequences * length;
    const int64_t wide = 2 * channels;
    const StateLayout layout = state_layout(0, channels, d_state, 4);
    states_ = DeviceBuffer(exec, 4 * sequences * state_floats(channels, d_state, 4), "states");
    zero_on_device(exec, states_.data(), states_.bytes());
    std::vector<DeviceSpan> spans;
    for (int64_t s = 0; s < sequences; ++s) {
      DeviceSpan span;
      span.row = s * length;
      span.length = length;
      span.state = states_.as<float>() + s * state_floats(channels, d_state, 4);
      spans.push_back(span);
    }
    args.batch.longest_segment = carried ? kSegmentBases : length;
    const std::vector<DeviceSegment> segments = cut_segments(spans, carried ? 0 : length);
    spans_ = table(exec, spans);
    segments_ = table(exec, segments);
    xz_ = random_buffer(exec, rows * wide, 0, 1, 1);
    u_ = random_buffer(exec, rows * channels, 0, 1, 2);
    bc_ = random_buffer(exec, rows * 2 * d_state, 0, 1, 3);
    // Time steps as mamba_ssm initialises them: softplus(bias) log-uniform in [0.001, 0.1], dt near 0.
    std::mt19937 random(4);
    std::uniform_real_distribution<double> log_step(std::log(0.001), std::log(0.1));
    AlignedFloats bias(static_cast<size_t>(channels));
    for (float& value : bias) {
      value = static_cast<float>(std::log(std::expm1(std::exp(log_step(random)))));
    }
    std::sort(bias.begin(), bias.end());  // as the engine sorts channels
    bias_ = upload_f32(exec, bias.data(), channels, "benchmark data");
    AlignedFloats decay(static_cast<size_t>(d_state * channels));
    for (int64_t n = 0; n < d_state; ++n) {
      std::fill_n(decay.begin() + n * channels, channels, -static_cast<float>(n + 1));
    }
    decay_ = upload_f32(exec, decay.data(), d_state * channels, "benchmark data");
    const AlignedFloats skip(static_cast<size_t>(channels), 1.0F);
    skip_ = upload_f32(exec, skip.data(), channels, "benchmark data");
    out_ = DeviceBuffer(exec, rows * channels * dtype_bytes(exec.dtype()), "benchmark data");
    dt_ = random_buffer(exec, rows * channels, 0, 0.3F, 5);
    args.batch.spans = spans_.as<const DeviceSpan>();
    args.batch.segments = segments_.as<const DeviceSegment>();
    args.batch.rows = rows;
    args.batch.span_count = sequences;
    args.batch.segment_count = static_cast<int64_t>(segments.size());
    args.channels = channels;
    args.d_state = d_state;
    args.u_LE = u_.data();
    args.u_stride = channels;
    args.dt_LE = dt_.data();
    args.dt_stride = channels;
    args.dt_bias_E = bias_.as<const float>();
    args.A_NE = decay_.as<const float>();
    args.Bmat_LN = bc_.data();
    args.Cmat_LN = bc_.as<std::byte>() + d_state * dtype_bytes(exec.dtype());
    args.bc_stride = 2 * d_state;
    args.D_E = skip_.as<const float>();
    args.z_LE = xz_.as<std::byte>() + channels * dtype_bytes(exec.dtype());
    args.z_stride = wide;
    args.state = layout;
    if (carried) {
      workspace_ =
          DeviceBuffer(exec, 4 * scan_workspace_floats(args.batch.segment_count, channels, d_state),
                       "workspace");
      args.workspace = workspace_.as<float>();
    }
    args.out_LE = out_.data();
    args.out_stride = channels;
  }

  // Largest error against the double reference, as a share of the largest value; one sequence only.
  double error(DeviceExec& exec) {
    const int64_t rows = args.batch.rows;
    const int64_t channels = args.channels;
    const auto host = [&](const void* from, int64_t n) {
      AlignedFloats values(static_cast<size_t>(n));
      download(exec, from, n, values.data());
      return values;
    };
    const auto host_f32 = [&](const void* from, int64_t n) {
      AlignedFloats values(static_cast<size_t>(n));
      copy_to_host(exec, values.data(), from, 4 * n);
      exec.synchronize();
      return values;
    };
    const AlignedFloats u = host(u_.data(), rows * channels);
    const AlignedFloats dt = host(dt_.data(), rows * channels);
    const AlignedFloats xz = host(xz_.data(), rows * 2 * channels);
    const AlignedFloats bc = host(bc_.data(), rows * 2 * d_state_);
    const AlignedFloats bias = host_f32(bias_.data(), channels);
    const AlignedFloats decay = host_f32(decay_.data(), d_state_ * channels);
    const AlignedFloats skip = host_f32(skip_.data(), channels);
    AlignedFloats state(static_cast<size_t>(d_state_ * channels), 0.0F);
    AlignedFloats expected(static_cast<size_t>(rows * channels));
    Exec reference(Backend::reference);
    selective_scan(reference, {.length = rows,
                               .channels = channels,
                               .d_state = d_state_,
                               .u_LE = u.data(),
                               .u_stride = channels,
                               .dt_LE = dt.data(),
                               .dt_stride = channels,
                               .dt_bias_E = bias.data(),
                               .A_NE = decay.data(),
                               .Bmat_LN = bc.data(),
                               .Cmat_LN = bc.data() + d_state_,
                               .bc_stride = 2 * d_state_,
                               .D_E = skip.data(),
                               .z_LE = xz.data() + channels,
                               .z_stride = 2 * channels,
                               .state_NE = state.data(),
                               .out_LE = expected.data(),
                               .out_stride = channels});
    selective_scan(exec, args);
    const AlignedFloats actual = host(out_.data(), rows * channels);
    return relative_error(actual, expected);
  }

  DeviceSelectiveScanArgs args;

 private:
  template <typename T>
  static DeviceBuffer table(DeviceExec& exec, const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    DeviceBuffer buffer(exec, bytes, "tables");
    copy_to_device(exec, buffer.data(), values.data(), bytes);
    exec.synchronize();
    return buffer;
  }

  int64_t d_state_;
  DeviceBuffer states_, spans_, segments_, xz_, u_, dt_, bc_, bias_, decay_, skip_, workspace_,
      out_;
};

double allowed_error(const DeviceExec& exec) { return exec.dtype() == DType::f32 ? 1e-5 : 2e-2; }

void verify_scan(DeviceExec& exec, int64_t channels, int64_t d_state, bool carried, double& error) {
  ScanProblem small(exec, 1, 3 * kSegmentBases + 77, channels, d_state, carried);
  error = small.error(exec);
  if (!(error <= allowed_error(exec))) {
    throw InternalError("bench: the scan on the GPU differs from its reference by " +
                        std::to_string(error) + " of its largest value");
  }
}

}  // namespace

ScanTiming bench_device_scan(DeviceExec& exec, int64_t sequences, int64_t length, int64_t channels,
                             bool carried) {
  constexpr int64_t kStates = 16;
  ScanTiming timing{sequences, length, channels, carried, 0, 0};
  double error = 0;
  verify_scan(exec, 96, kStates, carried, error);
  ScanProblem problem(exec, sequences, length, channels, kStates, carried);
  timing.seconds = median_seconds(exec, [&] { selective_scan(exec, problem.args); });
  timing.updates_per_s =
      static_cast<double>(sequences * length * channels * kStates) / timing.seconds;
  return timing;
}

std::vector<KernelTiming> bench_device_kernels(DeviceExec& exec, const KernelShapes& s) {
  std::vector<KernelTiming> timings;
  const int64_t rows = s.rows;
  const auto element = static_cast<double>(dtype_bytes(exec.dtype()));
  const auto padded = [](int64_t n) { return (n + 7) / 8 * 8; };
  const int64_t model = padded(s.d_model);
  const int64_t inner = padded(s.d_inner);
  const int64_t rank = exec.dtype() == DType::bf16 ? (s.dt_rank + 15) / 16 * 16 : padded(s.dt_rank);
  const int64_t narrow = padded(rank + 2 * s.d_state);
  const auto count = static_cast<double>(rows);
  const double unverified = std::nan("");  // here: the model's own check covers it
  const auto measure = [&](const std::string& kernel, const std::string& shape, double bytes,
                           double flops, double error, const std::function<void()>& call) {
    timings.push_back({kernel, shape, median_seconds(exec, call), bytes, flops, error});
  };
  {
    const DeviceBuffer table = random_buffer(exec, s.vocab_size * model, 0, 1, 1, true);
    std::vector<int32_t> tokens(static_cast<size_t>(rows));
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<int32_t>(i % static_cast<size_t>(s.vocab_size));
    }
    const DeviceBuffer device_tokens(exec, 4 * rows, "benchmark data");
    copy_to_device(exec, device_tokens.data(), tokens.data(), 4 * rows);
    DeviceBuffer residual = random_buffer(exec, rows * model, 0, 1, 2, true);
    measure("token_embedding", dims(rows, model), count * (4.0 * static_cast<double>(model) + 4), 0,
            unverified, [&] {
              token_embedding(exec, {rows, s.vocab_size, model, device_tokens.as<const int32_t>(),
                                     table.as<const float>(), residual.as<float>()});
            });
    const DeviceBuffer weight = random_buffer(exec, model, 1, 0.1F, 3, true);
    DeviceBuffer hidden = random_buffer(exec, rows * model, 0, 1e-3F, 4);
    DeviceAddNormArgs norm;
    norm.rows = rows;
    norm.d_model = s.d_model;
    norm.stride = model;
    norm.hidden_LD = hidden.data();
    norm.residual_LD = residual.as<float>();
    norm.weight_D = weight.as<const float>();
    DeviceBuffer out(exec, rows * model * dtype_bytes(exec.dtype()), "benchmark data");
    norm.out_LD = out.data();
    measure("add_norm", dims(rows, model), count * static_cast<double>(model) * (8 + 2 * element),
            count * 4.0 * static_cast<double>(model), unverified, [&] { add_norm(exec, norm); });
    const DeviceBuffer head_weight = random_buffer(exec, s.vocab_size * model, 0, 0.1F, 5, true);
    DeviceBuffer log_p(exec, 4 * rows, "benchmark data");
    DeviceHeadArgs head;
    head.rows = rows;
    head.d_model = s.d_model;
    head.stride = model;
    head.vocab_size = s.vocab_size;
    head.hidden_LD = hidden.data();
    head.residual_LD = residual.as<const float>();
    head.norm_weight_D = weight.as<const float>();
    head.weight_VD = head_weight.as<const float>();
    head.target_L = device_tokens.as<const int32_t>();
    head.out_L = log_p.as<float>();
    measure("head_log_likelihood", dims(model, s.vocab_size),
            count * (static_cast<double>(model) * (4 + element) + 8),
            count * 2.0 * static_cast<double>(model * s.vocab_size), unverified,
            [&] { head_log_likelihood(exec, head); });
  }
  const auto product = [&](const std::string& name, int64_t in, int64_t out, int64_t x_stride,
                           int64_t y_stride) {
    const DeviceBuffer x = random_buffer(exec, rows * x_stride, 0, 1, 1);
    const DeviceBuffer weight = random_buffer(exec, in * out, 0, 0.1F, 2);
    DeviceBuffer y(exec, rows * y_stride * dtype_bytes(exec.dtype()), "benchmark data");
    measure("linear " + name, dims(in, out), element * count * static_cast<double>(in + out),
            2.0 * count * static_cast<double>(in * out), unverified, [&] {
              linear(exec, {rows, in, out, x.data(), x_stride, weight.data(), nullptr, y.data(),
                            y_stride});
            });
  };
  product("in_proj", model, 2 * inner, model, 2 * inner);
  const bool fused = conv_project_fits(exec.dtype(), inner, s.d_conv, rank, narrow);
  if (!fused) {
    product("x_proj", inner, narrow, inner, narrow);
    product("dt_proj", rank, inner, narrow, 2 * inner);
  }
  product("out_proj", inner, model, fused ? inner : 2 * inner, model);
  double error = 0;
  verify_scan(exec, std::min<int64_t>(inner, 256), s.d_state, true, error);
  {
    ScanProblem problem(exec, 1, rows, inner, s.d_state, true);
    DeviceCausalConv1dArgs conv;
    conv.batch = problem.args.batch;
    conv.channels = inner;
    conv.taps = s.d_conv;
    conv.u_LE = problem.args.u_LE;
    conv.u_stride = inner;
    const DeviceBuffer weight = random_buffer(exec, s.d_conv * inner, 0, 0.5F, 2, true);
    conv.weight_KE = weight.as<const float>();
    conv.state = state_layout(0, inner, s.d_state, s.d_conv);
    DeviceBuffer conv_state(exec, 4 * state_floats(inner, s.d_state, s.d_conv), "states");
    zero_on_device(exec, conv_state.data(), conv_state.bytes());
    conv.out_LE = problem.args.out_LE;
    conv.out_stride = inner;
    if (s.d_conv == 4 && fused) {
      // As the engine has it: u is half of in_proj's rows.
      const DeviceBuffer xz = random_buffer(exec, rows * 2 * inner, 0, 1, 3);
      const DeviceBuffer x_weight = random_buffer(exec, narrow * inner, 0, 0.05F, 4);
      const DeviceBuffer dt_weight = random_buffer(exec, inner * rank, 0, 0.1F, 5);
      const DeviceBuffer x(exec, rows * narrow * dtype_bytes(exec.dtype()), "benchmark data");
      const DeviceBuffer dt(exec, rows * inner * dtype_bytes(exec.dtype()), "benchmark data");
      DeviceConvProjectArgs args{
          conv,   rank,      narrow, x_weight.data(), dt_weight.data(), x.data(),
          narrow, dt.data(), inner};
      args.conv.u_LE = xz.data();
      args.conv.u_stride = 2 * inner;
      measure("conv_project", dims(rows, inner),
              element * count * static_cast<double>(3 * inner + narrow),
              2.0 * count * static_cast<double>((s.d_conv + narrow + rank) * inner), unverified,
              [&] { conv_project(exec, args); });
    } else if (s.d_conv == 4) {  // the problem's states have room for four taps
      measure("causal_conv1d", dims(rows, inner), 2 * element * count * static_cast<double>(inner),
              count * static_cast<double>((2 * s.d_conv + 4) * inner), unverified,
              [&] { causal_conv1d(exec, conv); });
    }
    measure("selective_scan", dims(rows, inner) + ", N " + std::to_string(s.d_state),
            count * (element * static_cast<double>(6 * inner + 6 * s.d_state) +
                     16.0 * static_cast<double>(s.d_state * inner) / kSegmentBases),
            count * 6.0 * static_cast<double>(inner * s.d_state), error,
            [&] { selective_scan(exec, problem.args); });
  }
  return timings;
}

MachineCeilings measure_device_ceilings(DeviceExec& exec) {
  MachineCeilings ceilings;
  {
    constexpr int64_t kBytes = int64_t{1} << 30;
    const DeviceBuffer from(exec, kBytes, "benchmark data");
    const DeviceBuffer to(exec, kBytes, "benchmark data");
    zero_on_device(exec, from.data(), kBytes);
    const double seconds =
        median_seconds(exec, [&] { copy_on_device(exec, to.data(), from.data(), kBytes); });
    ceilings.copy_bytes = 2.0 * static_cast<double>(kBytes) / seconds;
  }
  constexpr int64_t kEdge = 8192;
  const DeviceBuffer a = random_buffer(exec, kEdge * kEdge, 0, 1, 1);
  const DeviceBuffer b = random_buffer(exec, kEdge * kEdge, 0, 1, 2);
  const DeviceBuffer c(exec, kEdge * kEdge * dtype_bytes(exec.dtype()), "benchmark data");
  const double seconds = median_seconds(exec, [&] {
    linear(exec, {kEdge, kEdge, kEdge, a.data(), kEdge, b.data(), nullptr, c.data(), kEdge});
  });
  ceilings.sgemm_flops = 2.0 * std::pow(kEdge, 3) / seconds;
  return ceilings;
}

}  // namespace chromamba::kernels
