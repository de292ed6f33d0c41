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
#include "kernels/pool_rows.h"
#include "kernels/token_embedding.h"
#include "mamba/device_parts.h"
#include "mamba/device_states.h"

namespace chromamba::mamba {

using kernels::DeviceBuffer;
using kernels::DeviceExec;
using kernels::kSegmentBases;
using kernels::PinnedBuffer;

namespace {

// Rows of a pass: as many as fit kGoodBytes (taps and logits counted, which few calls have) with everything
// else, and --memory. With D=256 131,072 rows are 4 % faster than half as many, and twice as many 1 % faster still, at
// memory that others on the GPU may want.
constexpr int64_t kMostRows = 262144;
constexpr int64_t kGoodRows = 65536;
constexpr int64_t kGoodBytes = int64_t{2304} << 20;
// Passes in flight on a GPU, each on its own stream. The later one is a layer behind at least: it waits for the
// carry. While the last blocks of one's kernel run, the other's fill the GPU. (Four give 1 % more.)
constexpr int kLanes = 2;
// Sequences whose ends may lie in one pass: bounds the tables.
constexpr int64_t kMostSpans = 4096;
// Fewer where a mixer's segments are large (Mamba-2's states are eight times Mamba-1's): each span may have one that is
// not whole, and all of these together get so many bytes. Passes of short reads are then shorter; 256 spans still fill one.
constexpr int64_t kSpanBytes = int64_t{128} << 20;
constexpr int64_t kLeastSpans = 256;
// Snapshots that a pass takes at most: bounds the tables too. A segment has fewer.
constexpr int64_t kMostSnapshots = 4096;
static_assert(kMostSnapshots >= kSegmentBases);

}  // namespace

class DeviceEngine::Impl {
 public:
  Impl(const Model& model, const ComputeDevice& device)
      : model_(model),
        width_(model.config().d_model),
        stride_(padded_width(width_)),
        vocab_(model.config().vocab_size) {
    const int64_t n_layer = model.config().n_layer;
    const auto gpus = std::min<int64_t>(static_cast<int64_t>(device.ordinals.size()), n_layer);
    for (int64_t i = 0; i < std::max<int64_t>(1, gpus); ++i) {
      stages_.push_back(std::make_unique<Stage>(device.ordinals[static_cast<size_t>(i)],
                                                device.dtype, i * n_layer / gpus,
                                                (i + 1) * n_layer / gpus));
      if (i > 0) kernels::connect(stages_[static_cast<size_t>(i - 1)]->exec, stages_.back()->exec);
      upload_model(*stages_.back());
    }
    int64_t segment_bytes = 1;
    for (const std::unique_ptr<Stage>& stage : stages_) {
      for (const Layer& layer : stage->layers) {
        segment_bytes = std::max(segment_bytes, layer.mixer->workspace_bytes(0, 1));
      }
    }
    most_spans_ = std::clamp(kSpanBytes / segment_bytes, kLeastSpans, kMostSpans);
    if (device.pass_rows > 0) {
      most_rows_ = std::max<int64_t>(1, device.pass_rows / kSegmentBases) * kSegmentBases;
    }
    for (const std::unique_ptr<Stage>& stage : stages_) {
      plan_rows(*stage, device.memory, device.pass_rows > 0);
    }
    allocate();
  }

  ~Impl() {
    try {
      synchronize();          // nothing may still be copied into the buffers that go now
    } catch (const Error&) {  // NOLINT(bugprone-empty-catch): reported by the call that failed
    }
  }

  SequenceState new_sequence() {
    SequenceState state;
    state.next_log_p.assign(static_cast<size_t>(vocab_), 0.0F);
    state.device = make_sequence();
    for (size_t s = 0; s < stages_.size(); ++s) {
      kernels::zero_on_device(stages_[s]->exec, state.device->states[s]->taken[0],
                              4 * stages_[s]->pool->floats());
    }
    return state;
  }

  void copy_sequence(const SequenceState& from, SequenceState& to) {
    to.device = make_sequence();
    to.device->tail = from.device->tail;
    to.device->turn = from.device->turn;
    to.device->anchor = from.device->anchor;
    for (size_t s = 0; s < stages_.size(); ++s) {
      Stage& stage = *stages_[s];
      kernels::copy_between(stage.exec, to.device->states[s]->taken[0], stage.exec,
                            from.device->states[s]->taken[0], 4 * stage.pool->floats());
    }
  }

