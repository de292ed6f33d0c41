#!/usr/bin/env bash
# Build chromamba with its tests and run them.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/run.sh [--preset NAME] [CTEST OPTION...]

Installs the Debian packages that are missing, builds build/NAME (default: release) and
runs every test with ctest. All other options go to ctest:

  bash tests/run.sh -R scan         tests with "scan" in the name
  bash tests/run.sh -LE slow        all but the slow ones
  bash tests/run.sh --preset asan   with AddressSanitizer
  bash tests/run.sh -j1 -V          one at a time, everything they print

Presets: release, dev, cpu, cuda, asan, tsan (see CMakePresets.json).
The exit code is ctest's: 0 when every test passed.
TEXT
}

preset=release
options=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --preset)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      preset=$2
      shift
      ;;
    *) options+=("$1") ;;
  esac
  shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

bash app/packages.sh build test
bash app/build.sh --preset "$preset" --tests

# Debian's own Python modules: neither a virtual environment nor ~/.local may stand before them.
export PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

exec ctest --preset "$preset" --output-on-failure --no-tests=error --parallel "$(nproc)" \
  "${options[@]}"
