#!/usr/bin/env bash
# Every header compiles alone.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/check_headers.sh [HEADER...]

Compiles each .h (default: all of them) as the only include of an empty file, with the
warnings of the build. A .cuh needs nvcc and is not checked. CXX names the compiler.
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

headers=("$@")
if [ ${#headers[@]} -eq 0 ]; then
  mapfile -d '' -t headers < <(find app mamba kernels io pipelines tests -name '*.h' -print0 | sort -z)
fi
if [ ${#headers[@]} -eq 0 ]; then
  echo "headers: none"
  exit 0
fi

# System headers: their warnings are not ours.
read -r -a flags <<<"$(pkg-config --cflags htslib hdf5 libzip openssl zlib openblas 2>/dev/null |
  sed 's/-I/-isystem /g' || true)"
export CXX=${CXX:-g++}

check_one() {
  local header=$1
  shift
  printf '#include "%s"\n' "$header" |
    "$CXX" -std=c++20 -fsyntax-only -DCHROMAMBA_TEST_DATA=\"\" -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual \
      -Wcast-qual -Wformat=2 -Werror -I . "$@" -x c++ - || {
    echo "does not compile alone: $header" >&2
    return 1
  }
}
export -f check_one

# shellcheck disable=SC2016  # expanded by the inner bash
printf '%s\0' "${headers[@]}" |
  xargs -0 -n 1 -P "$(nproc)" bash -c 'header=${*: -1}; check_one "$header" "${@:1:$#-1}"' check "${flags[@]}"
echo "headers: ${#headers[@]}, each compiles alone"
