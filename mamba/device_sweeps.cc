// The sweep engine's work on a GPU.
//
// How the work is split. A block of a sweep is a pass of as many rows as memory allows, with one launch of each kernel a
// half layer (kernels/batch.h: spans, segments). Two passes are under way on two streams: the later one waits for the
// carry alone. Sequences that fit a pass do not wait for sweeps: the pass goes through all layers at once, with the same
// operations in the same order, but what both directions of a layer begin with is computed once. Rows between sweeps stay on the GPU where they fit `device.memory`; else they lie in page-locked host
// memory, or in a file, and are copied beside the computing.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/add_norm.h"
#include "kernels/base/error.h"
#include "kernels/batch.h"
#include "kernels/device.h"
#include "kernels/head.h"
#include "mamba/device_parts.h"
#include "mamba/sweep_plan.h"

namespace chromamba::mamba {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceEvent;
using kernels::DeviceExec;
using kernels::kSegmentBases;
using kernels::PinnedBuffer;

constexpr int kLanes = 2;
// Rows of a pass: as many as fit kGoodBytes with everything but the rows between sweeps, --memory, and a block (what the
// host has for rows on their way is planned by that).
constexpr int64_t kMostRows = 131072;
constexpr int64_t kGoodBytes = int64_t{2304} << 20;
// Sequences that a pass may hold pieces of, and the memory for their states.
constexpr int64_t kMostPieces = 4096;
constexpr int64_t kStateBytes = int64_t{64} << 20;
// A sequence that goes on in the next pass has one of these states in turn. It may still be in use two passes later,
// on the same stream; with three of them the next to take it is behind that.
constexpr int kCarries = 3;
// Bases whose results come to the host at a time.
constexpr int64_t kResultRows = 32768;

// Page-locked, so that copies run beside kernels.
class PinnedStore : public Store {
 public:
  explicit PinnedStore(int64_t bytes) : buffer_(bytes) {}
  void read(int64_t offset, void* to, int64_t bytes) const override {
    std::memcpy(to, buffer_.as<std::byte>() + offset, static_cast<size_t>(bytes));
  }
  void write(int64_t offset, const void* from, int64_t bytes) override {
    std::memcpy(buffer_.as<std::byte>() + offset, from, static_cast<size_t>(bytes));
  }
  std::byte* memory() override { return buffer_.as<std::byte>(); }

 private:
  PinnedBuffer buffer_;
};

class DeviceSweeps : public SweepEngine::Backend {
 public:
  DeviceSweeps(const Model& model, const ComputeDevice& device, SweepMemory memory)
      : model_(model),
        memory_(std::move(memory)),
        device_memory_(device.memory),
        width_(model.config().d_model),
        stride_(padded_width(width_)),
        half_width_(device_half_width(model)),
        vocab_(model.config().vocab_size),
        element_(kernels::dtype_bytes(device.dtype)),
        strands_(model.config().rcps ? 2 : 1),
        exec_(device.ordinals.front(), device.dtype),
        second_(device.ordinals.front(), device.dtype) {
    upload();
    plan_rows(device.pass_rows);
    allocate();
  }

  ~DeviceSweeps() override {
    try {
      synchronize();          // nothing may still be copied into the buffers that go now
    } catch (const Error&) {  // NOLINT(bugprone-empty-catch): reported by the call that failed
    }
  }
  DeviceSweeps(const DeviceSweeps&) = delete;
  DeviceSweeps& operator=(const DeviceSweeps&) = delete;

  void run(std::span<SweepSequence> sequences, const SweepWanted& wanted,
           const std::function<void()>& poll) override {
    exec_.use();
    runs_ = strand_runs(model_, sequences);
    total_rows_ = runs_.empty() ? 0 : runs_.back().row + runs_.back().length;
    try {
      sort_runs();
      place_rows();
      const std::vector<Sweep> sweeps = plan_sweeps(model_, layers_wanted(model_, wanted));
      run_short(sweeps, sequences, poll);
      if (!long_runs_.empty()) {
        for (const Sweep& sweep : sweeps) run_sweep(sweep, sequences, poll);
      }
      hand_over(sequences, wanted, poll);
    } catch (...) {
      // Work in flight uses these buffers: wait before anyone else does.
      try {
        synchronize();
      } catch (
          const Error&) {  // NOLINT(bugprone-empty-catch): the first failure is the one to report
      }
      for (const std::unique_ptr<Lane>& lane : lanes_) lane->busy = lane->saves = false;
      throw;
    }
    if (store_ && store_->memory() == nullptr) store_.reset();  // its room goes back to the disk
  }

