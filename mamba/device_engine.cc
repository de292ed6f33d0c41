#include "mamba/device_engine.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/base/error.h"
#include "kernels/batch.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/pool_rows.h"
#include "kernels/token_embedding.h"

namespace chromamba::mamba {

using kernels::DeviceBuffer;
using kernels::DeviceExec;
using kernels::kSegmentBases;
using kernels::PinnedBuffer;

namespace {

// Rows of a pass: as many as fit kGoodBytes (taps and logits counted, which few calls have) with everything
// else, and --memory. More fill the GPU better, by some 5 % for twice as many with D=256, at memory that
// others on the GPU may want.
constexpr int64_t kMostRows = 262144;
constexpr int64_t kGoodRows = 65536;
constexpr int64_t kGoodBytes = int64_t{2304} << 20;
// Passes in flight, each on its own stream. The later one is a layer behind at least: it waits for the
// carry. While one scans, which takes the arithmetic units, the other multiplies and normalises, which
// takes the memory.
constexpr int kLanes = 2;
// Sequences whose ends may lie in one pass: bounds the tables.
constexpr int64_t kMostSpans = 4096;
// States are handed out from slabs of about so many bytes.
constexpr int64_t kSlabBytes = int64_t{8} << 20;

AlignedFloats padded_table(const AlignedFloats& values, int64_t rows, int64_t width) {
  const int64_t stride = padded_width(width);
  AlignedFloats result(static_cast<size_t>(rows * stride), 0.0F);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(values.begin() + r * width, width, result.begin() + r * stride);
  }
  return result;
}

// Equal pieces of device memory, contents undefined.
class StatePool {
 public:
  StatePool(DeviceExec& exec, int64_t floats)
      : exec_(exec),
        floats_(floats),
        per_slab_(std::max<int64_t>(1, kSlabBytes / std::max<int64_t>(1, 4 * floats))) {}

  float* take() {
    if (free_.empty()) {
      slabs_.emplace_back(exec_, 4 * floats_ * per_slab_, "the states of sequences");
      for (int64_t i = per_slab_; i-- > 0;) {
        free_.push_back(slabs_.back().as<float>() + i * floats_);
      }
    }
    float* state = free_.back();
    free_.pop_back();
    return state;
  }
  void give_back(float* state) { free_.push_back(state); }
  int64_t floats() const { return floats_; }

 private:
  DeviceExec& exec_;
  int64_t floats_;
  int64_t per_slab_;
  std::vector<DeviceBuffer> slabs_;
  std::vector<float*> free_;
};

}  // namespace

// One sequence on a device: the carry where its last segment begins, and the tokens since.
struct DeviceSequence {
  std::shared_ptr<StatePool> pool;
  std::shared_ptr<StatePool> sum_pool;
  float* state = nullptr;
  std::vector<float*> sums;  // of pooled groups, by slot: D doubles each
  std::vector<int32_t> tail;
  int32_t turn = 0;  // which of its two conv states is the last (kernels/batch.h)

  DeviceSequence(std::shared_ptr<StatePool> from, std::shared_ptr<StatePool> sums_from)
      : pool(std::move(from)), sum_pool(std::move(sums_from)), state(pool->take()) {}
  ~DeviceSequence() {
    pool->give_back(state);
    for (float* sum : sums) sum_pool->give_back(sum);
  }
  DeviceSequence(const DeviceSequence&) = delete;
  DeviceSequence& operator=(const DeviceSequence&) = delete;
};

class DeviceEngine::Impl {
 public:
  Impl(const Model& model, const ComputeDevice& device)
      : model_(model),
        exec_(device.ordinal, device.dtype),
        second_(device.ordinal, device.dtype),
        width_(model.config().d_model),
        stride_(padded_width(width_)),
        vocab_(model.config().vocab_size) {
    upload_model();
    if (device.pass_rows > 0) {
      most_rows_ = std::max<int64_t>(1, device.pass_rows / kSegmentBases) * kSegmentBases;
    }
    plan_rows(device.memory, device.pass_rows > 0);
    allocate();
  }

  ~Impl() {
    try {
      exec_.synchronize();  // nothing may still be copied into the buffers that go now
      second_.synchronize();
    } catch (const Error&) {  // NOLINT(bugprone-empty-catch): reported by the call that failed
    }
  }

