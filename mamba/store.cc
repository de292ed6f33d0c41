#include "mamba/store.h"

#include <cstring>
#include <new>
#include <string>

#include "kernels/base/aligned.h"
#include "kernels/base/error.h"

namespace chromamba::mamba {
namespace {

class MemoryStore : public Store {
 public:
  explicit MemoryStore(int64_t bytes) : bytes_(bytes) {
    try {
      data_ = CacheLineAllocator<std::byte>().allocate(static_cast<size_t>(bytes));
    } catch (const std::bad_alloc&) {
      throw ResourceError("no memory for " + std::to_string(bytes) +
                          " bytes of activations; lower --memory, so that they go to a file");
    }
  }
  ~MemoryStore() override {
    CacheLineAllocator<std::byte>().deallocate(data_, static_cast<size_t>(bytes_));
  }
  void read(int64_t offset, void* to, int64_t bytes) const override {
    std::memcpy(to, data_ + offset, static_cast<size_t>(bytes));
  }
  void write(int64_t offset, const void* from, int64_t bytes) override {
    std::memcpy(data_ + offset, from, static_cast<size_t>(bytes));
  }
  std::byte* memory() override { return data_; }

 private:
  int64_t bytes_;
  std::byte* data_ = nullptr;
};

}  // namespace

std::unique_ptr<Store> make_memory_store(int64_t bytes) {
  return std::make_unique<MemoryStore>(bytes);
}

}  // namespace chromamba::mamba
