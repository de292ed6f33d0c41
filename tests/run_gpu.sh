#!/usr/bin/env bash
# Runs what needs a GPU on a machine that has one, from programs that were built elsewhere.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/run_gpu.sh [--sanitize] [--no-bench] [PROGRAMS [RESULTS]]

  PROGRAMS     folder with chromamba, kernels_tests, mamba_tests and pipelines_tests, and their
               libraries in PROGRAMS/lib (default: .gpu)
  RESULTS      folder for logs and the benchmarks' JSON (default: build/gpu-results)
  --sanitize   also run the kernels' tests under compute-sanitizer (memcheck, racecheck)
  --no-bench   tests only

Runs from the repository's root: all tests of kernels and models, which take their GPU cases where
a GPU is; the selftest; then the benchmarks of six models, as a table. Nothing is timed when a
test fails. Exit code 0 when everything passed and a GPU was there.
TEXT
}

sanitize=no
bench=yes
words=()
for argument in "$@"; do
  case $argument in
    -h | --help) usage; exit 0 ;;
    --sanitize) sanitize=yes ;;
    --no-bench) bench=no ;;
    -*) usage >&2; exit 2 ;;
    *) words+=("$argument") ;;
  esac
done
programs=${words[0]:-.gpu}
results=${words[1]:-build/gpu-results}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
mkdir -p "$results"
export LD_LIBRARY_PATH=$programs/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export CHROMAMBA_TEST_DATA=$root/test_data

"$programs/chromamba" info | tee "$results/info.txt" | grep '^gpu' || {
  echo "run_gpu.sh: no GPU here" >&2
  exit 1
}

failed=0
run() {
  local name=$1
  shift
  local start=$SECONDS
  if "$@" >"$results/$name.log" 2>&1; then
    echo "passed  $name  $((SECONDS - start)) s"
  else
    echo "FAILED  $name  $((SECONDS - start)) s"
    tail -60 "$results/$name.log"
    failed=1
  fi
}

run kernels_tests "$programs/kernels_tests"
run mamba_tests "$programs/mamba_tests"
run pipelines_tests "$programs/pipelines_tests"
run selftest "$programs/chromamba" selftest
grep 'cuda' "$results/selftest.log" "$results/mamba_tests.log" | sed 's/^[^:]*://' || true
if [ "$sanitize" = yes ]; then
  score=("$programs/chromamba" score test_data/lambda.fa --device cuda --quiet -o "$results/lambda.tsv")
  run memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$programs/kernels_tests" 'GPU*'
  sweeps=("$programs/chromamba" score test_data/lambda.fa --device cuda --quiet -m test_data/caduceus_ps
    --window 20000 --mask-stride 2 -o "$results/lambda-ps.tsv")
  run memcheck-model compute-sanitizer --tool memcheck --error-exitcode 9 "${score[@]}"
  run memcheck-sweeps compute-sanitizer --tool memcheck --error-exitcode 9 "${sweeps[@]}"
  # racecheck does not follow the barriers of bulk copies in cuBLAS's own kernels (nvjet) and reports
  # races there; one in any other kernel is ours.
  racecheck() {
    local name=$1
    shift
    compute-sanitizer --tool racecheck --print-limit 10000 "$@" >"$results/$name.log" 2>&1 || true
    if grep 'Race reported' "$results/$name.log" | grep -qv nvjet || ! grep -q 'RACECHECK SUMMARY' "$results/$name.log"; then
      echo "FAILED  $name"
      grep 'Race reported' "$results/$name.log" | grep -v nvjet | head -5
      failed=1
    else
      echo "passed  $name (reports in cuBLAS only: $(grep -c 'Race reported' "$results/$name.log"))"
    fi
  }
  racecheck racecheck "$programs/kernels_tests" 'GPU*'
  racecheck racecheck-model "${score[@]}"
  racecheck racecheck-sweeps "${sweeps[@]}"
fi
if [ $failed -ne 0 ]; then
  echo "run_gpu.sh: something failed; nothing was timed" >&2
  exit 1
fi
if [ "$bench" = yes ]; then
  for shape in 256x8 512x16 120x4 mamba2:256x8 ph:256x16 ps:256x16; do
    "$programs/chromamba" bench --device cuda --shape "$shape" --bases 1,048,576 \
      --tmp-dir "$results" --json "$results/bench-${shape/:/-}.json"
    echo
  done
fi
