// The scan of Mamba-2 where only a GPU has it: segments, batches, bf16 on the tensor cores.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/ssd_scan.h"
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

struct Shape {
  int64_t heads, head_dim, groups, d_state;
};

struct Scan {
  Scan(int64_t l, const Shape& s)
      : length(l),
        shape(s),
        channels(s.heads * s.head_dim),
        x(rounded(random_values(l * channels, 1))),
        dt(rounded(random_values(l * s.heads, 2, -2, 1))),
        b(rounded(random_values(l * s.groups * s.d_state, 3))),
        c(rounded(random_values(l * s.groups * s.d_state, 4))),
        bias(random_values(s.heads, 5, -1)),
        decay(random_values(s.heads, 6)),
        skip(random_values(channels, 7)),
        h0(random_values(s.d_state * channels, 8)) {
    // From heads that remember all of it to heads that forget within a tile.
    for (size_t h = 0; h < decay.size(); ++h)
      decay[h] = -0.002F * std::pow(6.0F, static_cast<float>(h % 5));
  }

  template <typename Target>
  AlignedFloats run(Target& target, AlignedFloats& state, bool reverse = false) const {
    return run(target, 0, length, state, reverse);
  }
  template <typename Target>
  AlignedFloats run(Target& target, int64_t from, int64_t count, AlignedFloats& state,
                    bool reverse) const {
    AlignedFloats out = poisoned(count * channels);
    SsdScanArgs args;
    args.length = count;
    args.heads = shape.heads;
    args.head_dim = shape.head_dim;
    args.groups = shape.groups;
    args.d_state = shape.d_state;
    args.reverse = reverse;
    args.x_LE = x.data() + from * channels;
    args.x_stride = channels;
    args.dt_LH = dt.data() + from * shape.heads;
    args.dt_stride = shape.heads;
    args.dt_bias_H = bias.data();
    args.dt_min = dt_min;
    args.dt_max = dt_max;
    args.A_H = decay.data();
    args.bc_stride = shape.groups * shape.d_state;
    args.Bmat_LGN = b.data() + from * args.bc_stride;
    args.Cmat_LGN = c.data() + from * args.bc_stride;
    args.D_E = skip.data();
    args.state_NE = state.data();
    args.out_LE = out.data();
    args.out_stride = channels;
    ssd_scan(target, args);
    return out;
  }

  int64_t length;
  Shape shape;
  int64_t channels;
  AlignedFloats x, dt, b, c, bias, decay, skip, h0;
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
};

void check_reference(DeviceTarget& target, const Scan& scan, bool reverse) {
  const DType dtype = target.exec.dtype();
  const bool f32 = dtype == DType::f32;
  INFO(dtype_name(dtype) << ", L " << scan.length << ", H " << scan.shape.heads << ", P "
                         << scan.shape.head_dim << ", G " << scan.shape.groups << ", N "
                         << scan.shape.d_state << (reverse ? ", reverse" : "")
                         << (target.segment_bases > 0 ? "" : ", one segment"));
  Exec reference(Backend::reference);
  AlignedFloats expected_state = scan.h0;
  const AlignedFloats expected = scan.run(reference, expected_state, reverse);
  AlignedFloats state = scan.h0;
  const AlignedFloats actual = scan.run(target, state, reverse);
  CHECK(relative_error(actual, expected) <= (f32 ? tests::kKernel : tests::kBf16Products));
  CHECK(relative_error(state, expected_state) <= (f32 ? tests::kKernel : tests::kBf16Kernel));
  AlignedFloats again = scan.h0;
  CHECK(same_bits(scan.run(target, again, reverse), actual));
  CHECK(same_bits(again, state));
}

TEST_CASE("GPU SSD scan agrees with the double reference, f32 and bf16, in segments and as one") {
  // Every number of states and warps that the kernels are compiled for, and sizes that fill none.
  const Shape shapes[] = {{8, 16, 1, 32}, {2, 64, 1, 128},  {2, 128, 1, 16}, {6, 16, 2, 48},
                          {1, 48, 1, 16}, {2, 64, 2, 256},  {3, 32, 1, 64},  {1, 112, 1, 80},
                          {5, 8, 1, 24},  {1, 128, 1, 256}, {2, 96, 1, 100}, {2, 80, 2, 32}};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          for (const Shape& shape : shapes) {
            for (const int64_t length : {1, 65, 513, 1100}) {
              if (length == 1100 && shape.heads * shape.head_dim * shape.d_state > 20000) continue;
              for (const int64_t segment : {kSegmentBases, int64_t{0}}) {
                if (segment == 0 && length > 100) continue;
                target.segment_bases = segment;
                check_reference(target, Scan(length, shape), length % 2 == 0);
                check_reference(target, Scan(length, shape), length % 2 != 0);
              }
            }
          }
          for (const int64_t length : {2, 15, 16, 17, 63, 64, 127, 128, 129, 511, 512, 1024}) {
            target.segment_bases = kSegmentBases;
            check_reference(target, Scan(length, {4, 16, 1, 16}), false);
            check_reference(target, Scan(length, {4, 16, 1, 16}), true);
          }
          target.segment_bases = 0;
          check_reference(target, Scan(700, {4, 16, 1, 16}), false);
        },
        dtype);
  }
}

