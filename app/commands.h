// The commands of the program. Each takes the words after its name and returns an exit code; errors
// leave as exceptions (kernels/base/error.h) and main turns them into messages and exit codes.
#pragma once

#include <string>
#include <vector>

namespace chromamba::app {

struct Arguments {
  std::vector<std::string> words;  // after the command's name
  std::string command_line;        // as typed, for provenance
};

int score_command(const Arguments& arguments);
int embed_command(const Arguments& arguments);
int variants_command(const Arguments& arguments);
int info_command(const Arguments& arguments);
int selftest_command(const Arguments& arguments);
int bench_command(const Arguments& arguments);

}  // namespace chromamba::app
