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

struct Tile {
  size_t chunk;  // index into the call's chunks
  Tickets* tickets;
  int32_t index;  // of this tile within its chunk
  int64_t start;  // first base of the tile, counted in the chunk
  int64_t count;
  SequenceState* snapshot;  // of the state after it, or null
};

}  // namespace

class Engine::Impl {
 public:
  Impl(const Model& model, kernels::Backend backend, int threads)
      : model_(model), pool_(threads), workers_(static_cast<size_t>(threads)) {
    for (Worker& worker : workers_) {
      worker.exec = kernels::Exec(backend);
      const int64_t row_block = kTileRows * model.config().d_model;
      worker.residual.assign(static_cast<size_t>(row_block), 0.0F);
      worker.hidden.assign(static_cast<size_t>(row_block), 0.0F);
      worker.logits.assign(static_cast<size_t>(kTileRows * model.config().vocab_size), 0.0F);
      worker.workspace.assign(static_cast<size_t>(mixer_workspace(model)), 0.0F);
      worker.targets.resize(kTileRows);
      worker.log_p.resize(kTileRows);
    }
  }

  static int64_t mixer_workspace(const Model& model) {
    int64_t floats = 0;
    for (const Block& block : model.blocks()) {
      floats = std::max(floats, block.forward->workspace_floats(kTileRows));
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
    const auto n_layer = static_cast<int64_t>(model_.blocks().size());
    std::vector<Tile> tiles;
    std::vector<std::unique_ptr<Tickets>> tickets;
    for (size_t c = 0; c < chunks.size(); ++c) {
      const Chunk& chunk = chunks[c];
      if (chunk.log_likelihood_L != nullptr && chunk.length > 0) {
        // The first base was predicted by the last one of the chunk before.
        const int32_t token = chunk.tokens_L[0];
        const bool scored = chunk.state->position > 0 && token != model_.tokenizer().n;
        chunk.log_likelihood_L[0] = scored ? chunk.state->next_log_p[static_cast<size_t>(token)]
                                           : std::numeric_limits<float>::quiet_NaN();
      }
      // One more pair of hand-overs than layers: of the pooled sums.
      tickets.push_back(std::make_unique<Tickets>(n_layer + 1));
      int32_t index = 0;
      auto snapshot = chunk.snapshots.begin();
      if (snapshot != chunk.snapshots.end() && snapshot->at == 0) {
        prepare(*snapshot, *chunk.state);
        snapshot->to->layers = chunk.state->layers;
        snapshot->to->next_log_p = chunk.state->next_log_p;
        ++snapshot;
      }
      for (int64_t start = 0; start < chunk.length;) {
        const bool more = snapshot != chunk.snapshots.end();
        const int64_t stop = more ? snapshot->at : chunk.length;
        Tile tile{c,      tickets.back().get(), index++, start, std::min(kTileRows, stop - start),
                  nullptr};
        start += tile.count;
        if (more && start == stop) {
          prepare(*snapshot, *chunk.state);
          tile.snapshot = snapshot->to;
          ++snapshot;
        }
        tiles.push_back(tile);
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
          const Tile& tile = tiles[i];
          run_tile(workers_[static_cast<size_t>(worker)], chunks[tile.chunk], tile);
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
    std::vector<int32_t> targets;
    std::vector<float> log_p;
    std::vector<kernels::PoolGroup> groups;
  };

  void prepare(const Snapshot& snapshot, const SequenceState& state) const {
    snapshot.to->position = state.position + snapshot.at;
    snapshot.to->layers.resize(state.layers.size());
    snapshot.to->next_log_p.resize(static_cast<size_t>(model_.config().vocab_size));
  }

  // The residual add and norm of the valid rows, and the taps that want this point of the stream.
  void add_norm(Worker& worker, const NormWeights& norm, const Chunk& chunk, const Tile& tile,
                int64_t layer) {
    const int64_t width = model_.config().d_model;
    kernels::add_norm(worker.exec, {.kind = model_.norm_kind(),
                                    .length = tile.count,
                                    .d_model = width,
                                    .eps = static_cast<float>(model_.config().norm_eps),
                                    .hidden_LD = worker.hidden.data(),
                                    .residual_LD = worker.residual.data(),
                                    .weight_D = norm.weight.data(),
                                    .bias_D = norm.bias.empty() ? nullptr : norm.bias.data(),
                                    .out_LD = worker.hidden.data()});
    serve_taps(worker, chunk, tile, layer, worker.residual);
  }

  void serve_taps(Worker& worker, const Chunk& chunk, const Tile& tile, int64_t layer,
                  const AlignedFloats& rows) {
    const int64_t width = model_.config().d_model;
    for (const HiddenTap& tap : chunk.taps) {
      if (tap.layer != layer) continue;
      std::copy_n(rows.data(), tile.count * width, tap.out_LD + tile.start * width);
    }
    if (chunk.pooled && chunk.pooled->layer == layer) pool(worker, chunk, tile, rows);
  }

  // Adds the tile's rows to their groups while they are in the cache. Tiles of a sequence come here in
  // order; one stays for 11 us with D=256, which bounds a sequence at 23 M bases/s.
  void pool(Worker& worker, const Chunk& chunk, const Tile& tile, const AlignedFloats& rows) {
    const int64_t width = model_.config().d_model;
    SequenceState& state = *chunk.state;
    TileGate gate(*tile.tickets, static_cast<int64_t>(model_.blocks().size()), tile.index);
    gate.wait(CarryPart::ssm);
    const int64_t first = state.position + tile.start;
    worker.groups.clear();
    for (const GroupPart& part : state.groups.next_piece(first + tile.count)) {
      while (static_cast<int64_t>(state.sums.size()) < state.groups.slots()) {
        state.sums.emplace_back(static_cast<size_t>(width));
      }
      kernels::PoolGroup group;
      group.row = part.start - first;
      group.rows = part.end - part.start;
      group.bases = part.bases;
      if (part.slot >= 0) group.sum_D = state.sums[static_cast<size_t>(part.slot)].data();
      if (part.ends) group.mean_D = chunk.pooled->means_GD + part.group * width;
      group.begins = part.begins;
      worker.groups.push_back(group);
    }
    kernels::pool_rows(worker.exec, {.length = tile.count,
                                     .width = width,
                                     .stride = width,
                                     .rows_LD = rows.data(),
                                     .count = static_cast<int64_t>(worker.groups.size()),
                                     .groups = worker.groups.data()});
    gate.pass_on(CarryPart::ssm);
  }

  void run_tile(Worker& worker, const Chunk& chunk, const Tile& tile) {
    const int64_t width = model_.config().d_model;
    const auto n_layer = static_cast<int64_t>(model_.blocks().size());
    const bool wants_head = chunk.log_likelihood_L != nullptr || chunk.logits_LV != nullptr;
    int64_t last_layer = wants_head ? n_layer : 0;
    bool wants_final = wants_head;
    for (const HiddenTap& tap : chunk.taps) {
      wants_final = wants_final || tap.layer == kFinalLayer;
      last_layer = std::max(last_layer, tap.layer == kFinalLayer ? n_layer : tap.layer);
    }
    if (chunk.pooled) {
      const int64_t layer = chunk.pooled->layer;
      wants_final = wants_final || layer == kFinalLayer;
      last_layer = std::max(last_layer, layer == kFinalLayer ? n_layer : layer);
    }

    kernels::token_embedding(worker.exec, {.length = tile.count,
                                           .vocab_size = model_.config().vocab_size,
                                           .d_model = width,
                                           .tokens_L = chunk.tokens_L + tile.start,
                                           .table_VD = model_.embedding_VD().data(),
                                           .out_LD = worker.hidden.data()});
    std::fill_n(worker.residual.begin(), tile.count * width, 0.0F);

    for (int64_t layer = 0; layer < last_layer; ++layer) {
      const Block& block = model_.blocks()[static_cast<size_t>(layer)];
      add_norm(worker, block.norm, chunk, tile, layer);
      const auto at = static_cast<size_t>(layer);
      TileGate gate(*tile.tickets, layer, tile.index, &chunk.state->layers[at],
                    tile.snapshot == nullptr ? nullptr : &tile.snapshot->layers[at]);
      block.forward->forward(worker.exec, {.rows = tile.count,
                                           .input_LD = worker.hidden.data(),
                                           .out_LD = worker.hidden.data(),
                                           .workspace = worker.workspace.data(),
                                           .state = &chunk.state->layers[at],
                                           .gate = &gate});
    }
    // Layer `last_layer` is the residual stream after its add; the norm after it is the next block's
    // (unused then) or the final one.
    add_norm(worker, model_.final_norm(), chunk, tile, last_layer);
    if (!wants_final) return;
    serve_taps(worker, chunk, tile, kFinalLayer, worker.hidden);
    if (wants_head) run_head(worker, chunk, tile);
  }

  void run_head(Worker& worker, const Chunk& chunk, const Tile& tile) {
    const int64_t vocab = model_.config().vocab_size;
    kernels::linear(worker.exec, {.rows = tile.count,
                                  .in_features = model_.config().d_model,
                                  .out_features = vocab,
                                  .x = worker.hidden.data(),
                                  .x_stride = model_.config().d_model,
                                  .weight_panels = model_.head_panels().data(),
                                  .y = worker.logits.data(),
                                  .y_stride = vocab});
    const float* logits = worker.logits.data();
    if (chunk.logits_LV != nullptr) {
      std::copy_n(logits, tile.count * vocab, chunk.logits_LV + tile.start * vocab);
    }
    // Row i scores the base after it; the chunk's last row scores a base not yet seen.
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t next = tile.start + i + 1;
      const int32_t token = next < chunk.length ? chunk.tokens_L[next] : -1;
      worker.targets[static_cast<size_t>(i)] = token == model_.tokenizer().n ? -1 : token;
    }
    kernels::head_log_softmax(worker.exec, {.length = tile.count,
                                            .vocab_size = vocab,
                                            .logits_LV = logits,
                                            .logits_stride = vocab,
                                            .target_L = worker.targets.data(),
                                            .out_L = worker.log_p.data()});
    for (int64_t i = 0; i < tile.count; ++i) {
      if (worker.targets[static_cast<size_t>(i)] >= 0 &&
          !std::isfinite(worker.log_p[static_cast<size_t>(i)])) {
        throw DataError("model " + model_.name() + ": ln p of base " +
                        std::to_string(chunk.state->position + tile.start + i + 2) +
                        " of a sequence is not finite: its weights overflow 32-bit floats");
      }
    }
    const bool ends_chunk = tile.start + tile.count == chunk.length;
    if (chunk.log_likelihood_L != nullptr) {
      std::copy_n(worker.log_p.begin(), tile.count - (ends_chunk ? 1 : 0),
                  chunk.log_likelihood_L + tile.start + 1);
    }
    const auto predict = [&](SequenceState& state) {
      kernels::head_log_softmax(worker.exec, {.length = 1,
                                              .vocab_size = vocab,
                                              .logits_LV = logits + (tile.count - 1) * vocab,
                                              .logits_stride = vocab,
                                              .log_p_LV = state.next_log_p.data()});
    };
    if (ends_chunk) predict(*chunk.state);
    if (tile.snapshot != nullptr) predict(*tile.snapshot);
  }

  const Model& model_;
  WorkerPool pool_;
  std::vector<Worker> workers_;
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
  return threads * 4 * (kTileRows * rows + Impl::mixer_workspace(model));
}

}  // namespace chromamba::mamba
