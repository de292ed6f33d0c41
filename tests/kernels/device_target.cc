#include "tests/kernels/device_target.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/aligned.h"
#include "kernels/batch.h"

namespace chromamba::tests {

using kernels::DeviceBuffer;
using kernels::DeviceExec;

namespace {

int64_t padded(int64_t n) { return (n + 7) / 8 * 8; }

// Rows of a host matrix as contiguous rows of `stride` values on the device.
AlignedFloats gather(const float* from, int64_t rows, int64_t width, int64_t from_stride,
                     int64_t stride, float fill = 0) {
  AlignedFloats result(static_cast<size_t>(rows * stride), fill);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(from + r * from_stride, width, result.begin() + r * stride);
  }
  return result;
}

DeviceBuffer to_device(DeviceExec& exec, const AlignedFloats& values, bool f32 = false) {
  const auto n = static_cast<int64_t>(values.size());
  return f32 ? kernels::upload_f32(exec, values.data(), n, "a test")
             : kernels::upload(exec, values.data(), n, "a test");
}

AlignedFloats from_device(DeviceExec& exec, const void* from, int64_t n, bool f32 = false) {
  AlignedFloats values(static_cast<size_t>(n));
  if (f32) {
    kernels::copy_to_host(exec, values.data(), from, 4 * n);
    exec.synchronize();
  } else {
    kernels::download(exec, from, n, values.data());
  }
  return values;
}

void scatter(const AlignedFloats& from, int64_t rows, int64_t width, int64_t stride, float* to,
             int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(from.begin() + r * stride, width, to + r * to_stride);
  }
}

// One sequence in a batch of its own.
struct OneSpan {
  OneSpan(DeviceExec& exec, int64_t length, float* state, int64_t segment_bases) {
    std::vector<kernels::DeviceSpan> span(1);
    span[0].length = length;
    span[0].state = state;
    batch.longest_segment = segment_bases > 0 ? segment_bases : std::max<int64_t>(length, 1);
    const std::vector<kernels::DeviceSegment> segments =
        kernels::cut_segments(span, batch.longest_segment);
    spans_ = table(exec, span);
    segments_ = table(exec, segments);
    batch.spans = spans_.as<const kernels::DeviceSpan>();
    batch.segments = segments_.as<const kernels::DeviceSegment>();
    batch.rows = length;
    batch.span_count = 1;
    batch.segment_count = static_cast<int64_t>(segments.size());
  }
  kernels::DeviceBatch batch;

 private:
  template <typename T>
  static DeviceBuffer table(DeviceExec& exec, const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    DeviceBuffer buffer(exec, bytes, "a test");
    kernels::copy_to_device(exec, buffer.data(), values.data(), bytes);
    exec.synchronize();
    return buffer;
  }
  DeviceBuffer spans_, segments_;
};

}  // namespace

