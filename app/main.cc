// chromamba: Mamba DNA models over whole genomes. Parses the command's name, runs it, and turns
// errors into one line on stderr and an exit code:
// 0 done, 1 bad input data, 2 bad usage, 3 device, memory or disk, 4 a bug of ours, 128+n signal n.
#include <fcntl.h>

#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "app/commands.h"
#include "app/progress.h"
#include "app/version.h"
#include "kernels/base/error.h"
#include "pipelines/interrupt.h"

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(chromamba: Mamba DNA models over whole genomes

usage: chromamba COMMAND [options]      (chromamba COMMAND --help for the options)

  score     INPUT [-o OUT]...     log-likelihood of every base: .h5 .bw .bedgraph[.gz] .tsv[.gz]
  embed     INPUT -o OUT.h5       hidden states of every base, bin or region
  variants  IN.vcf -f REF.fa      scores of the variants of a VCF or BCF, or of every change of a region
  info      [MODEL]               what a checkpoint is and what can be done with it
  selftest                        the built-in model against its golden values, on this machine
  bench                           speed, beside what this machine allows

  --version, --help
)";

struct Command {
  const char* name;
  int (*run)(const Arguments&);
};

constexpr Command kCommands[] = {{"score", score_command},       {"embed", embed_command},
                                 {"variants", variants_command}, {"info", info_command},
                                 {"selftest", selftest_command}, {"bench", bench_command}};

// A word as a shell would need it to be typed.
std::string quoted(const std::string& word) {
  const std::string plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,=+@%";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string result = "'";
  for (const char c : word) {
    if (c == '\'') {
      result += "'\\''";
    } else {
      result += c;
    }
  }
  return result + "'";
}

int run(const std::vector<std::string>& words) {
  if (words.empty()) {
    std::cerr << kUsage;
    return 2;
  }
  const std::string& name = words.front();
  if (name == "--help" || name == "-h" || name == "help") {
    std::cout << kUsage;
    return 0;
  }
  if (name == "--version" || name == "version") {
    std::cout << "chromamba " << kVersion << '\n';
    return 0;
  }
  for (const Command& command : kCommands) {
    if (name != command.name) continue;
    Arguments arguments;
    arguments.words.assign(words.begin() + 1, words.end());
    arguments.command_line = "chromamba";
    for (const std::string& word : words) arguments.command_line += " " + quoted(word);
    return command.run(arguments);
  }
  throw UsageError("no command '" + name + "' (see chromamba --help)");
}

// Errors are one line, whatever a file name holds.
void print_error(const char* kind, const std::string& message) {
  std::string line = message;
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::cerr << "chromamba: " << kind << line << std::endl;
}

int guarded_run(const std::vector<std::string>& words) {
  try {
    const int code = run(words);
    std::cout.flush();
    if (!std::cout) throw ResourceError("standard output: cannot be written");
    return code;
  } catch (const pipelines::Interrupted& error) {
    print_error("", error.what());
    return 128 + error.signal_number();
  } catch (const DataError& error) {
    print_error("error: ", error.what());
    return 1;
  } catch (const UsageError& error) {
    print_error("usage error: ", error.what());
    return 2;
  } catch (const ResourceError& error) {
    print_error("error: ", error.what());
    return 3;
  } catch (const std::bad_alloc&) {
    print_error("error: ", "out of memory; lower --chunk-size or --threads");
    return 3;
  } catch (const std::system_error& error) {  // a thread that the system would not start
    print_error("error: ", std::string(error.what()) + "; lower --threads, or raise the limits");
    return 3;
  } catch (const std::exception& error) {
    print_error("internal error (please report it): ", error.what());
    return 4;
  }
}

}  // namespace
}  // namespace chromamba::app

int main(int argc, char** argv) {
  // Where a caller closed one of the standard streams, the first file we open would become it, and
  // what is said there would land in that file. Reading 0 and writing 1 still fail, as they should.
  constexpr int kModes[] = {O_WRONLY, O_RDONLY, O_RDWR};
  for (int stream = 0; stream <= 2; ++stream) {
    if (fcntl(stream, F_GETFD) == -1 && open("/dev/null", kModes[stream]) != stream) return 3;
  }
  chromamba::app::install_signal_handlers();
  return chromamba::app::guarded_run(std::vector<std::string>(argv + 1, argv + argc));
}