  int64_t device_peak_bytes() const override { return exec_.peak_bytes() + second_.peak_bytes(); }

 private:
  struct Layer {
    DeviceNorm norm;
    std::unique_ptr<DeviceMixer> forward;
    std::unique_ptr<DeviceMixer> reverse;
    const DeviceMixer& mixer(bool backwards) const { return backwards ? *reverse : *forward; }
  };

  // Bases whose results come to the host together: consecutive ones of one sequence or several, whose rows lie together
  // in the store. The other strand's lie together too, in reverse order.
  struct ResultPiece {
    size_t sequence = 0;
    int64_t start = 0;
    int64_t count = 0;
  };
  struct ResultBlock {
    int64_t row = 0;
    int64_t mirror_row = 0;
    int64_t rows = 0;
    std::vector<ResultPiece> pieces;
  };

  // One of the streams and what a pass needs there.
  struct Lane {
    explicit Lane(DeviceExec& stream) : exec(stream), done(stream) {}
    DeviceExec& exec;
    DeviceBuffer input;      // [rows, D] of a mixer
    DeviceBuffer workspace;  // of the mixers; in the end of the results
    DeviceBuffer tables;
    PinnedBuffer host_tables;
    DeviceBuffer states;    // of sequences that lie in one pass
    DeviceBuffer residual;  // [rows, D], where the rows come from the host
    DeviceBuffer half;
    PinnedBuffer staged;  // the same rows, where they come from a file
    std::vector<std::unique_ptr<DeviceEvent>> stage_done;
    DeviceEvent done;
    bool busy = false;
    SweepBlock block;  // to be written to the file
    bool saves = false;
    bool with_half = false;
    // Results on the way to the host.
    PinnedBuffer hidden;
    PinnedBuffer mirror_hidden;
    PinnedBuffer logits;
    PinnedBuffer log_p;
    PinnedBuffer targets;
    ResultBlock results;
  };

  void upload() {
    embedding_ = upload_embedding(exec_, model_);
    head_ = upload_head(exec_, model_, model_.head_panels());
    if (strands_ == 2) mirror_head_ = upload_head(exec_, model_, model_.mirror_head_panels());
    for (const Block& block : model_.blocks()) {
      Layer layer;
      layer.norm = upload_norm(exec_, block.norm);
      if (block.forward) layer.forward = block.forward->upload(exec_);
      if (block.reverse) layer.reverse = block.reverse->upload(exec_);
      layers_.push_back(std::move(layer));
    }
    final_norm_ = upload_norm(exec_, model_.final_norm());
    for (const Sweep& sweep : plan_sweeps(model_, model_.config().n_layer)) {
      int64_t floats = 0;
      for (const SweepStage& stage : sweep.stages) {
        floats += layers_[static_cast<size_t>(stage.layer)].mixer(sweep.reverse).state_floats();
      }
      state_floats_ = std::max(state_floats_, floats);
      most_stages_ = std::max(most_stages_, sweep.stages.size());
    }
    most_pieces_ = std::clamp<int64_t>(kStateBytes / (4 * std::max<int64_t>(1, state_floats_)), 1,
                                       kMostPieces);
  }

  int64_t row_bytes() const { return stride_ * 4 + half_width_ * element_; }

  // Of one lane, for `rows` rows of a pass.
  int64_t workspace_bytes(int64_t rows) const {
    int64_t bytes = 0;
    for (const Layer& layer : layers_) {
      for (const DeviceMixer* mixer : {layer.forward.get(), layer.reverse.get()}) {
        if (mixer == nullptr) continue;
        bytes = std::max(bytes, mixer->workspace_bytes(rows, most_segments(rows)));
      }
    }
    return std::max(bytes, std::min(rows, kResultRows) * result_bytes());
  }
  // Results of a base: rows and final rows of both strands, logits of both, ln p.
  int64_t result_bytes() const { return 4 * (2 * stride_ + 2 * width_ + 2 * vocab_ + 1); }
  int64_t most_segments(int64_t rows) const { return rows / kSegmentBases + most_pieces_; }
  int64_t table_bytes(int64_t rows) const {
    return most_pieces_ * static_cast<int64_t>(sizeof(kernels::DeviceSpan)) +
           most_segments(rows) * static_cast<int64_t>(sizeof(kernels::DeviceSegment)) + 4 * rows +
           64;  // each table begins at a multiple of 16
  }
  int64_t lane_bytes(int64_t rows) const {
    return workspace_bytes(rows) + rows * stride_ * element_ + table_bytes(rows) +
           4 * state_floats_ * (most_pieces_ + kCarries);
  }
  int64_t bytes_in_use() const { return exec_.bytes_in_use() + second_.bytes_in_use(); }

