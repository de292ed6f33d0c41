#!/usr/bin/env bash
# The folder rule, read from the #include lines (CMake checks the same for the link lines).
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash tests/check_layers.sh [ROOT]

Checks what the C++ and CUDA sources under ROOT (default: this repository) include:

  kernels/    kernels/; alone in including CUDA, BLAS and SIMD headers
  mamba/      mamba/ kernels/
  io/         io/ kernels/base/; alone in including htslib, HDF5 and libBigWig
  pipelines/  pipelines/ mamba/ io/ kernels/
  app/        any of our folders

and that no #if asks for a backend outside kernels/, nor in any header but a .cuh.
tests/ may include anything. Prints FILE:LINE of each break; exit code 1 when there is one.
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
root=${1:-$(dirname "${BASH_SOURCE[0]}")/..}
cd "$root"

folders=()
for folder in app mamba kernels io pipelines tests; do
  if [ -d "$folder" ]; then folders+=("$folder"); fi
done
[ ${#folders[@]} -gt 0 ] || { echo "check_layers.sh: no source folders in $root" >&2; exit 2; }

# shellcheck disable=SC2016  # awk's own $0
find "${folders[@]}" -type f \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) \
  -print0 | sort -z | xargs -0 awk '
  function broken(what) {
    printf "%s:%d: %s\n    %s\n", FILENAME, FNR, what, $0
    count++
  }

  BEGIN {
    may_include["kernels"] = "^kernels/"
    may_include["mamba"] = "^(mamba|kernels)/"
    may_include["io"] = "^(io/|kernels/base/)"
    may_include["pipelines"] = "^(pipelines|mamba|io|kernels)/"
    may_include["app"] = "^(app|pipelines|mamba|io|kernels)/"
    ours = "^(app|mamba|kernels|io|pipelines|tests)/"
    cuda = "^(cuda|cublas|cub/|thrust/|cute/|cutlass/|nv/|nccl|nvtx|nvrtc|mma\\.h|cooperative_groups"
    cuda = cuda "|driver_types|vector_types)"
    host = "^(cblas|f77blas|lapacke|openblas|mkl|hwy/|arm_neon|arm_sve)|intrin\\.h$"
    files = "^(htslib/|hdf5|H5|hdf5/|bigWig)"
    backend = "CHROMAMBA_HAVE_CUDA|__CUDACC__|__CUDA_ARCH__|__NVCC__"
  }

  FNR == 1 {
    checked++
    folder = FILENAME
    sub(/\/.*/, "", folder)
    header = FILENAME ~ /\.h$/
  }

  /^[ \t]*#[ \t]*include[ \t]*["<]/ && folder != "tests" {
    path = $0
    sub(/^[ \t]*#[ \t]*include[ \t]*/, "", path)
    quoted = substr(path, 1, 1) == "\""
    path = substr(path, 2)
    sub(/[">].*/, "", path)
    if (path ~ cuda || path ~ host) {
      if (folder != "kernels") broken("only kernels/ may include CUDA, BLAS or SIMD headers")
      else if (header && path ~ cuda) broken("a .h must compile without CUDA; use a .cuh")
    } else if (path ~ files) {
      if (folder != "io") broken("only io/ may include htslib, HDF5 or libBigWig")
    } else if (path ~ ours) {
      if (path !~ may_include[folder]) broken(folder "/ may not include " path)
    } else if (quoted && (path ~ /^\./ || path !~ /\//)) {
      broken("write the path from the root of the repository")
    }
  }

  /^[ \t]*#[ \t]*(if|ifdef|ifndef|elif|elifdef|elifndef)/ && $0 ~ backend {
    if (folder != "kernels") broken("no #if on a backend outside kernels/")
    else if (header) broken("no #if on a backend in a header; use a .cuh")
  }

  END {
    if (count) {
      printf "%d breaks of the folder rule\n", count
      exit 1
    }
    printf "folder rule: %d files, no breaks\n", checked
  }'
