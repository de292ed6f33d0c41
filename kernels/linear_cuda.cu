#include "kernels/check.h"
#include "kernels/cuda_common.cuh"
#include "kernels/linear.h"

namespace chromamba::kernels {

// What one shape needs at every call but the number of rows.
struct LinearPlan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  LinearPlan() = default;
  LinearPlan(const LinearPlan&) = delete;
  LinearPlan& operator=(const LinearPlan&) = delete;
  ~LinearPlan() {
    if (weight != nullptr) cublas_lt().layout_destroy(weight);
    if (operation != nullptr) cublas_lt().operation_destroy(operation);
  }
};

namespace {

// Rows for which algorithms are chosen: a typical pass of the engine.
constexpr int64_t kPlanRows = 32768;

void check_blas(cublasStatus_t status, const DeviceExec::Impl& exec, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string message = "cuda:" + std::to_string(exec.info.ordinal) + ": " + what + ": " +
                              cublas_lt().status_string(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED || status == CUBLAS_STATUS_EXECUTION_FAILED) {
    throw ResourceError(message);
  }
  throw InternalError(message);
}

struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  Layout(const DeviceExec::Impl& exec, cudaDataType_t type, int64_t rows, int64_t columns,
         int64_t stride) {
    check_blas(cublas_lt().layout_create(&handle, type, static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), stride),
               exec, "a matrix layout");
  }
  ~Layout() { cublas_lt().layout_destroy(handle); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
};

cudaDataType_t data_type(DType dtype) { return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

// Row-major X · Wᵀ is column-major W · Xᵀ with every matrix read as its transpose: "T, N".
std::shared_ptr<LinearPlan> make_plan(const DeviceExec::Impl& exec, const DeviceLinearArgs& args) {
  auto plan = std::make_shared<LinearPlan>();
  const cudaDataType_t type = data_type(exec.dtype);
  check_blas(cublas_lt().operation_create(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), exec,
             "a matrix product");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_blas(cublas_lt().operation_set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof transposed),
             exec, "a matrix product");
  if (args.bias_N != nullptr) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    check_blas(cublas_lt().operation_set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                         sizeof epilogue),
               exec, "a matrix product with bias");
    check_blas(cublas_lt().operation_set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                         &args.bias_N, sizeof args.bias_N),
               exec, "a matrix product with bias");
  }
  check_blas(cublas_lt().layout_create(&plan->weight, type, static_cast<uint64_t>(args.in_features),
                                       static_cast<uint64_t>(args.out_features), args.in_features),
             exec, "a matrix layout");
  const Layout x(exec, type, args.in_features, kPlanRows, args.x_stride);
  const Layout y(exec, type, args.out_features, kPlanRows, args.y_stride);
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublas_lt().preference_create(&preference), exec, "a matrix product");
  const uint64_t workspace = kBlasWorkspaceBytes;
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE;
  cublas_lt().preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                             sizeof workspace);
  cublas_lt().preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                             sizeof reductions);
  // Rows begin anywhere in a buffer: 16 bytes is all that their addresses share.
  const uint32_t alignment = 16;
  for (const cublasLtMatmulPreferenceAttributes_t operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    cublas_lt().preference_set(preference, operand, &alignment, sizeof alignment);
  }
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublas_lt().algorithms(exec.blas, plan->operation, plan->weight, x.handle, y.handle, y.handle,
                             preference, 1, &result, &found);
  cublas_lt().preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    throw InternalError("cuBLASLt has no algorithm for a product of " +
                        std::to_string(args.in_features) + " x " +
                        std::to_string(args.out_features));
  }
  plan->algorithm = result.algo;
  return plan;
}

}  // namespace

void linear(DeviceExec& exec, const DeviceLinearArgs& args) {
  require(args.in_features > 0 && args.out_features > 0 && args.x_stride >= args.in_features &&
              args.y_stride >= args.out_features && args.in_features % 8 == 0 &&
              args.out_features % 8 == 0 && args.x_stride % 8 == 0 && args.y_stride % 8 == 0,
          "linear: sizes and strides must be multiples of 8");
  if (args.rows == 0) return;
  DeviceExec::Impl& impl = exec.impl();
  std::string key;
  for (const int64_t part : {args.in_features, args.out_features, args.x_stride, args.y_stride,
                             static_cast<int64_t>(args.bias_N != nullptr)}) {
    key += std::to_string(part) + ' ';
  }
  std::shared_ptr<LinearPlan>& plan = impl.plans[key];
  if (!plan) plan = make_plan(impl, args);
  if (args.bias_N != nullptr) {
    check_blas(cublas_lt().operation_set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                         &args.bias_N, sizeof args.bias_N),
               impl, "a matrix product with bias");
  }
  const cudaDataType_t type = data_type(impl.dtype);
  const Layout x(impl, type, args.in_features, args.rows, args.x_stride);
  const Layout y(impl, type, args.out_features, args.rows, args.y_stride);
  const float one = 1;
  const float beta = args.accumulate ? 1.0F : 0.0F;
  check_blas(
      cublas_lt().matmul(impl.blas, plan->operation, &one, args.weight_NK, plan->weight, args.x,
                         x.handle, &beta, args.y, y.handle, args.y, y.handle, &plan->algorithm,
                         impl.blas_workspace, kBlasWorkspaceBytes, impl.stream),
      impl, "a matrix product");
}

}  // namespace chromamba::kernels
