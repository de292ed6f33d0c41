#include "pipelines/stream.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "io/bases.h"
#include "pipelines/bounded_queue.h"
#include "pipelines/stopwatch.h"

namespace chromamba::pipelines {
namespace {

// Reader, engine and writer each hold one buffer.
constexpr int kBuffers = 3;

// States of sequences that share a chunk: bounds memory where contigs are tiny and states large.
constexpr int64_t kMaxStateBytes = int64_t{64} << 20;

// Groups of a buffer beyond one for each bin of its bases: those at the ends of contigs and regions, and of regions
// that overlap. A buffer with more of them takes fewer bases.
constexpr int64_t kMoreGroups = 4096;
// In the lists of a buffer, the engine's included.
constexpr int64_t kGroupBytes = 192;

// A pass on its way through the stages; the state lives from its first chunk to its last.
struct RunningPass {
  std::shared_ptr<const Pass> pass;
  int64_t index = 0;
  std::optional<mamba::SequenceState> state;
};

struct BufferPart {
  std::shared_ptr<RunningPass> running;
  int64_t offset = 0;  // into the buffer
  int64_t start = 0;   // forward coordinate of the lowest base
  int64_t length = 0;
  bool first = false;
  bool last = false;
  GroupPlan groups;
  int64_t first_group = 0;  // of the buffer's
};

struct Buffer {
  std::vector<BufferPart> parts;
  int64_t used = 0;
  std::vector<char> bases;
  std::vector<int32_t> tokens;
  std::vector<float> log_likelihood;
  AlignedFloats hidden;
  int64_t groups = 0;
  AlignedFloats means;  // [groups, D]
};

// Turns rows [0, n) of `width` floats round.
void reverse_rows(float* rows, int64_t n, int64_t width) {
  for (int64_t i = 0, j = n - 1; i < j; ++i, --j) {
    std::swap_ranges(rows + i * width, rows + (i + 1) * width, rows + j * width);
  }
}

int64_t max_parts(const mamba::Model& model) {
  return std::max<int64_t>(1, kMaxStateBytes / std::max<int64_t>(1, model.state_bytes()));
}

bool pools(const StreamOptions& options) { return options.layer && options.bin > 1; }

int64_t max_groups(const StreamOptions& options) {
  return options.chunk_size / options.bin + kMoreGroups;
}

class Runner {
 public:
  Runner(mamba::Engine& engine, const mamba::Model& model, const NextPass& next,
         const Consumer& consume, const StreamOptions& options)
      : engine_(engine),
        model_(model),
        next_(next),
        consume_(consume),
        options_(options),
        buffers_(kBuffers),
        free_(kBuffers),
        to_compute_(kBuffers),
        to_write_(kBuffers) {}

  StreamStats run() {
    const Stopwatch::Clock::time_point start = Stopwatch::Clock::now();
    const auto size = static_cast<size_t>(options_.chunk_size);
    for (Buffer& buffer : buffers_) {
      buffer.bases.resize(size);
      buffer.tokens.resize(size);
      if (options_.log_likelihood) buffer.log_likelihood.resize(size);
      const auto width = static_cast<size_t>(model_.config().d_model);
      if (pools(options_)) {
        buffer.means.resize(static_cast<size_t>(max_groups(options_)) * width);
      } else if (options_.layer) {
        buffer.hidden.resize(size * width);
      }
      free_.push(&buffer);
    }
    {
      std::jthread reader;
      std::jthread writer;
      guarded([&] {  // a thread that cannot be made stops the others, like any failure of a stage
        reader = std::jthread([this] { guarded([this] { read_all(); }); });
        writer = std::jthread([this] { guarded([this] { write_all(); }); });
        compute_all();
      });
    }
    if (failure_) std::rethrow_exception(failure_);
    stats_.device_peak_bytes = engine_.device_peak_bytes();
    stats_.seconds = std::chrono::duration<double>(Stopwatch::Clock::now() - start).count();
    return stats_;
  }

