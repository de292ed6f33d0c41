#include "pipelines/job.h"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "io/pending_file.h"
#include "kernels/base/error.h"
#include "pipelines/devices.h"

namespace chromamba::pipelines {
namespace {

// Rows of plans, names, sums: what a region costs while a job runs.
constexpr int64_t kRegionBytes = 512;

// 65,536 bases keep threads busy between the ends of a chunk, and are whole chunks of HDF5.
constexpr int64_t kDefaultChunk = 65536;
// A GPU takes many more bases at a time: the ends of a call, where it waits for the host, must be rare.
constexpr int64_t kDefaultDeviceChunk = int64_t{1} << 19;
constexpr int64_t kSmallestChunk = mamba::kTileRows;
// Program and libraries beside what is counted one by one.
constexpr int64_t kFixedBytes = int64_t{96} << 20;

int64_t needed_bytes(const JobOptions& options, const mamba::Model& model,
                     const StreamOptions& stream, int64_t regions) {
  return fixed_bytes(model, regions) +
         mamba::Engine::workspace_bytes(model, options.device, options.threads,
                                        tap_bytes(model, stream)) +
         stream_buffer_bytes(model, stream);
}

}  // namespace

void require_distinct_files(const JobOptions& options, const std::string& model,
                            const std::vector<std::string>& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::string& output = outputs[i];
    if (io::is_special_file(output)) continue;  // /dev/null may be given as often as one likes
    for (const std::string& input :
         {options.input.path, options.input.path + ".fai", options.input.path + ".gzi",
          options.input.regions_bed, model}) {
      if (!input.empty() && input != "-" && io::same_file(output, input)) {
        throw UsageError("-o " + output + ": is an input of this run; give another name");
      }
    }
    // Which files a checkpoint consists of depends on its kind: nothing in its folder that looks like
    // a part of one is overwritten.
    namespace fs = std::filesystem;
    std::error_code missing;
    const std::string suffix = fs::path(output).extension();
    const bool checkpoint_like = suffix == ".safetensors" || suffix == ".json" ||
                                 suffix == ".bin" || suffix == ".pt" || suffix == ".txt";
    if (!model.empty() && checkpoint_like && fs::exists(output, missing) &&
        io::same_file(io::folder_of(output),
                      fs::is_directory(model, missing) ? model : io::folder_of(model))) {
      throw UsageError("-o " + output + ": is a file of the model's folder; give another name");
    }
    for (size_t k = 0; k < i; ++k) {
      if (io::same_file(output, outputs[k])) {
        throw UsageError("-o " + outputs[k] + " and -o " + output +
                         " are the same file; give each output a name of its own");
      }
    }
  }
}

void require_disk(const std::vector<DiskNeed>& needs) {
  // Folders of one file system share its free space.
  std::map<dev_t, DiskNeed> by_device;
  for (const DiskNeed& need : needs) {
    struct stat status {};
    if (stat(need.folder.c_str(), &status) != 0) continue;  // its writer gives the better message
    DiskNeed& sum = by_device[status.st_dev];
    if (sum.folder.empty()) sum.folder = need.folder;
    sum.bytes += need.bytes;
  }
  for (const auto& [device, need] : by_device) {
    const int64_t free = io::free_disk_bytes(need.folder);
    if (need.bytes > free) {
      throw ResourceError("folder " + need.folder + ": the job needs about " +
                          human_bytes(need.bytes) + " there, " + human_bytes(free) +
                          " are free; write elsewhere, or less of it");
    }
  }
}

int64_t fixed_bytes(const mamba::Model& model, int64_t regions) {
  return kFixedBytes + kRegionBytes * regions + 4 * model.parameter_count();
}

int64_t default_chunk_size(const mamba::ComputeDevice& device) {
  // Several GPUs are an assembly line that each call fills and empties.
  const auto gpus = static_cast<int64_t>(device.ordinals.size());
  return device.cuda ? kDefaultDeviceChunk * (gpus > 1 ? 2 * gpus : 1) : kDefaultChunk;
}

void throw_too_little_memory(const JobOptions& options, int64_t chunk_size, int64_t needed) {
  throw ResourceError("chunks of " + with_commas(chunk_size) + " bases need " +
                      human_bytes(needed) + " of memory, --memory allows " +
                      human_bytes(options.memory) +
                      "; raise --memory, or lower --chunk-size or --threads");
}

