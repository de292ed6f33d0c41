// A build without CUDA: the names exist, no device does. A DeviceExec cannot be made, so whatever
// takes one is never reached.
#include <utility>

#include "kernels/add_norm.h"
#include "kernels/base/error.h"
#include "kernels/causal_conv1d.h"
#include "kernels/conv_project.h"
#include "kernels/device.h"
#include "kernels/exec.h"
#include "kernels/gated_norm.h"
#include "kernels/head.h"
#include "kernels/linear.h"
#include "kernels/pool_rows.h"
#include "kernels/selective_scan.h"
#include "kernels/ssd_scan.h"
#include "kernels/token_embedding.h"

namespace chromamba::kernels {
namespace {
constexpr const char* kNone = "this build of chromamba has no CUDA";
[[noreturn]] void unreachable() { throw InternalError(kNone); }
}  // namespace

struct DeviceExec::Impl {
  DeviceInfo info;
};
struct DeviceEvent::Impl {};

std::vector<DeviceInfo> cuda_devices(std::string* why_none) {
  if (why_none != nullptr) *why_none = kNone;
  return {};
}
std::vector<std::string> describe_cuda_devices() { return {}; }

DeviceExec::DeviceExec(int ordinal, DType) {
  throw ResourceError("cuda:" + std::to_string(ordinal) + ": " + kNone);
}
DeviceExec::~DeviceExec() = default;
DType DeviceExec::dtype() const { unreachable(); }
const DeviceInfo& DeviceExec::info() const { return impl_->info; }
void DeviceExec::synchronize() { unreachable(); }
void DeviceExec::use() const { unreachable(); }
int64_t DeviceExec::bytes_in_use() const { unreachable(); }
int64_t DeviceExec::peak_bytes() const { unreachable(); }

DeviceBuffer::DeviceBuffer(DeviceExec& exec, int64_t bytes, const std::string&)
    : exec_(exec.shared_impl()), bytes_(bytes) {
  unreachable();
}
DeviceBuffer::~DeviceBuffer() = default;
DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept = default;
DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept = default;
PinnedBuffer::PinnedBuffer(int64_t bytes) : bytes_(bytes) { unreachable(); }
PinnedBuffer::~PinnedBuffer() = default;
PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept = default;
PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept = default;
DeviceEvent::DeviceEvent(DeviceExec&) { unreachable(); }
DeviceEvent::~DeviceEvent() = default;
void DeviceEvent::record() { unreachable(); }
void DeviceEvent::wait() const { unreachable(); }
void DeviceEvent::hold(DeviceExec&) const { unreachable(); }
double DeviceEvent::seconds_since(const DeviceEvent&) const { unreachable(); }

void copy_to_device(DeviceExec&, void*, const void*, int64_t) { unreachable(); }
void copy_to_host(DeviceExec&, void*, const void*, int64_t) { unreachable(); }
void copy_rows_to_host(DeviceExec&, void*, const void*, int64_t, int64_t, int64_t) {
  unreachable();
}
void copy_on_device(DeviceExec&, void*, const void*, int64_t) { unreachable(); }
void copy_between(DeviceExec&, void*, const DeviceExec&, const void*, int64_t) { unreachable(); }
void connect(const DeviceExec&, const DeviceExec&) { unreachable(); }
void zero_on_device(DeviceExec&, void*, int64_t) { unreachable(); }
DeviceBuffer upload(DeviceExec&, const float*, int64_t, const std::string&) { unreachable(); }
DeviceBuffer upload_f32(DeviceExec&, const float*, int64_t, const std::string&) { unreachable(); }
void download(DeviceExec&, const void*, int64_t, float*) { unreachable(); }

void token_embedding(DeviceExec&, const DeviceTokenEmbeddingArgs&) { unreachable(); }
void add_norm(DeviceExec&, const DeviceAddNormArgs&) { unreachable(); }
void linear(DeviceExec&, const DeviceLinearArgs&) { unreachable(); }
void causal_conv1d(DeviceExec&, const DeviceCausalConv1dArgs&) { unreachable(); }
void conv_project(DeviceExec&, const DeviceConvProjectArgs&) { unreachable(); }
void selective_scan(DeviceExec&, const DeviceSelectiveScanArgs&) { unreachable(); }
void ssd_scan(DeviceExec&, const DeviceSsdScanArgs&) { unreachable(); }
void gated_norm(DeviceExec&, const DeviceGatedNormArgs&) { unreachable(); }
void head_log_likelihood(DeviceExec&, const DeviceHeadArgs&) { unreachable(); }
void pool_rows(DeviceExec&, const PoolRowsArgs&) { unreachable(); }

}  // namespace chromamba::kernels