  std::vector<LayerState> read_layers(const SequenceState& state) {
    std::vector<LayerState> layers;
    const DeviceSequence& sequence = *state.device;
    // A snapshot has no states after its last base yet, but then a segment begins there.
    std::optional<int32_t> turn;
    if (sequence.tail.empty()) turn = sequence.turn;
    for (size_t s = 0; s < stages_.size(); ++s) {
      Stage& stage = *stages_[s];
      std::vector<float> floats(static_cast<size_t>(stage.pool->floats()));
      kernels::copy_to_host(stage.exec, floats.data(), sequence.states[s]->taken[0],
                            4 * stage.pool->floats());
      stage.exec.synchronize();
      for (const Layer& layer : stage.layers) {
        layers.push_back(layer.mixer->read_state(floats.data() + layer.state_offset, turn));
      }
    }
    return layers;
  }

  void forward(std::span<Chunk> chunks, const std::function<void()>& poll);

  int64_t peak_bytes() const {
    int64_t most = 0;
    for (const std::unique_ptr<Stage>& stage : stages_) {
      most = std::max(most, stage->exec.peak_bytes() + stage->second.peak_bytes());
    }
    return most;
  }

 private:
  struct Layer {
    DeviceNorm norm;
    std::unique_ptr<DeviceMixer> mixer;
    int64_t state_offset = 0;
  };

  // What a GPU has for the pass that it works on in one of its streams.
  struct Workplace {
    DeviceBuffer residual;           // [rows, D] f32
    DeviceBuffer hidden;             // [rows, D]
    DeviceBuffer workspace;          // of the mixers
    DeviceBuffer device_log_p;       // [rows]
    DeviceBuffer device_next_log_p;  // [predictions, V]
    DeviceBuffer device_logits;      // [rows, V], made when asked for
    DeviceBuffer final_rows;         // [rows, D] f32, the same
    DeviceBuffer device_tables;
  };

  // A GPU with its share of the layers.
  struct Stage {
    Stage(int ordinal, kernels::DType dtype, int64_t first, int64_t end)
        : exec(ordinal, dtype), second(ordinal, dtype), first_layer(first), end_layer(end) {}
    DeviceExec exec;
    DeviceExec second;  // another stream of the same GPU
    int64_t first_layer;
    int64_t end_layer;
    DeviceBuffer embedding;
    DeviceBuffer head;
    DeviceNorm final_norm;
    std::vector<Layer> layers;
    std::shared_ptr<StatePool> pool;
    std::shared_ptr<StatePool> sum_pool;
    Workplace workplaces[kLanes];
  };

  // A run of bases of one chunk within a pass.
  struct Piece {
    size_t chunk = 0;
    int64_t row = 0;  // first row in the pass
    int64_t rows = 0;
    int64_t first = 0;  // first base, counted in the chunk: negative in the recomputed tail
    bool last = false;  // holds the chunk's last base
    // The chunk's snapshots that are taken before one of its bases.
    size_t begin_snapshot = 0;
    size_t end_snapshot = 0;
  };

  // A row of a pass that gives a sequence's ln p of the next token.
  struct Prediction {
    int64_t row = 0;
    SequenceState* state = nullptr;
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

  // A pass at one of the GPUs.
  struct Stop {
    Stop(Stage& at, DeviceExec& stream, Workplace& buffers)
        : stage(at),
          exec(stream),
          place(buffers),
          done(stream),
          taken_over(stream),
          pooled(stream) {
      for (size_t k = 0; k < stage.layers.size(); ++k) {
        layer_done.push_back(std::make_unique<kernels::DeviceEvent>(stream));
      }
    }
    Stage& stage;
    DeviceExec& exec;
    Workplace& place;
    PinnedBuffer tables;        // spans, segments, snapshots, tokens, targets, row list: one copy
    kernels::DeviceEvent done;  // all of the stage's work
    kernels::DeviceEvent taken_over;  // the rows of the stage before have been copied here
    kernels::DeviceEvent pooled;      // the sums of open groups are left behind
    std::vector<std::unique_ptr<kernels::DeviceEvent>> layer_done;
  };

  // Everything of one pass that lives until its results are read.
  struct Lane {
    std::vector<std::unique_ptr<Stop>> stops;  // by stage
    std::vector<Piece> pieces;
    int64_t rows = 0;
    int64_t snapshots = 0;
    std::vector<Prediction> predictions;
    bool busy = false;
    PinnedBuffer log_p;       // [rows]
    PinnedBuffer next_log_p;  // [predictions, V]
    PinnedBuffer logits;      // [rows, V]
    std::vector<TapBuffer> taps;
    PinnedBuffer groups;
    std::vector<Mean> means;
    PinnedBuffer mean_rows;  // [means, D]
  };

