// A GPU as the kernels and the engine see it: memory, copies, and one ordered stream of work.
//
// Host and device memory have different types on purpose: a kernel's overload for DeviceExec takes
// device pointers and a batch of sequences, the one for Exec takes host pointers and one sequence.
// Built without CUDA, everything here links and cuda_devices() is empty.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace chromamba::kernels {

// The type of activations and of weights of matrix products on a device. Accumulators, states, the
// residual stream and everything a log-likelihood is made of are f32 with either.
enum class DType { f32, bf16 };

inline const char* dtype_name(DType dtype) { return dtype == DType::f32 ? "f32" : "bf16"; }
inline int64_t dtype_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

struct DeviceInfo {
  int ordinal = 0;
  std::string name;         // "NVIDIA H100 80GB HBM3"
  int64_t total_bytes = 0;  // of device memory
  int multiprocessors = 0;
  int major = 0;  // compute capability
  int minor = 0;
};

// The GPUs that can run this build; empty when there are none, and then `why_none` (if given) says
// why: no CUDA in this build, no driver, no device, or devices that are too old.
std::vector<DeviceInfo> cuda_devices(std::string* why_none = nullptr);

// Execution context: one GPU, one stream, one matrix-product library handle. Calls queue work and
// return; work runs in the order of the calls. One thread at a time. Every call that fails on the
// device throws ResourceError (out of memory, device lost) or InternalError (a launch we got wrong);
// failures of queued work surface at the next synchronize().
class DeviceExec {
 public:
  DeviceExec(int ordinal, DType dtype);
  ~DeviceExec();
  DeviceExec(const DeviceExec&) = delete;
  DeviceExec& operator=(const DeviceExec&) = delete;

  DType dtype() const;
  const DeviceInfo& info() const;
  void synchronize();
  // Makes the GPU the calling thread's current one: before work is queued by another thread than the maker's, or
  // after another GPU's turn.
  void use() const;
  // Device memory that buffers of this context hold now, and the most they ever held.
  int64_t bytes_in_use() const;
  int64_t peak_bytes() const;

  struct Impl;
  Impl& impl() const { return *impl_; }
  const std::shared_ptr<Impl>& shared_impl() const { return impl_; }

 private:
  std::shared_ptr<Impl> impl_;  // buffers keep it alive
};

// Device memory. `what` names it in the message when there is not enough.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceExec& exec, int64_t bytes, const std::string& what);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<DeviceExec::Impl> exec_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Page-locked host memory: copies to and from it run beside kernels.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes);
  ~PinnedBuffer();  // NOLINT(performance-trivially-destructible): with CUDA it frees
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A point in a context's stream.
class DeviceEvent {
 public:
  explicit DeviceEvent(DeviceExec& exec);
  ~DeviceEvent();
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;
  void record();
  void hold(DeviceExec& exec) const;  // what is queued there next waits for the point
  void wait() const;                  // until the stream has passed the point
  double seconds_since(const DeviceEvent& from) const;  // both recorded and passed

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Queued copies; the host side must stay valid until the stream has passed them.
void copy_to_device(DeviceExec& exec, void* to, const void* from, int64_t bytes);
void copy_to_host(DeviceExec& exec, void* to, const void* from, int64_t bytes);
// `rows` rows of `width` bytes that lie `stride` bytes apart on the device, close together at `to`.
void copy_rows_to_host(DeviceExec& exec, void* to, const void* from, int64_t rows, int64_t width,
                       int64_t stride);
void copy_on_device(DeviceExec& exec, void* to, const void* from, int64_t bytes);
// Between GPUs, in the stream of the one copied to; through the host where they are not connected.
void copy_between(DeviceExec& exec, void* to, const DeviceExec& from_exec, const void* from,
                  int64_t bytes);
// Lets each of two GPUs reach the other's memory, where they can.
void connect(const DeviceExec& a, const DeviceExec& b);
void zero_on_device(DeviceExec& exec, void* to, int64_t bytes);

// f32 host values to the context's dtype (round to nearest even) on the device; waits for the copy.
DeviceBuffer upload(DeviceExec& exec, const float* values, int64_t n, const std::string& what);
// The same values as f32 whatever the dtype.
DeviceBuffer upload_f32(DeviceExec& exec, const float* values, int64_t n, const std::string& what);
// n values of the context's dtype back to f32; waits.
void download(DeviceExec& exec, const void* from, int64_t n, float* to);

}  // namespace chromamba::kernels
