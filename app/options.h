// Command-line options that several commands share, in the spelling of samtools and bcftools.
#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "app/commands.h"
#include "mamba/model.h"
#include "pipelines/job.h"

namespace chromamba::app {

namespace po = boost::program_options;

// "65536", "65,536", "64k", "1G" (k, M, G: powers of 1024 for bytes, of 1000 for counts).
// UsageError naming the option.
int64_t parse_number(const std::string& text, const std::string& option, int64_t unit);

// Parses the words with the options and positional words named; prints `usage` and the visible
// groups and returns false when --help is among them. UsageError for what does not parse.
class CommandLine {
 public:
  CommandLine(std::string usage, std::string positional_name, int positional_count);
  po::options_description& group(const std::string& title);
  bool parse(const Arguments& arguments);

  bool has(const std::string& option) const { return values_.count(option) != 0; }
  std::string text(const std::string& option) const;
  std::vector<std::string> texts(const std::string& option) const;
  const po::variables_map& values() const { return values_; }

 private:
  std::string usage_;
  std::string positional_name_;
  int positional_count_;
  std::vector<po::options_description> groups_;
  po::variables_map values_;
};

// Adds the groups that score and embed share; a command may add to that of the model.
void add_input_group(CommandLine& line);
po::options_description& add_model_group(CommandLine& line);
void add_machine_group(CommandLine& line);

// What those groups, or a command's own with the same options, were set to. `outputs` are the output paths: scratch
// files lie beside the first.
pipelines::JobOptions job_options(const CommandLine& line, const Arguments& arguments,
                                  const std::string& input,
                                  const std::vector<std::string>& outputs);

// --window and --overlap.
pipelines::Windows windows_of(const CommandLine& line);

// Says how many IUPAC codes were read as N, if any were.
void note_iupac(const pipelines::GenomeInput& input, const pipelines::JobOptions& job);

// The model of -m, or the built-in one.
mamba::Model load_model(const CommandLine& line);

int64_t default_threads(const CommandLine& line);

}  // namespace chromamba::app