  struct Wanted {
    bool log_likelihood = false;
    bool logits = false;
    bool head = false;
    bool final_norm = false;
    bool snapshots = false;
    int64_t last_layer = 0;
    size_t last_stage = 0;
    std::vector<int64_t> taps;
    std::optional<int64_t> pooled;  // layer
    bool has(int64_t layer) const {
      return layer == pooled || std::find(taps.begin(), taps.end(), layer) != taps.end();
    }
  };

  // Its states are as the last owner left them.
  std::shared_ptr<DeviceSequence> make_sequence() const {
    auto sequence = std::make_shared<DeviceSequence>();
    for (const std::unique_ptr<Stage>& stage : stages_) {
      sequence->states.push_back(std::make_unique<DeviceSequence::Pieces>(stage->pool));
      sequence->states.back()->take();
      sequence->sums.push_back(std::make_unique<DeviceSequence::Pieces>(stage->sum_pool));
    }
    return sequence;
  }

  void upload_model(Stage& stage);
  void plan_rows(const Stage& stage, int64_t memory, bool fixed);
  void allocate();
  void prepare_snapshots(const Chunk& chunk) const;
  void list_predictions(Lane& lane, std::span<Chunk> chunks) const;
  void launch(Lane& lane, const Lane* before, std::span<Chunk> chunks, const Wanted& wanted);
  void launch_stage(Lane& lane, const Lane* before, size_t stage, std::span<Chunk> chunks,
                    const Wanted& wanted);
  void launch_head(Lane& lane, Stop& stop, const Wanted& wanted, bool adds_hidden,
                   const int32_t* targets, const int32_t* row_list);
  void collect(Lane& lane, std::span<Chunk> chunks, const Wanted& wanted);
  void copy_tap(Lane& lane, Stop& stop, int64_t layer, const float* rows, int64_t stride) const;
  void pool(Lane& lane, const Lane* before, size_t stage, std::span<Chunk> chunks,
            const float* rows, int64_t stride);
  void ensure_outputs(Lane& lane, const Wanted& wanted) const;
  void synchronize() {
    for (const std::unique_ptr<Stage>& stage : stages_) {
      stage->exec.synchronize();
      stage->second.synchronize();
    }
  }

  int64_t workspace_bytes(const Stage& stage, int64_t rows) const {
    const int64_t segments = rows / kSegmentBases + most_spans_;
    int64_t bytes = 0;
    for (const Layer& layer : stage.layers) {
      bytes = std::max(bytes, layer.mixer->workspace_bytes(rows, std::min(segments, rows)));
    }
    return bytes;
  }
  int64_t table_bytes() const {
    return kMostSpans * static_cast<int64_t>(sizeof(kernels::DeviceSpan)) +
           most_segments() * static_cast<int64_t>(sizeof(kernels::DeviceSegment)) +
           kMostSnapshots * static_cast<int64_t>(sizeof(kernels::DeviceSnapshot)) +
           4 * (2 * most_rows_ + kMostSpans + kMostSnapshots) +
           96;  // each table begins at a multiple of 16
  }
  int64_t most_segments() const { return most_rows_ / kSegmentBases + kMostSpans; }

