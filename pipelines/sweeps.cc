#include "pipelines/sweeps.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "kernels/pool_rows.h"
#include "pipelines/bounded_queue.h"
#include "pipelines/scratch_store.h"
#include "pipelines/stopwatch.h"

namespace chromamba::pipelines {
namespace {

// One is filled, one waits, one is written.
constexpr int kBuffers = 3;

// Of rows in a buffer. Some chunks of an HDF5 file, so that filling and writing overlap evenly.
constexpr int64_t kPartBytes = int64_t{4} << 20;

// Letters of a pass, and ln p that waits for other masks, go to a file beyond this.
constexpr int64_t kSmallBytes = int64_t{1} << 20;

// What a sequence takes besides its states: its place in the lists of runner and engine.
constexpr int64_t kSequenceBytes = 2048;

// Ends the computing when the writer has failed.
struct Abandoned {};

bool pools(const StreamOptions& options) { return options.layer && options.bin > 1; }

int64_t row_bytes(const mamba::Model& model, const SweepOptions& options) {
  return 4 * mamba::SweepEngine::hidden_width(model, options.halves);
}

// Bases in a part, at most: a power of two, for the chunks of HDF5.
int64_t part_rows(const mamba::Model& model, const SweepOptions& options) {
  const bool rows = options.stream.layer && !pools(options.stream);
  const int64_t bytes = 4 + (rows ? row_bytes(model, options) : 0);
  const auto fit = static_cast<uint64_t>(std::max(kPartBytes / bytes, int64_t{1}));
  return static_cast<int64_t>(std::bit_floor(fit));
}

// Means in a part, at most, unless a tile of bases has more.
int64_t part_groups(const mamba::Model& model, const SweepOptions& options) {
  return std::max<int64_t>(kPartBytes / row_bytes(model, options), 1);
}

// How many masks a window needs: bases that no segment has are not asked for.
struct MaskRange {
  int64_t start = 0;  // the first base that needs one
  int64_t count = 1;
};

MaskRange masks_of(const Pass& pass, const Window& window, int64_t stride) {
  if (stride == 0) return {};
  int64_t start = window.kept_end;
  int64_t end = window.kept_start;
  for_each_overlap(pass, window.kept_start, window.kept_end, [&](const Segment& segment) {
    start = std::min(start, std::max(segment.start, window.kept_start));
    end = std::max(end, std::min(segment.end, window.kept_end));
  });
  return {start, std::clamp<int64_t>(end - start, 1, stride)};
}

// A pass and what it carries from part to part.
struct LoadedPass {
  std::shared_ptr<const Pass> pass;
  int64_t index = 0;
  std::unique_ptr<mamba::Store> letters;  // as the strand reads them
  mamba::GroupWalk groups;
  std::vector<std::vector<double>> sums;  // of the groups that are open
};

// One sequence for the engine.
struct Job {
  std::shared_ptr<LoadedPass> loaded;
  Window window;
  int64_t remainder = -1;  // of the masked bases; -1: none is masked
  bool first_mask = true;  // of its window
  bool last_mask = true;