void selective_scan(DeviceTarget& target, const kernels::SelectiveScanArgs& args) {
  if (args.length == 0) return;
  DeviceExec& exec = target.exec;
  const int64_t length = args.length;
  const int64_t channels = padded(args.channels);
  const int64_t states = args.d_state * channels;
  const auto rows = [&](const float* from, int64_t width, int64_t from_stride, int64_t stride) {
    return to_device(exec, gather(from, length, width, from_stride, stride));
  };
  const DeviceBuffer u = rows(args.u_LE, args.channels, args.u_stride, channels);
  const DeviceBuffer dt = rows(args.dt_LE, args.channels, args.dt_stride, channels);
  const DeviceBuffer b = rows(args.Bmat_LN, args.d_state, args.bc_stride, args.d_state);
  const DeviceBuffer c = rows(args.Cmat_LN, args.d_state, args.bc_stride, args.d_state);
  const DeviceBuffer z = args.z_LE != nullptr
                             ? rows(args.z_LE, args.channels, args.z_stride, channels)
                             : DeviceBuffer();
  const auto matrix = [&](const float* from, int64_t count, float fill) {
    return from != nullptr
               ? to_device(exec, gather(from, count, args.channels, args.channels, channels, fill),
                           true)
               : DeviceBuffer();
  };
  const DeviceBuffer bias = matrix(args.dt_bias_E, 1, 0);
  const DeviceBuffer decay = matrix(args.A_NE, args.d_state, -1);
  const DeviceBuffer skip = matrix(args.D_E, 1, 0);
  AlignedFloats state = gather(args.state_NE, args.d_state, args.channels, args.channels, channels);
  state.resize(static_cast<size_t>(2 * states), std::nanf(""));
  const DeviceBuffer device_state = to_device(exec, state, true);
  const OneSpan span(exec, length, device_state.as<float>(), target.segment_bases);
  const DeviceBuffer workspace(
      exec,
      target.segment_bases > 0
          ? 4 * kernels::scan_workspace_floats(span.batch.segment_count, channels, args.d_state)
          : 0,
      "a test");
  DeviceBuffer out =
      to_device(exec, AlignedFloats(static_cast<size_t>(length * channels), target.adds_to));
  kernels::DeviceSelectiveScanArgs device;
  device.accumulate = !std::isnan(target.adds_to);
  device.batch = span.batch;
  device.channels = channels;
  device.d_state = args.d_state;
  device.reverse = args.reverse;
  device.u_LE = u.data();
  device.u_stride = channels;
  device.dt_LE = dt.data();
  device.dt_stride = channels;
  device.dt_bias_E = bias.as<const float>();
  device.A_NE = decay.as<const float>();
  device.Bmat_LN = b.data();
  device.Cmat_LN = c.data();
  device.bc_stride = args.d_state;
  device.D_E = skip.as<const float>();
  device.z_LE = z.data();
  device.z_stride = channels;
  device.state.ssm_last = states;
  device.workspace = workspace.as<float>();
  device.out_LE = out.data();
  device.out_stride = channels;
  kernels::selective_scan(exec, device);
  scatter(from_device(exec, out.data(), length * channels), length, args.channels, channels,
          args.out_LE, args.out_stride);
  scatter(from_device(exec, device_state.as<float>() + states, states, true), args.d_state,
          args.channels, channels, args.state_NE, args.channels);
}