  const Model& model_;
  int64_t width_;
  int64_t stride_;
  int64_t vocab_;
  int64_t most_rows_ = kMostRows;
  int64_t most_spans_ = kMostSpans;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<std::unique_ptr<Lane>>
      lanes_;  // kLanes for each stage: a pass is at one stage at a time
};

void DeviceEngine::Impl::upload_model(Stage& stage) {
  DeviceExec& exec = stage.exec;
  stage.embedding = upload_embedding(exec, model_);
  stage.head = upload_head(exec, model_, model_.head_panels());
  int64_t floats = 0;
  for (int64_t k = stage.first_layer; k < stage.end_layer; ++k) {
    const Block& block = model_.blocks()[static_cast<size_t>(k)];
    Layer layer;
    layer.norm = upload_norm(exec, block.norm);
    layer.mixer = block.forward->upload(exec);
    layer.state_offset = floats;
    floats += layer.mixer->state_floats();
    stage.layers.push_back(std::move(layer));
  }
  stage.final_norm = upload_norm(exec, model_.final_norm());
  stage.pool = std::make_shared<StatePool>(exec, floats);
  stage.sum_pool = std::make_shared<StatePool>(exec, 2 * width_);
}

void DeviceEngine::Impl::plan_rows(const Stage& stage, int64_t memory, bool fixed) {
  const int64_t element = kernels::dtype_bytes(stage.exec.dtype());
  const auto needed = [&](int64_t rows) {
    // Taps of the final norm and logits, which not every call asks for, are counted too; so are sums of
    // pooled rows, a slab of them.
    return stage.exec.bytes_in_use() + stage.second.bytes_in_use() + 3 * StatePool::kSlabBytes +
           kLanes * (workspace_bytes(stage, rows) + 64 * (kMostSpans + kMostSnapshots) +
                     4 * (2 * rows + kMostSpans + kMostSnapshots) +
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
                  stage.exec.info().ordinal, static_cast<long long>(most_rows_),
                  static_cast<double>(needed(most_rows_)) / (1 << 20),
                  static_cast<double>(memory) / (1 << 20));
    throw ResourceError(text);
  }
}

void DeviceEngine::Impl::allocate() {
  for (const std::unique_ptr<Stage>& stage : stages_) {
    const int64_t element = kernels::dtype_bytes(stage->exec.dtype());
    for (int i = 0; i < kLanes; ++i) {
      DeviceExec& exec = i == 0 ? stage->exec : stage->second;
      Workplace& place = stage->workplaces[i];
      place.residual = DeviceBuffer(exec, 4 * most_rows_ * stride_, "the residual stream");
      place.hidden = DeviceBuffer(exec, element * most_rows_ * stride_, "activations");
      place.workspace = DeviceBuffer(exec, workspace_bytes(*stage, most_rows_), "activations");
      place.device_log_p = DeviceBuffer(exec, 4 * most_rows_, "log-likelihoods");
      place.device_tables = DeviceBuffer(exec, table_bytes(), "tables");
    }
  }
  for (size_t i = 0; i < kLanes * stages_.size(); ++i) {
    auto lane = std::make_unique<Lane>();
    for (const std::unique_ptr<Stage>& stage : stages_) {
      const size_t stream = i % kLanes;
      lane->stops.push_back(std::make_unique<Stop>(
          *stage, stream == 0 ? stage->exec : stage->second, stage->workplaces[stream]));
      lane->stops.back()->tables = PinnedBuffer(table_bytes());
    }
    lane->log_p = PinnedBuffer(4 * most_rows_);
    lanes_.push_back(std::move(lane));
  }
}

void DeviceEngine::Impl::ensure_outputs(Lane& lane, const Wanted& wanted) const {
  Stop& last = *lane.stops[wanted.last_stage];
  if (wanted.logits) {
    if (last.place.device_logits.bytes() == 0) {
      last.place.device_logits = DeviceBuffer(last.exec, 4 * most_rows_ * vocab_, "logits");
    }
    if (lane.logits.bytes() == 0) lane.logits = PinnedBuffer(4 * most_rows_ * vocab_);
  }
  // A row for each snapshot, and one for each chunk that ends.
  const int64_t predictions = kMostSpans + (wanted.snapshots ? kMostSnapshots : 0);
  if (wanted.head && lane.next_log_p.bytes() < 4 * predictions * vocab_) {
    lane.next_log_p = PinnedBuffer(4 * predictions * vocab_);
  }
  if (wanted.head && last.place.device_next_log_p.bytes() < 4 * predictions * vocab_) {
    last.place.device_next_log_p =
        DeviceBuffer(last.exec, 4 * predictions * vocab_, "log-likelihoods");
  }
  if (wanted.final_norm && last.place.final_rows.bytes() == 0) {
    last.place.final_rows = DeviceBuffer(last.exec, 4 * most_rows_ * width_, "final embeddings");
  }
  lane.taps.resize(wanted.taps.size());
  for (size_t i = 0; i < wanted.taps.size(); ++i) {
    lane.taps[i].layer = wanted.taps[i];
    if (lane.taps[i].host.bytes() == 0) lane.taps[i].host = PinnedBuffer(4 * most_rows_ * width_);
  }
}

void DeviceEngine::Impl::copy_tap(Lane& lane, Stop& stop, int64_t layer, const float* rows,
                                  int64_t stride) const {
  for (TapBuffer& tap : lane.taps) {
    if (tap.layer != layer) continue;
    kernels::copy_rows_to_host(stop.exec, tap.host.as<float>(), rows, lane.rows, 4 * width_,
                               4 * stride);
  }
}

// Tables and means lie where the mixers' workspace is, which is free between two of them: as many groups at a
// time as it has room for.
void DeviceEngine::Impl::pool(Lane& lane, const Lane* before, size_t stage, std::span<Chunk> chunks,
                              const float* rows, int64_t stride) {
  Stop& stop = *lane.stops[stage];
  const DeviceBuffer& workspace = stop.place.workspace;
  const int64_t most =
      workspace.bytes() / (4 * width_ + static_cast<int64_t>(sizeof(kernels::PoolGroup))) - 1;
  auto* means = workspace.as<float>();
  auto* table = workspace.as<std::byte>() + (4 * width_ * most + 15) / 16 * 16;
  std::vector<kernels::PoolGroup> groups;
  int64_t mean = 0;  // counts from every `most`-th group on
  for (const Piece& piece : lane.pieces) {
    const Chunk& chunk = chunks[piece.chunk];
    if (!chunk.pooled) continue;
    SequenceState& state = *chunk.state;
    DeviceSequence::Pieces& sums = *state.device->sums[stage];
    const int64_t first = state.position + piece.first;  // base of the piece's first row
    for (const GroupPart& part : state.groups.next_piece(first + piece.rows)) {
      while (static_cast<int64_t>(sums.taken.size()) < state.groups.slots()) sums.take();
      kernels::PoolGroup group;
      group.row = piece.row + part.start - first;
      group.rows = part.end - part.start;
      group.bases = part.bases;
      if (part.slot >= 0) {
        group.sum_D = reinterpret_cast<double*>(sums.taken[static_cast<size_t>(part.slot)]);
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
  if (before != nullptr) before->stops[stage]->pooled.hold(stop.exec);
  float* to = lane.mean_rows.as<float>();
  for (int64_t from = 0; from < static_cast<int64_t>(groups.size()); from += most) {
    const auto count = std::min(most, static_cast<int64_t>(groups.size()) - from);
    kernels::copy_to_device(stop.exec, table, lane.groups.as<kernels::PoolGroup>() + from,
                            count * static_cast<int64_t>(sizeof groups[0]));
    kernels::pool_rows(stop.exec, {lane.rows, width_, stride, rows, count,
                                   reinterpret_cast<const kernels::PoolGroup*>(table)});
    const auto begin = groups.begin() + from;
    const int64_t ended =
        std::count_if(begin, begin + count, [](const auto& g) { return g.mean_D != nullptr; });
    kernels::copy_to_host(stop.exec, to, means, 4 * ended * width_);
    to += ended * width_;
  }
  stop.pooled.record();
}

// All that the host knows of a snapshot; the passes write what lies on the devices.
void DeviceEngine::Impl::prepare_snapshots(const Chunk& chunk) const {
  for (const Snapshot& snapshot : chunk.snapshots) {
    SequenceState& to = *snapshot.to;
    to.position = chunk.state->position + snapshot.at;
    to.next_log_p.resize(static_cast<size_t>(vocab_));
    if (snapshot.at == 0) to.next_log_p = chunk.state->next_log_p;
    if (!to.device) to.device = make_sequence();
    to.device->tail.clear();
    to.device->turn = 0;
    to.device->anchor = to.position;
  }
}

// The rows before snapshots, which the piece before theirs may have, and the last ones of chunks.
void DeviceEngine::Impl::list_predictions(Lane& lane, std::span<Chunk> chunks) const {
  for (const Piece& piece : lane.pieces) {
    const Chunk& chunk = chunks[piece.chunk];
    const int64_t end = piece.first + piece.rows;
    for (size_t i = piece.begin_snapshot; i < chunk.snapshots.size(); ++i) {
      const Snapshot& snapshot = chunk.snapshots[i];
      if (snapshot.at > end) break;
      // What comes before the chunk was predicted by the call before.
      if (snapshot.at == 0 || snapshot.at == piece.first) continue;
      lane.predictions.push_back({piece.row + snapshot.at - 1 - piece.first, snapshot.to});
    }
    if (piece.last) lane.predictions.push_back({piece.row + piece.rows - 1, chunk.state});
  }
}

void DeviceEngine::Impl::launch(Lane& lane, const Lane* before, std::span<Chunk> chunks,
                                const Wanted& wanted) {
  ensure_outputs(lane, wanted);
  lane.means.clear();
  if (wanted.head) list_predictions(lane, chunks);
  for (size_t stage = 0; stage <= wanted.last_stage; ++stage) {
    launch_stage(lane, before, stage, chunks, wanted);
  }
  for (const Piece& piece : lane.pieces) {
    DeviceSequence& sequence = *chunks[piece.chunk].state->device;
    // A segment begins where the piece does.
    if (piece.rows >= kSegmentBases) sequence.turn = 1 - sequence.turn;
  }
  lane.busy = true;
}

void DeviceEngine::Impl::launch_stage(Lane& lane, const Lane* before, size_t stage,
                                      std::span<Chunk> chunks, const Wanted& wanted) {
  Stop& stop = *lane.stops[stage];
  Workplace& place = stop.place;
  DeviceExec& exec = stop.exec;
  exec.use();
  // Tables, in one block of page-locked memory and one copy.
  const auto state_of = [&](const SequenceState& sequence) {
    return sequence.device->states[stage]->taken[0];
  };
  std::vector<kernels::DeviceSpan> spans;
  std::vector<kernels::DeviceSnapshot> snapshots;
  for (const Piece& piece : lane.pieces) {
    const Chunk& chunk = chunks[piece.chunk];
    for (size_t i = piece.begin_snapshot; i < piece.end_snapshot; ++i) {
      const Snapshot& snapshot = chunk.snapshots[i];
      snapshots.push_back(
          {static_cast<int32_t>(spans.size()), snapshot.at - piece.first, state_of(*snapshot.to)});
    }
    kernels::DeviceSpan span;
    span.row = piece.row;
    span.length = piece.rows;
    span.state = state_of(*chunk.state);
    span.turn = chunk.state->device->turn;
    spans.push_back(span);
  }
  TableBlock tables(stop.tables, place.device_tables);
  const kernels::DeviceBatch batch = tables.put_batch(spans, lane.rows, snapshots);
  const int32_t* device_row_list = nullptr;
  const auto predictions = static_cast<int64_t>(lane.predictions.size());
  int32_t* row_list = tables.take(predictions, device_row_list);
  for (const Prediction& prediction : lane.predictions) {
    *row_list++ = static_cast<int32_t>(prediction.row);
  }
  // Tokens and targets are written where they will be copied from.
  const int32_t* device_tokens = nullptr;
  const int32_t* device_targets = nullptr;
  int32_t* tokens = tables.take(lane.rows, device_tokens);
  int32_t* targets = tables.take(lane.rows, device_targets);
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
  tables.send(exec);

  auto* residual = place.residual.as<float>();
  // The first layer's norm embeds the tokens.
  const bool has_layers = stop.stage.first_layer < wanted.last_layer;
  if (stage == 0) {
    if (!has_layers)
      kernels::token_embedding(exec, {lane.rows, vocab_, stride_, device_tokens,
                                      stop.stage.embedding.as<const float>(), residual});
  } else {
    Stop& from = *lane.stops[stage - 1];
    from.done.hold(exec);
    const int64_t element = kernels::dtype_bytes(exec.dtype());
    kernels::copy_between(exec, residual, from.exec, from.place.residual.data(),
                          4 * lane.rows * stride_);
    kernels::copy_between(exec, place.hidden.data(), from.exec, from.place.hidden.data(),
                          element * lane.rows * stride_);
    // The next pass in that stream may write there from then on.
    stop.taken_over.record();
    stop.taken_over.hold(from.exec);
  }
  const auto prepare_norm = [&](const DeviceNorm& norm, bool adds) {
    kernels::DeviceAddNormArgs args = norm_args(model_, norm, lane.rows, residual);
    args.hidden_LD = adds ? place.hidden.data() : nullptr;
    return args;
  };
  const auto serve_taps = [&](int64_t layer, const float* rows, int64_t stride) {
    copy_tap(lane, stop, layer, rows, stride);
    if (layer == wanted.pooled) pool(lane, before, stage, chunks, rows, stride);
  };
  const int64_t end_layer = std::min(stop.stage.end_layer, wanted.last_layer);
  for (int64_t k = stop.stage.first_layer; k < end_layer; ++k) {
    const auto index = static_cast<size_t>(k - stop.stage.first_layer);
    const Layer& layer = stop.stage.layers[index];
    kernels::DeviceAddNormArgs norm = prepare_norm(layer.norm, k > 0);
    norm.out_LD = place.hidden.data();
    if (k == 0) {
      norm.tokens_L = device_tokens;
      norm.table_VD = stop.stage.embedding.as<const float>();
      norm.vocab_size = vocab_;
    }
    kernels::add_norm(exec, norm);
    serve_taps(k, residual, stride_);
    DeviceMixerCall call;
    call.batch = batch;
    call.input_LD = place.hidden.data();
    call.out_LD = place.hidden.data();
    call.workspace = place.workspace.as<std::byte>();
    call.state_offset = layer.state_offset;
    // The pass before has left this layer's states behind.
    if (before != nullptr) before->stops[stage]->layer_done[index]->hold(exec);
    layer.mixer->forward(exec, call);
    stop.layer_done[index]->record();
  }
  // The head adds the last hidden rows itself, unless a tap needs the stream or the final norm.
  const bool tapped =
      stage == wanted.last_stage && (wanted.has(kFinalLayer) || wanted.has(wanted.last_layer));
  if (tapped) {
    kernels::DeviceAddNormArgs norm = prepare_norm(stop.stage.final_norm, wanted.last_layer > 0);
    if (wanted.final_norm) norm.out_f32_LD = place.final_rows.as<float>();
    kernels::add_norm(exec, norm);
    serve_taps(wanted.last_layer, residual, stride_);
    if (wanted.final_norm) serve_taps(kFinalLayer, place.final_rows.as<const float>(), width_);
  }
  if (stage == wanted.last_stage && wanted.head) {
    launch_head(lane, stop, wanted, !tapped && wanted.last_layer > 0, device_targets,
                device_row_list);
  }
  stop.done.record();
}

void DeviceEngine::Impl::launch_head(Lane& lane, Stop& stop, const Wanted& wanted, bool adds_hidden,
                                     const int32_t* targets, const int32_t* row_list) {
  kernels::DeviceHeadArgs head = head_args(model_, stop.stage.final_norm, stop.stage.head,
                                           lane.rows, stop.place.residual.as<const float>());
  head.hidden_LD = adds_hidden ? stop.place.hidden.data() : nullptr;
  if (!lane.predictions.empty()) {
    kernels::DeviceHeadArgs next = head;
    next.rows = static_cast<int64_t>(lane.predictions.size());
    next.row_list = row_list;
    next.log_p_LV = stop.place.device_next_log_p.as<float>();
    kernels::head_log_likelihood(stop.exec, next);
    kernels::copy_to_host(stop.exec, lane.next_log_p.as<float>(),
                          stop.place.device_next_log_p.data(), 4 * next.rows * vocab_);
  }
  head.target_L = targets;
  head.out_L = stop.place.device_log_p.as<float>();
  head.logits_LV = wanted.logits ? stop.place.device_logits.as<float>() : nullptr;
  kernels::head_log_likelihood(stop.exec, head);
  kernels::copy_to_host(stop.exec, lane.log_p.as<float>(), stop.place.device_log_p.data(),
                        4 * lane.rows);
  if (wanted.logits) {
    kernels::copy_to_host(stop.exec, lane.logits.as<float>(), stop.place.device_logits.data(),
                          4 * lane.rows * vocab_);
  }
}

void DeviceEngine::Impl::collect(Lane& lane, std::span<Chunk> chunks, const Wanted& wanted) {
  if (!lane.busy) return;
  lane.busy = false;
  lane.stops[wanted.last_stage]->done.wait();
  for (const Piece& piece : lane.pieces) {
    const Chunk& chunk = chunks[piece.chunk];
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
  }
  const auto* next_log_p = lane.next_log_p.as<const float>();
  for (const Prediction& prediction : lane.predictions) {
    std::copy_n(next_log_p, vocab_, prediction.state->next_log_p.begin());
    next_log_p += vocab_;
  }
  const auto* row = lane.mean_rows.as<const float>();
  for (const Mean& mean : lane.means) {
    std::copy_n(row, width_, chunks[mean.chunk].pooled->means_GD + mean.group * width_);
    row += width_;
  }
}

void DeviceEngine::Impl::forward(std::span<Chunk> chunks, const std::function<void()>& poll) {
  const int64_t n_layer = model_.config().n_layer;
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
  for (const Chunk& chunk : chunks) {
    wanted.snapshots = wanted.snapshots || !chunk.snapshots.empty();
    prepare_snapshots(chunk);
  }
  wanted.head = wanted.log_likelihood || wanted.logits;
  if (wanted.head) wanted.last_layer = n_layer;
  while (stages_[wanted.last_stage]->end_layer < wanted.last_layer) ++wanted.last_stage;

  size_t turn = 0;
  const Lane* before = nullptr;
  Lane* lane = lanes_[0].get();
  const auto clear = [&] {
    lane->pieces.clear();
    lane->predictions.clear();
    lane->rows = 0;
    lane->snapshots = 0;
  };
  clear();
  const auto send = [&] {
    if (lane->rows == 0) return;
    if (poll) poll();
    launch(*lane, before, chunks, wanted);
    before = lane;
    turn = (turn + 1) % lanes_.size();
    lane = lanes_[turn].get();
    collect(*lane, chunks, wanted);  // the oldest pass: the GPUs compute the ones after it
    clear();
  };
  try {
    for (size_t c = 0; c < chunks.size(); ++c) {
      Chunk& chunk = chunks[c];
      if (chunk.length == 0) continue;
      int64_t first = -static_cast<int64_t>(chunk.state->device->tail.size());
      size_t snapshot = 0;
      while (first < chunk.length) {
        int64_t room = most_rows_ - lane->rows;
        if (static_cast<int64_t>(lane->pieces.size()) == most_spans_) room = 0;
        // The first snapshot that the pass has no room for.
        const size_t beyond = snapshot + static_cast<size_t>(kMostSnapshots - lane->snapshots);
        if (beyond < chunk.snapshots.size()) {
          room = std::min(room, chunk.snapshots[beyond].at - first);
        }
        int64_t rows = chunk.length - first;
        // A piece begins where a segment does, and one that is not the last ends where one does.
        if (rows > room) rows = kernels::segment_floor(room);
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
        piece.begin_snapshot = snapshot;
        while (snapshot < chunk.snapshots.size() && chunk.snapshots[snapshot].at < first)
          ++snapshot;
        piece.end_snapshot = snapshot;
        lane->pieces.push_back(piece);
        lane->rows += rows;
        lane->snapshots += static_cast<int64_t>(snapshot - piece.begin_snapshot);
      }
    }
    send();
    for (size_t i = 0; i < lanes_.size(); ++i) {  // oldest first
      collect(*lanes_[(turn + i) % lanes_.size()], chunks, wanted);
    }
  } catch (...) {
    // Work in flight uses the caller's states: wait before handing them back.
    try {
      synchronize();
    } catch (
        const Error&) {  // NOLINT(bugprone-empty-catch): the first failure is the one to report
    }
    for (const std::unique_ptr<Lane>& each : lanes_) each->busy = false;
    throw;
  }
  for (Chunk& chunk : chunks) {
    if (chunk.length == 0) continue;
    DeviceSequence& sequence = *chunk.state->device;
    chunk.state->position += chunk.length;
    const int64_t bases = chunk.state->position - sequence.anchor;
    const int64_t kept = bases - kernels::segment_floor(bases);
    const int64_t from_chunk = std::min(kept, chunk.length);
    sequence.tail.erase(sequence.tail.begin(), sequence.tail.end() - (kept - from_chunk));
    const int32_t* end = chunk.tokens_L + chunk.length;
    sequence.tail.insert(sequence.tail.end(), end - from_chunk, end);
  }
}

DeviceEngine::DeviceEngine(const Model& model, const ComputeDevice& device)
    : impl_(std::make_unique<Impl>(model, device)) {}
DeviceEngine::~DeviceEngine() = default;
SequenceState DeviceEngine::new_sequence() { return impl_->new_sequence(); }
void DeviceEngine::copy_sequence(const SequenceState& from, SequenceState& to) {
  impl_->copy_sequence(from, to);
}
int64_t DeviceEngine::state_bytes(const Model& model) {
  int64_t floats = 0;
  for (const Block& block : model.blocks()) floats += block.forward->device_state_floats();
  return 4 * floats;
}
void DeviceEngine::forward(std::span<Chunk> chunks, const std::function<void()>& poll) {
  impl_->forward(chunks, poll);
}
std::vector<LayerState> DeviceEngine::read_layers(const SequenceState& state) {
  return impl_->read_layers(state);
}
int64_t DeviceEngine::peak_bytes() const { return impl_->peak_bytes(); }

int64_t DeviceEngine::host_bytes(const Model& model, int64_t gpus, int64_t tap_bytes) {
  constexpr int64_t kRuntime = int64_t{512} << 20;
  constexpr int64_t kRuntimeNext = int64_t{128} << 20;  // for each further GPU
  // The engine decides the rows when it has seen the GPU; a pass takes about 40 bytes a row and channel of D.
  const int64_t width = model.config().d_model;
  const int64_t rows = std::clamp(kGoodBytes / (kLanes * 40 * width), kGoodRows, kMostRows);
  return kRuntime + (gpus - 1) * kRuntimeNext +
         gpus * kLanes *
             (rows * (4 + 8 * gpus + tap_bytes) +
              (kMostSpans + kMostSnapshots) * (64 + 4 * model.config().vocab_size));
}

}  // namespace chromamba::mamba