  const Pass& pass() const { return *loaded->pass; }
  // How many bases of the pass are read before the window.
  int64_t offset() const {
    return pass().strand == Strand::forward ? window.start - pass().start : pass().end - window.end;
  }
};

// A part on its way to the consumer, with what it points to.
struct Buffer {
  Part part;
  AlignedFloats log_likelihood;
  AlignedFloats hidden;
  GroupPlan groups;
  AlignedFloats means;  // [groups, D]
};

// `rows` rows of `width` floats, in reverse order where asked.
void copy_rows(const float* from, int64_t rows, int64_t width, bool reverse, AlignedFloats& to) {
  to.resize(static_cast<size_t>(rows * width));
  if (!reverse) {
    std::copy_n(from, rows * width, to.data());
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    std::copy_n(from + i * width, width, to.data() + (rows - 1 - i) * width);
  }
}

class Sweeper {
 public:
  Sweeper(const mamba::Model& model, const mamba::ComputeDevice& device, int threads,
          const NextPass& next, const Consumer& consume, const SweepOptions& options)
      : model_(model),
        next_(next),
        consume_(consume),
        options_(options),
        width_(mamba::SweepEngine::hidden_width(model, options.halves)),
        scratch_(scratch_stores(options.scratch_folder)),
        engine_(model, device, threads, {options.stream.chunk_size, options.rows_bytes, scratch_}),
        batch_rows_(std::max(options.rows_bytes / mamba::SweepEngine::store_bytes(model, device),
                             options.stream.chunk_size)),
        buffers_(kBuffers),
        free_(kBuffers),
        to_write_(kBuffers) {
    wanted_.layer = options.stream.layer;
    wanted_.halves = options.halves;
    wanted_.log_likelihood = options.stream.log_likelihood;
    half_layers_ = mamba::SweepEngine::half_layers(model, wanted_);
  }

  StreamStats run() {
    {
      const Stopwatch watch(stats_.seconds);
      for (Buffer& buffer : buffers_) free_.push(&buffer);
      std::jthread writer;
      guarded([&] {
        writer = std::jthread([this] { guarded([this] { write_all(); }); });
        compute_all();
      });
    }
    if (failure_) std::rethrow_exception(failure_);
    stats_.device_peak_bytes = engine_.device_peak_bytes();
    return stats_;
  }

