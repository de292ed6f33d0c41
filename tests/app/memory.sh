#!/usr/bin/env bash
# Memory of `score` must not grow with the contig.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: memory.sh CHROMAMBA_BINARY SOURCE_ROOT

Peak resident memory of `score`: on a contig of 40 Mb (one line, a small checkpoint, four
outputs) within 32 MiB of that on 4 Mb, and under 600 MiB with the built-in model on lambda.
TEXT
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -eq 2 ] || { usage >&2; exit 2; }
chromamba=$(realpath "$1")
data=$(realpath "$2")/test_data

work=$(mktemp -d "${TMPDIR:-/tmp}/chromamba_memory.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

make_contig() { # BASES
  /usr/bin/python3 - "$1" <<'PYTHON'
import random, sys
bases = random.Random(7).randbytes(int(sys.argv[1]))
sys.stdout.buffer.write(b">contig\n" + bases.translate(b"ACGT" * 64) + b"\n")
PYTHON
}

# Runs the program and prints the most memory it held, in KiB. Python without numpy is small, and
# its own memory is no part of the figure unless it is the larger one.
peak_kib() { # ARGUMENT...
  /usr/bin/python3 -c '
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
if code:
    sys.exit("exit code %d: %s" % (code, " ".join(sys.argv[1:])))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' "$chromamba" "$@"
}

score() { # FASTA
  local name=${1%.fa}
  peak_kib score "$1" -m "$data/mamba1_long" -q \
    -o "$name.h5" -o "$name.bw" -o "$name.bedgraph.gz" -o "$name.tsv"
  rm -f "$name".*
}

make_contig 4000000 >small.fa
small=$(score small.fa)
make_contig 40000000 >large.fa
large=$(score large.fa)
built_in=$(peak_kib score "$data/lambda.fa" -q -o lambda.h5 -o lambda.bw)

echo "peak memory: 4 Mb $((small / 1024)) MiB, 40 Mb $((large / 1024)) MiB," \
  "built-in model $((built_in / 1024)) MiB"
status=0
if [ $((large - small)) -gt $((32 * 1024)) ]; then
  echo "FAILED: 40 Mb take $(((large - small) / 1024)) MiB more than 4 Mb; at most 32 allowed"
  status=1
fi
if [ "$built_in" -gt $((600 * 1024)) ]; then
  echo "FAILED: the built-in model takes more than 600 MiB"
  status=1
fi
exit $status