// Heads, states and the heads of a row are padded as the mixer does it: to multiples that are zero beyond the tensors.
void ssd_scan(DeviceTarget& target, const kernels::SsdScanArgs& args) {
  if (args.length == 0) return;
  DeviceExec& exec = target.exec;
  const int64_t length = args.length;
  const auto stepped = [](int64_t n) {
    return (n + kernels::kSsdStep - 1) / kernels::kSsdStep * kernels::kSsdStep;
  };
  const int64_t head_dim = stepped(args.head_dim);
  const int64_t states = stepped(args.d_state);
  const int64_t channels = args.heads * head_dim;
  const int64_t wide = args.heads * args.head_dim;
  const int64_t mixed = channels + 2 * args.groups * states;
  // `parts` runs of `width` values, apart at `from` by `width` and at `to` by `padded_width`.
  const auto place = [](const float* from, int64_t parts, int64_t width, float* to,
                        int64_t padded_width) {
    for (int64_t i = 0; i < parts; ++i) {
      std::copy_n(from + i * width, width, to + i * padded_width);
    }
  };
  AlignedFloats xbc(static_cast<size_t>(length * mixed), 0.0F);
  for (int64_t t = 0; t < length; ++t) {
    float* row = xbc.data() + t * mixed;
    place(args.x_LE + t * args.x_stride, args.heads, args.head_dim, row, head_dim);
    row += channels;
    place(args.Bmat_LGN + t * args.bc_stride, args.groups, args.d_state, row, states);
    row += args.groups * states;
    place(args.Cmat_LGN + t * args.bc_stride, args.groups, args.d_state, row, states);
  }
  const DeviceBuffer device_xbc = to_device(exec, xbc);
  const DeviceBuffer dt =
      to_device(exec, gather(args.dt_LH, length, args.heads, args.dt_stride, padded(args.heads)));
  const auto by_head = [&](const float* from) {
    return from != nullptr ? kernels::upload_f32(exec, from, args.heads, "a test") : DeviceBuffer();
  };
  const DeviceBuffer bias = by_head(args.dt_bias_H);
  const DeviceBuffer decay = by_head(args.A_H);
  AlignedFloats skip(static_cast<size_t>(channels), 0.0F);
  place(args.D_E, args.heads, args.head_dim, skip.data(), head_dim);
  const DeviceBuffer device_skip = to_device(exec, skip, true);
  AlignedFloats state(static_cast<size_t>(states * channels), 0.0F);
  for (int64_t n = 0; n < args.d_state; ++n) {
    place(args.state_NE + n * wide, args.heads, args.head_dim, state.data() + n * channels,
          head_dim);
  }
  state.resize(2 * state.size(), std::nanf(""));
  const DeviceBuffer device_state = to_device(exec, state, true);
  const OneSpan span(exec, length, device_state.as<float>(), target.segment_bases);
  const DeviceBuffer workspace(exec,
                               target.segment_bases > 0
                                   ? 4 * kernels::ssd_workspace_floats(span.batch.segment_count,
                                                                       args.heads, head_dim, states)
                                   : 0,
                               "a test");
  DeviceBuffer out =
      to_device(exec, AlignedFloats(static_cast<size_t>(length * channels), std::nanf("")));
  const auto at = [&](int64_t column) {
    return device_xbc.as<std::byte>() + column * kernels::dtype_bytes(exec.dtype());
  };
  kernels::DeviceSsdScanArgs device;
  device.batch = span.batch;
  device.heads = args.heads;
  device.head_dim = head_dim;
  device.groups = args.groups;
  device.d_state = states;
  device.reverse = args.reverse;
  device.x_LE = at(0);
  device.x_stride = mixed;
  device.dt_LH = dt.data();
  device.dt_stride = padded(args.heads);
  device.dt_bias_H = bias.as<const float>();
  device.dt_min = args.dt_min;
  device.dt_max = args.dt_max;
  device.A_H = decay.as<const float>();
  device.Bmat_LGN = at(channels);
  device.Cmat_LGN = at(channels + args.groups * states);
  device.bc_stride = mixed;
  device.D_E = device_skip.as<const float>();
  device.state.ssm_last = states * channels;
  device.workspace = workspace.as<float>();
  device.out_LE = out.data();
  device.out_stride = channels;
  kernels::ssd_scan(exec, device);
  const AlignedFloats rows = from_device(exec, out.data(), length * channels);
  const auto scatter_heads = [&](const float* from, float* to) {
    for (int64_t h = 0; h < args.heads; ++h) {
      std::copy_n(from + h * head_dim, args.head_dim, to + h * args.head_dim);
    }
  };
  for (int64_t t = 0; t < length; ++t) {
    scatter_heads(rows.data() + t * channels, args.out_LE + t * args.out_stride);
  }
  const AlignedFloats last =
      from_device(exec, device_state.as<float>() + states * channels, states * channels, true);
  for (int64_t n = 0; n < args.d_state; ++n) {
    scatter_heads(last.data() + n * channels, args.state_NE + n * wide);
  }
}

void gated_norm(DeviceTarget& target, const kernels::GatedNormArgs& args) {
  if (args.length == 0) return;
  DeviceExec& exec = target.exec;
  const int64_t width = args.channels / args.groups;
  const int64_t group = padded(width);
  const int64_t channels = args.groups * group;
  const auto rows = [&](const float* from, int64_t count, int64_t stride) {
    AlignedFloats values(static_cast<size_t>(count * channels), 0.0F);
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t g = 0; g < args.groups; ++g) {
        std::copy_n(from + t * stride + g * width, width,
                    values.begin() + t * channels + g * group);
      }
    }
    return values;
  };
  const DeviceBuffer y = to_device(exec, rows(args.y_LE, args.length, args.y_stride));
  const DeviceBuffer z = to_device(exec, rows(args.z_LE, args.length, args.z_stride));
  const DeviceBuffer weight = args.weight_E != nullptr
                                  ? to_device(exec, rows(args.weight_E, 1, args.channels), true)
                                  : DeviceBuffer();
  DeviceBuffer out =
      to_device(exec, AlignedFloats(static_cast<size_t>(args.length * channels), std::nanf("")));
  kernels::DeviceGatedNormArgs device;
  device.kind = args.kind;
  device.rows = args.length;
  device.channels = channels;
  device.groups = args.groups;
  device.counted = width;
  device.eps = args.eps;
  device.y_LE = y.data();
  device.y_stride = channels;
  device.z_LE = z.data();
  device.z_stride = channels;
  device.weight_E = weight.as<const float>();
  device.out_LE = out.data();
  device.out_stride = channels;
  kernels::gated_norm(exec, device);
  const AlignedFloats result = from_device(exec, out.data(), args.length * channels);
  for (int64_t t = 0; t < args.length; ++t) {
    for (int64_t g = 0; g < args.groups; ++g) {
      std::copy_n(result.begin() + t * channels + g * group, width,
                  args.out_LE + t * args.out_stride + g * width);
    }
  }
}

