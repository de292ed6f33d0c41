#!/usr/bin/env bash
# Configure and build one preset of CMakePresets.json. Shared by quickstart.sh, tests/run.sh and .ci/run.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash app/build.sh [--preset NAME] [--tests] [TARGET...]

Configures build/NAME with CMakePresets.json and builds TARGETs there (default: all).

  --preset NAME  release (default), dev, cpu, cuda, asan, tsan
  --tests        build the tests too; once built with tests, a folder keeps them
  -h             this text

CHROMAMBA_JOBS sets the number of compile jobs (default: one a core, at least 1 GiB of
free memory each). nvcc is looked for on PATH, in CUDACXX and in /usr/local/cuda/bin.
TEXT
}

preset=release
tests=no
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --preset)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      preset=$2
      shift
      ;;
    --tests) tests=yes ;;
    -*) echo "build.sh: unknown option: $1" >&2; usage >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
grep -q "\"configurePreset\": \"$preset\"" CMakePresets.json || {
  echo "build.sh: no preset $preset in CMakePresets.json" >&2
  exit 2
}
build=build/$preset

# A conda environment brings compilers and an HDF5 of its own; mixed with the system's they do
# not link. Build with the system's alone.
if [ -n "${CONDA_PREFIX:-}" ]; then
  echo "A conda environment is active: building without it ($CONDA_PREFIX)."
  clean_path=
  IFS=: read -r -a folders <<<"$PATH"
  for folder in "${folders[@]}"; do
    case $folder in
      "$CONDA_PREFIX"/* | */conda/* | */miniconda3/* | */anaconda3/* | */miniforge3/* | */mambaforge/*) ;;
      *) clean_path+=${clean_path:+:}$folder ;;
    esac
  done
  export PATH=$clean_path
  unset CC CXX CFLAGS CXXFLAGS CPPFLAGS LDFLAGS CMAKE_ARGS CMAKE_PREFIX_PATH PKG_CONFIG_PATH
  unset CONDA_PREFIX
fi

if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  PATH=$PATH:/usr/local/cuda/bin
fi

jobs=${CHROMAMBA_JOBS:-}
if [ -z "$jobs" ]; then
  jobs=$(nproc)
  memory_jobs=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
  if [ "${memory_jobs:-0}" -lt "$jobs" ]; then jobs=$memory_jobs; fi
  if [ "$jobs" -lt 1 ]; then jobs=1; fi
fi

arguments=()
if [ "$tests" = yes ]; then
  arguments+=(-DCHROMAMBA_TESTS=ON)
elif [ ! -f "$build/CMakeCache.txt" ]; then
  # Not set otherwise: switching the tests off would make the next test run build them all again.
  arguments+=(-DCHROMAMBA_TESTS=OFF)
fi

mkdir -p "$build"
start=$SECONDS
if ! cmake --preset "$preset" "${arguments[@]}" >"$build/configure.log" 2>&1; then
  cat "$build/configure.log" >&2
  echo "The configuration of $build failed; the reason is above." >&2
  exit 1
fi
grep -E -A4 '^CMake (Warning|Deprecation)' "$build/configure.log" >&2 || true
cuda=$(sed -n 's/^-- CUDA backend: //p' "$build/configure.log")
case $cuda in
  ON) cuda="with CUDA" ;;
  *) cuda="without CUDA" ;;
esac
echo "Building $build, $cuda, $jobs jobs at a time."

command=(cmake --build "$build" --parallel "$jobs")
if [ ${#targets[@]} -gt 0 ]; then command+=(--target "${targets[@]}"); fi
"${command[@]}"
echo "Built $build in $((SECONDS - start)) s."
