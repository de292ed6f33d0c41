#include "pipelines/selftest.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "mamba/engine.h"
#include "pipelines/selftest_golden.h"

namespace chromamba::pipelines {
namespace {

// f32 rounding through 8 layers measured 1.2e-6 on the reference backend; issue bound of the model.
constexpr double kTolerance = 5e-5;
// bf16 keeps 8 bits: the worst of 1,024 bases, where the mean is 2e-3.
constexpr double kBf16Tolerance = 1e-1;

std::vector<float> score_golden(const mamba::Model& model, const mamba::ComputeDevice& device,
                                int threads, int64_t chunk, int64_t bases) {
  std::vector<int32_t> tokens(static_cast<size_t>(bases));
  model.tokenizer().encode(kSelftestBases, bases, tokens.data());
  std::vector<float> log_p(static_cast<size_t>(bases));
  mamba::Engine engine(model, device, threads);
  mamba::SequenceState state = engine.new_sequence();
  for (int64_t start = 0; start < bases; start += chunk) {
    mamba::Chunk part;
    part.state = &state;
    part.tokens_L = tokens.data() + start;
    part.length = std::min(chunk, bases - start);
    part.log_likelihood_L = log_p.data() + start;
    engine.forward({&part, 1});
  }
  return log_p;
}

double largest_error(const std::vector<float>& log_p) {
  double error = 0;
  for (size_t i = 1; i < log_p.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(log_p[i]) - kSelftestLogP[i - 1]);
    if (!(difference <= error)) error = difference;
  }
  return error;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

std::vector<SelftestCase> run_selftest() {
  const mamba::Model model = mamba::Model::built_in();
  std::vector<SelftestCase> cases;
  for (const std::string& target : kernels::simd_targets()) {
    kernels::use_simd_target(target);
    const std::vector<float> whole =
        score_golden(model, mamba::ComputeDevice(), 1, kSelftestLength, kSelftestLength);
    SelftestCase result;
    result.device = "cpu " + kernels::cpu_backend_name();
    result.largest_error = largest_error(whole);
    result.tolerance = kTolerance;
    for (const auto& [chunk, threads] : {std::pair<int64_t, int>{100, 1}, {333, 2}, {1024, 3}}) {
      result.invariant =
          result.invariant && same_bits(whole, score_golden(model, mamba::ComputeDevice(), threads,
                                                            chunk, kSelftestLength));
    }
    cases.push_back(result);
  }
  kernels::use_simd_target("auto");
  // The double reference runs a few thousand bases a second: a quarter of the sequence will do.
  constexpr int64_t kReferenceBases = kSelftestLength / 4;
  mamba::ComputeDevice reference_device;
  reference_device.backend = kernels::Backend::reference;
  const std::vector<float> reference =
      score_golden(model, reference_device, 1, kReferenceBases, kReferenceBases);
  cases.push_back({"reference (double precision)", largest_error(reference), kTolerance, true});
  for (const kernels::DeviceInfo& info : kernels::cuda_devices()) {
    for (const kernels::DType dtype : {kernels::DType::f32, kernels::DType::bf16}) {
      mamba::ComputeDevice device;
      device.cuda = true;
      device.ordinals = {info.ordinal};
      device.dtype = dtype;
      const std::vector<float> whole =
          score_golden(model, device, 1, kSelftestLength, kSelftestLength);
      SelftestCase result;
      result.device = "cuda:" + std::to_string(info.ordinal) + " " + info.name + ", " +
                      kernels::dtype_name(dtype);
      result.largest_error = largest_error(whole);
      result.tolerance = dtype == kernels::DType::f32 ? kTolerance : kBf16Tolerance;
      for (const int64_t chunk : {100, 333, 512}) {
        result.invariant = result.invariant &&
                           same_bits(whole, score_golden(model, device, 1, chunk, kSelftestLength));
      }
      cases.push_back(result);
    }
  }
  return cases;
}

}  // namespace chromamba::pipelines