TEST_CASE("GPU SSD scan: time steps that the limits bound, and extreme ones") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          target.segment_bases = kSegmentBases;
          Scan scan(1100, {4, 16, 1, 16});
          scan.dt_min = 0.05F;
          scan.dt_max = 0.25F;
          check_reference(target, scan, false);
          Scan extreme(600, {4, 16, 1, 16});
          for (size_t i = 0; i < extreme.dt.size(); ++i)
            extreme.dt[i] = i % 7 == 0 ? 80.0F : -80.0F;
          extreme.decay = {-1e-4F, -1, -16, -1e3F};
          check_reference(target, extreme, false);
        },
        dtype);
  }
}

TEST_CASE("GPU SSD scan: rows do not depend on what comes after them") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          target.segment_bases = kSegmentBases;
          const Scan scan(600, {4, 16, 2, 32});
          AlignedFloats state = scan.h0;
          const AlignedFloats whole = scan.run(target, state);
          for (const int64_t length : {1, 20, 64, 100, 512, 599}) {
            AlignedFloats part_state = scan.h0;
            const AlignedFloats part = scan.run(target, 0, length, part_state, false);
            CHECK(same_bits(part, AlignedFloats(whole.begin(), whole.begin() + length * 64)));
          }
          // Two spans of a sequence, the second of which begins where a segment does.
          AlignedFloats carried = scan.h0;
          const AlignedFloats first = scan.run(target, 0, 512, carried, false);
          const AlignedFloats second = scan.run(target, 512, 88, carried, false);
          CHECK(same_bits(first, AlignedFloats(whole.begin(), whole.begin() + 512 * 64)));
          CHECK(same_bits(second, AlignedFloats(whole.begin() + 512 * 64, whole.end())));
          CHECK(same_bits(carried, state));
        },
        dtype);
  }
}

// Several sequences in one batch, in rows wider than the tensors.
struct Batch : OnDevice {
  static constexpr Shape kShape{3, 32, 1, 32};
  static constexpr int64_t kChannels = 96;
  static constexpr int64_t kMixed = kChannels + 2 * 32;
  static constexpr int64_t kFloats = 2 * 32 * kChannels;  // of the states of a sequence

