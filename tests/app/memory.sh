#!/usr/bin/env bash
# Memory of `score` must not grow with the contig, nor pass --memory.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: memory.sh CHROMAMBA_BINARY SOURCE_ROOT

Peak resident memory of `score`: on a contig of 40 Mb (one line, a small checkpoint, four
outputs) within 32 MiB of that on 4 Mb, and under 600 MiB with the built-in model on lambda. With a
checkpoint of two directions, 4 Mb within --memory 256M, their activations (1.4 GiB) in a file: the
same bytes as in memory.
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

make_contig 4000000 >whole.fa
sweep() { # MEMORY OUTPUT
  peak_kib score whole.fa -m "$data/caduceus_ph" --device cpu --no-version --memory "$1" -o "$2"
}
swept=$(sweep 256M file.h5 2>notes) || { cat notes >&2; exit 1; }
in_memory=$(sweep 4G memory.h5 2>notes_in_memory) || { cat notes_in_memory >&2; exit 1; }

echo "peak memory: two directions, 4 Mb: $((swept / 1024)) MiB, $((in_memory / 1024)) MiB where" \
  "memory allows; causal: 4 Mb $((small / 1024)) MiB, 40 Mb $((large / 1024)) MiB," \
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
if [ "$swept" -gt $((256 * 1024)) ]; then
  echo "FAILED: a model of two directions takes more than its --memory 256M"
  status=1
fi
if ! grep -q "of activations wait in a file" notes; then
  echo "FAILED: no note that activations go to a file"
  status=1
fi
if ! cmp file.h5 memory.h5; then
  echo "FAILED: activations in a file change the result"
  status=1
fi
exit $status
