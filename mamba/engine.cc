#include "mamba/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>

#include "kernels/add_norm.h"
#include "kernels/base/error.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/pool_rows.h"
#include "kernels/token_embedding.h"
#include "mamba/device_engine.h"
#include "mamba/tile_workers.h"

namespace chromamba::mamba {
namespace {

// A last tile takes so many bases more, rather than leave them to one of their own: a tile reads all weights, whatever
// its rows.
constexpr int64_t kRest = 32;
constexpr int64_t kMostTileRows = kTileRows + kRest;

// Consecutive bases of a chunk in a tile.
struct Part {
  const Chunk* chunk = nullptr;
  int64_t start = 0;  // counted in the chunk
  int64_t count = 0;
  SequenceState* snapshot = nullptr;  // of the state after them, or null

  bool ends_chunk() const { return start + count == chunk->length; }
};

// One part, several of one chunk where snapshots cut it, or those of several short chunks.
struct Tile {
  size_t first_part = 0;
  size_t end_part = 0;
  int64_t rows = 0;
  Tickets* tickets = nullptr;
  int32_t index = 0;  // among the tiles of its chunk
};

bool wants_head(const Chunk& chunk) {
  return chunk.log_likelihood_L != nullptr || chunk.logits_LV != nullptr;
}

}  // namespace

class Engine::Impl {
 public:
  Impl(const Model& model, kernels::Backend backend, int threads)
      : model_(model), pool_(threads), workers_(static_cast<size_t>(threads)) {
    for (Worker& worker : workers_) {
      worker.exec = kernels::Exec(backend);
      const int64_t row_block = kMostTileRows * model.config().d_model;
      worker.residual.assign(static_cast<size_t>(row_block), 0.0F);
      worker.hidden.assign(static_cast<size_t>(row_block), 0.0F);
      worker.logits.assign(static_cast<size_t>(kMostTileRows * model.config().vocab_size), 0.0F);
      worker.workspace.assign(static_cast<size_t>(mixer_workspace(model)), 0.0F);
      worker.tokens.resize(kMostTileRows);
      worker.targets.resize(kMostTileRows);
      worker.log_p.resize(kMostTileRows);
    }
  }

  static int64_t mixer_workspace(const Model& model) {
    int64_t floats = 0;
    for (const Block& block : model.blocks()) {
      floats = std::max(floats, block.forward->workspace_floats(kMostTileRows));
    }
    return floats;
  }

  SequenceState new_sequence() const {
    SequenceState state;
    for (const Block& block : model_.blocks()) state.layers.push_back(block.forward->zero_state());
    state.next_log_p.assign(static_cast<size_t>(model_.config().vocab_size), 0.0F);
    return state;
  }

  void forward(std::span<Chunk> chunks, const std::function<void()>& poll) {
    std::vector<Tile> tiles;
    std::vector<std::unique_ptr<Tickets>> tickets;
    parts_.clear();
    const auto begin_tile = [&](int32_t index) -> Tile& {
      if (index == 0) {
        // One more pair of hand-overs than layers: of the pooled sums.
        tickets.push_back(
            std::make_unique<Tickets>(static_cast<int64_t>(model_.blocks().size()) + 1));
      }
      return tiles.emplace_back(Tile{parts_.size(), parts_.size(), 0, tickets.back().get(), index});
    };
    bool open = false;  // the last tile takes further short chunks
    for (const Chunk& chunk : chunks) {
      begin_chunk(chunk);
      // Short ones of the same layers share a tile.
      const bool is_short = chunk.length <= kTileRows / 2 && wants_head(chunk);
      if (is_short && chunk.length > 0) {
        if (!open || tiles.back().rows + chunk.length > kTileRows) begin_tile(0);
        add_parts(chunk, 0, chunk.length, tiles.back());
        open = true;
        continue;
      }
      int32_t index = 0;
      for (int64_t start = 0; start < chunk.length;) {
        const int64_t left = chunk.length - start;
        Tile& tile = begin_tile(index++);
        add_parts(chunk, start, left <= kMostTileRows ? left : kTileRows, tile);
        start += tile.rows;
        open = false;
      }
    }

    std::atomic<size_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    pool_.run([&](int worker) {
      const kernels::ScopedFlushDenormals flush;
      try {
        // Tiles are taken in order, so the tile that all others may wait for is always running.
        for (size_t i = next.fetch_add(1); i < tiles.size(); i = next.fetch_add(1)) {
          if (poll) poll();
          run_tile(workers_[static_cast<size_t>(worker)], tiles[i]);
        }
      } catch (const Abandoned&) {  // NOLINT(bugprone-empty-catch): the failure is already recorded
      } catch (...) {
        {
          const std::lock_guard lock(failure_mutex);
          if (!failure) failure = std::current_exception();
        }
        next.store(tiles.size());
        for (const std::unique_ptr<Tickets>& t : tickets) t->abandon();
      }
    });
    if (failure) std::rethrow_exception(failure);
    for (Chunk& chunk : chunks) chunk.state->position += chunk.length;
  }