  Batch(DeviceTarget& target, const std::vector<int64_t>& lengths) : OnDevice(target.exec) {
    int64_t rows = 0;
    for (const int64_t n : lengths) rows += n;
    states = upload_f32(exec, random_values(kFloats * count(lengths), 20).data(),
                        kFloats * count(lengths), "a test");
    for (const int64_t n : lengths) {
      DeviceSpan span;
      span.row = spans.empty() ? 0 : spans.back().row + spans.back().length;
      span.length = n;
      span.state = states.as<float>() + count(spans) * kFloats;
      spans.push_back(span);
    }
    const auto up = [&](const AlignedFloats& values) {
      buffers.push_back(upload(exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
      return buffers.back().as<std::byte>();
    };
    const auto up_f32 = [&](const AlignedFloats& values) {
      buffers.push_back(
          upload_f32(exec, values.data(), static_cast<int64_t>(values.size()), "a test"));
      return buffers.back().as<float>();
    };
    const int64_t element = dtype_bytes(exec.dtype());
    args.heads = kShape.heads;
    args.head_dim = kShape.head_dim;
    args.groups = kShape.groups;
    args.d_state = kShape.d_state;
    const std::byte* mixed = up(random_values(rows * kMixed, 1));
    args.x_LE = mixed;
    args.Bmat_LGN = mixed + kChannels * element;
    args.Cmat_LGN = mixed + (kChannels + 32) * element;
    args.x_stride = args.bc_stride = kMixed;
    args.dt_LH = up(random_values(rows * 3, 2, -2, 1));
    args.dt_stride = 3;
    args.dt_bias_H = up_f32(random_values(3, 3, -1));
    args.A_H = up_f32({-0.004F, -0.05F, -1.0F});
    args.D_E = up_f32(random_values(kChannels, 4));
    args.state.ssm_last = kFloats / 2;
    args.out_LE = up(poisoned(rows * kChannels));
    args.out_stride = kChannels;
    workspace =
        DeviceBuffer(exec, 4 * ssd_workspace_floats(rows / kSegmentBases + 8, 3, 32, 32), "a test");
    args.workspace = workspace.as<float>();
    set(spans);
  }

  template <typename T>
  static int64_t count(const std::vector<T>& values) {
    return static_cast<int64_t>(values.size());
  }
  void set(std::vector<DeviceSpan> some) {
    const std::vector<DeviceSegment> segments = cut_segments(some);
    args.batch.spans = table(some);
    args.batch.segments = table(segments);
    args.batch.span_count = count(some);
    args.batch.segment_count = count(segments);
  }
  AlignedFloats rows_of(const DeviceSpan& span) {
    AlignedFloats out(static_cast<size_t>(span.length * kChannels));
    download(
        exec,
        static_cast<std::byte*>(args.out_LE) + span.row * kChannels * dtype_bytes(exec.dtype()),
        count(out), out.data());
    return out;
  }
  AlignedFloats states_of(const DeviceSpan& span) {
    AlignedFloats out(static_cast<size_t>(kFloats));
    copy_to_host(exec, out.data(), span.state, 4 * kFloats);
    exec.synchronize();
    return out;
  }
  static int64_t count(const AlignedFloats& values) { return static_cast<int64_t>(values.size()); }

  std::vector<DeviceSpan> spans;
  DeviceBuffer states, workspace;
  DeviceSsdScanArgs args;
};

TEST_CASE("GPU SSD scan: a sequence's results do not depend on the others of the batch") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          const std::vector<int64_t> lengths = {513, 64, 1100, 512, 1};
          for (const bool reverse : {false, true}) {
            Batch batch(target, lengths);
            batch.args.reverse = reverse;
            ssd_scan(target.exec, batch.args);
            for (size_t s = 0; s < lengths.size(); ++s) {
              INFO(dtype_name(dtype) << ", span " << s);
              Batch alone(target, lengths);
              alone.args.reverse = reverse;
              alone.set({alone.spans[s]});
              ssd_scan(target.exec, alone.args);
              const AlignedFloats rows = batch.rows_of(batch.spans[s]);
              CHECK(std::none_of(rows.begin(), rows.end(), [](float v) { return std::isnan(v); }));
              CHECK(same_bits(alone.rows_of(alone.spans[s]), rows));
              CHECK(same_bits(alone.states_of(alone.spans[s]), batch.states_of(batch.spans[s])));
            }
          }
        },
        dtype);
  }
}

TEST_CASE("GPU SSD scan: snapshots are the states that a shorter sequence ends with") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    on_gpu(
        [&](DeviceTarget& target) {
          const std::vector<int64_t> lengths = {700, 3, 1600};
          const std::vector<std::pair<int32_t, int64_t>> wanted = {
              {0, 0},   {0, 1},   {0, 15}, {0, 17}, {0, 511},  {0, 512},
              {0, 513}, {0, 699}, {1, 0},  {1, 2},  {2, 1030}, {2, 1599}};
          constexpr int64_t kSize = Batch::kFloats / 2;
          const int64_t kept_size = Batch::kFloats * Batch::count(wanted);
          Batch plain(target, lengths);
          Batch batch(target, lengths);
          const AlignedFloats poison = poisoned(kept_size);
          const DeviceBuffer kept = upload_f32(target.exec, poison.data(), kept_size, "a test");
          std::vector<DeviceSnapshot> snapshots;
          for (const auto& [span, base] : wanted) {
            snapshots.push_back(
                {span, base, kept.as<float>() + Batch::kFloats * Batch::count(snapshots)});
          }
          batch.args.batch.snapshots = batch.table(snapshots);
          batch.args.batch.snapshot_count = Batch::count(snapshots);
          ssd_scan(target.exec, batch.args);
          ssd_scan(target.exec, plain.args);
          for (size_t s = 0; s < lengths.size(); ++s) {
            CHECK(same_bits(batch.rows_of(batch.spans[s]), plain.rows_of(plain.spans[s])));
          }
          AlignedFloats actual(static_cast<size_t>(kept_size));
          copy_to_host(target.exec, actual.data(), kept.data(), 4 * kept_size);
          target.exec.synchronize();
          for (size_t k = 0; k < wanted.size(); ++k) {
            INFO(dtype_name(dtype) << ", snapshot " << k);
            const auto [s, base] = wanted[k];
            const auto from = actual.begin() + static_cast<int64_t>(k) * Batch::kFloats;
            const AlignedFloats snapshot(from, from + kSize);
            CHECK(std::all_of(from + kSize, from + Batch::kFloats,
                              [](float v) { return std::isnan(v); }));
            Batch shorter(target, lengths);  // the same inputs, one span cut short
            DeviceSpan one = shorter.spans[static_cast<size_t>(s)];
            one.length = base;
            if (base > 0) {
              shorter.set({one});
              ssd_scan(target.exec, shorter.args);
            }
            const AlignedFloats states = shorter.states_of(one);
            const auto last = states.begin() + (base > 0 ? kSize : 0);
            const AlignedFloats expected(last, last + kSize);
            // Where segments meet it is the carry; elsewhere bf16's matrix products round more than the recurrence.
            if (dtype == DType::f32 || base % kSegmentBases == 0) {
              CHECK(same_bits(snapshot, expected));
            } else {
              CHECK(relative_error(snapshot, expected) <= tests::kBf16Kernel);
            }
          }
        },
        dtype);
  }
}

