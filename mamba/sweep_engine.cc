#include "mamba/sweep_engine.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <future>
#include <limits>
#include <mutex>
#include <numeric>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/base/error.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/token_embedding.h"
#include "mamba/sweep_plan.h"
#include "mamba/tile_workers.h"

namespace chromamba::mamba {
namespace {

// Blocks under way: one is loaded, one computed, one stored.
constexpr int kBlocks = 3;

// Sequences that a block may hold pieces of: bounds its lists.
constexpr int64_t kMostPieces = 65536;

constexpr auto kFloat = static_cast<int64_t>(sizeof(float));

// Rows of the residual stream and of half a layer, of consecutive store rows.
struct BlockRows {
  float* residual = nullptr;
  float* half = nullptr;
};

// A block with its rows in memory: its own, or where the store has them.
struct BlockBuffer {
  AlignedFloats residual;
  AlignedFloats half;
  std::vector<int32_t> tokens;
  std::vector<BlockRows> rows;  // of each piece
  std::future<void> transfer;   // under way

  void wait() {
    if (transfer.valid()) transfer.get();
  }
};

class CpuSweeps : public SweepEngine::Backend {
 public:
  CpuSweeps(const Model& model, kernels::Backend backend, int threads, SweepMemory memory)
      : model_(model),
        width_(model.config().d_model),
        vocab_(model.config().vocab_size),
        memory_(std::move(memory)),
        pool_(threads),
        workers_(static_cast<size_t>(threads)) {
    for (Worker& worker : workers_) {
      worker.exec = kernels::Exec(backend);
      for (AlignedFloats* rows : {&worker.pending, &worker.input, &worker.mirror}) {
        rows->assign(static_cast<size_t>(kTileRows * width_), 0.0F);
      }
      worker.logits.assign(static_cast<size_t>(2 * kTileRows * vocab_), 0.0F);
      worker.workspace.assign(static_cast<size_t>(mixer_workspace(model)), 0.0F);
    }
  }

  void run(std::span<SweepSequence> sequences, const SweepWanted& wanted,
           const std::function<void()>& poll) override {
    runs_ = strand_runs(model_, sequences);
    total_rows_ = runs_.empty() ? 0 : runs_.back().row + runs_.back().length;
    all_runs_.resize(runs_.size());
    std::iota(all_runs_.begin(), all_runs_.end(), size_t{0});
    open_store();
    const int64_t layers = layers_wanted(model_, wanted);
    for (const Sweep& sweep : plan_sweeps(model_, layers)) run_sweep(sweep, sequences, poll);
    for (size_t i = 0; i < sequences.size(); ++i) hand_over(sequences[i], i, wanted, poll);
    if (store_ && store_->memory() == nullptr) store_.reset();  // its room goes back to the disk
  }

  static int64_t mixer_workspace(const Model& model) {
    int64_t floats = 0;
    for (const Block& block : model.blocks()) {
      for (const Mixer* mixer : {block.forward.get(), block.reverse.get()}) {
        if (mixer != nullptr) floats = std::max(floats, mixer->workspace_floats(kTileRows));
      }
    }
    return floats;
  }

 private:
  struct Worker {
    kernels::Exec exec;
    AlignedFloats pending;  // [T, D] what is to be added to the stream
    AlignedFloats input;    // [T, D] of a mixer
    AlignedFloats mirror;   // [T, D] the other strand's rows, in the end
    AlignedFloats logits;   // 2 x [T, V]
    AlignedFloats workspace;
  };

  struct Tile {
    size_t piece = 0;
    Tickets* tickets = nullptr;
    int32_t index = 0;
    int64_t start = 0;  // row in the piece
    int64_t count = 0;
  };

  void open_store() {
    const int64_t bytes = 2 * kFloat * width_ * total_rows_;
    if (store_ && store_->memory() != nullptr && store_bytes_ >= bytes) return;
    store_.reset();
    store_bytes_ = 0;
    if (bytes == 0) return;
    if (bytes <= memory_.rows_bytes) {
      store_ = make_memory_store(bytes);
    } else if (memory_.scratch) {
      store_ = memory_.scratch(bytes);
    } else {
      throw ResourceError(std::to_string(total_rows_) + " bases need " + std::to_string(bytes) +
                          " bytes of activations, more than the memory allowed");
    }
    store_bytes_ = bytes;
  }

