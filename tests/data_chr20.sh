#!/usr/bin/env bash
# Human chromosome 20 (GRCh37, 63,025,520 bases, one contig named "20") for tests on real data.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/data_chr20.sh FOLDER

Puts 20.fa.gz (a link; bgzip), 20.fa.gz.fai and 20.fa.gz.gzi into FOLDER and prints the
path of 20.fa.gz. The files come from Debian's package vt-examples.
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '') usage >&2; exit 2 ;;
esac
[ $# -eq 1 ] || { usage >&2; exit 2; }

source_folder=/usr/share/doc/vt/examples/ref
for name in 20.fa.gz 20.fa.gz.fai 20.fa.gz.gzi.gz; do
  if [ ! -r "$source_folder/$name" ]; then
    echo "data_chr20.sh: $source_folder/$name is missing." >&2
    if [ "$(dpkg-query -W -f='${db:Status-Status}' vt-examples 2>/dev/null)" = installed ]; then
      echo "The package vt-examples is installed, but this system leaves out documentation. Try:" >&2
      echo "  apt-get install --reinstall -o Dpkg::Options::='--path-include=/usr/share/doc/*/examples/*' vt-examples" >&2
    else
      echo "Install it with: apt-get install vt-examples" >&2
    fi
    exit 1
  fi
done

mkdir -p "$1"
folder=$(cd "$1" && pwd)
# Tests run side by side: each file appears whole, by a rename. The index must not be older than
# the sequence, or htslib warns; cp and gunzip give it the time of now.
scratch=$(mktemp -d "$folder/.chr20.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
if [ ! -s "$folder/20.fa.gz.gzi" ] || [ ! -s "$folder/20.fa.gz.fai" ] || [ ! -s "$folder/20.fa.gz" ]; then
  ln -s "$source_folder/20.fa.gz" "$scratch/20.fa.gz"
  cp "$source_folder/20.fa.gz.fai" "$scratch/"
  gunzip -c "$source_folder/20.fa.gz.gzi.gz" >"$scratch/20.fa.gz.gzi"
  chmod u+w "$scratch/20.fa.gz.fai"
  mv -f "$scratch/20.fa.gz.fai" "$scratch/20.fa.gz.gzi" "$folder/"
  mv -f "$scratch/20.fa.gz" "$folder/"
fi
echo "$folder/20.fa.gz"
