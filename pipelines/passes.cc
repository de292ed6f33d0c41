#include "pipelines/passes.h"

#include <algorithm>
#include <string>

#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// Of the memory, for the states of sequences that go through the engine together.
constexpr int64_t kMaxStateBytes = int64_t{64} << 20;

// Blocks: as the CPU's chunks, and what a GPU takes at a time.
constexpr int64_t kDeviceBlock = 131072;
// Blocks of fewer tiles keep threads waiting for each other.
constexpr int64_t kSmallBlock = 32 * mamba::kTileRows;

mamba::SweepWanted sweep_wanted(const SweepOptions& options) {
  mamba::SweepWanted wanted;
  wanted.layer = options.stream.layer;
  wanted.halves = options.halves;
  wanted.log_likelihood = options.stream.log_likelihood;
  return wanted;
}

mamba::Halves halves_of(StrandChoice strand) {
  switch (strand) {
    case StrandChoice::forward:
      return mamba::Halves::forward;
    case StrandChoice::reverse:
      return mamba::Halves::reverse;
    case StrandChoice::both:
      return mamba::Halves::both;
    case StrandChoice::mean:
      return mamba::Halves::mean;
  }
  throw InternalError("unknown strand choice");
}

void require_options(const JobOptions& job, const mamba::Model& model, const PassWanted& wanted) {
  const std::string causal = ": model " + model.name() + " is causal: ";
  if (model.causal() && job.windows.size > 0) {
    throw UsageError("--window" + causal +
                     "it carries its state along whole contigs exactly, and needs no windows");
  }
  if (model.causal() && wanted.mask_stride) {
    throw UsageError("--mask-stride" + causal +
                     "it reads each base from those before it, and masks none");
  }
  if (model.config().rcps && wanted.log_likelihood && job.strand != StrandChoice::forward) {
    throw UsageError(std::string("--strand ") + strand_name(job.strand) + ": model " +
                     model.name() +
                     " is reverse-complement equivariant: each value has both strands already "
                     "(leave --strand out)");
  }
}

}  // namespace

Passes::Passes(const JobOptions& job, const mamba::Model& model, GenomeInput& input,
               const PassWanted& wanted)
    : job_(job),
      model_(model),
      input_(input),
      strand_(model.config().rcps ? StrandChoice::forward : job.strand) {
  require_options(job, model, wanted);
  plan_ = {job.left_context, !model.causal(), job.windows};
  options_.stream.log_likelihood = wanted.log_likelihood;
  options_.stream.layer = wanted.layer;
  options_.stream.bin = wanted.bin;
  options_.stream.stop = job.stop;
  options_.stream.bases_done = job.bases_done;
  options_.halves = halves_of(job.strand);
  options_.windows = job.windows;
  options_.mask_stride = wanted.mask_stride.value_or(0);
  options_.scratch_folder = job.input.scratch_folder;
  input.for_each_pass(strand_, plan_, [&](const Pass& pass) {
    const SweepLoad load = sweep_load(pass, options_.windows, options_.mask_stride);
    bases_ += load.bases;
    longest_pass_ = std::max(longest_pass_, pass.length());
    longest_sequence_ = std::max(longest_sequence_, load.longest);
  });
  if (model.causal()) {
    options_.stream.chunk_size =
        plan_chunk_size(job, model, options_.stream, static_cast<int64_t>(input.regions().size()));
  } else {
    plan_sweeps();
  }
}

void Passes::plan_sweeps() {
  const mamba::SweepWanted wanted = sweep_wanted(options_);
  const int64_t row_bytes = mamba::SweepEngine::store_bytes(model_, job_.device);
  const int64_t state_bytes = sequence_state_bytes(model_);
  options_.sequences = std::max<int64_t>(
      1,
      std::min({options_.sequences, kMaxStateBytes / state_bytes, job_.memory / 64 / state_bytes}));
  const auto needed = [&](int64_t block) {
    SweepOptions sized = options_;
    sized.stream.chunk_size = block;
    return fixed_bytes(model_, static_cast<int64_t>(input_.regions().size())) +
           mamba::SweepEngine::workspace_bytes(model_, job_.device, job_.threads, wanted,
                                               std::min(block, bases_)) +
           sweep_buffer_bytes(model_, sized) + options_.sequences * state_bytes;
  };
  // Smaller blocks make room for rows: for half of the memory or all there are, and for more where the longest
  // sequence then needs no file.
  int64_t room = std::min(bases_ * row_bytes, job_.memory / 2);
  if (longest_sequence_ * row_bytes <= job_.memory - needed(kSmallBlock)) {
    room = std::max(room, longest_sequence_ * row_bytes);
  }
  int64_t& block = options_.stream.chunk_size;
  block = job_.chunk_size > 0 ? job_.chunk_size
          : job_.device.cuda  ? kDeviceBlock
                              : default_chunk_size(job_.device);
  while (job_.chunk_size == 0 && block > mamba::kTileRows && job_.memory - needed(block) < room) {
    block /= 2;
  }
  options_.rows_bytes = job_.memory - needed(block);
  if (options_.rows_bytes < 0) throw_too_little_memory(job_, block, needed(block));
  const int64_t together =
      std::min(bases_, std::max(options_.rows_bytes / row_bytes, options_.stream.chunk_size));
  activations_ = std::max(longest_sequence_, together) * row_bytes;
  if (activations_ <= options_.rows_bytes) activations_ = 0;
}

int64_t Passes::hidden_width() const {
  return model_.causal() ? model_.config().d_model
                         : mamba::SweepEngine::hidden_width(model_, options_.halves);
}

DiskNeed Passes::scratch() const {
  DiskNeed need{job_.input.scratch_folder, input_.spool_bytes(strand_)};
  if (!model_.causal()) {
    need.bytes += activations_ + sweep_scratch_bytes(longest_pass_, longest_sequence_, options_);
  }
  return need;
}

StreamStats Passes::run(const Consumer& consume) {
  if (activations_ > 0 && job_.note) {
    job_.note("sequences of up to " + with_commas(longest_sequence_) +
              " bases: " + human_bytes(activations_) + " of activations wait in a file in " +
              job_.input.scratch_folder + ", for --memory leaves room for " +
              human_bytes(options_.rows_bytes));
  }
  if (job_.started) job_.started(bases_);
  const NextPass next = input_.passes(strand_, plan_);
  if (!model_.causal()) {
    return sweep_passes(model_, job_.device, job_.threads, next, consume, options_);
  }
  mamba::Engine engine(model_, job_.device, job_.threads);
  return stream_passes(engine, model_, next, consume, options_.stream);
}

}  // namespace chromamba::pipelines