void causal_conv1d(DeviceTarget& target, const kernels::CausalConv1dArgs& args) {
  if (args.length == 0) return;
  DeviceExec& exec = target.exec;
  const int64_t channels = padded(args.channels);
  const int64_t state_size = args.taps * channels;
  const DeviceBuffer u =
      to_device(exec, gather(args.u_LE, args.length, args.channels, args.u_stride, channels));
  const DeviceBuffer weight = to_device(
      exec, gather(args.weight_KE, args.taps, args.channels, args.channels, channels), true);
  const DeviceBuffer bias =
      args.bias_E != nullptr
          ? to_device(exec, gather(args.bias_E, 1, args.channels, args.channels, channels), true)
          : DeviceBuffer();
  AlignedFloats state = gather(args.state_KE, args.taps, args.channels, args.channels, channels);
  state.resize(static_cast<size_t>(3 * state_size), std::nanf(""));
  const DeviceBuffer device_state = to_device(exec, state, true);
  const OneSpan span(exec, args.length, device_state.as<float>(),
                     target.segment_bases > 0 ? target.segment_bases : kernels::kSegmentBases);
  DeviceBuffer out =
      to_device(exec, AlignedFloats(static_cast<size_t>(args.length * channels), std::nanf("")));
  kernels::DeviceCausalConv1dArgs device;
  device.batch = span.batch;
  device.channels = channels;
  device.taps = args.taps;
  device.silu = args.silu;
  device.reverse = args.reverse;
  device.u_LE = u.data();
  device.u_stride = channels;
  device.weight_KE = weight.as<const float>();
  device.bias_E = bias.as<const float>();
  device.state.conv_last = 2 * state_size;
  device.out_LE = out.data();
  device.out_stride = channels;
  kernels::causal_conv1d(exec, device);
  scatter(from_device(exec, out.data(), args.length * channels), args.length, args.channels,
          channels, args.out_LE, args.out_stride);
  scatter(from_device(exec, device_state.as<float>() + 2 * state_size, state_size, true), args.taps,
          args.channels, channels, args.state_KE, args.channels);
}

void add_norm(DeviceTarget& target, const kernels::AddNormArgs& args) {
  if (args.length == 0) return;
  DeviceExec& exec = target.exec;
  const int64_t width = args.d_model;
  const int64_t stride = padded(width);
  const auto rows = [&](const float* from, bool f32) {
    return from != nullptr ? to_device(exec, gather(from, args.length, width, width, stride), f32)
                           : DeviceBuffer();
  };
  const auto vector = [&](const float* from) {
    return from != nullptr ? to_device(exec, gather(from, 1, width, width, stride), true)
                           : DeviceBuffer();
  };
  const DeviceBuffer hidden = rows(args.hidden_LD, false);
  const DeviceBuffer residual = rows(args.residual_LD, true);
  const DeviceBuffer weight = vector(args.weight_D);
  const DeviceBuffer bias = vector(args.bias_D);
  DeviceBuffer out =
      to_device(exec, AlignedFloats(static_cast<size_t>(args.length * stride), std::nanf("")));
  kernels::DeviceAddNormArgs device;
  device.kind = args.kind;
  device.rows = args.length;
  device.d_model = width;
  device.stride = stride;
  device.eps = args.eps;
  device.hidden_LD = hidden.data();
  device.residual_LD = residual.as<float>();
  device.weight_D = weight.as<const float>();
  device.bias_D = bias.as<const float>();
  device.out_LD = out.data();
  kernels::add_norm(exec, device);
  scatter(from_device(exec, out.data(), args.length * stride), args.length, width, stride,
          args.out_LD, width);
  scatter(from_device(exec, residual.data(), args.length * stride, true), args.length, width,
          stride, args.residual_LD, width);
}