  int64_t residual_offset(int64_t row) const { return kFloat * width_ * row; }
  int64_t half_offset(int64_t row) const { return kFloat * width_ * (total_rows_ + row); }

  // Points the pieces at their rows; what is not in memory is given room in the buffer.
  void lay_out(BlockBuffer& buffer, std::span<const SweepPiece> pieces) {
    buffer.rows.clear();
    std::byte* base = store_->memory();
    int64_t rows = 0;
    for (const SweepPiece& piece : pieces) rows += piece.length;
    if (base == nullptr) {
      buffer.residual.resize(static_cast<size_t>(rows * width_));
      buffer.half.resize(static_cast<size_t>(rows * width_));
    }
    int64_t at = 0;
    for (const SweepPiece& piece : pieces) {
      const int64_t row = runs_[piece.run].row + piece.start;
      if (base != nullptr) {
        buffer.rows.push_back({reinterpret_cast<float*>(base + residual_offset(row)),
                               reinterpret_cast<float*>(base + half_offset(row))});
      } else {
        buffer.rows.push_back({buffer.residual.data() + at, buffer.half.data() + at});
      }
      at += piece.length * width_;
    }
  }

  void load(BlockBuffer& buffer, std::span<const SweepPiece> pieces, bool with_half = true) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      const int64_t row = runs_[pieces[i].run].row + pieces[i].start;
      const int64_t bytes = kFloat * width_ * pieces[i].length;
      store_->read(residual_offset(row), buffer.rows[i].residual, bytes);
      if (with_half) store_->read(half_offset(row), buffer.rows[i].half, bytes);
    }
  }