 private:
  struct Worker {
    kernels::Exec exec;
    AlignedFloats residual;  // [T, D]
    AlignedFloats hidden;    // [T, D] a mixer's output, then its norm: the next one's input
    AlignedFloats logits;    // [T, V]
    AlignedFloats workspace;
    std::vector<int32_t> tokens;
    std::vector<int32_t> targets;
    std::vector<float> log_p;
    std::vector<TilePart> parts;
    std::vector<kernels::PoolGroup> groups;
  };

  // What is known before its tiles run.
  void begin_chunk(const Chunk& chunk) const {
    const SequenceState& state = *chunk.state;
    if (chunk.log_likelihood_L != nullptr && chunk.length > 0) {
      // The first base was predicted by the last one of the chunk before.
      const int32_t token = chunk.tokens_L[0];
      const bool scored = state.position > 0 && token != model_.tokenizer().n;
      chunk.log_likelihood_L[0] = scored ? state.next_log_p[static_cast<size_t>(token)]
                                         : std::numeric_limits<float>::quiet_NaN();
    }
    for (const Snapshot& snapshot : chunk.snapshots) {
      snapshot.to->position = state.position + snapshot.at;
      snapshot.to->layers.resize(state.layers.size());
      snapshot.to->next_log_p.resize(static_cast<size_t>(model_.config().vocab_size));
      if (snapshot.at > 0) continue;
      snapshot.to->layers = state.layers;
      snapshot.to->next_log_p = state.next_log_p;
    }
  }

  // Adds bases [start, start + count) of a chunk to a tile, cut where snapshots are.
  void add_parts(const Chunk& chunk, int64_t start, int64_t count, Tile& tile) {
    auto snapshot =
        std::upper_bound(chunk.snapshots.begin(), chunk.snapshots.end(), start,
                         [](int64_t at, const Snapshot& other) { return at < other.at; });
    for (const int64_t end = start + count; start < end;) {
      Part part{&chunk, start, end - start, nullptr};
      if (snapshot != chunk.snapshots.end() && snapshot->at <= end) {
        part.count = snapshot->at - start;
        part.snapshot = snapshot->to;
        ++snapshot;
      }
      start += part.count;
      tile.rows += part.count;
      parts_.push_back(part);
    }
    tile.end_part = parts_.size();
  }

  std::span<const Part> parts_of(const Tile& tile) const {
    return {parts_.data() + tile.first_part, tile.end_part - tile.first_part};
  }