 private:
  // Runs a stage; the first failure of any stage stops all of them.
  template <typename Stage>
  void guarded(const Stage& stage) {
    try {
      stage();
    } catch (...) {
      {
        const std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      free_.abandon();
      to_compute_.abandon();
      to_write_.abandon();
    }
  }

  void read_all() {
    Buffer* buffer = nullptr;
    const auto hand_over = [&] {
      const bool open = to_compute_.push(buffer);
      buffer = nullptr;
      return open;
    };
    int64_t index = 0;
    while (true) {
      std::optional<PassInput> input;
      {
        const Stopwatch watch(stats_.read_seconds);
        input = next_();
      }
      if (!input) break;
      auto running = std::make_shared<RunningPass>();
      running->pass = std::make_shared<const Pass>(std::move(input->pass));
      running->index = index++;
      const Pass& pass = *running->pass;
      int64_t done = 0;
      do {
        throw_if_stopped(options_.stop);
        if (buffer == nullptr) {
          const std::optional<Buffer*> popped = free_.pop();
          if (!popped) return;
          buffer = *popped;
          buffer->parts.clear();
          buffer->used = 0;
          buffer->groups = 0;
        }
        const Stopwatch watch(stats_.read_seconds);
        int64_t n = std::min(options_.chunk_size - buffer->used, pass.length() - done);
        if (pools(options_)) {
          n = fit_groups(pass, options_.bin, done, n, max_groups(options_) - buffer->groups);
        }
        BufferPart part;
        part.running = running;
        part.offset = buffer->used;
        part.length = n;
        part.start = pass.lowest(done, n);
        if (pools(options_)) {
          part.groups = plan_groups(pass, options_.bin, part.start, part.start + n);
          part.first_group = buffer->groups;
          buffer->groups += static_cast<int64_t>(part.groups.bases.size());
        }
        part.first = done == 0;
        done += n;
        part.last = done == pass.length();
        char* bases = buffer->bases.data() + part.offset;
        if (n > 0) input->bases->read(part.start, n, bases);
        if (pass.strand == Strand::reverse) io::reverse_complement(bases, n);
        model_.tokenizer().encode(bases, n, buffer->tokens.data() + part.offset);
        buffer->used += n;
        buffer->parts.push_back(std::move(part));
        // A call of the engine takes one part of a pass, so one that goes on ends its buffer.
        const bool full = done < pass.length() || buffer->used == options_.chunk_size ||
                          (pools(options_) && buffer->groups >= max_groups(options_)) ||
                          static_cast<int64_t>(buffer->parts.size()) >= max_parts(model_);
        if (full && !hand_over()) return;
      } while (done < pass.length());
    }
    if (buffer != nullptr && !hand_over()) return;
    to_compute_.close();
  }

  void compute_all() {
    const int64_t width = model_.config().d_model;
    std::vector<mamba::Chunk> chunks;
    while (std::optional<Buffer*> popped = to_compute_.pop()) {
      Buffer& buffer = **popped;
      {
        const Stopwatch watch(stats_.compute_seconds);
        chunks.clear();
        // More than planned where regions overlap many times over, or a bin is longer than a chunk.
        const auto means = static_cast<size_t>(buffer.groups * width);
        if (buffer.means.size() < means) buffer.means.resize(means);
        for (const BufferPart& part : buffer.parts) {
          if (part.length == 0) continue;
          if (part.first) part.running->state = engine_.new_sequence();
          mamba::Chunk chunk;
          chunk.state = &*part.running->state;
          chunk.tokens_L = buffer.tokens.data() + part.offset;
          chunk.length = part.length;
          if (options_.log_likelihood) {
            chunk.log_likelihood_L = buffer.log_likelihood.data() + part.offset;
          }
          if (pools(options_)) {
            chunk.pooled = {*options_.layer, part.groups.bases,
                            buffer.means.data() + part.first_group * width};
          } else if (options_.layer) {
            chunk.taps.push_back({*options_.layer, buffer.hidden.data() + part.offset * width});
          }
          chunks.push_back(std::move(chunk));
        }
        engine_.forward(chunks, [this] { throw_if_stopped(options_.stop); });
        for (const BufferPart& part : buffer.parts) {
          if (part.last) part.running->state.reset();
          if (part.running->pass->strand == Strand::forward) continue;
          if (options_.log_likelihood) {
            std::reverse(buffer.log_likelihood.begin() + part.offset,
                         buffer.log_likelihood.begin() + part.offset + part.length);
          }
          if (options_.layer && !pools(options_)) {
            reverse_rows(buffer.hidden.data() + part.offset * width, part.length, width);
          }
        }
      }
      stats_.bases += buffer.used;
      if (options_.bases_done != nullptr) *options_.bases_done += buffer.used;
      if (!to_write_.push(&buffer)) return;
    }
    to_write_.close();
  }

  void write_all() {
    while (std::optional<Buffer*> popped = to_write_.pop()) {
      Buffer& buffer = **popped;
      {
        const Stopwatch watch(stats_.write_seconds);
        for (BufferPart& from : buffer.parts) {
          throw_if_stopped(options_.stop);
          Part part;
          part.pass = from.running->pass;
          part.pass_index = from.running->index;
          part.start = from.start;
          part.length = from.length;
          part.first = from.first;
          part.last = from.last;
          if (options_.log_likelihood)
            part.log_likelihood = buffer.log_likelihood.data() + from.offset;
          if (pools(options_)) {
            part.pooled = finished_rows(
                part, from.groups, buffer.means.data() + from.first_group * model_.config().d_model,
                model_.config().d_model);
          } else if (options_.layer) {
            part.hidden_LD = buffer.hidden.data() + from.offset * model_.config().d_model;
          }
          consume_(part);
        }
      }
      if (!free_.push(&buffer)) return;
    }
  }

  mamba::Engine& engine_;
  const mamba::Model& model_;
  const NextPass& next_;
  const Consumer& consume_;
  const StreamOptions& options_;
  std::vector<Buffer> buffers_;
  BoundedQueue<Buffer*> free_;
  BoundedQueue<Buffer*> to_compute_;
  BoundedQueue<Buffer*> to_write_;
  StreamStats stats_;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace

StreamStats stream_passes(mamba::Engine& engine, const mamba::Model& model, const NextPass& next,
                          const Consumer& consume, const StreamOptions& options) {
  if (options.chunk_size < 1) throw InternalError("chunk size below 1");
  return Runner(engine, model, next, consume, options).run();
}

std::vector<PooledRow> finished_rows(const Part& part, const GroupPlan& groups,
                                     const float* means_GD, int64_t width) {
  const Pass& pass = *part.pass;
  const int64_t end = pass.strand == Strand::forward ? part.start + part.length - pass.start
                                                     : pass.end - part.start;
  std::vector<PooledRow> rows;
  for (size_t i = 0; i < groups.bases.size(); ++i, means_GD += width) {
    if (groups.bases[i].end <= end) rows.push_back({groups.rows[i], means_GD});
  }
  const auto before = [](const PooledRow& a, const PooledRow& b) {
    return a.at.segment < b.at.segment;
  };
  if (!std::is_sorted(rows.begin(), rows.end(), before)) {
    std::stable_sort(rows.begin(), rows.end(), before);
  }
  return rows;
}

int64_t tap_bytes(const mamba::Model& model, const StreamOptions& options) {
  if (!options.layer) return 0;
  const int64_t row = 4 * model.config().d_model;
  // A mean, and its entries in the lists of groups.
  return pools(options) ? (row + kGroupBytes - 1) / options.bin + 1 : row;
}

int64_t stream_buffer_bytes(const mamba::Model& model, const StreamOptions& options) {
  int64_t per_base = 1 + 4;  // letter and token
  if (options.log_likelihood) per_base += 4;
  int64_t more = 0;
  if (pools(options)) {
    more = max_groups(options) * (4 * model.config().d_model + kGroupBytes);
  } else {
    per_base += tap_bytes(model, options);
  }
  return kBuffers * (options.chunk_size * per_base + more) +
         std::min(options.chunk_size, max_parts(model)) * model.state_bytes();
}

}  // namespace chromamba::pipelines
