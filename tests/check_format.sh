#!/usr/bin/env bash
# clang-format over all our C++ and CUDA sources.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/check_format.sh [--fix]

Checks that the sources are formatted as .clang-format says (clang-format of Debian 12,
or the program named in CLANG_FORMAT). --fix rewrites those that are not.
TEXT
}

mode=(--dry-run -Werror)
case ${1:-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  --fix) mode=(-i) ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

clang_format=${CLANG_FORMAT:-clang-format}
command -v "$clang_format" >/dev/null || {
  echo "check_format.sh: no $clang_format; install it with: bash app/packages.sh lint" >&2
  exit 1
}
mapfile -d '' -t files < <(
  find app mamba kernels io pipelines tests -type f \
    \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z
)
if ! output=$(printf '%s\0' "${files[@]}" | xargs -0 -r "$clang_format" --style=file "${mode[@]}" 2>&1); then
  # One line a file; a path of our own has no colon in it.
  sed -nE 's/^([^: ]+):[0-9]+:.* error: .*/not formatted: \1/p' <<<"$output" | sort -u >&2
  grep -E '(^|: )error: ' <<<"$output" | grep -v clang-format-violations >&2 || true
  echo "To format: bash tests/check_format.sh --fix" >&2
  exit 1
fi
echo "format: ${#files[@]} files"