  SequenceState new_sequence() {
    SequenceState state;
    state.next_log_p.assign(static_cast<size_t>(vocab_), 0.0F);
    state.device = std::make_shared<DeviceSequence>(pool_, sum_pool_);
    kernels::zero_on_device(exec_, state.device->state, 4 * pool_->floats());
    return state;
  }

  std::vector<LayerState> read_layers(const SequenceState& state) {
    std::vector<float> floats(static_cast<size_t>(pool_->floats()));
    kernels::copy_to_host(exec_, floats.data(), state.device->state, 4 * pool_->floats());
    exec_.synchronize();
    std::vector<LayerState> layers;
    for (const Layer& layer : layers_) {
      layers.push_back(layer.mixer->read_state(floats.data() + layer.state_offset));
    }
    return layers;
  }

  void forward(std::span<Chunk> chunks, const std::function<void()>& poll);

  int64_t peak_bytes() const { return exec_.peak_bytes() + second_.peak_bytes(); }

 private:
  struct Norm {
    DeviceBuffer weight;
    DeviceBuffer bias;
  };
  struct Layer {
    Norm norm;
    std::unique_ptr<DeviceMixer> mixer;
    int64_t state_offset = 0;
  };

  // A run of bases of one chunk within a pass.
  struct Piece {
    size_t chunk = 0;
    int64_t row = 0;  // first row in the pass
    int64_t rows = 0;
    int64_t first = 0;  // first base, counted in the chunk: negative in the recomputed tail
    bool last = false;  // holds the chunk's last base
  };

  // Results of a layer for the rows of a pass, on the way to the host.
  struct TapBuffer {
    int64_t layer = 0;
    PinnedBuffer host;
  };

  // A group whose mean a pass gives: of which chunk, and the index there.
  struct Mean {
    size_t chunk = 0;
    int64_t group = 0;
  };

  // Everything of one pass that lives until its results are read.
  struct Lane {
    Lane(DeviceExec& stream, size_t layers) : exec(stream), done(stream), pooled(stream) {
      for (size_t k = 0; k < layers; ++k) {
        layer_done.push_back(std::make_unique<kernels::DeviceEvent>(stream));
      }
    }
    DeviceExec& exec;
    std::vector<Piece> pieces;
    int64_t rows = 0;
    bool busy = false;
    kernels::DeviceEvent done;
    std::vector<std::unique_ptr<kernels::DeviceEvent>> layer_done;
    DeviceBuffer residual;           // [rows, D] f32
    DeviceBuffer hidden;             // [rows, D]
    DeviceBuffer workspace;          // of the mixers
    DeviceBuffer device_log_p;       // [rows]
    DeviceBuffer device_next_log_p;  // [spans, V]
    DeviceBuffer device_logits;      // [rows, V], made when asked for
    DeviceBuffer final_rows;         // [rows, D] f32, the same
    PinnedBuffer tables;             // spans, segments, tokens, targets, row list: one copy
    DeviceBuffer device_tables;
    PinnedBuffer log_p;       // [rows]
    PinnedBuffer next_log_p;  // [spans, V]
    PinnedBuffer logits;      // [rows, V]
    std::vector<TapBuffer> taps;
    kernels::DeviceEvent pooled;  // the sums of open groups are left behind
    PinnedBuffer groups;
    std::vector<Mean> means;
    PinnedBuffer mean_rows;  // [means, D]
  };

  struct Wanted {
    bool log_likelihood = false;
    bool logits = false;
    bool head = false;
    bool final_norm = false;
    int64_t last_layer = 0;
    std::vector<int64_t> taps;
    std::optional<int64_t> pooled;  // layer
    bool has(int64_t layer) const {
      return layer == pooled || std::find(taps.begin(), taps.end(), layer) != taps.end();
    }
  };

  void upload_model();
  void plan_rows(int64_t memory, bool fixed);
  void allocate();
  Norm upload_norm(const NormWeights& norm);
  void launch(Lane& lane, const Lane* before, std::span<Chunk> chunks, const Wanted& wanted);
  void collect(Lane& lane, std::span<Chunk> chunks, const Wanted& wanted);
  void copy_tap(Lane& lane, int64_t layer, const float* rows, int64_t stride) const;
  void pool(Lane& lane, const Lane* before, std::span<Chunk> chunks, const float* rows,
            int64_t stride);
  void ensure_outputs(Lane& lane, const Wanted& wanted) const;

