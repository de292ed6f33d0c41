#!/usr/bin/env bash
# Debian packages of chromamba, by group, and the one place that calls apt-get.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash app/packages.sh [--list] GROUP...

Installs what is missing of the named package groups with apt-get (through sudo when
you are not root). Does nothing, and asks for no rights, when everything is there.

  build   what the program needs to be built and run
  test    what the tests need beside it: other people's readers, real data
  lint    what .ci/run needs beside both: formatter and linters

  --list  print "group <tab> package <tab> why" and stop; nothing is installed
  -h      this text

exit codes: 0 all there, 1 something is missing and could not be installed, 2 bad usage
TEXT
}

# group | packages | why
package_table() {
  cat <<'TEXT'
build | g++ cmake ninja-build pkg-config | compiler and build tools
build | libhts-dev zlib1g-dev | FASTA, FASTQ, BAM/CRAM and VCF files
build | libdeflate-dev | compressing bigWig blocks
build | libhdf5-dev | HDF5 output
build | libhwy-dev | SIMD on the CPU
build | libopenblas-dev libopenblas0-pthread | the matrix products that bench compares with
build | nlohmann-json3-dev libzip-dev libssl-dev | model files: JSON, PyTorch archives, SHA-256
build | libboost-program-options-dev | command-line options
test | catch2 | unit tests
test | python3 python3-numpy python3-h5py python3-pybigwig | reading our files from Python
test | samtools tabix libbigwig-dev | reading our files with samtools, tabix and libBigWig
test | bcftools python3-cyvcf2 | reading our variant files with bcftools and from Python
test | vt-examples | human chromosome 20 (GRCh37) and variants on it, as real input
test | shellcheck | checks of the scripts
lint | shellcheck | checks of the scripts
lint | clang-format clang-tidy | format and static checks of the C++ code
TEXT
}

list_only=no
groups=()
for argument in "$@"; do
  case $argument in
    -h | --help) usage; exit 0 ;;
    --list) list_only=yes ;;
    build | test | lint) groups+=("$argument") ;;
    *) echo "packages.sh: unknown argument: $argument" >&2; usage >&2; exit 2 ;;
  esac
done
if [ ${#groups[@]} -eq 0 ]; then
  usage >&2
  exit 2
fi

is_wanted() {
  local group
  for group in "${groups[@]}"; do
    if [ "$group" = "$1" ]; then return 0; fi
  done
  return 1
}

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | sort -u)" = installed ]
}

have_apt=no
if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then have_apt=yes; fi

missing=()
report=
while IFS='|' read -r group packages why; do
  group=${group// /}
  packages=$(echo "$packages" | xargs)
  why=$(echo "$why" | xargs)
  is_wanted "$group" || continue
  if [ "$list_only" = yes ]; then
    for package in $packages; do printf '%s\t%s\t%s\n' "$group" "$package" "$why"; done
    continue
  fi
  absent=
  for package in $packages; do
    if [ "$have_apt" = yes ] && is_installed "$package"; then continue; fi
    case " ${missing[*]-} " in *" $package "*) continue ;; esac
    missing+=("$package")
    absent+=" $package"
  done
  if [ -n "$absent" ]; then report+="  $why:$absent"$'\n'; fi
done < <(package_table)
if [ "$list_only" = yes ] || [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if [ "$have_apt" = no ]; then
  echo "This system has no apt-get. chromamba needs the equivalents of these Debian packages:" >&2
  printf '%s' "$report" >&2
  echo "Going on in the hope that they are here; the configuration says what it cannot find." >&2
  exit 0
fi

# Minimal images of Debian drop /usr/share/doc; the example data of vt-examples lie there.
apt_options=(-y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
keep_examples=(-o 'Dpkg::Options::=--path-include=/usr/share/doc/*/examples/*')
by_hand="apt-get update && apt-get install --no-install-recommends ${missing[*]}"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Missing packages:" >&2
    printf '%s' "$report" >&2
    echo "You are not root and there is no sudo. Have an administrator run:" >&2
    echo "  $by_hand" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "Installing with ${as_root[*]:+sudo }apt-get:"
printf '%s' "$report"

run_apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
start=$SECONDS
if ! run_apt update >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "apt-get update reported the above; going on with the package lists that are here." >&2
fi
if ! run_apt install "${apt_options[@]}" "${keep_examples[@]}" "${missing[@]}" >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "The installation failed; apt-get's last lines are above. To try by hand (as root):" >&2
  echo "  $by_hand" >&2
  exit 1
fi
echo "Installed ${#missing[@]} packages and what they depend on in $((SECONDS - start)) s."
