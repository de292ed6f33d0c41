// Devices, memory and copies through the CUDA runtime.
#include <cstdio>
#include <cstring>
#include <utility>

#include "kernels/cuda_common.cuh"
#include "kernels/exec.h"

namespace chromamba::kernels {
namespace {

// Kernels are compiled for compute capability 8.0 and later.
constexpr int kOldestMajor = 8;

std::string gib(int64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

std::string device_name(const DeviceInfo& info) { return "cuda:" + std::to_string(info.ordinal); }

template <typename T>
__global__ void convert_kernel(const float* from, T* to, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) to[i] = cuda::from_float<T>(from[i]);
}

template <typename T>
__global__ void widen_kernel(const T* from, float* to, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) to[i] = cuda::to_float(from[i]);
}

}  // namespace

namespace cuda {
void check(cudaError_t status, const DeviceExec::Impl& exec, const char* what) {
  if (status == cudaSuccess) return;
  const std::string message = device_name(exec.info) + ": " + what + ": " +
                              cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (status == cudaErrorInvalidValue || status == cudaErrorInvalidConfiguration ||
      status == cudaErrorIllegalAddress || status == cudaErrorMisalignedAddress) {
    throw InternalError(message);
  }
  throw ResourceError(message);
}
}  // namespace cuda

std::vector<DeviceInfo> cuda_devices(std::string* why_none) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  std::string why;
  std::vector<DeviceInfo> devices;
  if (status != cudaSuccess) {
    (void)cudaGetLastError();  // no driver or no device: not an error of the caller's
    why = std::string("no GPU: ") + cudaGetErrorString(status);
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) continue;
    DeviceInfo info;
    info.ordinal = ordinal;
    info.name = properties.name;
    info.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    info.multiprocessors = properties.multiProcessorCount;
    info.major = properties.major;
    info.minor = properties.minor;
    if (info.major < kOldestMajor) {
      why = info.name + " has compute capability " + std::to_string(info.major) + "." +
            std::to_string(info.minor) + ", at least 8.0 is needed";
      continue;
    }
    devices.push_back(info);
  }
  if (why_none != nullptr) *why_none = why.empty() ? "no GPU" : why;
  return devices;
}

std::vector<std::string> describe_cuda_devices() {
  std::vector<std::string> lines;
  for (const DeviceInfo& info : cuda_devices()) {
    char line[512];
    std::snprintf(line, sizeof line, "cuda:%d %s, %.1f GiB, sm_%d%d", info.ordinal,
                  info.name.c_str(), static_cast<double>(info.total_bytes) / (1 << 30), info.major,
                  info.minor);
    lines.emplace_back(line);
  }
  return lines;
}

DeviceExec::DeviceExec(int ordinal, DType dtype) : impl_(std::make_shared<Impl>()) {
  std::string why;
  bool found = false;
  for (const DeviceInfo& info : cuda_devices(&why)) {
    if (info.ordinal != ordinal) continue;
    impl_->info = info;
    found = true;
  }
  if (!found) {
    throw ResourceError("cuda:" + std::to_string(ordinal) + ": " +
                        (why.empty() ? "no such GPU" : why));
  }
  impl_->dtype = dtype;
  cuda::check(cudaSetDevice(ordinal), *impl_, "choosing the GPU");
  cuda::check(cudaStreamCreateWithFlags(&impl_->stream, cudaStreamNonBlocking), *impl_,
              "making a stream");
  if (cublas_lt().create(&impl_->blas) != CUBLAS_STATUS_SUCCESS) {
    throw ResourceError(device_name(impl_->info) + ": cuBLASLt cannot start (out of memory?)");
  }
  cuda::check(cudaMalloc(&impl_->blas_workspace, kBlasWorkspaceBytes), *impl_,
              "the matrix products' workspace");
  impl_->in_use = impl_->peak = kBlasWorkspaceBytes;
}

DeviceExec::~DeviceExec() = default;

DeviceExec::Impl::~Impl() {
  if (stream != nullptr) cudaStreamSynchronize(stream);
  plans.clear();
  if (blas_workspace != nullptr) cudaFree(blas_workspace);
  if (blas != nullptr) cublas_lt().destroy(blas);
  if (stream != nullptr) cudaStreamDestroy(stream);
}

DType DeviceExec::dtype() const { return impl_->dtype; }
const DeviceInfo& DeviceExec::info() const { return impl_->info; }
int64_t DeviceExec::bytes_in_use() const { return impl_->in_use; }
int64_t DeviceExec::peak_bytes() const { return impl_->peak; }

void DeviceExec::synchronize() {
  cuda::check(cudaStreamSynchronize(impl_->stream), *impl_, "computing");
}

void DeviceExec::use() const {
  cuda::check(cudaSetDevice(impl_->info.ordinal), *impl_, "choosing the GPU");
}