  int64_t workspace_bytes(int64_t rows) const {
    const int64_t segments = rows / kSegmentBases + kMostSpans;
    int64_t bytes = 0;
    for (const Layer& layer : layers_) {
      bytes = std::max(bytes, layer.mixer->workspace_bytes(rows, std::min(segments, rows)));
    }
    return bytes;
  }
  int64_t table_bytes() const {
    return kMostSpans * static_cast<int64_t>(sizeof(kernels::DeviceSpan)) +
           most_segments() * static_cast<int64_t>(sizeof(kernels::DeviceSegment)) +
           4 * (2 * most_rows_ + kMostSpans) + 64;  // each table begins at a multiple of 16
  }
  int64_t most_segments() const { return most_rows_ / kSegmentBases + kMostSpans; }

  const Model& model_;
  DeviceExec exec_;
  DeviceExec second_;  // the second lane's stream on the same GPU
  int64_t width_;
  int64_t stride_;
  int64_t vocab_;
  int64_t most_rows_ = kMostRows;
  DeviceBuffer embedding_;
  DeviceBuffer head_;
  Norm final_norm_;
  std::vector<Layer> layers_;
  std::shared_ptr<StatePool> pool_;
  std::shared_ptr<StatePool> sum_pool_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

DeviceEngine::Impl::Norm DeviceEngine::Impl::upload_norm(const NormWeights& norm) {
  Norm result;
  const auto padded = [&](const AlignedFloats& values) {
    const AlignedFloats row = padded_table(values, 1, width_);
    return kernels::upload_f32(exec_, row.data(), stride_, "weights");
  };
  result.weight = padded(norm.weight);
  if (!norm.bias.empty()) result.bias = padded(norm.bias);
  return result;
}

void DeviceEngine::Impl::upload_model() {
  const auto table = [&](const AlignedFloats& values) {
    const AlignedFloats rows = padded_table(values, vocab_, width_);
    return kernels::upload_f32(exec_, rows.data(), vocab_ * stride_, "weights");
  };
  embedding_ = table(model_.embedding_VD());
  AlignedFloats head(static_cast<size_t>(vocab_ * width_));
  for (int64_t v = 0; v < vocab_; ++v) {
    for (int64_t d = 0; d < width_; ++d) {
      head[static_cast<size_t>(v * width_ + d)] =
          model_.head_panels()[static_cast<size_t>(kernels::panel_index(v, d, width_))];
    }
  }
  head_ = table(head);
  int64_t floats = 0;
  for (const Block& block : model_.blocks()) {
    Layer layer;
    layer.norm = upload_norm(block.norm);
    layer.mixer = block.mixer->upload(exec_);
    layer.state_offset = floats;
    floats += layer.mixer->state_floats();
    layers_.push_back(std::move(layer));
  }
  final_norm_ = upload_norm(model_.final_norm());
  pool_ = std::make_shared<StatePool>(exec_, floats);
  sum_pool_ = std::make_shared<StatePool>(exec_, 2 * width_);
}

void DeviceEngine::Impl::plan_rows(int64_t memory, bool fixed) {
  const int64_t element = kernels::dtype_bytes(exec_.dtype());
  const auto needed = [&](int64_t rows) {
    // Taps of the final norm and logits, which not every call asks for, are counted too; so are sums of
    // pooled rows, a slab of them.
    return exec_.bytes_in_use() + second_.bytes_in_use() + 3 * kSlabBytes +
           kLanes * (workspace_bytes(rows) + kMostSpans * 64 + 4 * (2 * rows + kMostSpans) +
                     rows * (stride_ * (4 + element) + 4 * width_ + 4 * vocab_ + 4));
  };
  while (!fixed && most_rows_ > kGoodRows && needed(most_rows_) > kGoodBytes) most_rows_ /= 2;
  while (most_rows_ > kSegmentBases && needed(most_rows_) > memory) {
    most_rows_ = std::max<int64_t>(1, most_rows_ / 2 / kSegmentBases) * kSegmentBases;
  }
  if (needed(most_rows_) > memory) {
    char text[256];
    std::snprintf(text, sizeof text,
                  "cuda:%d: the model and %lld bases need %.0f MiB of GPU memory, --memory allows "
                  "%.0f MiB; raise --memory",
                  exec_.info().ordinal, static_cast<long long>(most_rows_),
                  static_cast<double>(needed(most_rows_)) / (1 << 20),
                  static_cast<double>(memory) / (1 << 20));
    throw ResourceError(text);
  }
}

void DeviceEngine::Impl::allocate() {
  const int64_t element = kernels::dtype_bytes(exec_.dtype());
  for (int i = 0; i < kLanes; ++i) {
    DeviceExec& exec = i == 0 ? exec_ : second_;
    auto lane = std::make_unique<Lane>(exec, layers_.size());
    lane->residual = DeviceBuffer(exec, 4 * most_rows_ * stride_, "the residual stream");
    lane->hidden = DeviceBuffer(exec, element * most_rows_ * stride_, "activations");
    lane->workspace = DeviceBuffer(exec, workspace_bytes(most_rows_), "activations");
    lane->device_log_p = DeviceBuffer(exec, 4 * most_rows_, "log-likelihoods");
    lane->device_next_log_p = DeviceBuffer(exec, 4 * kMostSpans * vocab_, "log-likelihoods");
    lane->tables = PinnedBuffer(table_bytes());
    lane->device_tables = DeviceBuffer(exec, table_bytes(), "tables");
    lane->log_p = PinnedBuffer(4 * most_rows_);
    lane->next_log_p = PinnedBuffer(4 * kMostSpans * vocab_);
    lanes_.push_back(std::move(lane));
  }
}

void DeviceEngine::Impl::ensure_outputs(Lane& lane, const Wanted& wanted) const {
  if (wanted.logits) {
    if (lane.device_logits.bytes() == 0) {
      lane.device_logits = DeviceBuffer(lane.exec, 4 * most_rows_ * vocab_, "logits");
    }
    if (lane.logits.bytes() == 0) lane.logits = PinnedBuffer(4 * most_rows_ * vocab_);
  }
  if (wanted.final_norm && lane.final_rows.bytes() == 0) {
    lane.final_rows = DeviceBuffer(lane.exec, 4 * most_rows_ * width_, "final embeddings");
  }
  lane.taps.resize(wanted.taps.size());
  for (size_t i = 0; i < wanted.taps.size(); ++i) {
    lane.taps[i].layer = wanted.taps[i];
    if (lane.taps[i].host.bytes() == 0) lane.taps[i].host = PinnedBuffer(4 * most_rows_ * width_);
  }
}

void DeviceEngine::Impl::copy_tap(Lane& lane, int64_t layer, const float* rows,
                                  int64_t stride) const {
  for (TapBuffer& tap : lane.taps) {
    if (tap.layer != layer) continue;
    kernels::copy_rows_to_host(lane.exec, tap.host.as<float>(), rows, lane.rows, 4 * width_,
                               4 * stride);
  }
}

// Tables and means lie where the mixers' workspace is, which is free between two of them: as many groups at a
// time as it has room for.
void DeviceEngine::Impl::pool(Lane& lane, const Lane* before, std::span<Chunk> chunks,
                              const float* rows, int64_t stride) {
  const int64_t most =
      lane.workspace.bytes() / (4 * width_ + static_cast<int64_t>(sizeof(kernels::PoolGroup))) - 1;
  auto* means = lane.workspace.as<float>();
  auto* table = lane.workspace.as<std::byte>() + (4 * width_ * most + 15) / 16 * 16;
  std::vector<kernels::PoolGroup> groups;
  int64_t mean = 0;  // counts from every `most`-th group on
  for (const Piece& piece : lane.pieces) {
    const Chunk& chunk = chunks[piece.chunk];
    if (!chunk.pooled) continue;
    SequenceState& state = *chunk.state;
    std::vector<float*>& sums = state.device->sums;
    const int64_t first = state.position + piece.first;  // base of the piece's first row
    for (const GroupPart& part : state.groups.next_piece(first + piece.rows)) {
      while (static_cast<int64_t>(sums.size()) < state.groups.slots()) {
        sums.push_back(sum_pool_->take());
      }
      kernels::PoolGroup group;
      group.row = piece.row + part.start - first;
      group.rows = part.end - part.start;
      group.bases = part.bases;
      if (part.slot >= 0) {
        group.sum_D = reinterpret_cast<double*>(sums[static_cast<size_t>(part.slot)]);
      }
      if (static_cast<int64_t>(groups.size()) % most == 0) mean = 0;
      if (part.ends) {
        group.mean_D = means + mean++ * width_;
        lane.means.push_back({piece.chunk, part.group});
      }
      group.begins = part.begins;
      groups.push_back(group);
    }
  }
  const auto ensure = [](PinnedBuffer& buffer, size_t bytes) {
    // A quarter more, for the next pass may have a few more.
    const auto wanted = static_cast<int64_t>(bytes + bytes / 4);
    if (buffer.bytes() < static_cast<int64_t>(bytes)) buffer = PinnedBuffer(wanted);
  };
  ensure(lane.groups, groups.size() * sizeof groups[0]);
  ensure(lane.mean_rows, lane.means.size() * static_cast<size_t>(4 * width_));
  if (!groups.empty())
    std::memcpy(lane.groups.as<void>(), groups.data(), groups.size() * sizeof groups[0]);
  // The pass before has left the sums of its open groups behind.
  if (before != nullptr) before->pooled.hold(lane.exec);
  float* to = lane.mean_rows.as<float>();
  for (int64_t from = 0; from < static_cast<int64_t>(groups.size()); from += most) {
    const auto count = std::min(most, static_cast<int64_t>(groups.size()) - from);
    kernels::copy_to_device(lane.exec, table, lane.groups.as<kernels::PoolGroup>() + from,
                            count * static_cast<int64_t>(sizeof groups[0]));
    kernels::pool_rows(lane.exec, {lane.rows, width_, stride, rows, count,
                                   reinterpret_cast<const kernels::PoolGroup*>(table)});
    const auto begin = groups.begin() + from;
    const int64_t ended =
        std::count_if(begin, begin + count, [](const auto& g) { return g.mean_D != nullptr; });
    kernels::copy_to_host(lane.exec, to, means, 4 * ended * width_);
    to += ended * width_;
  }
  lane.pooled.record();
}

void DeviceEngine::Impl::launch(Lane& lane, const Lane* before, std::span<Chunk> chunks,
                                const Wanted& wanted) {
  ensure_outputs(lane, wanted);
  lane.means.clear();
  // Tables, in one block of page-locked memory and one copy.
  std::vector<kernels::DeviceSpan> spans;
  std::vector<int32_t> last_rows;
  for (const Piece& piece : lane.pieces) {
    kernels::DeviceSpan span;
    span.row = piece.row;
    span.length = piece.rows;
    DeviceSequence& sequence = *chunks[piece.chunk].state->device;
    span.state = sequence.state;
    span.turn = sequence.turn;
    spans.push_back(span);
    if (piece.last) last_rows.push_back(static_cast<int32_t>(piece.row + piece.rows - 1));
  }
  const std::vector<kernels::DeviceSegment> segments = kernels::cut_segments(spans);
  for (size_t i = 0; i < spans.size(); ++i) {
    DeviceSequence& sequence = *chunks[lane.pieces[i].chunk].state->device;
    if (spans[i].whole_segments > 0) sequence.turn = 1 - sequence.turn;
  }
  auto* at = lane.tables.as<std::byte>();
  const auto put = [&](const auto& values) {
    const size_t bytes = values.size() * sizeof values[0];
    std::memcpy(at, values.data(), bytes);
    const auto offset = at - lane.tables.as<std::byte>();
    at += (bytes + 15) / 16 * 16;
    return lane.device_tables.as<std::byte>() + offset;
  };
  kernels::DeviceBatch batch;
  batch.spans = reinterpret_cast<const kernels::DeviceSpan*>(put(spans));
  batch.segments = reinterpret_cast<const kernels::DeviceSegment*>(put(segments));
  batch.rows = lane.rows;
  batch.span_count = static_cast<int64_t>(spans.size());
  batch.segment_count = static_cast<int64_t>(segments.size());
  const auto* row_list = reinterpret_cast<const int32_t*>(put(last_rows));
  // Tokens and targets are written where they will be copied from.
  auto* tokens = reinterpret_cast<int32_t*>(at);
  int32_t* targets = tokens + lane.rows;
  const auto* device_tokens = reinterpret_cast<const int32_t*>(lane.device_tables.as<std::byte>() +
                                                               (at - lane.tables.as<std::byte>()));
  const int32_t* device_targets = device_tokens + lane.rows;
  const int32_t n_token = model_.tokenizer().n;
  for (const Piece& piece : lane.pieces) {
    const Chunk& chunk = chunks[piece.chunk];
    const std::vector<int32_t>& tail = chunk.state->device->tail;
    const auto tail_length = static_cast<int64_t>(tail.size());
    const int64_t from_tail = std::clamp<int64_t>(-piece.first, 0, piece.rows);
    int32_t* to = tokens + piece.row;
    std::copy_n(tail.begin() + (tail_length + std::min<int64_t>(piece.first, 0)), from_tail, to);
    for (int64_t i = from_tail; i < piece.rows; ++i) {
      to[i] = chunk.tokens_L[piece.first + i];
      if (to[i] < 0 || to[i] >= vocab_) {
        throw InternalError("token " + std::to_string(to[i]) + " outside the vocabulary of " +
                            std::to_string(vocab_));
      }
    }
    int32_t* target = targets + piece.row;
    for (int64_t i = 0; i < piece.rows; ++i) {
      const int64_t next = piece.first + i + 1;  // the base that row i predicts
      const int32_t token = next >= 0 && next < chunk.length ? chunk.tokens_L[next] : -1;
      target[i] = token == n_token ? -1 : token;
    }
  }
  at = reinterpret_cast<std::byte*>(targets + lane.rows);
  kernels::copy_to_device(lane.exec, lane.device_tables.data(), lane.tables.as<std::byte>(),
                          at - lane.tables.as<std::byte>());

  auto* residual = lane.residual.as<float>();
  kernels::token_embedding(lane.exec, {lane.rows, vocab_, stride_, device_tokens,
                                       embedding_.as<const float>(), residual});
  const auto norm_args = [&](const Norm& norm, bool adds) {
    kernels::DeviceAddNormArgs args;
    args.kind = model_.norm_kind();
    args.rows = lane.rows;
    args.d_model = width_;
    args.stride = stride_;
    args.eps = static_cast<float>(model_.config().norm_eps);
    args.hidden_LD = adds ? lane.hidden.data() : nullptr;
    args.residual_LD = residual;
    args.weight_D = norm.weight.as<const float>();
    args.bias_D = norm.bias.as<const float>();
    return args;
  };
  const auto serve_taps = [&](int64_t layer, const float* rows, int64_t stride) {
    copy_tap(lane, layer, rows, stride);
    if (layer == wanted.pooled) pool(lane, before, chunks, rows, stride);
  };
  for (int64_t k = 0; k < wanted.last_layer; ++k) {
    const Layer& layer = layers_[static_cast<size_t>(k)];
    kernels::DeviceAddNormArgs norm = norm_args(layer.norm, k > 0);
    norm.out_LD = lane.hidden.data();
    kernels::add_norm(lane.exec, norm);
    serve_taps(k, residual, stride_);
    DeviceMixerCall call;
    call.batch = batch;
    call.input_LD = lane.hidden.data();
    call.out_LD = lane.hidden.data();
    call.workspace = lane.workspace.as<std::byte>();
    call.state_offset = layer.state_offset;
    // The pass before has left this layer's states behind.
    if (before != nullptr) before->layer_done[static_cast<size_t>(k)]->hold(lane.exec);
    layer.mixer->forward(lane.exec, call);
    lane.layer_done[static_cast<size_t>(k)]->record();
  }
  // The head adds the last hidden rows itself, unless a tap needs the stream or the final norm.
  const bool tapped = wanted.has(kFinalLayer) || wanted.has(wanted.last_layer);
  if (tapped) {
    kernels::DeviceAddNormArgs norm = norm_args(final_norm_, wanted.last_layer > 0);
    if (wanted.final_norm) norm.out_f32_LD = lane.final_rows.as<float>();
    kernels::add_norm(lane.exec, norm);
    serve_taps(wanted.last_layer, residual, stride_);
    if (wanted.final_norm) serve_taps(kFinalLayer, lane.final_rows.as<const float>(), width_);
  }
  if (wanted.head) {
    kernels::DeviceHeadArgs head;
    head.norm = model_.norm_kind();
    head.rows = lane.rows;
    head.d_model = width_;
    head.stride = stride_;
    head.vocab_size = vocab_;
    head.eps = static_cast<float>(model_.config().norm_eps);
    head.hidden_LD = tapped || wanted.last_layer == 0 ? nullptr : lane.hidden.data();
    head.residual_LD = residual;
    head.norm_weight_D = final_norm_.weight.as<const float>();
    head.norm_bias_D = final_norm_.bias.as<const float>();
    head.weight_VD = head_.as<const float>();
    if (!last_rows.empty()) {
      kernels::DeviceHeadArgs next = head;
      next.rows = static_cast<int64_t>(last_rows.size());
      next.row_list = row_list;
      next.log_p_LV = lane.device_next_log_p.as<float>();
      kernels::head_log_likelihood(lane.exec, next);
      kernels::copy_to_host(lane.exec, lane.next_log_p.as<float>(), lane.device_next_log_p.data(),
                            4 * next.rows * vocab_);
    }
    head.target_L = device_targets;
    head.out_L = lane.device_log_p.as<float>();
    head.logits_LV = wanted.logits ? lane.device_logits.as<float>() : nullptr;
    kernels::head_log_likelihood(lane.exec, head);
    kernels::copy_to_host(lane.exec, lane.log_p.as<float>(), lane.device_log_p.data(),
                          4 * lane.rows);
    if (wanted.logits) {
      kernels::copy_to_host(lane.exec, lane.logits.as<float>(), lane.device_logits.data(),
                            4 * lane.rows * vocab_);
    }
  }
  lane.done.record();
  lane.busy = true;
}

void DeviceEngine::Impl::collect(Lane& lane, std::span<Chunk> chunks, const Wanted& wanted) {
  if (!lane.busy) return;
  lane.busy = false;
  lane.done.wait();
  int64_t ends = 0;
  for (const Piece& piece : lane.pieces) {
    Chunk& chunk = chunks[piece.chunk];
    // Rows of the recomputed tail were given to the caller by an earlier call.
    const int64_t skip = std::clamp<int64_t>(-piece.first, 0, piece.rows);
    const int64_t count = piece.rows - skip;
    const int64_t row = piece.row + skip;
    const int64_t base = piece.first + skip;
    for (const HiddenTap& tap : chunk.taps) {
      for (const TapBuffer& from : lane.taps) {
        if (from.layer != tap.layer) continue;
        std::copy_n(from.host.as<float>() + row * width_, count * width_,
                    tap.out_LD + base * width_);
      }
    }
    if (chunk.logits_LV != nullptr) {
      std::copy_n(lane.logits.as<float>() + row * vocab_, count * vocab_,
                  chunk.logits_LV + base * vocab_);
    }
    if (chunk.log_likelihood_L != nullptr) {
      // Row i holds ln p of the base after it; the one that predicts the chunk's first base may be
      // the tail's last.
      const auto* log_p = lane.log_p.as<float>() + piece.row;
      for (int64_t i = skip > 0 ? skip - 1 : 0; i < piece.rows; ++i) {
        const int64_t next = piece.first + i + 1;
        if (next < 0 || next >= chunk.length) continue;
        const int32_t token = chunk.tokens_L[next];
        if (token != model_.tokenizer().n && !std::isfinite(log_p[i])) {
          throw DataError("model " + model_.name() + ": ln p of base " +
                          std::to_string(chunk.state->position + next + 1) +
                          " of a sequence is not finite: its weights overflow 32-bit floats");
        }
        chunk.log_likelihood_L[next] = log_p[i];
      }
    }
    if (piece.last && wanted.head) {
      std::copy_n(lane.next_log_p.as<float>() + ends * vocab_, vocab_,
                  chunk.state->next_log_p.begin());
    }
    if (piece.last) ++ends;
  }
  const auto* row = lane.mean_rows.as<const float>();
  for (const Mean& mean : lane.means) {
    std::copy_n(row, width_, chunks[mean.chunk].pooled->means_GD + mean.group * width_);
    row += width_;
  }
}

void DeviceEngine::Impl::forward(std::span<Chunk> chunks, const std::function<void()>& poll) {
  const auto n_layer = static_cast<int64_t>(layers_.size());
  Wanted wanted;
  const auto reach = [&](int64_t layer) {
    wanted.final_norm = wanted.final_norm || layer == kFinalLayer;
    wanted.last_layer = std::max(wanted.last_layer, layer == kFinalLayer ? n_layer : layer);
  };
  for (const Chunk& chunk : chunks) {
    wanted.log_likelihood = wanted.log_likelihood || chunk.log_likelihood_L != nullptr;
    wanted.logits = wanted.logits || chunk.logits_LV != nullptr;
    for (const HiddenTap& tap : chunk.taps) {
      if (std::find(wanted.taps.begin(), wanted.taps.end(), tap.layer) == wanted.taps.end()) {
        wanted.taps.push_back(tap.layer);
      }
      reach(tap.layer);
    }
    if (chunk.pooled) {
      wanted.pooled = chunk.pooled->layer;
      reach(chunk.pooled->layer);
    }
    if (chunk.log_likelihood_L != nullptr && chunk.length > 0) {
      // The first base was predicted by the last one of the call before.
      const int32_t token = chunk.tokens_L[0];
      const bool scored = chunk.state->position > 0 && token != model_.tokenizer().n &&
                          token >= 0 && token < vocab_;  // what is not, stops the call below
      chunk.log_likelihood_L[0] = scored ? chunk.state->next_log_p[static_cast<size_t>(token)]
                                         : std::numeric_limits<float>::quiet_NaN();
    }
  }
  wanted.head = wanted.log_likelihood || wanted.logits;
  if (wanted.head) wanted.last_layer = n_layer;

  int turn = 0;
  const Lane* before = nullptr;
  Lane* lane = lanes_[0].get();
  lane->pieces.clear();
  lane->rows = 0;
  const auto send = [&] {
    if (lane->rows == 0) return;
    if (poll) poll();
    launch(*lane, before, chunks, wanted);
    before = lane;
    turn = (turn + 1) % kLanes;
    lane = lanes_[static_cast<size_t>(turn)].get();
    collect(*lane, chunks, wanted);  // the pass before: the GPU computes the one just sent
    lane->pieces.clear();
    lane->rows = 0;
  };
  try {
    for (size_t c = 0; c < chunks.size(); ++c) {
      Chunk& chunk = chunks[c];
      if (chunk.length == 0) continue;
      int64_t first = -static_cast<int64_t>(chunk.state->device->tail.size());
      while (first < chunk.length) {
        int64_t room = most_rows_ - lane->rows;
        if (static_cast<int64_t>(lane->pieces.size()) == kMostSpans) room = 0;
        int64_t rows = chunk.length - first;
        if (rows > room) {
          const int64_t position = chunk.state->position + first;
          rows = kernels::segment_floor(position + room) - position;
        }
        if (rows == 0) {
          send();
          continue;
        }
        Piece piece;
        piece.chunk = c;
        piece.row = lane->rows;
        piece.rows = rows;
        piece.first = first;
        first += rows;
        piece.last = first == chunk.length;
        lane->pieces.push_back(piece);
        lane->rows += rows;
      }
    }
    send();
    for (int i = 0; i < kLanes; ++i) {  // oldest first
      collect(*lanes_[static_cast<size_t>((turn + i) % kLanes)], chunks, wanted);
    }
  } catch (...) {
    // Work in flight uses the caller's states: wait before handing them back.
    try {
      exec_.synchronize();
      second_.synchronize();
    } catch (
        const Error&) {  // NOLINT(bugprone-empty-catch): the first failure is the one to report
    }
    for (const std::unique_ptr<Lane>& each : lanes_) each->busy = false;
    throw;
  }
  for (Chunk& chunk : chunks) {
    if (chunk.length == 0) continue;
    std::vector<int32_t>& tail = chunk.state->device->tail;
    tail.insert(tail.end(), chunk.tokens_L, chunk.tokens_L + chunk.length);
    chunk.state->position += chunk.length;
    const int64_t kept = chunk.state->position - kernels::segment_floor(chunk.state->position);
    tail.erase(tail.begin(), tail.end() - kept);
  }
}

DeviceEngine::DeviceEngine(const Model& model, const ComputeDevice& device)
    : impl_(std::make_unique<Impl>(model, device)) {}
DeviceEngine::~DeviceEngine() = default;
SequenceState DeviceEngine::new_sequence() { return impl_->new_sequence(); }
void DeviceEngine::forward(std::span<Chunk> chunks, const std::function<void()>& poll) {
  impl_->forward(chunks, poll);
}
std::vector<LayerState> DeviceEngine::read_layers(const SequenceState& state) {
  return impl_->read_layers(state);
}
int64_t DeviceEngine::peak_bytes() const { return impl_->peak_bytes(); }

int64_t DeviceEngine::host_bytes(const Model& model, int64_t tap_bytes) {
  constexpr int64_t kRuntime = int64_t{512} << 20;
  // The engine decides the rows when it has seen the GPU; a pass takes about 40 bytes a row and channel of D.
  const int64_t width = model.config().d_model;
  const int64_t rows = std::clamp(kGoodBytes / (kLanes * 40 * width), kGoodRows, kMostRows);
  return kRuntime +
         kLanes * (rows * (12 + tap_bytes) + kMostSpans * (64 + 4 * model.config().vocab_size));
}

}  // namespace chromamba::mamba
