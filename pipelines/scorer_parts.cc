#include "pipelines/scorer_parts.h"

#include <algorithm>
#include <cmath>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "pipelines/job.h"

namespace chromamba::pipelines {
namespace {

constexpr int64_t kChunk = 32768;
constexpr int64_t kDeviceChunk = int64_t{1} << 19;
// As many sequences of 256 bases as fill a call.
constexpr int64_t kMostSequences = 256;
constexpr int64_t kMostDeviceSequences = 2048;

}  // namespace

void StrandBases::read(int64_t start, int64_t n, char* out) const {
  if (n == 0) return;
  contig_->bases->read(start_of(start, start + n), n, out);
  if (!forward()) io::reverse_complement(out, n);
}

CausalPlan plan_causal(const mamba::Model& model, const mamba::ComputeDevice& device,
                       const AlleleScorerOptions& options, int64_t least) {
  CausalPlan plan;
  plan.chunk = options.chunk_size;
  if (plan.chunk == 0) plan.chunk = device.cuda ? kDeviceChunk : kChunk;
  const int64_t bytes = mamba::Engine::state_bytes(model, device);
  const int64_t memory = device.cuda ? device.memory : options.memory;
  plan.sequences =
      std::min(device.cuda ? kMostDeviceSequences : kMostSequences, memory / 4 / (2 * bytes));
  if (plan.sequences < least) throw_no_room_for_states(least, bytes);
  plan.device = device;
  if (device.cuda) plan.device.memory -= 2 * plan.sequences * bytes;
  return plan;
}

void throw_no_room_for_states(int64_t sequences, int64_t bytes_of_each) {
  throw ResourceError("the states of " + std::to_string(sequences) + " sequences, of " +
                      human_bytes(bytes_of_each) +
                      " each, do not fit an eighth of the memory that --memory leaves for scoring; "
                      "raise --memory");
}

void compare_means(std::span<const double> alt_sum, int64_t alt_rows,
                   std::span<const double> ref_sum, int64_t ref_rows, float& cosine_change,
                   float& l2_change) {
  if (alt_rows == 0 || ref_rows == 0) return;
  double product = 0;
  double alt_square = 0;
  double ref_square = 0;
  double square = 0;
  for (size_t i = 0; i < alt_sum.size(); ++i) {
    const double alt = alt_sum[i] / static_cast<double>(alt_rows);
    const double ref = ref_sum[i] / static_cast<double>(ref_rows);
    product += alt * ref;
    alt_square += alt * alt;
    ref_square += ref * ref;
    square += (alt - ref) * (alt - ref);
  }
  cosine_change = static_cast<float>(1 - product / std::sqrt(alt_square * ref_square));
  l2_change = static_cast<float>(std::sqrt(square));
}

}  // namespace chromamba::pipelines
