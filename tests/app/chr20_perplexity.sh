#!/usr/bin/env bash
# The built-in model on bases it was not trained on, against the published implementation.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: chr20_perplexity.sh CHROMAMBA_BINARY SOURCE_ROOT

Scores chr20:10,000,001-14,194,304 (GRCh37, from the package vt-examples), starting at that
region. The published implementation (bf16, four windows of 1 Mi bases) has perplexity 3.1963;
3.191 to 3.201 passes. Exit code 77 (skipped) where the package is not installed.
TEXT
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -eq 2 ] || { usage >&2; exit 2; }
chromamba=$(realpath "$1")
root=$(realpath "$2")

if [ "$(dpkg-query -W -f='${db:Status-Status}' vt-examples 2>/dev/null)" != installed ]; then
  echo "SKIPPED: the package vt-examples is not installed (bash app/packages.sh test)"
  exit 77
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/chromamba_chr20.XXXXXX")
trap 'rm -rf "$work"' EXIT
fasta=$(bash "$root/tests/data_chr20.sh" "$work")

"$chromamba" score "$fasta" -r 20:10,000,001-14,194,304 --left-context 0 \
  -o "$work/chr20.tsv" -o "$work/chr20.h5"
cat "$work/chr20.tsv"
awk -F '\t' '
  /^#/ { next }
  $1 == "contig" { for (i = 1; i <= NF; ++i) column[$i] = i; next }
  {
    ++rows
    perplexity = $column["perplexity"]
    bad = $column["start"] != 10000000 || $column["end"] != 14194304 ||
          $column["scored"] != 4194303 || perplexity < 3.191 || perplexity > 3.201
  }
  END {
    print "perplexity " perplexity ", expected 3.196 +- 0.005 over 4194303 bases"
    exit rows != 1 || bad
  }' "$work/chr20.tsv"