  // The residual add and norm of the valid rows, and the taps that want this point of the stream.
  void add_norm(Worker& worker, const NormWeights& norm, const Tile& tile, int64_t layer) {
    const int64_t width = model_.config().d_model;
    kernels::add_norm(worker.exec, {.kind = model_.norm_kind(),
                                    .length = tile.rows,
                                    .d_model = width,
                                    .eps = static_cast<float>(model_.config().norm_eps),
                                    .hidden_LD = worker.hidden.data(),
                                    .residual_LD = worker.residual.data(),
                                    .weight_D = norm.weight.data(),
                                    .bias_D = norm.bias.empty() ? nullptr : norm.bias.data(),
                                    .out_LD = worker.hidden.data()});
    serve_taps(worker, tile, layer, worker.residual);
  }

  void serve_taps(Worker& worker, const Tile& tile, int64_t layer, const AlignedFloats& values) {
    const int64_t width = model_.config().d_model;
    const float* rows = values.data();
    bool pools = false;
    for (const Part& part : parts_of(tile)) {
      for (const HiddenTap& tap : part.chunk->taps) {
        if (tap.layer != layer) continue;
        std::copy_n(rows, part.count * width, tap.out_LD + part.start * width);
      }
      pools = pools || (part.chunk->pooled && part.chunk->pooled->layer == layer);
      rows += part.count * width;
    }
    if (pools) pool(worker, tile, values.data());
  }

  // Adds the tile's rows to their groups while they are in the cache. Tiles of a sequence come here in
  // order; one stays for 11 us with D=256, which bounds a sequence at 23 M bases/s.
  void pool(Worker& worker, const Tile& tile, const float* rows) {
    TileGate gate(*tile.tickets, static_cast<int64_t>(model_.blocks().size()), tile.index);
    gate.wait(CarryPart::ssm);
    for (const Part& part : parts_of(tile)) {
      if (part.chunk->pooled) pool_part(worker, part, rows);
      rows += part.count * model_.config().d_model;
    }
    gate.pass_on(CarryPart::ssm);
  }

  void pool_part(Worker& worker, const Part& part, const float* rows) {
    const int64_t width = model_.config().d_model;
    SequenceState& state = *part.chunk->state;
    const int64_t first = state.position + part.start;
    worker.groups.clear();
    for (const GroupPart& piece : state.groups.next_piece(first + part.count)) {
      while (static_cast<int64_t>(state.sums.size()) < state.groups.slots()) {
        state.sums.emplace_back(static_cast<size_t>(width));
      }
      kernels::PoolGroup group;
      group.row = piece.start - first;
      group.rows = piece.end - piece.start;
      group.bases = piece.bases;
      if (piece.slot >= 0) group.sum_D = state.sums[static_cast<size_t>(piece.slot)].data();
      if (piece.ends) group.mean_D = part.chunk->pooled->means_GD + piece.group * width;
      group.begins = piece.begins;
      worker.groups.push_back(group);
    }
    kernels::pool_rows(worker.exec, {.length = part.count,
                                     .width = width,
                                     .stride = width,
                                     .rows_LD = rows,
                                     .count = static_cast<int64_t>(worker.groups.size()),
                                     .groups = worker.groups.data()});
  }

  // How far the stream must go for a chunk; those of a tile agree.
  int64_t last_layer(const Chunk& chunk, bool& final_norm) const {
    const auto n_layer = static_cast<int64_t>(model_.blocks().size());
    int64_t last = wants_head(chunk) ? n_layer : 0;
    final_norm = wants_head(chunk);
    const auto reach = [&](int64_t layer) {
      final_norm = final_norm || layer == kFinalLayer;
      last = std::max(last, layer == kFinalLayer ? n_layer : layer);
    };
    for (const HiddenTap& tap : chunk.taps) reach(tap.layer);
    if (chunk.pooled) reach(chunk.pooled->layer);
    return last;
  }

