#include "mamba/sweep_plan.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/base/error.h"

namespace chromamba::mamba {

std::vector<Sweep> plan_sweeps(const Model& model, int64_t layers) {
  std::vector<Sweep> sweeps;
  int64_t layer = 0;
  bool begun = false;  // the layer's other direction is done
  for (bool reverse = false; layer < layers; reverse = !reverse) {
    Sweep sweep;
    sweep.reverse = reverse;
    while (layer < layers) {
      const Block& block = model.blocks()[static_cast<size_t>(layer)];
      if ((reverse ? block.reverse : block.forward) == nullptr) break;
      if (begun) {
        sweep.stages.push_back({layer++, StagePart::finish});
        begun = false;
      } else if ((reverse ? block.forward : block.reverse) == nullptr) {
        sweep.stages.push_back({layer++, StagePart::whole});
      } else {
        sweep.stages.push_back({layer, StagePart::begin});
        begun = true;
        break;
      }
    }
    if (!sweep.stages.empty()) sweeps.push_back(std::move(sweep));
  }
  if (sweeps.empty()) sweeps.emplace_back();
  sweeps.front().first = true;
  return sweeps;
}

const Mixer& stage_mixer(const Model& model, const SweepStage& stage, bool reverse) {
  const Block& block = model.blocks()[static_cast<size_t>(stage.layer)];
  return reverse ? *block.reverse : *block.forward;
}

std::vector<StrandRun> strand_runs(const Model& model, std::span<const SweepSequence> sequences) {
  std::vector<StrandRun> runs;
  int64_t row = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    for (const bool mirror : {false, true}) {
      if (mirror && !model.config().rcps) continue;
      runs.push_back({i, mirror, sequences[i].length, row});
      row += sequences[i].length;
    }
  }
  return runs;
}

void read_tokens(const Model& model, const SweepSequence& sequence, bool mirror, int64_t start,
                 int64_t count, int32_t* tokens) {
  if (count == 0) return;
  sequence.tokens(mirror ? sequence.length - start - count : start, count, tokens);
  const auto vocab = static_cast<int32_t>(model.config().vocab_size);
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      throw InternalError("token " + std::to_string(tokens[i]) + " outside the vocabulary of " +
                          std::to_string(vocab));
    }
  }
  if (!mirror) return;
  const std::vector<int32_t>& complement = model.tokenizer().complement;
  std::reverse(tokens, tokens + count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = complement[static_cast<size_t>(tokens[i])];
}

std::vector<SweepBlock> cut_blocks(std::span<const StrandRun> runs, std::span<const size_t> named,
                                   bool reverse, int64_t rows, int64_t grid, int64_t most_pieces) {
  rows = std::max(rows / grid, int64_t{1}) * grid;
  std::vector<SweepBlock> blocks;
  for (size_t i = 0; i < named.size(); ++i) {
    const size_t r = named[reverse ? named.size() - 1 - i : i];
    const int64_t length = runs[r].length;
    for (int64_t done = 0; done < length;) {
      int64_t count = 0;
      if (!blocks.empty() && static_cast<int64_t>(blocks.back().pieces.size()) < most_pieces) {
        const int64_t room = rows - blocks.back().rows;
        count = length - done <= room ? length - done : room / grid * grid;
      }
      if (count == 0) {
        blocks.emplace_back();
        count = std::min(length - done, rows);
      }
      SweepBlock& block = blocks.back();
      const int64_t start = reverse ? length - done - count : done;
      if (reverse || block.rows == 0) block.row = runs[r].row + start;
      block.rows += count;
      block.pieces.push_back({r, start, count});
      done += count;
    }
  }
  return blocks;
}

int64_t device_half_width(const Model& model) {
  const ModelConfig& config = model.config();
  const bool shares = config.mixer == MixerKind::mamba1 && config.tied_directions &&
                      config.directions == Directions::add;
  return padded_width(shares ? std::max(config.d_inner, config.d_model) : config.d_model);
}

int64_t layers_wanted(const Model& model, const SweepWanted& wanted) {
  const int64_t n_layer = model.config().n_layer;
  const bool head = wanted.log_likelihood || wanted.logits;
  if (!wanted.layer || *wanted.layer == kFinalLayer) return n_layer;
  if (*wanted.layer < 0 || *wanted.layer > n_layer) throw InternalError("no such layer");
  if (head && *wanted.layer < n_layer) {
    throw InternalError("rows of layer " + std::to_string(*wanted.layer) +
                        " with results of the head: a run keeps the rows of one layer");
  }
  return *wanted.layer;
}

void join_halves(Halves halves, bool swapped, int64_t width, int64_t count, const float* f,
                 const float* g, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float* own = f + i * width;
    const float* other = g + (count - 1 - i) * width;  // with its channels as RC(x) has them
    // The first half is flip(other) where the halves are swapped; the second, turned round, is `other` or flip(own).
    switch (halves) {
      case Halves::both:
        for (int64_t d = 0; d < width; ++d) {
          out[swapped ? width + d : d] = own[d];
          out[swapped ? d : width + d] = other[width - 1 - d];
        }
        out += 2 * width;
        continue;
      case Halves::forward:
        for (int64_t d = 0; d < width; ++d) out[d] = swapped ? other[width - 1 - d] : own[d];
        break;
      case Halves::reverse:
        for (int64_t d = 0; d < width; ++d) out[d] = swapped ? own[width - 1 - d] : other[d];
        break;
      case Halves::mean:
        for (int64_t d = 0; d < width; ++d) {
          const int64_t at = swapped ? width - 1 - d : d;
          out[d] = 0.5F * (own[at] + other[at]);
        }
        break;
    }
    out += width;
  }
}

void require_finite(const Model& model, const int32_t* targets, const float* log_p, int64_t rows,
                    int64_t first) {
  for (int64_t i = 0; i < rows; ++i) {
    if (targets[i] < 0 || std::isfinite(log_p[i])) continue;
    throw DataError("model " + model.name() + ": ln p of base " + std::to_string(first + i + 1) +
                    " of a sequence is not finite: its weights overflow 32-bit floats");
  }
}

}  // namespace chromamba::mamba
