#include "kernels/cublas_lt.cuh"

#include <dlfcn.h>

#include <string>

#include "kernels/base/error.h"

namespace chromamba::kernels {
namespace {

void* open_library() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  std::string why;
  for (const std::string& path : {name, CHROMAMBA_CUDA_LIBRARIES "/" + name}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    if (why.empty()) why = dlerror();
  }
  throw ResourceError("a GPU needs the CUDA Toolkit's library " + name + ": " + why);
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw ResourceError(std::string("cuBLASLt has no ") + name);
}

CublasLt load() {
  void* library = open_library();
  CublasLt blas{};
  find(library, "cublasLtCreate", blas.create);
  find(library, "cublasLtDestroy", blas.destroy);
  find(library, "cublasLtGetStatusString", blas.status_string);
  find(library, "cublasLtMatmul", blas.matmul);
  find(library, "cublasLtMatmulAlgoGetHeuristic", blas.algorithms);
  find(library, "cublasLtMatmulDescCreate", blas.operation_create);
  find(library, "cublasLtMatmulDescDestroy", blas.operation_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", blas.operation_set);
  find(library, "cublasLtMatmulPreferenceCreate", blas.preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", blas.preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", blas.preference_set);
  find(library, "cublasLtMatrixLayoutCreate", blas.layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", blas.layout_destroy);
  return blas;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt blas = load();
  return blas;
}

}  // namespace chromamba::kernels
