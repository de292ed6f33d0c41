#include "pipelines/benchmark.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <tuple>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device_bench.h"
#include "kernels/kernel_bench.h"
#include "mamba/sweep_engine.h"
#include "pipelines/devices.h"
#include "pipelines/score.h"
#include "pipelines/selftest.h"

namespace chromamba::pipelines {
namespace {

std::string random_bases(int64_t n) {
  std::mt19937_64 random(20240601);
  std::string bases(static_cast<size_t>(n), 'A');
  for (char& base : bases) base = "ACGT"[random() % 4];
  return bases;
}

std::vector<int32_t> tokens_of(const std::string& bases, const mamba::Model& model) {
  std::vector<int32_t> tokens(bases.size());
  model.tokenizer().encode(bases.data(), static_cast<int64_t>(bases.size()), tokens.data());
  return tokens;
}

// Nothing is timed on a machine that computes wrong numbers.
void require_selftest() {
  for (const SelftestCase& result : run_selftest()) {
    if (!result.passed()) {
      throw InternalError("bench: the selftest fails on " + result.device + "; nothing was timed");
    }
  }
}

kernels::KernelShapes kernel_shapes(const mamba::ModelConfig& config, int64_t rows) {
  return {.rows = rows,
          .d_model = config.d_model,
          .d_inner = config.d_inner,
          .d_state = config.d_state,
          .d_conv = config.d_conv,
          .dt_rank = config.dt_rank,
          .heads = config.n_heads,
          .groups = config.n_groups,
          .vocab_size = config.vocab_size};
}

// One object a kernel, beside the machine's ceilings; an error that was not measured is null.
nlohmann::json kernel_rows(const std::vector<kernels::KernelTiming>& timings,
                           const kernels::MachineCeilings& ceilings,
                           const std::string& percent_of_products) {
  nlohmann::json rows = nlohmann::json::array();
  for (const kernels::KernelTiming& timing : timings) {
    const double bytes = timing.bytes / timing.seconds;
    const double flops = timing.flops / timing.seconds;
    rows.push_back({{"kernel", timing.kernel},
                    {"shape", timing.shape},
                    {"microseconds", timing.seconds * 1e6},
                    {"gbytes_per_s", bytes * 1e-9},
                    {"gflops", flops * 1e-9},
                    {percent_of_products, 100 * flops / ceilings.sgemm_flops},
                    {"percent_of_copy", 100 * bytes / ceilings.copy_bytes},
                    {"error", timing.error}});
  }
  return rows;
}

// Seconds to score n bases that are in memory already, on the engine of the model's kind.
class ModelTimer {
 public:
  ModelTimer(const mamba::Model& model, const BenchOptions& options) : stop_(options.stop) {
    if (model.causal()) {
      engine_ = std::make_unique<mamba::Engine>(model, options.device, options.threads);
    } else {
      mamba::SweepMemory memory;
      memory.block_rows = default_chunk_size(options.device);
      memory.rows_bytes = int64_t{64} << 30;  // what is measured is to fit
      sweeps_ = std::make_unique<mamba::SweepEngine>(model, options.device, options.threads,
                                                     std::move(memory));
    }
  }

  double seconds(const std::vector<int32_t>& tokens, int64_t n, int64_t chunk_size) {
    return engine_ ? run_chunks(tokens, n, chunk_size) : run_sweeps(tokens, n);
  }

  int64_t device_peak_bytes() const {
    return engine_ ? engine_->device_peak_bytes() : sweeps_->device_peak_bytes();
  }

 private:
  // What a job makes once, buffers and states, is not timed.
  double run_chunks(const std::vector<int32_t>& tokens, int64_t n, int64_t chunk_size);
  double run_sweeps(const std::vector<int32_t>& tokens, int64_t n);