  void plan_rows(int64_t fixed) {
    const int64_t wanted = fixed > 0 ? fixed : std::min(memory_.block_rows, kMostRows);
    pass_rows_ = std::max<int64_t>(1, wanted / kSegmentBases) * kSegmentBases;
    const int64_t weights = bytes_in_use();
    // Where rows lie on the host a lane has room for its pass's.
    const auto needed = [&](int64_t rows) {
      return weights + kLanes * (lane_bytes(rows) + rows * row_bytes());
    };
    while (fixed <= 0 && pass_rows_ > 32768 && needed(pass_rows_) > kGoodBytes) pass_rows_ /= 2;
    while (pass_rows_ > kSegmentBases && needed(pass_rows_) > device_memory_) {
      pass_rows_ = std::max<int64_t>(1, pass_rows_ / 2 / kSegmentBases) * kSegmentBases;
    }
    if (needed(pass_rows_) > device_memory_) {
      char text[256];
      std::snprintf(
          text, sizeof text,
          "cuda:%d: the model and %lld bases need %.0f MiB of GPU memory, --memory allows "
          "%.0f MiB; raise --memory",
          exec_.info().ordinal, static_cast<long long>(pass_rows_),
          static_cast<double>(needed(pass_rows_)) / (1 << 20),
          static_cast<double>(device_memory_) / (1 << 20));
      throw ResourceError(text);
    }
  }

  void allocate() {
    for (int i = 0; i < kLanes; ++i) {
      auto lane = std::make_unique<Lane>(i == 0 ? exec_ : second_);
      DeviceExec& exec = lane->exec;
      lane->input = DeviceBuffer(exec, pass_rows_ * stride_ * element_, "activations");
      lane->workspace = DeviceBuffer(exec, workspace_bytes(pass_rows_), "activations");
      lane->tables = DeviceBuffer(exec, table_bytes(pass_rows_), "tables");
      lane->host_tables = PinnedBuffer(table_bytes(pass_rows_));
      lane->states =
          DeviceBuffer(exec, 4 * state_floats_ * most_pieces_, "the states of sequences");
      for (size_t s = 0; s < most_stages_; ++s) {
        lane->stage_done.push_back(std::make_unique<DeviceEvent>(exec));
      }
      lanes_.push_back(std::move(lane));
    }
    carries_ = DeviceBuffer(exec_, 4 * state_floats_ * kCarries, "the states of sequences");
  }

  // Sequences that fit a pass come first in the store, so that both kinds lie together. Of each kind the strand x lies
  // first, and RC(x) after it in the opposite order: as all sequences' strand in one piece would.
  void sort_runs() {
    short_runs_.clear();
    long_runs_.clear();
    const auto place = [this](size_t i) {
      (runs_[i].length <= pass_rows_ ? short_runs_ : long_runs_).push_back(i);
    };
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (!runs_[i].mirror) place(i);
    }
    for (size_t i = runs_.size(); i-- > 0;) {
      if (runs_[i].mirror) place(i);
    }
    int64_t row = 0;
    for (const std::vector<size_t>* list : {&short_runs_, &long_runs_}) {
      for (const size_t i : *list) {
        runs_[i].row = row;
        row += runs_[i].length;
      }
    }
  }

  // Decides where the rows between sweeps lie.
  void place_rows() {
    const int64_t bytes = total_rows_ * row_bytes();
    if (rows_.bytes() >= bytes && bytes > 0) {
      store_.reset();
      return;
    }
    rows_ = DeviceBuffer();
    if (bytes == 0) return;
    if (bytes <= memory_.device_rows_bytes && bytes_in_use() + bytes <= device_memory_) {
      try {
        rows_ = DeviceBuffer(exec_, bytes, "activations of a layer");
        store_.reset();
        return;
      } catch (const ResourceError&) {  // NOLINT(bugprone-empty-catch): the host has room
      }
    }
    if (!store_ || store_->memory() == nullptr || store_bytes_ < bytes) {
      store_.reset();
      if (bytes <= memory_.rows_bytes) {
        store_ = std::make_unique<PinnedStore>(bytes);
      } else if (memory_.scratch) {
        store_ = memory_.scratch(bytes);
      } else {
        throw ResourceError(std::to_string(total_rows_) + " bases need " + std::to_string(bytes) +
                            " bytes of activations, more than the memory allowed");
      }
      store_bytes_ = bytes;
    }
    for (const std::unique_ptr<Lane>& lane : lanes_) {
      if (lane->residual.bytes() == 0) {
        lane->half = DeviceBuffer(lane->exec, pass_rows_ * half_width_ * element_, "activations");
        lane->residual = DeviceBuffer(lane->exec, pass_rows_ * stride_ * 4, "activations");
      }
      if (store_->memory() == nullptr && lane->staged.bytes() == 0) {
        lane->staged = PinnedBuffer(std::max(pass_rows_ * row_bytes(), 2 * staged_results()));
      }
    }
  }

