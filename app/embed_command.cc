#include "app/commands.h"
#include "app/options.h"
#include "app/progress.h"
#include "kernels/base/error.h"
#include "pipelines/embed.h"

#include <filesystem>

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba embed INPUT -o OUT.h5 [options]

Writes the hidden state of the model at every base, the average over bins of bases, or one average
for each contig or region, as HDF5: /embedding/<contig> [bases or bins, D], or with --pool mean
/embedding [regions, D] beside /regions. INPUT is FASTA (plain, gzip or bgzip), or - for standard input.
RC-equivariant models have 2D channels with --strand both, D with forward, reverse and mean.
)";

}  // namespace

int embed_command(const Arguments& arguments) {
  CommandLine line(kUsage, "input", 1);
  add_input_group(line);
  add_model_group(line);
  line.group("Output").add_options()("output,o", po::value<std::string>()->value_name("OUT.h5"),
                                     "output file (HDF5)")(
      "layer", po::value<std::string>()->default_value("final")->value_name("K|final"),
      "residual stream after K blocks (0: the token embedding), or after the final norm")(
      "bin", po::value<std::string>()->default_value("1")->value_name("N"),
      "one row for N bases: their mean")(
      "pool", po::value<std::string>()->default_value("none")->value_name("none|mean"),
      "mean: one row for each contig or region")(
      "dtype-out", po::value<std::string>()->default_value("f16")->value_name("f16|f32"),
      "number format of the file")(
      "compress", po::value<int>()->default_value(0)->value_name("0-9"), "deflate level")(
      "no-version", "leave out what changes from run to run (version, command)");
  add_machine_group(line);
  if (!line.parse(arguments)) return 0;
  if (!line.has("input")) throw UsageError("embed: no INPUT given (see --help)");
  if (!line.has("output")) throw UsageError("embed: no output given: -o OUT.h5 (see --help)");

  pipelines::EmbedOptions options;
  options.output = line.text("output");
  if (options.output == "-") throw UsageError("-o -: HDF5 cannot go to standard output");
  const std::string suffix = std::filesystem::path(options.output).extension();
  if (suffix != ".h5" && suffix != ".hdf5") {
    throw UsageError("-o " + options.output + ": embed writes HDF5; name it .h5 or .hdf5");
  }
  options.job = job_options(line, arguments, line.texts("input").front(), {options.output});
  options.job.windows = windows_of(line);
  const std::string layer = line.text("layer");
  if (layer != "final") {
    try {
      options.layer = parse_number(layer, "layer", 1000);
    } catch (const UsageError&) {
      throw UsageError("--layer " + layer + ": a number of blocks, or final");
    }
  }
  options.bin = parse_number(line.text("bin"), "bin", 1000);
  if (options.bin < 1) throw UsageError("--bin 0: at least 1 base");
  const std::string pool = line.text("pool");
  if (pool != "none" && pool != "mean") throw UsageError("--pool " + pool + ": use none or mean");
  if (pool == "mean") options.pooling = pipelines::Pooling::mean;
  if (pool == "mean" && options.bin != 1)
    throw UsageError("--pool mean and --bin exclude each other");
  const std::string type = line.text("dtype-out");
  if (type != "f16" && type != "f32") throw UsageError("--dtype-out " + type + ": use f16 or f32");
  options.type = type == "f16" ? io::FloatType::f16 : io::FloatType::f32;
  options.deflate_level = line.values()["compress"].as<int>();
  if (options.deflate_level < 0 || options.deflate_level > 9) {
    throw UsageError("--compress: a level from 0 to 9");
  }

  const mamba::Model model = load_model(line);
  pipelines::GenomeInput input(options.job.input);
  Progress progress("embedded", line.has("quiet"));
  options.job.bases_done = progress.counter();
  options.job.started = [&](int64_t bases) {
    if (!options.job.device_note.empty()) options.job.note(options.job.device_note);
    progress.start(bases);
  };
  const pipelines::EmbedResult result = pipelines::run_embed(options, model, input);
  progress.stop();
  note_iupac(input, options.job);
  if (result.overflowed > 0) {
    options.job.warn(pipelines::with_commas(result.overflowed) +
                     " values are beyond f16 and were written as infinity; use --dtype-out f32");
  }
  const pipelines::StreamStats& stats = result.stats;
  options.job.note(pipelines::with_commas(stats.bases) + " bases read in " +
                   clock_time(stats.seconds) + " (" +
                   short_count(static_cast<double>(stats.bases) / stats.seconds) + " bases/s)");
  return 0;
}

}  // namespace chromamba::app
