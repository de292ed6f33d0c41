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
#include "kernels/gated_norm.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/selective_scan.h"
#include "kernels/ssd_scan.h"
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

template <typename T>
DeviceBuffer upload_table(DeviceExec& exec, const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  DeviceBuffer buffer(exec, bytes, "tables");
  copy_to_device(exec, buffer.data(), values.data(), bytes);
  exec.synchronize();
  return buffer;
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
    spans_ = upload_table(exec, spans);
    segments_ = upload_table(exec, segments);
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
  int64_t d_state_;
  DeviceBuffer states_, spans_, segments_, xz_, u_, dt_, bc_, bias_, decay_, skip_, workspace_,
      out_;
};

// One sequence of a Mamba-2 model and what its convolution, scan and gated norm need.
class SsdProblem {
 public:
  SsdProblem(DeviceExec& exec, const KernelShapes& s, int64_t rows)
      : element_(dtype_bytes(exec.dtype())) {
    const int64_t shared = s.groups * s.d_state;
    mixed = s.d_inner + 2 * shared;
    wide = s.d_inner + mixed + (s.heads + 15) / 16 * 16;
    states_ = DeviceBuffer(exec, 4 * state_floats(s.d_inner, s.d_state, s.d_conv, mixed), "states");
    zero_on_device(exec, states_.data(), states_.bytes());
    std::vector<DeviceSpan> spans(1);
    spans[0].length = rows;
    spans[0].state = states_.as<float>();
    const std::vector<DeviceSegment> segments = cut_segments(spans);
    spans_ = upload_table(exec, spans);
    segments_ = upload_table(exec, segments);
    zxbcdt = random_buffer(exec, rows * wide, 0, 1, 1);
    xbc_ = random_buffer(exec, rows * mixed, 0, 1, 2);
    dt_ = random_buffer(exec, rows * s.heads, 0, 0.3F, 3);
    // As mamba_ssm initialises them: A uniform in [1, 16], softplus(bias) log-uniform in [0.001, 0.1].
    std::mt19937 random(4);
    std::uniform_real_distribution<double> log_step(std::log(0.001), std::log(0.1));
    std::uniform_real_distribution<float> rate(1, 16);
    AlignedFloats bias(static_cast<size_t>(s.heads));
    AlignedFloats decay(bias.size());
    for (float& value : bias) {
      value = static_cast<float>(std::log(std::expm1(std::exp(log_step(random)))));
    }
    for (float& value : decay) value = -rate(random);
    bias_ = upload_f32(exec, bias.data(), s.heads, "benchmark data");
    decay_ = upload_f32(exec, decay.data(), s.heads, "benchmark data");
    skip_ = random_buffer(exec, s.d_inner, 1, 0.1F, 5, true);
    scan.batch.spans = spans_.as<const DeviceSpan>();
    scan.batch.segments = segments_.as<const DeviceSegment>();
    scan.batch.rows = rows;
    scan.batch.span_count = 1;
    scan.batch.segment_count = static_cast<int64_t>(segments.size());
    scan.heads = s.heads;
    scan.head_dim = s.d_inner / s.heads;
    scan.groups = s.groups;
    scan.d_state = s.d_state;
    scan.x_LE = xbc_.data();
    scan.x_stride = mixed;
    scan.dt_LH = dt_.data();
    scan.dt_stride = s.heads;
    scan.dt_bias_H = bias_.as<const float>();
    scan.A_H = decay_.as<const float>();
    scan.Bmat_LGN = at(xbc_, s.d_inner);
    scan.Cmat_LGN = at(xbc_, s.d_inner + shared);
    scan.bc_stride = mixed;
    scan.D_E = skip_.as<const float>();
    scan.state = state_layout(0, s.d_inner, s.d_state, s.d_conv, mixed);
    workspace_ = DeviceBuffer(
        exec, 4 * ssd_workspace_floats(scan.batch.segment_count, s.heads, scan.head_dim, s.d_state),
        "workspace");
    scan.workspace = workspace_.as<float>();
    scan.out_LE = at(zxbcdt, s.d_inner);
    scan.out_stride = wide;
  }

  // Largest error against the double reference, as a share of the largest value.
  double error(DeviceExec& exec) {
    const int64_t rows = scan.batch.rows;
    const int64_t inner = scan.heads * scan.head_dim;
    const auto host = [&](const DeviceBuffer& from, int64_t n) {
      AlignedFloats values(static_cast<size_t>(n));
      download(exec, from.data(), n, values.data());
      return values;
    };
    const auto host_f32 = [&](const DeviceBuffer& from, int64_t n) {
      AlignedFloats values(static_cast<size_t>(n));
      copy_to_host(exec, values.data(), from.data(), 4 * n);
      exec.synchronize();
      return values;
    };
    const AlignedFloats xbc = host(xbc_, rows * mixed);
    const AlignedFloats dt = host(dt_, rows * scan.heads);
    const AlignedFloats bias = host_f32(bias_, scan.heads);
    const AlignedFloats decay = host_f32(decay_, scan.heads);
    const AlignedFloats skip = host_f32(skip_, inner);
    AlignedFloats state(static_cast<size_t>(scan.d_state * inner), 0.0F);
    AlignedFloats expected(static_cast<size_t>(rows * inner));
    Exec reference(Backend::reference);
    ssd_scan(reference, {.length = rows,
                         .heads = scan.heads,
                         .head_dim = scan.head_dim,
                         .groups = scan.groups,
                         .d_state = scan.d_state,
                         .x_LE = xbc.data(),
                         .x_stride = mixed,
                         .dt_LH = dt.data(),
                         .dt_stride = scan.heads,
                         .dt_bias_H = bias.data(),
                         .A_H = decay.data(),
                         .Bmat_LGN = xbc.data() + inner,
                         .Cmat_LGN = xbc.data() + inner + scan.groups * scan.d_state,
                         .bc_stride = mixed,
                         .D_E = skip.data(),
                         .state_NE = state.data(),
                         .out_LE = expected.data(),
                         .out_stride = inner});
    ssd_scan(exec, scan);
    const AlignedFloats all = host(zxbcdt, rows * wide);
    AlignedFloats actual;
    for (int64_t t = 0; t < rows; ++t) {
      const auto first = all.begin() + t * wide + inner;
      actual.insert(actual.end(), first, first + inner);
    }
    return relative_error(actual, expected);
  }