  bool resident() const { return store_ == nullptr; }
  int64_t half_offset(int64_t row) const {
    return total_rows_ * stride_ * 4 + row * half_width_ * element_;
  }
  float* residual_rows(const Lane& lane, int64_t row) const {
    return resident() ? rows_.as<float>() + row * stride_ : lane.residual.as<float>();
  }
  void* half_rows(const Lane& lane, int64_t row) const {
    return resident() ? rows_.as<std::byte>() + half_offset(row) : lane.half.as<std::byte>();
  }

  // Where the host has rows: in the store, or staged on their way to the file.
  std::byte* host_residual(const Lane& lane, int64_t row) const {
    std::byte* base = store_->memory();
    return base != nullptr ? base + row * stride_ * 4 : lane.staged.as<std::byte>();
  }
  std::byte* host_half(const Lane& lane, int64_t row) const {
    std::byte* base = store_->memory();
    return base != nullptr ? base + half_offset(row)
                           : lane.staged.as<std::byte>() + pass_rows_ * stride_ * 4;
  }

  // Waits until the lane's last pass is done, and writes its rows to the file.
  void settle(Lane& lane) {
    if (!lane.busy) return;
    lane.busy = false;
    lane.done.wait();
    if (!lane.saves) return;
    lane.saves = false;
    const SweepBlock& block = lane.block;
    write_wide(*store_, block.row * stride_ * 4, host_residual(lane, block.row),
               block.rows * stride_ * 4);
    if (!lane.with_half) return;
    write_wide(*store_, half_offset(block.row), host_half(lane, block.row),
               block.rows * half_width_ * element_);
  }

  // Everything queued so far comes before what is queued from now on, on any lane.
  void join_lanes() {
    for (const std::unique_ptr<Lane>& lane : lanes_) lane->done.record();
    for (const std::unique_ptr<Lane>& lane : lanes_) {
      for (const std::unique_ptr<Lane>& other : lanes_) {
        if (other != lane) other->done.hold(lane->exec);
      }
    }
  }

  void synchronize() {
    exec_.synchronize();
    second_.synchronize();
  }

  void run_sweep(const Sweep& sweep, std::span<const SweepSequence> sequences,
                 const std::function<void()>& poll) {
    const std::vector<SweepBlock> blocks =
        cut_blocks(runs_, long_runs_, sweep.reverse, pass_rows_, kSegmentBases, most_pieces_);
    turns_.assign(runs_.size(), 0);
    Lane* before = nullptr;
    for (const SweepBlock& block : blocks) {
      if (poll) poll();
      Lane& lane = before == lanes_[0].get() ? *lanes_[1] : *lanes_[0];
      settle(lane);
      launch(sweep, block, lane, before, sequences);
      before = &lane;
      half_layers_done += halves_of(sweep) * block.rows;
    }
    end_sweep();
  }

  void end_sweep() {
    if (!resident() && store_->memory() == nullptr) {
      for (const std::unique_ptr<Lane>& lane : lanes_) settle(*lane);
    }
    join_lanes();
  }

  // Sequences that fit a pass: as many as fit it go through all layers together.
  void run_short(const std::vector<Sweep>& sweeps, std::span<const SweepSequence> sequences,
                 const std::function<void()>& poll) {
    turns_.assign(runs_.size(), 0);
    Lane* before = nullptr;
    for (size_t first = 0; first < short_runs_.size();) {
      if (poll) poll();
      SweepBlock block;
      block.row = runs_[short_runs_[first]].row;
      for (; first < short_runs_.size(); ++first) {
        const int64_t length = runs_[short_runs_[first]].length;
        if (block.rows + length > pass_rows_) break;
        if (static_cast<int64_t>(block.pieces.size()) == most_pieces_) break;
        if (length > 0) block.pieces.push_back({short_runs_[first], 0, length});
        block.rows += length;
      }
      if (block.rows == 0) continue;
      Lane& lane = before == lanes_[0].get() ? *lanes_[1] : *lanes_[0];
      settle(lane);
      const Pass pass = lay_tables(false, true, block, lane, sequences);
      Stream stream{residual_rows(lane, block.row), half_rows(lane, block.row)};
      stream.tokens = pass.tokens;
      for (const Sweep& sweep : sweeps) {
        for (const SweepStage& stage : sweep.stages) {
          zero_states(lane, pass);
          run_stage(stage, sweep.reverse, stage.part == StagePart::finish, 0, pass, block, lane,
                    stream);
        }
        half_layers_done += block.rows * halves_of(sweep);
      }
      add_pending(block, lane, stream);
      save_rows(block, lane, stream, false);
      before = &lane;
    }
    end_sweep();
  }

