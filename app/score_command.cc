#include "app/commands.h"
#include "app/options.h"
#include "app/progress.h"
#include "kernels/base/error.h"
#include "pipelines/devices.h"
#include "pipelines/score.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba score INPUT [-o OUT]... [options]

Writes ln p of every base: with causal models given all bases of its contig before it, so that the
first base has none (NaN); with masked models given its whole contig, the base itself included
unless --mask-stride hides it. Every N has none. INPUT is FASTA (plain, gzip or bgzip), or - for
standard input.

  OUT.h5               /log_likelihood/<contig> [bases], f32
  OUT.bw  OUT.bedgraph[.gz]    a track for IGV and other browsers
  OUT.tsv[.gz]         per contig: scored bases, mean ln p, perplexity, bits per base

Several -o make several files in one run. Without -o the table goes to standard output.
)";

void print_summary(const pipelines::ScoreResult& result, const pipelines::ScoreOptions& options) {
  const pipelines::StreamStats& stats = result.stats;
  const pipelines::StrandSummary& total =
      options.job.strand == pipelines::StrandChoice::forward   ? result.total.forward
      : options.job.strand == pipelines::StrandChoice::reverse ? result.total.reverse
                                                               : result.total.mean;
  char text[400];
  std::snprintf(text, sizeof text,
                "%s bases scored, perplexity %.4f; read %s bases in %s (%s bases/s; %.1f %% of the "
                "time in compute, %.1f %% reading, %.1f %% writing)",
                pipelines::with_commas(total.scored).c_str(), total.perplexity(),
                pipelines::with_commas(stats.bases).c_str(), clock_time(stats.seconds).c_str(),
                short_count(static_cast<double>(stats.bases) / stats.seconds).c_str(),
                100 * stats.compute_seconds / stats.seconds,
                100 * stats.read_seconds / stats.seconds,
                100 * stats.write_seconds / stats.seconds);
  options.job.note(text);
  if (stats.device_peak_bytes > 0) {
    options.job.note(pipelines::device_name(options.job.device) + ", " +
                     pipelines::dtype_name(options.job.device) + ": GPU memory at most " +
                     pipelines::human_bytes(stats.device_peak_bytes));
  }
}

}  // namespace

int score_command(const Arguments& arguments) {
  CommandLine line(kUsage, "input", 1);
  add_input_group(line);
  add_model_group(line).add_options()(
      "mask-stride", po::value<std::string>()->value_name("S"),
      "masked models: replace every S-th base of a contig by [MASK], in S passes, so that each "
      "base "
      "is predicted from the others (default 0: one pass, nothing is masked)");
  line.group("Output").add_options()(
      "output,o", po::value<std::vector<std::string>>()->value_name("FILE"),
      "output file, kind by suffix; - is standard output (repeatable)")(
      "output-type,O", po::value<std::string>()->value_name("TYPE"),
      "h5, bw, bedgraph, bedgraph.gz, tsv or tsv.gz, whatever the suffix")(
      "compress", po::value<int>()->default_value(0)->value_name("0-9"), "deflate level of HDF5")(
      "no-version", "leave out what changes from run to run (version, command)");
  add_machine_group(line);
  if (!line.parse(arguments)) return 0;
  if (!line.has("input")) throw UsageError("score: no INPUT given (see --help)");

  pipelines::ScoreOptions options;
  std::vector<std::string> paths = line.texts("output");
  // Renaming a file over /dev/stdout would replace what the caller appends to.
  std::replace(paths.begin(), paths.end(), std::string("/dev/stdout"), std::string("-"));
  if (line.has("output-type") && paths.size() > 1) {
    throw UsageError("-O names the kind of one output, and there are several -o; use suffixes");
  }
  if (paths.empty()) paths.emplace_back("-");
  options.job = job_options(line, arguments, line.texts("input").front(), paths);
  options.job.windows = windows_of(line);
  for (const std::string& path : paths) {
    options.outputs.push_back(pipelines::parse_score_output(path, line.text("output-type")));
  }
  if (line.has("mask-stride")) {
    options.mask_stride = parse_number(line.text("mask-stride"), "mask-stride", 1000);
  }
  options.deflate_level = line.values()["compress"].as<int>();
  if (options.deflate_level < 0 || options.deflate_level > 9) {
    throw UsageError("--compress: a level from 0 to 9");
  }

  const mamba::Model model = load_model(line);
  pipelines::GenomeInput input(options.job.input);
  Progress progress("scored", line.has("quiet"));
  options.job.bases_done = progress.counter();
  options.job.started = [&](int64_t bases) {
    if (!options.job.device_note.empty()) options.job.note(options.job.device_note);
    options.job.note("scoring " + pipelines::with_commas(input.bases_wanted()) + " bases of " +
                     input.name() + " with " + model.name() + " (" + pipelines::with_commas(bases) +
                     " to read)");
    progress.start(bases);
  };
  const pipelines::ScoreResult result = pipelines::run_score(options, model, input);
  progress.stop();
  note_iupac(input, options.job);
  print_summary(result, options);
  return 0;
}

}  // namespace chromamba::app