  std::unique_ptr<mamba::Engine> engine_;
  std::unique_ptr<mamba::SweepEngine> sweeps_;
  StopSignal stop_;
};

double ModelTimer::run_sweeps(const std::vector<int32_t>& tokens, int64_t n) {
  mamba::SweepSequence sequence;
  sequence.length = n;
  sequence.tokens = [&tokens](int64_t at, int64_t count, int32_t* to) {
    std::copy_n(tokens.begin() + at, count, to);
  };
  sequence.consume = [](const mamba::SweepRows&) {};
  mamba::SweepWanted wanted;
  wanted.log_likelihood = true;
  const auto start = std::chrono::steady_clock::now();
  sweeps_->run({&sequence, 1}, wanted, [this] { throw_if_stopped(stop_); });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double ModelTimer::run_chunks(const std::vector<int32_t>& tokens, int64_t n, int64_t chunk_size) {
  std::vector<float> log_p(static_cast<size_t>(chunk_size));
  mamba::SequenceState state = engine_->new_sequence();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t at = 0; at < n; at += chunk_size) {
    throw_if_stopped(stop_);
    mamba::Chunk chunk;
    chunk.state = &state;
    chunk.tokens_L = tokens.data() + at;
    chunk.length = std::min(chunk_size, n - at);
    chunk.log_likelihood_L = log_p.data();
    engine_->forward({&chunk, 1});
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A folder that goes, with what we put there, when the benchmark ends.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& parent) : path_(parent + "/chromamba-bench-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) {
      throw ResourceError("folder " + parent + ": cannot make a temporary folder there");
    }
  }
  ~WorkFolder() {
    for (const std::string& name : names_) std::remove(file(name).c_str());
    rmdir(path_.c_str());
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string add(const std::string& name) {
    names_.push_back(name);
    return file(name);
  }

 private:
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  std::string path_;
  std::vector<std::string> names_;
};

StreamStats time_score(const BenchOptions& options, const mamba::Model& model,
                       const std::string& bases) {
  WorkFolder folder(options.scratch_folder);
  const std::string fasta = folder.add("bench.fa");
  {
    std::ofstream file(fasta);
    file << ">bench\n";
    for (size_t at = 0; at < bases.size(); at += 60) file << bases.substr(at, 60) << '\n';
    if (!file.flush()) throw ResourceError(fasta + ": cannot be written");
  }
  ScoreOptions score;
  score.job.input.path = fasta;
  score.job.input.scratch_folder = folder.path();
  score.job.threads = options.threads;
  score.job.device = options.device;
  score.job.chunk_size = options.chunk_size;
  score.job.version = options.version;
  score.job.stop = options.stop;
  for (const char* name : {"bench.h5", "bench.bw", "bench.tsv"}) {
    score.outputs.push_back(parse_score_output(folder.add(name), ""));
  }
  GenomeInput input(score.job.input);
  return run_score(score, model, input).stats;
}

}  // namespace

nlohmann::json run_benchmark(const BenchOptions& options, const mamba::Model& model) {
  require_selftest();
  kernels::use_simd_target(options.simd);
  const mamba::ModelConfig& config = model.config();
  nlohmann::json report;
  report["version"] = options.version;
  report["device"] = "cpu " + kernels::cpu_backend_name();
  report["threads"] = options.threads;
  report["model"] = model.name();
  report["model_sha256"] = model.sha256();

  kernels::MachineCeilings ceilings = kernels::measure_ceilings(options.threads);
  const kernels::MachineCeilings one_thread = kernels::measure_ceilings(1);
  const std::vector<kernels::KernelTiming> timings =
      kernels::bench_kernels(kernel_shapes(config, mamba::kTileRows));
  report["kernels"] = kernel_rows(timings, one_thread, "percent_of_sgemm");

  const std::string bases = random_bases(options.bases);
  const std::vector<int32_t> tokens = tokens_of(bases, model);
  double best_rate = 0;
  {
    ModelTimer timer(model, options);
    timer.seconds(tokens, std::min<int64_t>(options.bases, 4 * mamba::kTileRows),
                  options.chunk_size);  // warm-up
    report["lengths"] = nlohmann::json::array();
    double seconds[2] = {0, 0};
    for (int i = 0; i < 2; ++i) {
      const int64_t n = i == 0 ? options.bases / 4 : options.bases;
      seconds[i] = timer.seconds(tokens, n, options.chunk_size);
      const double rate = static_cast<double>(n) / seconds[i];
      best_rate = std::max(best_rate, rate);
      report["lengths"].push_back({{"bases", n}, {"seconds", seconds[i]}, {"bases_per_s", rate}});
    }
    report["linearity"] = seconds[1] / seconds[0];
  }
  const StreamStats score = time_score(options, model, bases);
  // The machine may have been slowed down by others during the first reading: the bound is the
  // better of two, before and after.
  const kernels::MachineCeilings after = kernels::measure_ceilings(options.threads);
  ceilings.sgemm_flops = std::max(ceilings.sgemm_flops, after.sgemm_flops);
  ceilings.copy_bytes = std::max(ceilings.copy_bytes, after.copy_bytes);
  report["ceilings"] = {{"sgemm_gflops", ceilings.sgemm_flops * 1e-9},
                        {"copy_gbytes_per_s", ceilings.copy_bytes * 1e-9}};
  const double score_rate = static_cast<double>(score.bases) / score.seconds;
  const double bound = ceilings.sgemm_flops / static_cast<double>(model.matmul_flops());
  report["model_rates"] = {{"gemm_flops_per_base", model.matmul_flops()},
                           {"gemm_bound_bases_per_s", bound},
                           {"bases_per_s", best_rate},
                           {"share_of_gemm_bound", best_rate / bound}};
  report["score"] = {{"seconds", score.seconds},
                     {"bases_per_s", score_rate},
                     {"share_of_gemm_bound", score_rate / bound},
                     {"read_percent", 100 * score.read_seconds / score.seconds},
                     {"write_percent", 100 * score.write_seconds / score.seconds}};
  return report;
}

nlohmann::json run_device_benchmark(const BenchOptions& options, const mamba::Model& model) {
  require_selftest();
  const mamba::ModelConfig& config = model.config();
  nlohmann::json report;
  report["version"] = options.version;
  report["device"] = device_name(options.device);
  report["dtype"] = dtype_name(options.device);
  report["model"] = model.name();
  report["model_sha256"] = model.sha256();
  {
    kernels::DeviceExec exec(options.device.ordinals.front(), options.device.dtype);
    const kernels::MachineCeilings ceilings = kernels::measure_device_ceilings(exec);
    report["ceilings"] = {{"gemm_tflops", ceilings.sgemm_flops * 1e-12},
                          {"copy_gbytes_per_s", ceilings.copy_bytes * 1e-9}};
    report["scans"] = nlohmann::json::array();
    for (const auto& [sequences, length, carried] :
         {std::tuple<int64_t, int64_t, bool>{1, 1 << 20, true},
          {32, 32768, true},
          {32, 32768, false}}) {
      throw_if_stopped(options.stop);
      const kernels::ScanTiming scan =
          kernels::bench_device_scan(exec, sequences, length, 512, carried);
      report["scans"].push_back({{"sequences", sequences},
                                 {"length", length},
                                 {"channels", scan.channels},
                                 {"carried", carried},
                                 {"milliseconds", scan.seconds * 1e3},
                                 {"updates_per_s", scan.updates_per_s}});
    }
    const std::vector<kernels::KernelTiming> timings = kernels::bench_device_kernels(
        exec, kernel_shapes(config, std::min<int64_t>(options.bases, 1 << 20)));
    report["kernels"] = kernel_rows(timings, ceilings, "percent_of_gemm");
  }

  const std::string bases = random_bases(options.bases);
  const std::vector<int32_t> tokens = tokens_of(bases, model);
  double best_rate = 0;
  {
    ModelTimer timer(model, options);
    report["lengths"] = nlohmann::json::array();
    for (const int64_t wanted : {int64_t{8192}, int64_t{131072}, int64_t{524288}, options.bases}) {
      const int64_t n = std::min(wanted, options.bases);
      // The published code was measured at 524,288 bases with models of two directions.
      if (wanted == 524288 && (model.causal() || options.bases <= wanted)) continue;
      timer.seconds(tokens, n, n);  // warm-up
      std::vector<double> seconds(5);
      for (double& time : seconds) time = timer.seconds(tokens, n, n);
      std::nth_element(seconds.begin(), seconds.begin() + 2, seconds.end());
      const double rate = static_cast<double>(n) / seconds[2];
      best_rate = std::max(best_rate, rate);
      report["lengths"].push_back(
          {{"bases", n},
           {"seconds", seconds[2]},
           {"bases_per_s", rate},
           {"gpu_peak_mib", static_cast<double>(timer.device_peak_bytes()) / (1 << 20)}});
    }
  }
  if (options.with_files) {
    const StreamStats score = time_score(options, model, bases);
    const double score_rate = static_cast<double>(score.bases) / score.seconds;
    report["score"] = {{"seconds", score.seconds},
                       {"bases_per_s", score_rate},
                       {"share_of_model", score_rate / best_rate},
                       {"read_percent", 100 * score.read_seconds / score.seconds},
                       {"write_percent", 100 * score.write_seconds / score.seconds}};
  }
  return report;
}

}  // namespace chromamba::pipelines
