#!/usr/bin/env bash
# From a fresh clone to scores and embeddings of the phage lambda genome.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash app/quickstart.sh

Installs the Debian packages that are missing, builds chromamba, and scores and embeds
the phage lambda genome (48,502 bases) with the built-in model. The outputs go to the
folder quickstart/ at the root of the repository. Running it again is quick.

  -h    this text
TEXT
}

case ${1:-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  *) echo "quickstart.sh: unknown argument: $1" >&2; usage >&2; exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

bash app/packages.sh build
bash app/build.sh --preset release chromamba

chromamba=build/release/app/chromamba
genome=test_data/lambda.fa
contig=$(awk 'NR == 1 { sub(/^>/, ""); print $1; exit }' "$genome")
mkdir -p quickstart

show_and_run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

show_and_run "$chromamba" score "$genome" \
  -o quickstart/lambda.h5 -o quickstart/lambda.bw -o quickstart/lambda.tsv
show_and_run "$chromamba" embed "$genome" -o quickstart/lambda.embedding.h5

printf '\nSummary per contig (quickstart/lambda.tsv):\n\n'
if command -v column >/dev/null; then
  column -t -s $'\t' quickstart/lambda.tsv
else
  cat quickstart/lambda.tsv
fi

cat <<TEXT

The outputs are in $root/quickstart:

  lambda.h5            ln p of every base          /log_likelihood/$contig
  lambda.bw            the same as a bigWig track
  lambda.tsv           the summary above
  lambda.embedding.h5  a vector for every base     /embedding/$contig

Read them from Python (apt-get install python3-h5py, or pip install h5py):

  import h5py
  scores = h5py.File("quickstart/lambda.h5")
  log_likelihood = scores["log_likelihood/$contig"][:]   # float32, NaN where not scored
  print(dict(scores.attrs))                                # model, command, version, ...
  vectors = h5py.File("quickstart/lambda.embedding.h5")["embedding/$contig"]
  print(vectors.shape, vectors[1000:1010].mean(axis=0))    # reads only these ten bases

Look at them in IGV: Genomes > Load Genome from File > $root/$genome,
then File > Load from File > $root/quickstart/lambda.bw

Next, from $root:

  $chromamba --help
  $chromamba info                         # the built-in model
  $chromamba score YOUR.fa -o YOUR.bw -o YOUR.tsv
  $chromamba embed YOUR.fa -o YOUR.h5
  cmake --install build/release --prefix ~/.local          # ~/.local/bin/chromamba
  bash tests/run.sh                                        # every test
TEXT
