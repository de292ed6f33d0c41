#!/usr/bin/env bash
# clang-tidy over our .cc files; not over the tests, nor over generated files.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/check_tidy.sh [NAME...]

Runs the checks of .clang-tidy on every .cc file of app/ mamba/ kernels/ io/ pipelines/,
or on those whose path contains a NAME (e.g. io/fasta). Reads the compile commands of
build/release, so run app/build.sh or tests/run.sh first. CLANG_TIDY names the program
(default: clang-tidy, of Debian 12).
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CLANG_TIDY=${CLANG_TIDY:-clang-tidy}
command -v "$CLANG_TIDY" >/dev/null || {
  echo "check_tidy.sh: no $CLANG_TIDY; install it with: bash app/packages.sh lint" >&2
  exit 1
}
commands=build/release/compile_commands.json
[ -f "$commands" ] || {
  echo "check_tidy.sh: no $commands; run this first: bash app/build.sh" >&2
  exit 1
}

sources=()
while IFS= read -r -d '' file; do
  wanted=$([ $# -eq 0 ] && echo yes || echo no)
  for name in "$@"; do
    if [[ $file == *"$name"* ]]; then wanted=yes; fi
  done
  if [ "$wanted" = no ]; then continue; fi
  # A stand-in for a part that this build has: checked where it is built.
  if [[ $file == *_none.cc ]] && ! grep -qF "/$file\"" "$commands"; then continue; fi
  # clang-tidy would guess the options of such a file from a neighbour's.
  grep -qF "/$file\"" "$commands" || {
    echo "check_tidy.sh: $file is in no target of build/release" >&2
    exit 1
  }
  sources+=("$file")
done < <(find app mamba kernels io pipelines -name '*.cc' -print0 | sort -z)
if [ ${#sources[@]} -eq 0 ]; then
  echo "clang-tidy: no files"
  exit 0
fi

# One Highway target in place of eight: the checks read the same code once. The options of the
# build are g++'s; clang's own warnings are not asked for here.
tidy_one() {
  local output
  if ! output=$("$CLANG_TIDY" -p build/release --quiet --extra-arg=-DHWY_COMPILE_ONLY_STATIC \
    --extra-arg=-Wno-everything "$1" 2>&1); then
    grep -vE '^[0-9]+ warnings?( and [0-9]+ errors?)? (generated|treated)' <<<"$output" >&2
    return 1
  fi
}
export -f tidy_one

# shellcheck disable=SC2016  # expanded by the inner bash
printf '%s\0' "${sources[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'tidy_one "$1"' check || {
  echo "clang-tidy: see above" >&2
  exit 1
}
echo "clang-tidy: ${#sources[@]} files, nothing found"
