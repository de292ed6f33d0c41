#include "app/commands.h"
#include "app/options.h"
#include "app/progress.h"
#include "app/version.h"
#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "pipelines/benchmark.h"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba bench [-m MODEL] [options]

Verifies, then measures: each kernel, the model alone, and score from FASTA to files, beside what the
matrix products (sgemm) and the memory of this machine allow, measured in the same run.
)";

void print_report(const nlohmann::json& report) {
  const auto number = [](const nlohmann::json& value) { return value.get<double>(); };
  std::printf("%s, %d threads, model %s\n", report["device"].get<std::string>().c_str(),
              report["threads"].get<int>(), report["model"].get<std::string>().c_str());
  std::printf("ceilings: sgemm %.1f GFLOP/s, copy %.1f GB/s\n\n",
              number(report["ceilings"]["sgemm_gflops"]),
              number(report["ceilings"]["copy_gbytes_per_s"]));
  std::printf("%-18s %-16s %10s %8s %8s %10s %9s %9s\n", "kernel (1 thread)", "shape", "us a tile",
              "GB/s", "GFLOP/s", "% of sgemm", "% of copy", "error");
  for (const nlohmann::json& kernel : report["kernels"]) {
    std::printf("%-18s %-16s %10.1f %8.1f %8.1f %10.1f %9.1f %9.1e\n",
                kernel["kernel"].get<std::string>().c_str(),
                kernel["shape"].get<std::string>().c_str(), number(kernel["microseconds"]),
                number(kernel["gbytes_per_s"]), number(kernel["gflops"]),
                number(kernel["percent_of_sgemm"]), number(kernel["percent_of_copy"]),
                number(kernel["error"]));
  }
  std::printf("\nmodel alone:\n");
  for (const nlohmann::json& length : report["lengths"]) {
    std::printf("  %10lld bases  %8.2f s  %9.0f bases/s\n", length["bases"].get<long long>(),
                number(length["seconds"]), number(length["bases_per_s"]));
  }
  std::printf("  4 x the bases take %.3f x the time\n", number(report["linearity"]));
  const nlohmann::json& rates = report["model_rates"];
  std::printf("  GEMMs alone, at the sgemm ceiling: %.0f bases/s; reached %.2f of it\n",
              number(rates["gemm_bound_bases_per_s"]), number(rates["share_of_gemm_bound"]));
  const nlohmann::json& score = report["score"];
  std::printf(
      "score, FASTA to HDF5 + bigWig + TSV: %.0f bases/s, %.2f of that bound; reading %.2f %%, "
      "writing %.2f %% of the time\n",
      number(score["bases_per_s"]), number(score["share_of_gemm_bound"]),
      number(score["read_percent"]), number(score["write_percent"]));
}

}  // namespace

int bench_command(const Arguments& arguments) {
  CommandLine line(kUsage, "nothing", 0);
  line.group("Options").add_options()("model,m", po::value<std::string>()->value_name("PATH"),
                                      "checkpoint (default: the built-in human-d128)")(
      "bases", po::value<std::string>()->default_value("1,048,576")->value_name("N"),
      "length of the longest sequence")("json", po::value<std::string>()->value_name("FILE"),
                                        "also write the report as JSON")(
      "threads,@", po::value<std::string>()->value_name("N"), "compute threads (default: all)")(
      "simd", po::value<std::string>()->default_value("auto")->value_name("SET"),
      "CPU instruction set: auto, avx512, avx2, sse4")(
      "tmp-dir", po::value<std::string>()->default_value(".")->value_name("DIR"),
      "where the files of the score benchmark are written, and removed");
  if (!line.parse(arguments)) return 0;

  pipelines::BenchOptions options;
  options.threads = static_cast<int>(default_threads(line));
  options.bases = parse_number(line.text("bases"), "bases", 1000);
  if (options.bases < 4096) throw UsageError("--bases: at least 4,096");
  options.scratch_folder = line.text("tmp-dir");
  options.version = kVersion;
  options.stop = stop_signal();
  options.simd = line.text("simd");
  const mamba::Model model = load_model(line);
  const nlohmann::json report = pipelines::run_benchmark(options, model);
  print_report(report);
  if (line.has("json")) {
    io::PendingFile pending(line.text("json"));
    std::ofstream file(pending.temporary_path());
    file << report.dump(2) << '\n';
    file.close();
    if (!file) throw ResourceError(line.text("json") + ": cannot be written");
    pending.commit();
  }
  return 0;
}

}  // namespace chromamba::app