int64_t plan_chunk_size(const JobOptions& options, const mamba::Model& model, StreamOptions stream,
                        int64_t regions) {
  stream.chunk_size =
      options.chunk_size > 0 ? options.chunk_size : default_chunk_size(options.device);
  while (options.chunk_size == 0 && stream.chunk_size > kSmallestChunk &&
         needed_bytes(options, model, stream, regions) > options.memory) {
    stream.chunk_size /= 2;
  }
  const int64_t needed = needed_bytes(options, model, stream, regions);
  if (needed > options.memory) throw_too_little_memory(options, stream.chunk_size, needed);
  return stream.chunk_size;
}

std::vector<std::pair<std::string, std::string>> provenance(const JobOptions& options,
                                                            const mamba::Model& model,
                                                            const std::string& input_name,
                                                            const std::string& layer,
                                                            const std::string& pooling) {
  std::vector<std::pair<std::string, std::string>> pairs;
  if (!options.no_version) {
    pairs.emplace_back("chromamba_version", options.version);
    pairs.emplace_back("command", options.command);
  }
  pairs.emplace_back("input", input_name);
  pairs.emplace_back("model", model.name());
  pairs.emplace_back("model_sha256", model.sha256());
  pairs.emplace_back("model_family", model.config().family);
  pairs.emplace_back("objective", model.config().objective);
  pairs.emplace_back("layer", layer);
  pairs.emplace_back("pooling", pooling);
  pairs.emplace_back("strand", strand_name(options.strand));
  const std::string context =
      options.left_context.full ? "full" : std::to_string(options.left_context.bases);
  if (options.windows.size > 0) {
    pairs.emplace_back("window", std::to_string(options.windows.size));
    pairs.emplace_back("overlap", std::to_string(options.windows.overlap));
  } else {
    pairs.emplace_back("left_context", context);
    if (!model.causal()) pairs.emplace_back("right_context", context);
  }
  pairs.emplace_back("device", device_name(options.device));
  pairs.emplace_back("dtype", dtype_name(options.device));
  return pairs;
}

std::vector<std::string> provenance_lines(
    const std::vector<std::pair<std::string, std::string>>& provenance) {
  std::vector<std::string> lines;
  lines.reserve(provenance.size());
  for (const auto& [name, value] : provenance) lines.emplace_back(name).append(": ").append(value);
  return lines;
}

void write_provenance(io::Hdf5File& file,
                      const std::vector<std::pair<std::string, std::string>>& provenance) {
  file.set_attribute("/", "format", "chromamba");
  file.set_attribute("/", "format_version", int64_t{1});
  for (const auto& [name, value] : provenance) file.set_attribute("/", name, value);
}

std::string region_label(const io::Region& region, bool whole_contig) {
  if (whole_contig) return region.contig;
  return region.contig + ":" + std::to_string(region.start + 1) + "-" + std::to_string(region.end);
}

void write_region_columns(io::Hdf5File& file, const std::vector<io::Region>& regions,
                          StrandChoice strand) {
  std::vector<std::string> names;
  std::vector<std::string> contigs;
  std::vector<std::string> strands;
  std::vector<int64_t> starts;
  std::vector<int64_t> ends;
  for (const io::Region& region : regions) {
    names.push_back(region.name);
    contigs.push_back(region.contig);
    strands.emplace_back(strand_name(strand));
    starts.push_back(region.start);
    ends.push_back(region.end);
  }
  file.write_column("/regions/name", names);
  file.write_column("/regions/contig", contigs);
  file.write_column("/regions/start", starts);
  file.write_column("/regions/end", ends);
  file.write_column("/regions/strand", strands);
}

std::string with_commas(int64_t value) {
  std::string digits = std::to_string(value);
  const int64_t first = digits[0] == '-' ? 1 : 0;
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > first; i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return digits;
}

std::string human_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  // cgroup v2, as containers and Slurm set it: "<quota> <period>" in microseconds, or "max".
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (quota_file >> quota >> period && quota != "max" && period > 0) {
    std::istringstream text(quota);
    double microseconds = 0;
    if (text >> microseconds) {
      threads = std::min(threads, static_cast<int>(std::ceil(microseconds / period)));
    }
  }
  return std::max(threads, 1);
}

}  // namespace chromamba::pipelines