  static int64_t halves_of(const Sweep& sweep) {
    int64_t halves = 0;
    for (const SweepStage& stage : sweep.stages) halves += stage.part == StagePart::whole ? 2 : 1;
    return halves;
  }

  // The tables of a pass on the device.
  struct Pass {
    kernels::DeviceBatch batch;
    const int32_t* tokens = nullptr;
    int64_t own_states = 0;  // states of the lane that are in use
    bool goes_on = false;    // a sequence comes from the pass before
  };

  // The rows of a pass and what is still to be done to them.
  struct Stream {
    float* residual = nullptr;
    void* half = nullptr;
    const void* pending = nullptr;
    const void* times = nullptr;      // after multiplying with these
    const int32_t* tokens = nullptr;  // to be embedded: where the stream begins
  };

  // Tables, in one block of page-locked memory and one copy. Sequences that lie in this pass alone have states of the
  // lane; of those that go on, the states are zero where they begin.
  Pass lay_tables(bool reverse, bool wants_tokens, const SweepBlock& block, Lane& lane,
                  std::span<const SweepSequence> sequences) {
    DeviceExec& exec = lane.exec;
    Pass pass;
    std::vector<kernels::DeviceSpan> spans;
    for (const SweepPiece& piece : block.pieces) {
      const StrandRun& run = runs_[piece.run];
      const bool low_end = piece.start == 0;
      const bool high_end = piece.start + piece.length == run.length;
      const bool begins = reverse ? high_end : low_end;
      kernels::DeviceSpan span;
      span.row = run.row + piece.start - block.row;
      span.length = piece.length;
      span.turn = turns_[piece.run];
      if (low_end && high_end) {
        span.state = lane.states.as<float>() + state_floats_ * pass.own_states++;
      } else {
        if (begins) carry_ = (carry_ + 1) % kCarries;
        span.state = carries_.as<float>() + state_floats_ * carry_;
        if (begins) kernels::zero_on_device(exec, span.state, 4 * state_floats_);
        pass.goes_on = pass.goes_on || !begins;
      }
      if (piece.length >= kSegmentBases) turns_[piece.run] = 1 - turns_[piece.run];
      spans.push_back(span);
    }
    TableBlock tables(lane.host_tables, lane.tables);
    pass.batch = tables.put_batch(spans, block.rows);
    if (wants_tokens) {
      int32_t* tokens = tables.take(block.rows, pass.tokens);
      for (size_t i = 0; i < block.pieces.size(); ++i) {
        const SweepPiece& piece = block.pieces[i];
        const StrandRun& run = runs_[piece.run];
        read_tokens(model_, sequences[run.sequence], run.mirror, piece.start, piece.length,
                    tokens + spans[i].row);
      }
    }
    tables.send(exec);
    return pass;
  }

  void zero_states(Lane& lane, const Pass& pass) const {
    if (pass.own_states == 0) return;
    kernels::zero_on_device(lane.exec, lane.states.data(), 4 * state_floats_ * pass.own_states);
  }

  void launch(const Sweep& sweep, const SweepBlock& block, Lane& lane, const Lane* before,
              std::span<const SweepSequence> sequences) {
    const Pass pass = lay_tables(sweep.reverse, sweep.first, block, lane, sequences);
    Stream stream{residual_rows(lane, block.row), half_rows(lane, block.row)};
    zero_states(lane, pass);
    if (sweep.first) {
      stream.tokens = pass.tokens;
    } else {
      load_rows(block, lane, stream);
    }
    int64_t state_offset = 0;
    for (size_t s = 0; s < sweep.stages.size(); ++s) {
      const SweepStage& stage = sweep.stages[s];
      // The pass before has left this half layer's states behind.
      if (pass.goes_on) before->stage_done[s]->hold(lane.exec);
      run_stage(stage, sweep.reverse, false, state_offset, pass, block, lane, stream);
      lane.stage_done[s]->record();
      state_offset += layers_[static_cast<size_t>(stage.layer)].mixer(sweep.reverse).state_floats();
    }
    add_pending(block, lane, stream);
    save_rows(block, lane, stream, true);
  }