  void save(const BlockBuffer& buffer, std::span<const SweepPiece> pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      const int64_t row = runs_[pieces[i].run].row + pieces[i].start;
      const int64_t bytes = kFloat * width_ * pieces[i].length;
      store_->write(residual_offset(row), buffer.rows[i].residual, bytes);
      store_->write(half_offset(row), buffer.rows[i].half, bytes);
    }
  }

  void run_sweep(const Sweep& sweep, std::span<const SweepSequence> sequences,
                 const std::function<void()>& poll) {
    states_.resize(runs_.size() * sweep.stages.size());
    for (size_t i = 0; i < states_.size(); ++i) {
      const SweepStage& stage = sweep.stages[i % sweep.stages.size()];
      states_[i] = stage_mixer(model_, stage, sweep.reverse).zero_state();
    }
    const std::vector<SweepBlock> blocks =
        cut_blocks(runs_, all_runs_, sweep.reverse, memory_.block_rows, kTileRows, kMostPieces);
    const bool in_memory = store_ == nullptr || store_->memory() != nullptr;
    std::vector<BlockBuffer> buffers(kBlocks);
    const auto start_loading = [&](size_t b) {
      if (b >= blocks.size()) return;
      BlockBuffer& buffer = buffers[b % kBlocks];
      buffer.wait();  // stored
      lay_out(buffer, blocks[b].pieces);
      if (in_memory || sweep.first) return;
      buffer.transfer = std::async(std::launch::async,
                                   [this, &buffer, &blocks, b] { load(buffer, blocks[b].pieces); });
    };
    start_loading(0);
    for (size_t b = 0; b < blocks.size(); ++b) {
      start_loading(b + 1);
      BlockBuffer& buffer = buffers[b % kBlocks];
      buffer.wait();  // loaded
      if (sweep.first) {
        buffer.tokens.clear();
        for (const SweepPiece& piece : blocks[b].pieces) {
          const size_t at = buffer.tokens.size();
          buffer.tokens.resize(at + static_cast<size_t>(piece.length));
          const StrandRun& run = runs_[piece.run];
          read_tokens(model_, sequences[run.sequence], run.mirror, piece.start, piece.length,
                      buffer.tokens.data() + at);
        }
      }
      compute(sweep, blocks[b].pieces, buffer, poll);
      if (!in_memory) {
        buffer.transfer = std::async(
            std::launch::async, [this, &buffer, &blocks, b] { save(buffer, blocks[b].pieces); });
      }
    }
    for (BlockBuffer& buffer : buffers) buffer.wait();
  }

  // Runs work(worker, index) for every index, in their order, on all workers.
  template <typename Work>
  void on_workers(size_t count, const std::function<void()>& poll, const Work& work,
                  const std::function<void()>& abandon = {}) {
    std::atomic<size_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    pool_.run([&](int worker) {
      const kernels::ScopedFlushDenormals flush;
      try {
        for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
          if (poll) poll();
          work(workers_[static_cast<size_t>(worker)], i);
        }
      } catch (const Abandoned&) {  // NOLINT(bugprone-empty-catch): the failure is already recorded
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!failure) failure = std::current_exception();
        }
        next.store(count);
        if (abandon) abandon();
      }
    });
    if (failure) std::rethrow_exception(failure);
  }

  void compute(const Sweep& sweep, std::span<const SweepPiece> pieces, BlockBuffer& buffer,
               const std::function<void()>& poll) {
    std::vector<std::unique_ptr<Tickets>> tickets;
    std::vector<Tile> tiles;
    std::vector<int64_t> first_token;
    int64_t rows = 0;
    for (size_t p = 0; p < pieces.size(); ++p) {
      first_token.push_back(rows);
      tickets.push_back(std::make_unique<Tickets>(static_cast<int64_t>(sweep.stages.size())));
      int32_t index = 0;
      for (int64_t done = 0; done < pieces[p].length;) {
        const int64_t count = std::min(kTileRows, pieces[p].length - done);
        const int64_t start = sweep.reverse ? pieces[p].length - done - count : done;
        tiles.push_back({p, tickets.back().get(), index++, start, count});
        done += count;
      }
      rows += pieces[p].length;
    }
    on_workers(
        tiles.size(), poll,
        [&](Worker& worker, size_t i) {
          const Tile& tile = tiles[i];
          const int32_t* tokens =
              sweep.first ? buffer.tokens.data() + first_token[tile.piece] + tile.start : nullptr;
          BlockRows at = buffer.rows[tile.piece];
          at.residual += tile.start * width_;
          at.half += tile.start * width_;
          run_tile(worker, sweep, tile, pieces[tile.piece].run, tokens, at);
        },
        [&] {
          for (const std::unique_ptr<Tickets>& t : tickets) t->abandon();
        });
    int64_t halves = 0;
    for (const SweepStage& stage : sweep.stages) halves += stage.part == StagePart::whole ? 2 : 1;
    half_layers_done += halves * rows;
  }

  void run_tile(Worker& worker, const Sweep& sweep, const Tile& tile, size_t run,
                const int32_t* tokens, const BlockRows& at) {
    const int64_t values = tile.count * width_;
    bool pending = false;  // worker.pending is still to be added to the stream
    if (sweep.first) {
      kernels::token_embedding(worker.exec, {.length = tile.count,
                                             .vocab_size = vocab_,
                                             .d_model = width_,
                                             .tokens_L = tokens,
                                             .table_VD = model_.embedding_VD().data(),
                                             .out_LD = at.residual});
    }
    for (size_t s = 0; s < sweep.stages.size(); ++s) {
      const SweepStage& stage = sweep.stages[s];
      add_norm(worker, model_.blocks()[static_cast<size_t>(stage.layer)].norm, tile.count,
               pending ? worker.pending.data() : nullptr, at.residual, worker.input.data());
      TileGate gate(*tile.tickets, static_cast<int64_t>(s), tile.index);
      float* out = stage.part == StagePart::begin ? at.half : worker.pending.data();
      const TilePart part{tile.count, &states_[run * sweep.stages.size() + s], nullptr};
      stage_mixer(model_, stage, sweep.reverse)
          .forward(worker.exec, {.rows = tile.count,
                                 .reverse = sweep.reverse,
                                 .input_LD = worker.input.data(),
                                 .out_LD = out,
                                 .workspace = worker.workspace.data(),
                                 .parts = {&part, 1},
                                 .gate = &gate});
      pending = stage.part != StagePart::begin;
      if (stage.part != StagePart::finish) continue;
      if (model_.config().directions == Directions::multiply) {
        for (int64_t i = 0; i < values; ++i) out[i] *= at.half[i];
      } else {
        for (int64_t i = 0; i < values; ++i) out[i] += at.half[i];
      }
    }
    if (!pending) return;
    for (int64_t i = 0; i < values; ++i) at.residual[i] += worker.pending[static_cast<size_t>(i)];
  }

  void add_norm(Worker& worker, const NormWeights& norm, int64_t rows, const float* hidden,
                float* residual, float* out) {
    kernels::add_norm(worker.exec, {.kind = model_.norm_kind(),
                                    .length = rows,
                                    .d_model = width_,
                                    .eps = static_cast<float>(model_.config().norm_eps),
                                    .hidden_LD = hidden,
                                    .residual_LD = residual,
                                    .weight_D = norm.weight.data(),
                                    .bias_D = norm.bias.empty() ? nullptr : norm.bias.data(),
                                    .out_LD = out});
  }

  void product_with_head(Worker& worker, const float* rows_LD, int64_t rows,
                         const AlignedFloats& panels, float* logits) {
    kernels::linear(worker.exec, {.rows = rows,
                                  .in_features = width_,
                                  .out_features = vocab_,
                                  .x = rows_LD,
                                  .x_stride = width_,
                                  .weight_panels = panels.data(),
                                  .y = logits,
                                  .y_stride = vocab_});
  }

  // Results of one block of bases.
  struct Results {
    AlignedFloats hidden;
    AlignedFloats logits;
    AlignedFloats log_likelihood;
    std::vector<int32_t> targets;
  };

  // The final norm, the head and the joining of strands, block after block.
  void hand_over(const SweepSequence& sequence, size_t index, const SweepWanted& wanted,
                 const std::function<void()>& poll) {
    const bool rcps = model_.config().rcps;
    const StrandRun& run = runs_[index * (rcps ? 2 : 1)];
    const int64_t hidden_width = SweepEngine::hidden_width(model_, wanted.halves);
    const bool head = wanted.log_likelihood || wanted.logits;
    Results results;
    BlockBuffer buffer;
    const int64_t most = std::max(memory_.block_rows / kTileRows, int64_t{1}) * kTileRows;
    for (int64_t start = 0; start < sequence.length; start += most) {
      const int64_t count = std::min(most, sequence.length - start);
      std::vector<SweepPiece> pieces = {{index * (rcps ? 2 : 1), start, count}};
      if (rcps) pieces.push_back({index * 2 + 1, run.length - start - count, count});
      lay_out(buffer, pieces);
      if (store_->memory() == nullptr) load(buffer, pieces, false);
      const auto resize = [count](auto& values, bool needed, int64_t width) {
        values.resize(needed ? static_cast<size_t>(count * width) : 0);
      };
      resize(results.hidden, wanted.layer.has_value(), hidden_width);
      resize(results.logits, wanted.logits, vocab_);
      resize(results.log_likelihood, wanted.log_likelihood, 1);
      resize(results.targets, wanted.log_likelihood, 1);
      if (wanted.log_likelihood) {
        (sequence.targets ? sequence.targets : sequence.tokens)(start, count,
                                                                results.targets.data());
        for (int32_t& target : results.targets) {
          if (target == model_.tokenizer().n) target = -1;
        }
      }
      const auto tiles = static_cast<size_t>((count + kTileRows - 1) / kTileRows);
      on_workers(tiles, poll, [&](Worker& worker, size_t i) {
        const int64_t first = static_cast<int64_t>(i) * kTileRows;
        finish_tile(worker, wanted, head, start, first, std::min(kTileRows, count - first), count,
                    buffer, results);
      });
      SweepRows rows;
      rows.start = start;
      rows.length = count;
      if (wanted.layer) rows.hidden = results.hidden.data();
      if (wanted.logits) rows.logits_LV = results.logits.data();
      if (wanted.log_likelihood) rows.log_likelihood_L = results.log_likelihood.data();
      sequence.consume(rows);
    }
  }

  void finish_tile(Worker& worker, const SweepWanted& wanted, bool head, int64_t block_start,
                   int64_t first, int64_t count, int64_t block_count, const BlockBuffer& buffer,
                   Results& results) {
    const bool rcps = model_.config().rcps;
    const bool normed = head || wanted.layer == kFinalLayer;
    float* own = buffer.rows[0].residual + first * width_;
    float* other =
        rcps ? buffer.rows[1].residual + (block_count - first - count) * width_ : nullptr;
    if (normed) {
      add_norm(worker, model_.final_norm(), count, nullptr, own, worker.input.data());
      if (rcps) {
        add_norm(worker, model_.final_norm(), count, nullptr, other, worker.mirror.data());
      }
    }
    if (wanted.layer) {
      const bool final = *wanted.layer == kFinalLayer;
      const int64_t layer = final ? model_.config().n_layer : *wanted.layer;
      const float* f = final ? worker.input.data() : own;
      const float* g = final ? worker.mirror.data() : other;
      const int64_t hidden_width = SweepEngine::hidden_width(model_, wanted.halves);
      float* out = results.hidden.data() + first * hidden_width;
      if (rcps) {
        join_halves(wanted.halves, model_.halves_swapped(layer), width_, count, f, g, out);
      } else {
        std::copy_n(f, count * width_, out);
      }
    }
    if (!head) return;
    float* logits = worker.logits.data();
    product_with_head(worker, worker.input.data(), count, model_.head_panels(), logits);
    if (rcps) {
      float* more = logits + kTileRows * vocab_;
      product_with_head(worker, worker.mirror.data(), count, model_.mirror_head_panels(), more);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t v = 0; v < vocab_; ++v) {
          logits[i * vocab_ + v] += more[(count - 1 - i) * vocab_ + v];
        }
      }
    }
    if (wanted.logits) {
      std::copy_n(logits, count * vocab_, results.logits.data() + first * vocab_);
    }
    if (!wanted.log_likelihood) return;
    kernels::head_log_softmax(worker.exec, {.length = count,
                                            .vocab_size = vocab_,
                                            .logits_LV = logits,
                                            .logits_stride = vocab_,
                                            .target_L = results.targets.data() + first,
                                            .out_L = results.log_likelihood.data() + first});
    require_finite(model_, results.targets.data() + first, results.log_likelihood.data() + first,
                   count, block_start + first);
  }

  const Model& model_;
  int64_t width_;
  int64_t vocab_;
  SweepMemory memory_;
  WorkerPool pool_;
  std::vector<Worker> workers_;
  std::unique_ptr<Store> store_;
  int64_t store_bytes_ = 0;
  int64_t total_rows_ = 0;
  std::vector<StrandRun> runs_;
  std::vector<size_t> all_runs_;    // their numbers
  std::vector<LayerState> states_;  // [runs, stages] of the sweep under way
};

}  // namespace