 private:
  // The first failure of either thread stops both.
  template <typename Stage>
  void guarded(const Stage& stage) {
    try {
      stage();
    } catch (...) {
      {
        const std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      failed_ = true;
      free_.abandon();
      to_write_.abandon();
    }
  }

  void poll() {
    throw_if_stopped(options_.stream.stop);
    if (failed_) throw Abandoned();
    if (options_.stream.bases_done == nullptr) return;
    const int64_t done = (engine_.half_layers_done() - half_layers_before_) / half_layers_;
    *options_.stream.bases_done = stats_.bases + std::min(done, rows_);
  }

  std::unique_ptr<mamba::Store> make_store(int64_t bytes) const {
    return bytes <= kSmallBytes ? mamba::make_memory_store(bytes) : scratch_(bytes);
  }

  std::shared_ptr<LoadedPass> load(PassInput input) {
    const Stopwatch watch(stats_.read_seconds);
    auto loaded = std::make_shared<LoadedPass>();
    const Pass& pass = input.pass;
    if (pass.length() > 0) {
      loaded->letters = make_store(pass.length());
      letters_.resize(static_cast<size_t>(std::min(pass.length(), options_.stream.chunk_size)));
      for (int64_t at = pass.start; at < pass.end;) {
        throw_if_stopped(options_.stream.stop);
        const int64_t n = std::min(options_.stream.chunk_size, pass.end - at);
        input.bases->read(at, n, letters_.data());
        if (pass.strand == Strand::reverse) io::reverse_complement(letters_.data(), n);
        loaded->letters->write(pass.strand == Strand::forward ? at - pass.start : pass.end - at - n,
                               letters_.data(), n);
        at += n;
      }
    }
    loaded->index = passes_++;
    loaded->pass = std::make_shared<const Pass>(std::move(input.pass));
    return loaded;
  }

  // Tokens [start, start + count) of a job's sequence.
  void read_tokens(const Job& job, int64_t start, int64_t count, int32_t* tokens) {
    letters_.resize(static_cast<size_t>(count));
    job.loaded->letters->read(job.offset() + start, letters_.data(), count);
    model_.tokenizer().encode(letters_.data(), count, tokens);
  }

  // Puts `token` in the place of those whose bases are masked, or of all others.
  void replace(const Job& job, int64_t start, int64_t count, bool masked, int32_t token,
               int32_t* tokens) const {
    const bool forward = job.pass().strand == Strand::forward;
    const int64_t stride = options_.mask_stride;
    int64_t remainder = (forward ? job.window.start + start : job.window.end - 1 - start) % stride;
    for (int64_t i = 0; i < count; ++i) {
      if ((remainder == job.remainder) == masked) tokens[i] = token;
      remainder = forward ? (remainder + 1) % stride : (remainder + stride - 1) % stride;
    }
  }

  void compute_all() {
    if (options_.mask_stride > 0 && model_.tokenizer().mask < 0) {
      throw DataError("model " + model_.name() + ": its vocabulary has no mask token ('[MASK]')");
    }
    while (true) {
      throw_if_stopped(options_.stream.stop);
      std::optional<PassInput> input;
      {
        const Stopwatch watch(stats_.read_seconds);
        input = next_();
      }
      if (!input) break;
      const std::shared_ptr<LoadedPass> loaded = load(std::move(*input));
      const Pass& pass = *loaded->pass;
      if (pass.length() == 0) {
        run_batch();
        hand_over(*loaded, 0, 0, nullptr, nullptr);
        continue;
      }
      const int64_t windows = window_count(pass, options_.windows);
      for (int64_t w = 0; w < windows; ++w) {
        Job job;
        job.loaded = loaded;
        job.window = window_at(pass, options_.windows, w);
        const MaskRange masks = masks_of(pass, job.window, options_.mask_stride);
        for (int64_t m = 0; m < masks.count; ++m) {
          if (options_.mask_stride > 0) job.remainder = (masks.start + m) % options_.mask_stride;
          job.first_mask = m == 0;
          job.last_mask = m + 1 == masks.count;
          if (!batch_.empty() && (rows_ + job.window.length() > batch_rows_ ||
                                  static_cast<int64_t>(batch_.size()) >= options_.sequences)) {
            run_batch();
          }
          batch_.push_back(job);
          rows_ += job.window.length();
        }
      }
    }
    run_batch();
    to_write_.close();
  }

  void run_batch() {
    if (batch_.empty()) return;
    std::vector<mamba::SweepSequence> sequences;
    for (const Job& job : batch_) {
      mamba::SweepSequence& sequence = sequences.emplace_back();
      sequence.length = job.window.length();
      sequence.tokens = [this, &job](int64_t start, int64_t count, int32_t* tokens) {
        read_tokens(job, start, count, tokens);
        if (job.remainder < 0) return;
        replace(job, start, count, true, model_.tokenizer().mask, tokens);
      };
      if (job.remainder >= 0) {
        sequence.targets = [this, &job](int64_t start, int64_t count, int32_t* targets) {
          read_tokens(job, start, count, targets);
          replace(job, start, count, false, -1, targets);
        };
      }
      sequence.consume = [this, &job](const mamba::SweepRows& rows) { consume(job, rows); };
    }
    waited_ = 0;
    half_layers_before_ = engine_.half_layers_done();
    {
      const Stopwatch watch(stats_.compute_seconds);
      engine_.run(sequences, wanted_, [this] { poll(); });
    }
    stats_.compute_seconds -= waited_;
    stats_.bases += rows_;
    if (options_.stream.bases_done != nullptr) *options_.stream.bases_done = stats_.bases;
    rows_ = 0;
    batch_.clear();
  }

  void consume(const Job& job, const mamba::SweepRows& rows) {
    const float* log_likelihood = rows.log_likelihood_L;
    if (!job.first_mask || !job.last_mask) {
      log_likelihood = join_masks(job, rows);
      if (!job.last_mask) return;
    }
    const bool forward = job.pass().strand == Strand::forward;
    const Window& window = job.window;
    const int64_t kept_start =
        forward ? window.kept_start - window.start : window.end - window.kept_end;
    const int64_t kept_end =
        forward ? window.kept_end - window.start : window.end - window.kept_start;
    const int64_t start = std::max(rows.start, kept_start);
    const int64_t count = std::min(rows.start + rows.length, kept_end) - start;
    const int64_t skipped = start - rows.start;
    for (int64_t done = 0; done < count;) {
      const int64_t at = job.offset() + start + done;
      int64_t n = std::min(count - done, part_rows_);
      if (pools(options_.stream)) {
        n = fit_groups(job.pass(), options_.stream.bin, at, n, part_groups_);
      }
      hand_over(*job.loaded, at, n,
                log_likelihood == nullptr ? nullptr : log_likelihood + skipped + done,
                rows.hidden == nullptr ? nullptr : rows.hidden + (skipped + done) * width_);
      done += n;
    }
  }

  // Adds the values of this mask to those of the ones before; they wait as long as there are more to come.
  const float* join_masks(const Job& job, const mamba::SweepRows& rows) {
    if (job.first_mask && rows.start == 0) waiting_ = make_store(4 * job.window.length());
    joined_.assign(rows.log_likelihood_L, rows.log_likelihood_L + rows.length);
    const int64_t bytes = 4 * rows.length;
    if (!job.first_mask) {
      before_.resize(joined_.size());
      waiting_->read(4 * rows.start, before_.data(), bytes);
      for (size_t i = 0; i < joined_.size(); ++i) {
        if (std::isnan(joined_[i])) joined_[i] = before_[i];  // no base has two
      }
    }
    if (!job.last_mask) waiting_->write(4 * rows.start, joined_.data(), bytes);
    return joined_.data();
  }

  // Sends a part on: the n bases that are read after the first `done` of the pass.
  void hand_over(LoadedPass& loaded, int64_t done, int64_t n, const float* log_likelihood,
                 const float* hidden) {
    Buffer* buffer = nullptr;
    {
      const Stopwatch watch(waited_);
      const std::optional<Buffer*> popped = free_.pop();
      if (!popped) throw Abandoned();
      buffer = *popped;
    }
    const Pass& pass = *loaded.pass;
    const bool reverse = pass.strand == Strand::reverse;
    Part& part = buffer->part;
    part = {};
    part.pass = loaded.pass;
    part.pass_index = loaded.index;
    part.start = pass.lowest(done, n);
    part.length = n;
    part.first = done == 0;
    part.last = done + n == pass.length();
    if (log_likelihood != nullptr) {
      copy_rows(log_likelihood, n, 1, reverse, buffer->log_likelihood);
      part.log_likelihood = buffer->log_likelihood.data();
    }
    if (hidden != nullptr && pools(options_.stream)) {
      pool(loaded, done, hidden, *buffer);
    } else if (hidden != nullptr) {
      copy_rows(hidden, n, width_, reverse, buffer->hidden);
      part.hidden_LD = buffer->hidden.data();
    }
    if (!to_write_.push(buffer)) throw Abandoned();
  }

  void pool(LoadedPass& loaded, int64_t done, const float* rows, Buffer& buffer) {
    Part& part = buffer.part;
    buffer.groups =
        plan_groups(*loaded.pass, options_.stream.bin, part.start, part.start + part.length);
    buffer.means.resize(buffer.groups.bases.size() * static_cast<size_t>(width_));
    loaded.groups.begin_chunk(buffer.groups.bases, done, part.length);
    pool_groups_.clear();
    for (const mamba::GroupPart& from : loaded.groups.next_piece(done + part.length)) {
      while (static_cast<int64_t>(loaded.sums.size()) < loaded.groups.slots()) {
        loaded.sums.emplace_back(static_cast<size_t>(width_));
      }
      kernels::PoolGroup group;
      group.row = from.start - done;
      group.rows = from.end - from.start;
      group.bases = from.bases;
      if (from.slot >= 0) group.sum_D = loaded.sums[static_cast<size_t>(from.slot)].data();
      if (from.ends) group.mean_D = buffer.means.data() + from.group * width_;
      group.begins = from.begins;
      pool_groups_.push_back(group);
    }
    kernels::pool_rows(exec_, {.length = part.length,
                               .width = width_,
                               .stride = width_,
                               .rows_LD = rows,
                               .count = static_cast<int64_t>(pool_groups_.size()),
                               .groups = pool_groups_.data()});
    part.pooled = finished_rows(part, buffer.groups, buffer.means.data(), width_);
  }

  void write_all() {
    while (const std::optional<Buffer*> popped = to_write_.pop()) {
      Buffer& buffer = **popped;
      throw_if_stopped(options_.stream.stop);
      {
        const Stopwatch watch(stats_.write_seconds);
        consume_(buffer.part);
      }
      if (!free_.push(&buffer)) return;
    }
  }

  const mamba::Model& model_;
  const NextPass& next_;
  const Consumer& consume_;
  const SweepOptions& options_;
  int64_t width_;
  mamba::MakeStore scratch_;
  mamba::SweepEngine engine_;
  int64_t batch_rows_;
  int64_t part_rows_ = part_rows(model_, options_);
  int64_t part_groups_ = part_groups(model_, options_);
  mamba::SweepWanted wanted_;
  int64_t half_layers_ = 1;
  kernels::Exec exec_;

  std::vector<Job> batch_;
  int64_t rows_ = 0;    // bases of the batch
  int64_t passes_ = 0;  // loaded so far
  int64_t half_layers_before_ = 0;
  std::vector<char> letters_;
  std::unique_ptr<mamba::Store> waiting_;  // ln p of the window whose masks are under way
  std::vector<float> joined_;
  std::vector<float> before_;
  std::vector<kernels::PoolGroup> pool_groups_;
  double waited_ = 0;  // for the writer

  std::vector<Buffer> buffers_;
  BoundedQueue<Buffer*> free_;
  BoundedQueue<Buffer*> to_write_;
  StreamStats stats_;
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace

StreamStats sweep_passes(const mamba::Model& model, const mamba::ComputeDevice& device, int threads,
                         const NextPass& next, const Consumer& consume,
                         const SweepOptions& options) {
  if (options.stream.chunk_size < 1) throw InternalError("chunk size below 1");
  return Sweeper(model, device, threads, next, consume, options).run();
}

SweepLoad sweep_load(const Pass& pass, const Windows& windows, int64_t mask_stride) {
  SweepLoad load;
  const int64_t count = window_count(pass, windows);
  for (int64_t w = 0; w < count; ++w) {
    const Window window = window_at(pass, windows, w);
    load.bases += window.length() * masks_of(pass, window, mask_stride).count;
    load.longest = std::max(load.longest, window.length());
  }
  return load;
}

int64_t sweep_buffer_bytes(const mamba::Model& model, const SweepOptions& options) {
  const int64_t block = options.stream.chunk_size;
  const int64_t rows = std::min(part_rows(model, options), block);
  int64_t part = options.stream.log_likelihood ? 4 * rows : 0;
  if (pools(options.stream)) {
    part += kPartBytes;
  } else if (options.stream.layer) {
    part += rows * row_bytes(model, options);
  }
  const int64_t joined = options.mask_stride > 0 ? 8 * block : 0;
  return kBuffers * part + block + joined + 3 * kSmallBytes;  // two passes and what waits
}

int64_t sequence_state_bytes(const mamba::Model& model) {
  // A sweep meets one layer's two directions, or all layers where there is only one.
  const bool both = model.config().directions != mamba::Directions::forward;
  const int64_t states = model.state_bytes() / (both ? model.config().n_layer : 1);
  return kSequenceBytes + states * (model.config().rcps ? 2 : 1);
}

int64_t sweep_scratch_bytes(int64_t longest_pass, int64_t longest_sequence,
                            const SweepOptions& options) {
  const int64_t letters = longest_pass > kSmallBytes ? 2 * longest_pass : 0;  // one is read ahead
  const int64_t waiting =
      options.mask_stride > 0 && 4 * longest_sequence > kSmallBytes ? 4 * longest_sequence : 0;
  return letters + waiting;
}

}  // namespace chromamba::pipelines
