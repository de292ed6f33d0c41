// The functions of cuBLASLt, from its library as the first GPU is put to use: linked, the library would take 0.1 s and
// 200 MiB of every run, also of those without a GPU.
#pragma once

#include <cublasLt.h>

namespace chromamba::kernels {

struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) algorithms;
  decltype(&cublasLtMatmulDescCreate) operation_create;
  decltype(&cublasLtMatmulDescDestroy) operation_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) operation_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
};

// Loaded once. ResourceError when the library is not found, neither where the dynamic linker looks nor in the CUDA
// Toolkit that the program was built with.
const CublasLt& cublas_lt();

}  // namespace chromamba::kernels