void linear(DeviceTarget& target, const kernels::LinearArgs& args) {
  if (args.rows == 0) return;
  DeviceExec& exec = target.exec;
  const int64_t in = padded(args.in_features);
  const int64_t out = padded(args.out_features);
  const DeviceBuffer x =
      to_device(exec, gather(args.x, args.rows, args.in_features, args.x_stride, in));
  AlignedFloats weight(static_cast<size_t>(in * out), 0.0F);
  for (int64_t n = 0; n < args.out_features; ++n) {
    for (int64_t k = 0; k < args.in_features; ++k) {
      weight[static_cast<size_t>(n * in + k)] =
          args.weight_panels[kernels::panel_index(n, k, args.in_features)];
    }
  }
  const DeviceBuffer device_weight = to_device(exec, weight);
  const DeviceBuffer bias =
      args.bias_N != nullptr
          ? to_device(exec, gather(args.bias_N, 1, args.out_features, args.out_features, out))
          : DeviceBuffer();
  DeviceBuffer y =
      to_device(exec, AlignedFloats(static_cast<size_t>(args.rows * out), std::nanf("")));
  kernels::linear(
      exec, {args.rows, in, out, x.data(), in, device_weight.data(), bias.data(), y.data(), out});
  scatter(from_device(exec, y.data(), args.rows * out), args.rows, args.out_features, out, args.y,
          args.y_stride);
}

void pool_rows(DeviceTarget& target, const kernels::PoolRowsArgs& args) {
  DeviceExec& exec = target.exec;
  const int64_t width = args.width;
  const int64_t stride = padded(width) + 8;
  const DeviceBuffer rows = to_device(
      exec, gather(args.rows_LD, args.length, width, args.stride, stride, std::nanf("")), true);
  std::vector<double> sums(static_cast<size_t>(args.count * width), std::nan(""));
  const DeviceBuffer device_sums(exec, 8 * args.count * width, "a test");
  const DeviceBuffer means(exec, 4 * args.count * width, "a test");
  std::vector<kernels::PoolGroup> groups(args.groups, args.groups + args.count);
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto at = static_cast<int64_t>(g) * width;
    if (groups[g].sum_D != nullptr) {
      std::copy_n(groups[g].sum_D, width, sums.begin() + at);
      groups[g].sum_D = device_sums.as<double>() + at;
    }
    if (groups[g].mean_D != nullptr) groups[g].mean_D = means.as<float>() + at;
  }
  kernels::copy_to_device(exec, device_sums.data(), sums.data(), device_sums.bytes());
  const auto table_bytes = static_cast<int64_t>(groups.size() * sizeof groups[0]);
  const DeviceBuffer table(exec, table_bytes, "a test");
  kernels::copy_to_device(exec, table.data(), groups.data(), table_bytes);
  kernels::pool_rows(exec, {args.length, width, stride, rows.as<const float>(), args.count,
                            table.as<const kernels::PoolGroup>()});
  kernels::copy_to_host(exec, sums.data(), device_sums.data(), device_sums.bytes());
  const AlignedFloats result = from_device(exec, means.data(), args.count * width, true);
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto at = static_cast<int64_t>(g) * width;
    if (args.groups[g].sum_D != nullptr) {
      std::copy_n(sums.begin() + at, width, args.groups[g].sum_D);
    }
    if (args.groups[g].mean_D != nullptr) {
      std::copy_n(result.begin() + at, width, args.groups[g].mean_D);
    }
  }
}

}  // namespace chromamba::tests