  // `follows`: this layer's other direction has just been begun on this lane.
  void run_stage(const SweepStage& stage, bool reverse, bool follows, int64_t state_offset,
                 const Pass& pass, const SweepBlock& block, Lane& lane, Stream& stream) {
    const Layer& layer = layers_[static_cast<size_t>(stage.layer)];
    const DeviceMixer& mixer = layer.mixer(reverse);
    if (!follows) add_norm(layer.norm, lane.input.data(), block, lane, stream);
    const bool begins = stage.part == StagePart::begin;
    const bool finishes = stage.part == StagePart::finish;
    const bool multiplies = model_.config().directions == Directions::multiply;
    DeviceMixerCall call;
    call.batch = pass.batch;
    call.input_LD = lane.input.data();
    call.workspace = lane.workspace.as<std::byte>();
    call.state_offset = state_offset;
    call.reverse = reverse;
    if (mixer.half_width() > 0 && stage.part != StagePart::whole) {
      call.part = begins ? DevicePart::begin : DevicePart::finish;
      call.half = stream.half;
      call.follows_begin = follows;
      call.out_LD = lane.input.data();
    } else {
      call.accumulate = finishes && !multiplies;
      call.out_LD = begins || call.accumulate ? stream.half : lane.input.data();
    }
    mixer.forward(lane.exec, call);
    if (begins) return;
    stream.pending = call.out_LD;
    if (finishes && multiplies) stream.times = stream.half;
  }

  void add_norm(const DeviceNorm& norm, void* out, const SweepBlock& block, Lane& lane,
                Stream& stream) const {
    kernels::DeviceAddNormArgs args = norm_args(model_, norm, block.rows, stream.residual);
    args.hidden_LD = stream.pending;
    args.times_LD = stream.times;
    args.tokens_L = stream.tokens;
    args.table_VD = embedding_.as<const float>();
    args.vocab_size = vocab_;
    args.out_LD = out;
    kernels::add_norm(lane.exec, args);
    stream.tokens = nullptr;
    stream.pending = nullptr;
    stream.times = nullptr;
  }

  void add_pending(const SweepBlock& block, Lane& lane, Stream& stream) const {
    if (stream.pending == nullptr && stream.tokens == nullptr) return;
    add_norm(final_norm_, nullptr, block, lane, stream);
  }

  void load_rows(const SweepBlock& block, Lane& lane, const Stream& stream) const {
    if (resident()) return;
    std::byte* from = host_residual(lane, block.row);
    std::byte* from_half = host_half(lane, block.row);
    if (store_->memory() == nullptr) {
      read_wide(*store_, block.row * stride_ * 4, from, block.rows * stride_ * 4);
      read_wide(*store_, half_offset(block.row), from_half, block.rows * half_width_ * element_);
    }
    kernels::copy_to_device(lane.exec, stream.residual, from, block.rows * stride_ * 4);
    kernels::copy_to_device(lane.exec, stream.half, from_half, block.rows * half_width_ * element_);
  }

  // Ends a pass. Its half layer is wanted where another sweep follows.
  void save_rows(const SweepBlock& block, Lane& lane, const Stream& stream, bool with_half) const {
    if (!resident()) {
      kernels::copy_to_host(lane.exec, host_residual(lane, block.row), stream.residual,
                            block.rows * stride_ * 4);
      if (with_half) {
        kernels::copy_to_host(lane.exec, host_half(lane, block.row), stream.half,
                              block.rows * half_width_ * element_);
      }
      lane.with_half = with_half;
      lane.saves = store_->memory() == nullptr;
      lane.block = block;
    }
    lane.done.record();
    lane.busy = true;
  }