  std::byte* at(const DeviceBuffer& buffer, int64_t column) const {
    return buffer.as<std::byte>() + column * element_;
  }

  int64_t mixed = 0;    // channels of the convolution
  int64_t wide = 0;     // of in_proj's rows
  DeviceBuffer zxbcdt;  // in_proj's rows
  DeviceSsdScanArgs scan;

 private:
  int64_t element_;
  DeviceBuffer states_, spans_, segments_, xbc_, dt_, bias_, decay_, skip_, workspace_;
};

double allowed_error(const DeviceExec& exec) { return exec.dtype() == DType::f32 ? 1e-5 : 2e-2; }

constexpr int64_t kVerifiedRows = 3 * kSegmentBases + 77;

void verify(const DeviceExec& exec, double error) {
  if (!(error <= allowed_error(exec))) {
    throw InternalError("bench: the scan on the GPU differs from its reference by " +
                        std::to_string(error) + " of its largest value");
  }
}

void verify_scan(DeviceExec& exec, int64_t channels, int64_t d_state, bool carried, double& error) {
  ScanProblem small(exec, 1, kVerifiedRows, channels, d_state, carried);
  error = small.error(exec);
  verify(exec, error);
}

// What a block of Mamba-2 has between its projections. measure: as in bench_device_kernels.
template <typename Measure>
void bench_ssd(DeviceExec& exec, const KernelShapes& s, const Measure& measure) {
  const int64_t rows = s.rows;
  const auto count = static_cast<double>(rows);
  const auto element = static_cast<double>(dtype_bytes(exec.dtype()));
  double error = 0;
  {
    // One head of each group.
    KernelShapes small = s;
    small.heads = s.groups;
    small.d_inner = s.d_inner / s.heads * s.groups;
    SsdProblem problem(exec, small, kVerifiedRows);
    error = problem.error(exec);
    verify(exec, error);
  }
  SsdProblem problem(exec, s, rows);
  const DeviceBuffer weight = random_buffer(exec, s.d_conv * problem.mixed, 0, 0.5F, 6, true);
  const DeviceBuffer out(exec, rows * problem.mixed * dtype_bytes(exec.dtype()), "benchmark data");
  DeviceCausalConv1dArgs conv;
  conv.batch = problem.scan.batch;
  conv.channels = problem.mixed;
  conv.taps = s.d_conv;
  conv.u_LE = problem.at(problem.zxbcdt, s.d_inner);
  conv.u_stride = problem.wide;
  conv.weight_KE = weight.as<const float>();
  conv.state = problem.scan.state;
  conv.out_LE = out.data();
  conv.out_stride = problem.mixed;
  measure("causal_conv1d", dims(rows, problem.mixed),
          2 * element * count * static_cast<double>(problem.mixed),
          count * static_cast<double>((2 * s.d_conv + 4) * problem.mixed), std::nan(""),
          [&] { causal_conv1d(exec, conv); });
  const auto states = static_cast<double>(s.d_state * s.d_inner);
  measure("ssd_scan", dims(rows, s.d_inner) + ", N " + std::to_string(s.d_state),
          count * (element * static_cast<double>(3 * s.d_inner + 3 * s.groups * s.d_state) +
                   16.0 * states / kSegmentBases),
          count * 6.0 * states, error, [&] { ssd_scan(exec, problem.scan); });
  DeviceGatedNormArgs norm;
  norm.rows = rows;
  norm.channels = s.d_inner;
  norm.counted = s.d_inner;
  norm.y_LE = problem.at(problem.zxbcdt, s.d_inner);
  norm.y_stride = problem.wide;
  norm.z_LE = problem.zxbcdt.data();
  norm.z_stride = problem.wide;
  norm.weight_E = problem.scan.D_E;
  norm.out_LE = out.data();
  norm.out_stride = problem.mixed;
  measure("gated_norm", dims(rows, s.d_inner), 3 * element * count * static_cast<double>(s.d_inner),
          12.0 * count * static_cast<double>(s.d_inner), std::nan(""),
          [&] { gated_norm(exec, norm); });
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
  if (s.heads > 0) {
    const auto stepped = [](int64_t n) { return (n + kSsdStep - 1) / kSsdStep * kSsdStep; };
    KernelShapes padded_shapes = s;  // as the mixer has them
    padded_shapes.d_inner = s.heads * stepped(s.d_inner / s.heads);
    padded_shapes.d_state = stepped(s.d_state);
    const int64_t heads_width = padded_shapes.d_inner;
    const int64_t wide = 2 * heads_width + 2 * s.groups * padded_shapes.d_state + stepped(s.heads);
    product("in_proj", model, wide, model, wide);
    product("out_proj", heads_width, model, wide, model);
    bench_ssd(exec, padded_shapes, measure);
    return timings;
  }
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
