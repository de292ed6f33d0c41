#include "app/commands.h"
#include "app/options.h"
#include "kernels/base/error.h"
#include "pipelines/selftest.h"

#include <cstdio>

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba selftest

Runs the built-in model over 1,024 bases on every device and instruction set of this machine and
compares with the values of the published implementation. Exit code 0 when all agree.
)";

}  // namespace

int selftest_command(const Arguments& arguments) {
  CommandLine line(kUsage, "nothing", 0);
  if (!line.parse(arguments)) return 0;
  bool passed = true;
  for (const pipelines::SelftestCase& result : pipelines::run_selftest()) {
    std::printf("%s\t%s\tlargest |error| of ln p %.2e (allowed %.0e)%s\n",
                result.passed() ? "ok" : "FAILED", result.device.c_str(), result.largest_error,
                result.tolerance,
                result.invariant ? "" : "; other chunk sizes or threads gave other bits");
    passed = passed && result.passed();
  }
  if (!passed) throw InternalError("the selftest failed; please report the lines above");
  return 0;
}

}  // namespace chromamba::app