  // All sequences' results, in their order.
  std::vector<ResultBlock> result_blocks(std::span<const SweepSequence> sequences) const {
    const int64_t most = std::min(kResultRows, pass_rows_);
    std::vector<ResultBlock> blocks;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const StrandRun& run = runs_[i * static_cast<size_t>(strands_)];
      for (int64_t start = 0; start < run.length;) {
        const int64_t count = std::min(most, run.length - start);
        const int64_t row = run.row + start;
        int64_t mirror_row = 0;
        if (strands_ == 2) mirror_row = runs_[i * 2 + 1].row + run.length - start - count;
        const bool fits = !blocks.empty() && blocks.back().rows + count <= most &&
                          blocks.back().row + blocks.back().rows == row &&
                          (strands_ == 1 || mirror_row + count == blocks.back().mirror_row);
        if (!fits) {
          blocks.emplace_back();
          blocks.back().row = row;
        }
        blocks.back().mirror_row = mirror_row;
        blocks.back().rows += count;
        blocks.back().pieces.push_back({i, start, count});
        start += count;
      }
    }
    return blocks;
  }

  // The final norm and the head, some bases after the others; one lane's results are read while the other computes.
  void hand_over(std::span<const SweepSequence> sequences, const SweepWanted& wanted,
                 const std::function<void()>& poll) {
    for (const std::unique_ptr<Lane>& lane : lanes_) settle(*lane);
    Lane* before = nullptr;
    for (ResultBlock& block : result_blocks(sequences)) {
      if (poll) poll();
      Lane& lane = before == lanes_[0].get() ? *lanes_[1] : *lanes_[0];
      lane.results = std::move(block);
      launch_results(sequences, wanted, lane);
      if (before != nullptr) collect(sequences, wanted, *before);
      before = &lane;
    }
    if (before != nullptr) collect(sequences, wanted, *before);
  }

  // Rows [row, row + count) of the stream on the device; `room` takes them where they are on the host.
  float* bring(const Lane& lane, int64_t row, int64_t count, std::byte* room, std::byte* stage) {
    if (resident()) return rows_.as<float>() + row * stride_;
    const std::byte* from = nullptr;
    if (store_->memory() != nullptr) {
      from = store_->memory() + row * stride_ * 4;
    } else {
      read_wide(*store_, row * stride_ * 4, stage, count * stride_ * 4);
      from = stage;
    }
    kernels::copy_to_device(lane.exec, room, from, count * stride_ * 4);
    return reinterpret_cast<float*>(room);
  }

  void launch_results(std::span<const SweepSequence> sequences, const SweepWanted& wanted,
                      Lane& lane) {
    const bool rcps = strands_ == 2;
    const int64_t most = std::min(kResultRows, pass_rows_);
    const ResultBlock& block = lane.results;
    const int64_t count = block.rows;
    auto* at = lane.workspace.as<std::byte>();
    const auto take = [&at](int64_t bytes) { return std::exchange(at, at + bytes); };
    std::byte* room = take(4 * most * stride_);
    std::byte* mirror_room = take(4 * most * stride_);
    std::byte* staged = lane.staged.as<std::byte>();
    float* own = bring(lane, block.row, count, room, staged);
    float* other = nullptr;
    if (rcps) {
      std::byte* more = staged == nullptr ? nullptr : staged + staged_results();
      other = bring(lane, block.mirror_row, count, mirror_room, more);
    }
    if (wanted.layer) {
      send_hidden(lane, wanted, own, count, take(4 * most * width_), lane.hidden);
      if (rcps) {
        send_hidden(lane, wanted, other, count, take(4 * most * width_), lane.mirror_hidden);
      }
    }
    if (wanted.log_likelihood || wanted.logits) {
      launch_head(sequences, wanted, own, other, lane, take(4 * most * vocab_),
                  take(4 * most * vocab_), take(4 * most));
    }
    lane.done.record();
    lane.busy = true;
  }

  int64_t staged_results() const { return 4 * std::min(kResultRows, pass_rows_) * stride_; }

  void send_hidden(Lane& lane, const SweepWanted& wanted, float* stream, int64_t count,
                   std::byte* room, PinnedBuffer& to) const {
    if (to.bytes() == 0) to = PinnedBuffer(4 * std::min(kResultRows, pass_rows_) * width_);
    if (*wanted.layer == kFinalLayer) {
      auto* rows = reinterpret_cast<float*>(room);
      kernels::DeviceAddNormArgs norm = norm_args(model_, final_norm_, count, stream);
      norm.out_f32_LD = rows;
      kernels::add_norm(lane.exec, norm);
      kernels::copy_to_host(lane.exec, to.as<float>(), rows, 4 * count * width_);
    } else {
      kernels::copy_rows_to_host(lane.exec, to.as<float>(), stream, count, 4 * width_, 4 * stride_);
    }
  }

  void launch_head(std::span<const SweepSequence> sequences, const SweepWanted& wanted,
                   const float* own, const float* other, Lane& lane, std::byte* logits,
                   std::byte* mirror_logits, std::byte* log_p) const {
    const int64_t most = std::min(kResultRows, pass_rows_);
    const int64_t count = lane.results.rows;
    kernels::DeviceHeadArgs head = head_args(model_, final_norm_, head_, count, own);
    if (other != nullptr) {
      kernels::DeviceHeadArgs mirror = head_args(model_, final_norm_, mirror_head_, count, other);
      mirror.logits_LV = reinterpret_cast<float*>(mirror_logits);
      kernels::head_log_likelihood(lane.exec, mirror);
      head.mirror_logits_LV = mirror.logits_LV;
    }
    if (wanted.logits) {
      if (lane.logits.bytes() == 0) lane.logits = PinnedBuffer(4 * most * vocab_);
      head.logits_LV = reinterpret_cast<float*>(logits);
    }
    if (wanted.log_likelihood) {
      if (lane.log_p.bytes() == 0) {
        lane.log_p = PinnedBuffer(4 * most);
        lane.targets = PinnedBuffer(4 * most);
      }
      auto* targets = lane.targets.as<int32_t>();
      int32_t* at = targets;
      for (const ResultPiece& piece : lane.results.pieces) {
        const SweepSequence& sequence = sequences[piece.sequence];
        (sequence.targets ? sequence.targets : sequence.tokens)(piece.start, piece.count, at);
        at += piece.count;
      }
      std::replace(targets, at, model_.tokenizer().n, -1);
      kernels::copy_to_device(lane.exec, lane.tables.data(), targets, 4 * count);
      head.target_L = lane.tables.as<const int32_t>();
      head.out_L = reinterpret_cast<float*>(log_p);
    }
    kernels::head_log_likelihood(lane.exec, head);
    if (wanted.logits) {
      kernels::copy_to_host(lane.exec, lane.logits.as<float>(), logits, 4 * count * vocab_);
    }
    if (wanted.log_likelihood) {
      kernels::copy_to_host(lane.exec, lane.log_p.as<float>(), log_p, 4 * count);
    }
  }

  void collect(std::span<const SweepSequence> sequences, const SweepWanted& wanted, Lane& lane) {
    settle(lane);
    const int64_t hidden_width = SweepEngine::hidden_width(model_, wanted.halves);
    const float* hidden = lane.hidden.as<const float>();
    if (wanted.layer && strands_ == 2) {
      const bool final = *wanted.layer == kFinalLayer;
      const int64_t layer = final ? model_.config().n_layer : *wanted.layer;
      joined_.resize(static_cast<size_t>(lane.results.rows * hidden_width));
      join_halves(wanted.halves, model_.halves_swapped(layer), width_, lane.results.rows, hidden,
                  lane.mirror_hidden.as<const float>(), joined_.data());
      hidden = joined_.data();
    }
    int64_t row = 0;
    for (const ResultPiece& piece : lane.results.pieces) {
      SweepRows rows;
      rows.start = piece.start;
      rows.length = piece.count;
      if (wanted.layer) rows.hidden = hidden + row * hidden_width;
      if (wanted.logits) rows.logits_LV = lane.logits.as<const float>() + row * vocab_;
      if (wanted.log_likelihood) {
        rows.log_likelihood_L = lane.log_p.as<const float>() + row;
        require_finite(model_, lane.targets.as<const int32_t>() + row, rows.log_likelihood_L,
                       piece.count, piece.start);
      }
      sequences[piece.sequence].consume(rows);
      row += piece.count;
    }
  }

  const Model& model_;
  SweepMemory memory_;
  int64_t device_memory_;
  int64_t width_;
  int64_t stride_;
  int64_t half_width_;
  int64_t vocab_;
  int64_t element_;
  int64_t strands_;
  DeviceExec exec_;
  DeviceExec second_;  // another stream of the same GPU
  DeviceBuffer embedding_;
  DeviceBuffer head_;
  DeviceBuffer mirror_head_;
  std::vector<Layer> layers_;
  DeviceNorm final_norm_;
  int64_t state_floats_ = 0;  // of a sequence in a sweep, at most
  size_t most_stages_ = 0;
  int64_t most_pieces_ = 1;
  int64_t pass_rows_ = kMostRows;
  DeviceBuffer carries_;  // of sequences that go on in the next pass
  int carry_ = 0;
  DeviceBuffer rows_;             // between sweeps: the stream of all rows, then the half layers
  std::unique_ptr<Store> store_;  // or on the host
  int64_t store_bytes_ = 0;
  int64_t total_rows_ = 0;
  std::vector<StrandRun> runs_;
  std::vector<size_t> short_runs_;  // those that fit a pass
  std::vector<size_t> long_runs_;   // those that sweeps are for
  std::vector<int32_t> turns_;      // of each run: which of its two conv states is the last
  AlignedFloats joined_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // last: their buffers go first
};

}  // namespace

std::unique_ptr<SweepEngine::Backend> make_device_sweeps(const Model& model,
                                                         const ComputeDevice& device,
                                                         SweepMemory memory) {
  return std::make_unique<DeviceSweeps>(model, device, std::move(memory));
}

}  // namespace chromamba::mamba