SweepEngine::SweepEngine(const Model& model, const ComputeDevice& device, int threads,
                         SweepMemory memory) {
  backend_ = device.cuda ? make_device_sweeps(model, device, std::move(memory))
                         : std::make_unique<CpuSweeps>(model, device.backend, std::max(threads, 1),
                                                       std::move(memory));
}

SweepEngine::~SweepEngine() = default;

void SweepEngine::run(std::span<SweepSequence> sequences, const SweepWanted& wanted,
                      const std::function<void()>& poll) {
  backend_->run(sequences, wanted, poll);
}

int64_t SweepEngine::half_layers_done() const { return backend_->half_layers_done; }

int64_t SweepEngine::device_peak_bytes() const { return backend_->device_peak_bytes(); }

int64_t SweepEngine::half_layers(const Model& model, const SweepWanted& wanted) {
  return std::max<int64_t>(1, 2 * layers_wanted(model, wanted) * (model.config().rcps ? 2 : 1));
}

int64_t SweepEngine::store_bytes(const Model& model, const ComputeDevice& device) {
  const int64_t strands = model.config().rcps ? 2 : 1;
  if (!device.cuda) return strands * 2 * kFloat * model.config().d_model;
  return strands * (padded_width(model.config().d_model) * kFloat +
                    device_half_width(model) * kernels::dtype_bytes(device.dtype));
}

int64_t SweepEngine::workspace_bytes(const Model& model, const ComputeDevice& device, int threads,
                                     const SweepWanted& wanted, int64_t block_rows) {
  const int64_t width = model.config().d_model;
  const int64_t vocab = model.config().vocab_size;
  const int64_t results =
      block_rows * ((wanted.layer ? kFloat * hidden_width(model, wanted.halves) : 0) +
                    (wanted.logits ? kFloat * vocab : 0) + 8);
  const int64_t blocks = kBlocks * block_rows * (store_bytes(model, device) + 4);
  // On a GPU two passes under way take less than that: rows that are staged, and results.
  if (device.cuda) return results + blocks;
  return results + blocks +
         threads * kFloat *
             (kTileRows * (3 * width + 2 * vocab) + CpuSweeps::mixer_workspace(model));
}

int64_t SweepEngine::hidden_width(const Model& model, Halves halves) {
  return model.config().d_model * (model.config().rcps && halves == Halves::both ? 2 : 1);
}

}  // namespace chromamba::mamba