// More states and heads than a block has, groups of which none fills one, and rows from the last to the first.
TEST_CASE("GPU SSD scan: snapshots of wide sequences agree with the double reference") {
  for (const Shape& shape : {Shape{12, 16, 2, 32}, Shape{3, 48, 1, 80}, Shape{2, 128, 2, 256}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      on_gpu(
          [&](DeviceTarget& target) {
            for (const bool reverse : {false, true}) {
              INFO(dtype_name(dtype) << ", H " << shape.heads << (reverse ? ", reverse" : ""));
              const Scan scan(300, shape);
              OnDevice on(target.exec);
              const auto up = [&](const AlignedFloats& values, bool f32) {
                const auto n = static_cast<int64_t>(values.size());
                on.buffers.push_back(f32 ? upload_f32(on.exec, values.data(), n, "a test")
                                         : upload(on.exec, values.data(), n, "a test"));
                return on.buffers.back().data();
              };
              const auto size = static_cast<int64_t>(scan.h0.size());
              constexpr int64_t kBase = 217;
              std::vector<DeviceSpan> span(1);
              span[0].length = scan.length;
              AlignedFloats states = scan.h0;
              states.resize(static_cast<size_t>(2 * size));
              span[0].state = static_cast<float*>(up(states, true));
              const std::vector<DeviceSegment> segments = cut_segments(span);
              auto* kept = static_cast<float*>(up(poisoned(size), true));
              DeviceSsdScanArgs args;
              args.batch.spans = on.table(span);
              args.batch.segments = on.table(segments);
              args.batch.snapshots = on.table(std::vector<DeviceSnapshot>{{0, kBase, kept}});
              args.batch.rows = scan.length;
              args.batch.span_count = args.batch.segment_count = args.batch.snapshot_count = 1;
              args.heads = shape.heads;
              args.head_dim = shape.head_dim;
              args.groups = shape.groups;
              args.d_state = shape.d_state;
              args.reverse = reverse;
              args.x_LE = up(scan.x, false);
              args.x_stride = args.out_stride = scan.channels;
              args.dt_LH = up(scan.dt, false);
              args.dt_stride = shape.heads;
              args.dt_bias_H = static_cast<float*>(up(scan.bias, true));
              args.A_H = static_cast<float*>(up(scan.decay, true));
              args.Bmat_LGN = up(scan.b, false);
              args.Cmat_LGN = up(scan.c, false);
              args.bc_stride = shape.groups * shape.d_state;
              args.D_E = static_cast<float*>(up(scan.skip, true));
              args.state.ssm_last = size;
              args.out_LE = up(poisoned(scan.length * scan.channels), false);
              ssd_scan(on.exec, args);
              AlignedFloats actual(static_cast<size_t>(size));
              copy_to_host(on.exec, actual.data(), kept, 4 * size);
              on.exec.synchronize();
              Exec reference(Backend::reference);
              AlignedFloats expected = scan.h0;
              scan.run(reference, reverse ? scan.length - kBase : 0, kBase, expected, reverse);
              CHECK(relative_error(actual, expected) <= tests::kKernel);
            }
          },
          dtype);
    }
  }
}

TEST_CASE("GPU SSD scan refuses what its registers do not hold, and says what to do") {
  CHECK_NOTHROW(require_ssd_sizes(128, 256));
  for (const auto& [head_dim, d_state] :
       std::initializer_list<std::pair<int64_t, int64_t>>{{129, 16}, {64, 257}}) {
    try {
      require_ssd_sizes(head_dim, d_state);
      FAIL("not refused");
    } catch (const ResourceError& error) {
      const std::string text = error.what();
      CHECK(text.find("head_dim " + std::to_string(head_dim)) != std::string::npos);
      CHECK(text.find("d_state " + std::to_string(d_state)) != std::string::npos);
      CHECK(text.find("--device cpu") != std::string::npos);
    }
  }
  on_gpu([&](DeviceTarget& target) {
    Batch batch(target, {100});
    batch.args.head_dim = 24;
    CHECK_THROWS_AS(ssd_scan(target.exec, batch.args), InternalError);
  });
}

}  // namespace
}  // namespace chromamba::kernels