DeviceBuffer::DeviceBuffer(DeviceExec& exec, int64_t bytes, const std::string& what)
    : exec_(exec.shared_impl()), bytes_(bytes) {
  if (bytes == 0) return;
  DeviceExec::Impl& impl = exec.impl();
  exec.use();
  const cudaError_t status = cudaMalloc(&data_, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0;
    size_t total = 0;
    cudaMemGetInfo(&free, &total);
    throw ResourceError(device_name(impl.info) + ": out of memory: " + what + " needs " +
                        gib(bytes) + ", " + gib(static_cast<int64_t>(free)) + " of " +
                        gib(static_cast<int64_t>(total)) +
                        " are free; lower --memory or --chunk-size, or free the GPU");
  }
  cuda::check(status, impl, what.c_str());
  impl.in_use += bytes;
  impl.peak = impl.in_use > impl.peak ? impl.in_use : impl.peak;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  cudaFree(data_);  // waits for work that uses it
  exec_->in_use -= bytes_;
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : exec_(std::move(other.exec_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(exec_, other.exec_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedBuffer::PinnedBuffer(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (cudaMallocHost(&data_, static_cast<size_t>(bytes)) != cudaSuccess) {
    (void)cudaGetLastError();
    throw ResourceError("out of page-locked memory: " + gib(bytes) +
                        " wanted; lower --memory or --chunk-size");
  }
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

struct DeviceEvent::Impl {
  DeviceExec* exec = nullptr;
  cudaEvent_t event = nullptr;
};

DeviceEvent::DeviceEvent(DeviceExec& exec) : impl_(std::make_unique<Impl>()) {
  impl_->exec = &exec;
  exec.use();
  cuda::check(cudaEventCreate(&impl_->event), exec.impl(), "making an event");
}
DeviceEvent::~DeviceEvent() { cudaEventDestroy(impl_->event); }
void DeviceEvent::record() {
  cuda::check(cudaEventRecord(impl_->event, impl_->exec->impl().stream), impl_->exec->impl(),
              "recording an event");
}
void DeviceEvent::hold(DeviceExec& exec) const {
  cuda::check(cudaStreamWaitEvent(exec.impl().stream, impl_->event, 0), exec.impl(),
              "ordering two streams");
}
void DeviceEvent::wait() const {
  cuda::check(cudaEventSynchronize(impl_->event), impl_->exec->impl(), "computing");
}
double DeviceEvent::seconds_since(const DeviceEvent& from) const {
  float milliseconds = 0;
  cuda::check(cudaEventElapsedTime(&milliseconds, from.impl_->event, impl_->event),
              impl_->exec->impl(), "timing");
  return 1e-3 * static_cast<double>(milliseconds);
}

namespace {
void copy(DeviceExec& exec, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  exec.use();
  cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, exec.impl().stream),
              exec.impl(), "copying");
}
}  // namespace

void copy_to_device(DeviceExec& exec, void* to, const void* from, int64_t bytes) {
  copy(exec, to, from, bytes, cudaMemcpyHostToDevice);
}
void copy_to_host(DeviceExec& exec, void* to, const void* from, int64_t bytes) {
  copy(exec, to, from, bytes, cudaMemcpyDeviceToHost);
}
void copy_rows_to_host(DeviceExec& exec, void* to, const void* from, int64_t rows, int64_t width,
                       int64_t stride) {
  if (rows == 0) return;
  cuda::check(cudaMemcpy2DAsync(to, static_cast<size_t>(width), from, static_cast<size_t>(stride),
                                static_cast<size_t>(width), static_cast<size_t>(rows),
                                cudaMemcpyDeviceToHost, exec.impl().stream),
              exec.impl(), "copying");
}
void copy_on_device(DeviceExec& exec, void* to, const void* from, int64_t bytes) {
  copy(exec, to, from, bytes, cudaMemcpyDeviceToDevice);
}
void copy_between(DeviceExec& exec, void* to, const DeviceExec& from_exec, const void* from,
                  int64_t bytes) {
  if (bytes == 0) return;
  cuda::check(cudaMemcpyPeerAsync(to, exec.info().ordinal, from, from_exec.info().ordinal,
                                  static_cast<size_t>(bytes), exec.impl().stream),
              exec.impl(), "copying from another GPU");
}
void connect(const DeviceExec& a, const DeviceExec& b) {
  const auto reach = [](const DeviceExec& from, const DeviceExec& to) {
    int can = 0;
    if (cudaDeviceCanAccessPeer(&can, from.info().ordinal, to.info().ordinal) != cudaSuccess ||
        can == 0) {
      return;
    }
    from.use();
    cudaDeviceEnablePeerAccess(to.info().ordinal, 0);
  };
  if (a.info().ordinal == b.info().ordinal) return;
  reach(a, b);
  reach(b, a);
  (void)cudaGetLastError();  // already connected, or not to be: copies go through the host
}
void zero_on_device(DeviceExec& exec, void* to, int64_t bytes) {
  if (bytes == 0) return;
  exec.use();
  cuda::check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), exec.impl().stream), exec.impl(),
              "clearing memory");
}

DeviceBuffer upload_f32(DeviceExec& exec, const float* values, int64_t n, const std::string& what) {
  DeviceBuffer buffer(exec, 4 * n, what);
  copy_to_device(exec, buffer.data(), values, 4 * n);
  exec.synchronize();
  return buffer;
}

DeviceBuffer upload(DeviceExec& exec, const float* values, int64_t n, const std::string& what) {
  DeviceBuffer wide = upload_f32(exec, values, n, what);
  if (exec.dtype() == DType::f32 || n == 0) return wide;
  DeviceBuffer narrow(exec, 2 * n, what);
  convert_kernel<<<cuda::blocks_for(n, 256), 256, 0, exec.impl().stream>>>(wide.as<const float>(),
                                                                           narrow.as<Bf16>(), n);
  cuda::check_launch(exec, "convert");
  exec.synchronize();
  return narrow;
}

void download(DeviceExec& exec, const void* from, int64_t n, float* to) {
  if (n == 0) return;
  if (exec.dtype() == DType::f32) {
    copy_to_host(exec, to, from, 4 * n);
  } else {
    const DeviceBuffer wide(exec, 4 * n, "a copy");
    widen_kernel<<<cuda::blocks_for(n, 256), 256, 0, exec.impl().stream>>>(
        static_cast<const Bf16*>(from), wide.as<float>(), n);
    cuda::check_launch(exec, "widen");
    copy_to_host(exec, to, wide.data(), 4 * n);
    exec.synchronize();
    return;
  }
  exec.synchronize();
}

}  // namespace chromamba::kernels
