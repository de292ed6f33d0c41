// What score and embed have in common: options, provenance, planning, progress and summary.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "io/hdf5_file.h"
#include "mamba/engine.h"
#include "mamba/model.h"
#include "pipelines/genome_input.h"
#include "pipelines/stream.h"

namespace chromamba::pipelines {

struct JobOptions {
  InputOptions input;
  StrandChoice strand = StrandChoice::forward;
  LeftContext left_context;
  Windows windows;
  mamba::ComputeDevice device;
  std::string device_note;  // why auto took the CPU; empty when it did not
  int threads = 1;
  int64_t chunk_size = 0;             // bases; 0: as many as fit the memory well
  int64_t memory = int64_t{4} << 30;  // bytes, a bound for everything
  bool no_version = false;            // leave out what changes from run to run
  std::string version;                // of the program, for provenance
  std::string command;                // the command line, for provenance
  StopSignal stop = nullptr;
  Note warn;  // what the user should know even when nothing else is said
  std::atomic<int64_t>* bases_done = nullptr;
  Note note;  // talk: warnings, what is about to be done
  // Called once after planning, before the first base is computed.
  std::function<void(int64_t bases_to_read)> started;
};

// UsageError when an output is one of the inputs (the sequence, the regions, the model), or two
// outputs are one file: a job must not overwrite what it reads, nor itself.
void require_distinct_files(const JobOptions& options, const std::string& model,
                            const std::vector<std::string>& outputs);

// Space a job takes in a folder.
struct DiskNeed {
  std::string folder;
  int64_t bytes = 0;
};

// ResourceError when the free space of a file system is less than what the job needs of it.
void require_disk(const std::vector<DiskNeed>& needs);

// The chunk size of a job: the one asked for, or the default, lowered until everything fits
// `memory`. `stream` says what is computed; its own chunk size does not count. ResourceError, with
// what is needed, when it cannot.
int64_t plan_chunk_size(const JobOptions& options, const mamba::Model& model, StreamOptions stream,
                        int64_t regions);

// What plans are made of: bytes that no chunk size changes, chunks that suit a device, and the refusal.
int64_t fixed_bytes(const mamba::Model& model, int64_t regions);
int64_t default_chunk_size(const mamba::ComputeDevice& device);
[[noreturn]] void throw_too_little_memory(const JobOptions& options, int64_t chunk_size,
                                          int64_t needed);

// "name: value" pairs that say how an output was made, in a fixed order.
std::vector<std::pair<std::string, std::string>> provenance(const JobOptions& options,
                                                            const mamba::Model& model,
                                                            const std::string& input_name,
                                                            const std::string& layer,
                                                            const std::string& pooling);
// The same as '#' lines for text outputs, and as root attributes of an HDF5 file.
std::vector<std::string> provenance_lines(
    const std::vector<std::pair<std::string, std::string>>& provenance);
void write_provenance(io::Hdf5File& file,
                      const std::vector<std::pair<std::string, std::string>>& provenance);

// "chr20:1001-2000" (1-based, inclusive) for a region; for a whole contig its name.
std::string region_label(const io::Region& region, bool whole_contig);

// Columns name, contig, start, end, strand under /regions.
void write_region_columns(io::Hdf5File& file, const std::vector<io::Region>& regions,
                          StrandChoice strand);

// 1234567 as "1,234,567"; bytes as "1.2 GiB".
std::string with_commas(int64_t value);
std::string human_bytes(int64_t bytes);

// Threads this process may use: its CPU affinity, and the quota of its control group.
int available_threads();

}  // namespace chromamba::pipelines