  void run_tile(Worker& worker, const Tile& tile) {
    const int64_t width = model_.config().d_model;
    const std::span<const Part> parts = parts_of(tile);
    const Chunk& chunk = *parts.front().chunk;
    bool final_norm = false;
    const int64_t last = last_layer(chunk, final_norm);

    int64_t row = 0;
    for (const Part& part : parts) {
      std::copy_n(part.chunk->tokens_L + part.start, part.count, worker.tokens.data() + row);
      row += part.count;
    }
    kernels::token_embedding(worker.exec, {.length = tile.rows,
                                           .vocab_size = model_.config().vocab_size,
                                           .d_model = width,
                                           .tokens_L = worker.tokens.data(),
                                           .table_VD = model_.embedding_VD().data(),
                                           .out_LD = worker.hidden.data()});
    std::fill_n(worker.residual.begin(), tile.rows * width, 0.0F);

    for (int64_t layer = 0; layer < last; ++layer) {
      const Block& block = model_.blocks()[static_cast<size_t>(layer)];
      add_norm(worker, block.norm, tile, layer);
      const auto at = static_cast<size_t>(layer);
      worker.parts.clear();
      for (const Part& part : parts) {
        worker.parts.push_back({part.count, &part.chunk->state->layers[at],
                                part.snapshot == nullptr ? nullptr : &part.snapshot->layers[at]});
      }
      TileGate gate(*tile.tickets, layer, tile.index);
      block.forward->forward(worker.exec, {.rows = tile.rows,
                                           .input_LD = worker.hidden.data(),
                                           .out_LD = worker.hidden.data(),
                                           .workspace = worker.workspace.data(),
                                           .parts = worker.parts,
                                           .gate = &gate});
    }
    // Layer `last` is the residual stream after its add; the norm after it is the next block's
    // (unused then) or the final one.
    add_norm(worker, model_.final_norm(), tile, last);
    if (!final_norm) return;
    serve_taps(worker, tile, kFinalLayer, worker.hidden);
    if (wants_head(chunk)) run_head(worker, tile);
  }

  void run_head(Worker& worker, const Tile& tile) {
    const int64_t vocab = model_.config().vocab_size;
    kernels::linear(worker.exec, {.rows = tile.rows,
                                  .in_features = model_.config().d_model,
                                  .out_features = vocab,
                                  .x = worker.hidden.data(),
                                  .x_stride = model_.config().d_model,
                                  .weight_panels = model_.head_panels().data(),
                                  .y = worker.logits.data(),
                                  .y_stride = vocab});
    // Row i scores the base after it; a chunk's last row scores a base not yet seen.
    int32_t* target = worker.targets.data();
    for (const Part& part : parts_of(tile)) {
      for (int64_t next = part.start + 1; next <= part.start + part.count; ++next) {
        const int32_t token = next < part.chunk->length ? part.chunk->tokens_L[next] : -1;
        *target++ = token == model_.tokenizer().n ? -1 : token;
      }
    }
    kernels::head_log_softmax(worker.exec, {.length = tile.rows,
                                            .vocab_size = vocab,
                                            .logits_LV = worker.logits.data(),
                                            .logits_stride = vocab,
                                            .target_L = worker.targets.data(),
                                            .out_L = worker.log_p.data()});
    int64_t row = 0;
    for (const Part& part : parts_of(tile)) {
      take_head(worker, part, row);
      row += part.count;
    }
  }

  // What the head gave for the rows of a part, from `row` on.
  void take_head(Worker& worker, const Part& part, int64_t row) {
    const int64_t vocab = model_.config().vocab_size;
    const Chunk& chunk = *part.chunk;
    const float* logits = worker.logits.data() + row * vocab;
    const float* log_p = worker.log_p.data() + row;
    if (chunk.logits_LV != nullptr) {
      std::copy_n(logits, part.count * vocab, chunk.logits_LV + part.start * vocab);
    }
    for (int64_t i = 0; i < part.count; ++i) {
      if (worker.targets[static_cast<size_t>(row + i)] >= 0 && !std::isfinite(log_p[i])) {
        throw DataError("model " + model_.name() + ": ln p of base " +
                        std::to_string(chunk.state->position + part.start + i + 2) +
                        " of a sequence is not finite: its weights overflow 32-bit floats");
      }
    }
    if (chunk.log_likelihood_L != nullptr) {
      std::copy_n(log_p, part.count - (part.ends_chunk() ? 1 : 0),
                  chunk.log_likelihood_L + part.start + 1);
    }
    const auto predict = [&](SequenceState& state) {
      kernels::head_log_softmax(worker.exec, {.length = 1,
                                              .vocab_size = vocab,
                                              .logits_LV = logits + (part.count - 1) * vocab,
                                              .logits_stride = vocab,
                                              .log_p_LV = state.next_log_p.data()});
    };
    if (part.ends_chunk()) predict(*chunk.state);
    if (part.snapshot != nullptr) predict(*part.snapshot);
  }

