#include "app/options.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <limits>

#include "app/progress.h"
#include "app/version.h"
#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "mamba/checkpoint.h"
#include "pipelines/devices.h"

namespace chromamba::app {
namespace {

constexpr unsigned kLineLength = 100;

pipelines::StrandChoice parse_strand(const std::string& text) {
  if (text == "forward") return pipelines::StrandChoice::forward;
  if (text == "reverse") return pipelines::StrandChoice::reverse;
  if (text == "both") return pipelines::StrandChoice::both;
  if (text == "mean") return pipelines::StrandChoice::mean;
  throw UsageError("--strand " + text + ": use forward, reverse, both or mean");
}

}  // namespace

int64_t parse_number(const std::string& text, const std::string& option, int64_t unit) {
  std::string digits;
  for (const char c : text) {
    if (c != ',') digits += c;
  }
  int64_t scale = 1;
  if (!digits.empty()) {
    const char suffix = static_cast<char>(std::tolower(static_cast<unsigned char>(digits.back())));
    if (suffix == 'k') scale = unit;
    if (suffix == 'm') scale = unit * unit;
    if (suffix == 'g') scale = unit * unit * unit;
    if (scale != 1) digits.pop_back();
  }
  const bool all_digits = !digits.empty() && digits.size() <= 18 &&
                          std::all_of(digits.begin(), digits.end(),
                                      [](unsigned char c) { return std::isdigit(c) != 0; });
  const int64_t value = all_digits ? std::stoll(digits) : -1;
  if (value < 0 || value > std::numeric_limits<int64_t>::max() / scale) {
    throw UsageError("--" + option + " " + text + ": a whole number is needed, e.g. 65,536 or 64k");
  }
  return value * scale;
}

CommandLine::CommandLine(std::string usage, std::string positional_name, int positional_count)
    : usage_(std::move(usage)),
      positional_name_(std::move(positional_name)),
      positional_count_(positional_count) {
  groups_.reserve(8);  // group() hands out references
}

po::options_description& CommandLine::group(const std::string& title) {
  return groups_.emplace_back(title, kLineLength, kLineLength / 2);
}

bool CommandLine::parse(const Arguments& arguments) {
  po::options_description all;
  for (const po::options_description& group : groups_) all.add(group);
  all.add_options()("help,h", "this text");
  all.add_options()(positional_name_.c_str(), po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add(positional_name_.c_str(), -1);
  try {
    namespace style = po::command_line_style;
    po::store(po::command_line_parser(arguments.words)
                  .options(all)
                  .positional(positional)
                  .style(style::unix_style & ~style::allow_guessing)
                  .run(),
              values_);
    po::notify(values_);
  } catch (const po::error& error) {
    throw UsageError(std::string(error.what()) + " (see --help)");
  }
  if (has("help")) {
    std::cout << usage_;
    for (const po::options_description& group : groups_) std::cout << '\n' << group;
    return false;
  }
  if (static_cast<int>(texts(positional_name_).size()) > positional_count_) {
    throw UsageError("unexpected argument '" + texts(positional_name_).back() + "' (see --help)");
  }
  return true;
}

std::string CommandLine::text(const std::string& option) const {
  return has(option) ? values_[option].as<std::string>() : std::string();
}

std::vector<std::string> CommandLine::texts(const std::string& option) const {
  return has(option) ? values_[option].as<std::vector<std::string>>() : std::vector<std::string>();
}

void add_input_group(CommandLine& line) {
  line.group("Input").add_options()(
      "regions,r", po::value<std::vector<std::string>>()->value_name("REGION"),
      "only this region, 1-based: chr20:1-5,000,000 (repeatable; needs or makes a .fai index)")(
      "regions-file,R", po::value<std::string>()->value_name("BED"),
      "only the regions of a BED file")(
      "iupac", po::value<std::string>()->default_value("n")->value_name("n|error"),
      "read IUPAC codes as N (counted), or refuse them");
}

po::options_description& add_model_group(CommandLine& line) {
  po::options_description& group = line.group("Model");
  group.add_options()("model,m", po::value<std::string>()->value_name("PATH"),
                      "checkpoint folder or weights file (default: the built-in human-d128)")(
      "strand", po::value<std::string>()->default_value("forward")->value_name("STRAND"),
      "forward, reverse (the model reads the reverse complement; results are at forward "
      "coordinates), both and their mean, or mean alone; with RC-equivariant models (Caduceus-PS), "
      "which read both at once, embed's choice of channels")(
      "left-context", po::value<std::string>()->default_value("131072")->value_name("N|full"),
      "bases read before a region, from a grid of N; 'full': from the contig's first base; models "
      "that read in both directions have the same after it")(
      "window", po::value<std::string>()->value_name("W"),
      "approximate: models that read in both directions read contigs in windows of W bases (the "
      "default is exact: contigs as a whole)")(
      "overlap", po::value<std::string>()->value_name("O"),
      "bases that neighbouring windows share; a base counts in the window whose ends are further "
      "away (default: W/8)");
  return group;
}

void add_machine_group(CommandLine& line) {
  line.group("Machine").add_options()(
      "device", po::value<std::string>()->default_value("auto")->value_name("DEVICE"),
      "auto (a GPU where there is one), cpu, cuda, cuda:N, cuda:N,N... or cuda:all (several "
      "GPUs share the model's layers), or reference (double precision, slow)")(
      "dtype", po::value<std::string>()->default_value("auto")->value_name("TYPE"),
      "activations and weights on a GPU: bf16 (what auto means there) or f32; the CPU computes in "
      "f32")("threads,@", po::value<std::string>()->value_name("N"),
             "compute threads (default: all this process may use)")(
      "chunk-size", po::value<std::string>()->value_name("N"),
      "bases in a buffer (default 65,536, 524,288 on a GPU, more on several; less when --memory "
      "asks for it); "
      "never "
      "changes a result")(
      "memory", po::value<std::string>()->default_value("4G")->value_name("SIZE"),
      "upper bound for the memory of the whole program, and for that of the GPU; models that read "
      "in both directions put activations beyond it in a file")(
      "tmp-dir", po::value<std::string>()->value_name("DIR"),
      "where reverse strands, standard input and activations wait (default: beside the first "
      "output)")("simd", po::value<std::string>()->default_value("auto")->value_name("SET"),
                 "CPU instruction set: auto, avx512, avx2, sse4")(
      "quiet,q", "no progress, no summary; warnings and errors only");
}

void note_iupac(const pipelines::GenomeInput& input, const pipelines::JobOptions& job) {
  if (input.iupac_count() == 0) return;
  job.warn(pipelines::with_commas(input.iupac_count()) + " IUPAC codes read as N");
}

pipelines::Windows windows_of(const CommandLine& line) {
  pipelines::Windows windows;
  if (!line.has("window")) {
    if (line.has("overlap")) throw UsageError("--overlap goes with --window");
    return windows;
  }
  if (!line.values()["left-context"].defaulted()) {
    throw UsageError(
        "--window and --left-context exclude each other: windows lie on the whole contig's grid");
  }
  windows.size = parse_number(line.text("window"), "window", 1000);
  if (windows.size < 1) throw UsageError("--window 0: at least 1 base");
  // A base has 1/16 of a window around it at least, for 1/7 more to compute.
  windows.overlap =
      line.has("overlap") ? parse_number(line.text("overlap"), "overlap", 1000) : windows.size / 8;
  if (windows.overlap >= windows.size) {
    throw UsageError("--overlap " + line.text("overlap") + ": less than --window " +
                     line.text("window") + " is needed");
  }
  return windows;
}

int64_t default_threads(const CommandLine& line) {
  if (!line.has("threads")) return pipelines::available_threads();
  const int64_t threads = parse_number(line.text("threads"), "threads", 1000);
  if (threads < 1 || threads > 1024) {
    throw UsageError("--threads " + line.text("threads") + ": 1 to 1024 threads");
  }
  return threads;
}

mamba::Model load_model(const CommandLine& line) {
  if (!line.has("model")) return mamba::Model::built_in();
  if (line.text("model").empty()) throw UsageError("--model: an empty path");
  return mamba::Model(mamba::open_checkpoint(line.text("model")));
}

pipelines::JobOptions job_options(const CommandLine& line, const Arguments& arguments,
                                  const std::string& input,
                                  const std::vector<std::string>& outputs) {
  pipelines::JobOptions job;
  const bool quiet = line.has("quiet");
  job.note = [quiet](const std::string& text) {
    if (!quiet) std::cerr << "chromamba: " << text << '\n';
  };
  job.warn = [](const std::string& text) { std::cerr << "chromamba: warning: " << text << '\n'; };
  job.input.path = input;
  job.input.regions = line.texts("regions");
  job.input.regions_bed = line.text("regions-file");
  const std::string iupac = line.has("iupac") ? line.text("iupac") : "n";
  if (iupac != "n" && iupac != "error") throw UsageError("--iupac " + iupac + ": use n or error");
  job.input.iupac_error = iupac == "error";
  job.input.note = job.note;
  pipelines::require_distinct_files(job, line.text("model"), outputs);
  job.strand = parse_strand(line.text("strand"));
  const std::string context = line.text("left-context");
  job.left_context.full = context == "full";
  if (!job.left_context.full) {
    try {
      job.left_context.bases = parse_number(context, "left-context", 1000);
    } catch (const UsageError&) {
      throw UsageError("--left-context " + context + ": a number of bases, or full");
    }
  }
  job.threads = static_cast<int>(default_threads(line));
  job.input.threads = std::min(job.threads, 2);  // more than keeps ahead of any model
  if (line.has("chunk-size")) {
    job.chunk_size = parse_number(line.text("chunk-size"), "chunk-size", 1000);
    constexpr int64_t kLargestChunk = int64_t{1} << 31;
    if (job.chunk_size < 1 || job.chunk_size > kLargestChunk) {
      throw UsageError("--chunk-size " + line.text("chunk-size") + ": 1 to 2,147,483,648 bases");
    }
  }
  job.memory = parse_number(line.text("memory"), "memory", 1024);
  kernels::use_simd_target(line.text("simd"));
  job.device = pipelines::choose_device(line.text("device"), line.text("dtype"), job.memory,
                                        [&](const std::string& text) { job.device_note = text; });
  job.no_version = line.has("no-version");
  job.version = kVersion;
  job.command = arguments.command_line;
  job.stop = stop_signal();
  job.input.stop = job.stop;
  if (line.has("tmp-dir")) {
    job.input.scratch_folder = line.text("tmp-dir");
  } else if (!outputs.empty() && outputs.front() != "-") {
    job.input.scratch_folder = io::folder_of(outputs.front());
  } else if (const char* folder = std::getenv("TMPDIR")) {  // NOLINT(concurrency-mt-unsafe)
    job.input.scratch_folder = folder;
  } else {
    job.input.scratch_folder = "/tmp";
  }
  return job;
}

}  // namespace chromamba::app
