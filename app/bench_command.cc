#include "app/commands.h"
#include "app/options.h"
#include "app/progress.h"
#include "app/version.h"
#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "mamba/random_model.h"
#include "pipelines/benchmark.h"
#include "pipelines/devices.h"

#include <cmath>
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

void print_device_report(const nlohmann::json& report) {
  const auto number = [](const nlohmann::json& value) { return value.get<double>(); };
  std::printf("%s, %s, model %s\n", report["device"].get<std::string>().c_str(),
              report["dtype"].get<std::string>().c_str(),
              report["model"].get<std::string>().c_str());
  std::printf("ceilings: matrix product %.0f TFLOP/s, copy %.0f GB/s\n\nscan, N 16:\n",
              number(report["ceilings"]["gemm_tflops"]),
              number(report["ceilings"]["copy_gbytes_per_s"]));
  for (const nlohmann::json& scan : report["scans"]) {
    std::printf("  %3lld x %8lld bases, E %lld, %-20s %8.3f ms  %.2f T state updates/s\n",
                scan["sequences"].get<long long>(), scan["length"].get<long long>(),
                scan["channels"].get<long long>(),
                scan["carried"].get<bool>() ? "segments in parallel" : "each as one",
                number(scan["milliseconds"]), 1e-12 * number(scan["updates_per_s"]));
  }
  std::printf("\n%-20s %-22s %10s %8s %9s %9s %10s %9s\n", "kernel", "shape", "us", "GB/s",
              "% of copy", "GFLOP/s", "% of gemm", "error");
  for (const nlohmann::json& kernel : report["kernels"]) {
    std::string error = "-";  // covered by the selftest that came first
    if (std::isfinite(number(kernel["error"]))) {
      char text[32];
      std::snprintf(text, sizeof text, "%.1e", number(kernel["error"]));
      error = text;
    }
    std::printf("%-20s %-22s %10.1f %8.0f %9.1f %9.0f %10.1f %9s\n",
                kernel["kernel"].get<std::string>().c_str(),
                kernel["shape"].get<std::string>().c_str(), number(kernel["microseconds"]),
                number(kernel["gbytes_per_s"]), number(kernel["percent_of_copy"]),
                number(kernel["gflops"]), number(kernel["percent_of_gemm"]), error.c_str());
  }
  std::printf("\nmodel with log-likelihoods, batch 1:\n");
  for (const nlohmann::json& length : report["lengths"]) {
    std::printf("  %10lld bases  %9.3f ms  %6.2f million bases/s  GPU peak %.0f MiB\n",
                length["bases"].get<long long>(), 1e3 * number(length["seconds"]),
                1e-6 * number(length["bases_per_s"]), number(length["gpu_peak_mib"]));
  }
  if (report.contains("score")) {
    const nlohmann::json& score = report["score"];
    std::printf(
        "score, FASTA to HDF5 + bigWig + TSV: %.2f million bases/s, %.2f of the model's rate; "
        "reading "
        "%.1f %%, writing %.1f %% of the time\n",
        1e-6 * number(score["bases_per_s"]), number(score["share_of_model"]),
        number(score["read_percent"]), number(score["write_percent"]));
  }
}

// "256x8": a Mamba-1 of D 256 and 8 layers; "ph:256x16": a Caduceus-Ph.
mamba::Model shaped_model(const std::string& text) {
  mamba::RandomModelShape shape;
  const size_t colon = text.find(':');
  const std::string family = colon == std::string::npos ? "mamba1" : text.substr(0, colon);
  const std::string size = colon == std::string::npos ? text : text.substr(colon + 1);
  if (family == "mamba2") {
    shape.family = mamba::RandomFamily::mamba2;
  } else if (family == "ph") {
    shape.family = mamba::RandomFamily::caduceus_ph;
  } else if (family == "ps") {
    shape.family = mamba::RandomFamily::caduceus_ps;
  } else if (family != "mamba1") {
    throw UsageError("--shape " + text + ": families are mamba1, mamba2, ph and ps");
  }
  const size_t at = size.find('x');
  if (at == std::string::npos) {
    throw UsageError("--shape " + text + ": use [FAMILY:]DxLAYERS, as 256x8 or ph:256x16");
  }
  shape.d_model = parse_number(size.substr(0, at), "shape", 1000);
  shape.n_layer = parse_number(size.substr(at + 1), "shape", 1000);
  if (shape.d_model < 1 || shape.d_model > 8192 || shape.n_layer < 1 || shape.n_layer > 256) {
    throw UsageError("--shape " + text + ": D 1 to 8,192 and 1 to 256 layers");
  }
  return mamba::random_model(shape);
}

}  // namespace

int bench_command(const Arguments& arguments) {
  CommandLine line(kUsage, "nothing", 0);
  line.group("Options").add_options()("model,m", po::value<std::string>()->value_name("PATH"),
                                      "checkpoint (default: the built-in human-d128)")(
      "shape", po::value<std::string>()->value_name("[F:]DxL"),
      "an untrained model of this family (mamba1, mamba2, ph or ps for Caduceus), width and depth "
      "instead, as 256x8 or ph:256x16")(
      "device", po::value<std::string>()->default_value("auto")->value_name("DEVICE"),
      "auto, cpu, cuda, cuda:N, cuda:N,N... or cuda:all")(
      "dtype", po::value<std::string>()->default_value("auto")->value_name("TYPE"),
      "on a GPU: bf16 (auto) or f32")(
      "memory", po::value<std::string>()->default_value("4G")->value_name("SIZE"),
      "upper bound for the GPU's memory")(
      "pass-rows", po::value<std::string>()->value_name("N"),
      "bases the GPU takes at a time (default: what the engine chooses)")(
      "no-files", "leave out the run from FASTA to files")(
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
  options.with_files = !line.has("no-files");
  options.device = pipelines::choose_device(line.text("device"), line.text("dtype"),
                                            parse_number(line.text("memory"), "memory", 1024), {});
  if (line.has("pass-rows")) {
    options.device.pass_rows = parse_number(line.text("pass-rows"), "pass-rows", 1000);
    if (options.device.pass_rows < 1) throw UsageError("--pass-rows: at least 1");
  }
  if (line.has("shape") && line.has("model")) throw UsageError("--shape and --model: give one");
  const mamba::Model model =
      line.has("shape") ? shaped_model(line.text("shape")) : load_model(line);
  const nlohmann::json report = options.device.cuda
                                    ? pipelines::run_device_benchmark(options, model)
                                    : pipelines::run_benchmark(options, model);
  if (options.device.cuda) {
    print_device_report(report);
  } else {
    print_report(report);
  }
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