  const Model& model_;
  WorkerPool pool_;
  std::vector<Worker> workers_;
  std::vector<Part> parts_;  // of the call's tiles
};

Engine::Engine(const Model& model, kernels::Backend backend, int threads)
    : Engine(model, ComputeDevice{.backend = backend}, threads) {}

Engine::Engine(const Model& model, const ComputeDevice& device, int threads) {
  if (!model.causal()) throw InternalError("an engine for causal models got a masked one");
  if (device.cuda) {
    device_ = std::make_unique<DeviceEngine>(model, device);
  } else {
    impl_ = std::make_unique<Impl>(model, device.backend, std::max(threads, 1));
  }
}

Engine::~Engine() = default;

SequenceState Engine::new_sequence() const {
  return device_ ? device_->new_sequence() : impl_->new_sequence();
}

SequenceState Engine::copy_of(const SequenceState& state) const {
  SequenceState copy;
  copy.position = state.position;
  copy.layers = state.layers;
  copy.next_log_p = state.next_log_p;
  if (device_) device_->copy_sequence(state, copy);
  return copy;
}

int64_t Engine::state_bytes(const Model& model, const ComputeDevice& device) {
  return device.cuda ? DeviceEngine::state_bytes(model) : model.state_bytes();
}

void Engine::forward(std::span<Chunk> chunks, const std::function<void()>& poll) {
  std::optional<int64_t> pooled_layer;
  for (const Chunk& chunk : chunks) {
    if (chunk.pooled && chunk.pooled->layer != pooled_layer.value_or(chunk.pooled->layer)) {
      throw InternalError("chunks of one call pool different layers");
    }
    int64_t free = 0;
    for (const Snapshot& snapshot : chunk.snapshots) {
      if (snapshot.at < free || snapshot.at >= chunk.length) {
        throw InternalError("snapshots of a chunk must ascend and lie in it");
      }
      free = snapshot.at + 1;
    }
    if (chunk.pooled) pooled_layer = chunk.pooled->layer;
    if (chunk.length > 0 && (chunk.pooled || chunk.state->groups.has_open())) {
      const std::span<const BaseGroup> none;
      chunk.state->groups.begin_chunk(chunk.pooled ? chunk.pooled->groups : none,
                                      chunk.state->position, chunk.length);
    }
  }
  if (device_) {
    device_->forward(chunks, poll);
  } else {
    impl_->forward(chunks, poll);
  }
}

std::vector<LayerState> Engine::layer_states(const SequenceState& state) const {
  return device_ ? device_->read_layers(state) : state.layers;
}

int64_t Engine::device_peak_bytes() const { return device_ ? device_->peak_bytes() : 0; }

int64_t Engine::workspace_bytes(const Model& model, const ComputeDevice& device, int threads,
                                int64_t tap_bytes) {
  if (device.cuda) {
    return DeviceEngine::host_bytes(model, static_cast<int64_t>(device.ordinals.size()), tap_bytes);
  }
  const int64_t rows = 2 * model.config().d_model + model.config().vocab_size;
  return threads * 4 * (kMostTileRows * rows + Impl::mixer_workspace(model));
}

}  // namespace chromamba::mamba
