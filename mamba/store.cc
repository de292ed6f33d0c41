#include "mamba/store.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <new>
#include <string>
#include <vector>

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

// Threads of a transfer, of 8 MB each at least: one thread copies 5 GB/s out of a page cache.
constexpr int64_t kThreads = 8;
constexpr int64_t kLeastBytes = int64_t{8} << 20;

template <typename Transfer>
void in_parts(int64_t bytes, const Transfer& transfer) {
  const int64_t parts = std::clamp<int64_t>(bytes / kLeastBytes, 1, kThreads);
  std::vector<std::future<void>> others;
  for (int64_t i = 1; i < parts; ++i) {
    others.push_back(std::async(std::launch::async, [&transfer, bytes, i, parts] {
      transfer(bytes * i / parts, bytes * (i + 1) / parts);
    }));
  }
  transfer(0, bytes / parts);
  for (std::future<void>& other : others) other.get();
}

}  // namespace

void read_wide(const Store& store, int64_t offset, void* to, int64_t bytes) {
  in_parts(bytes, [&](int64_t first, int64_t end) {
    store.read(offset + first, static_cast<std::byte*>(to) + first, end - first);
  });
}

void write_wide(Store& store, int64_t offset, const void* from, int64_t bytes) {
  in_parts(bytes, [&](int64_t first, int64_t end) {
    store.write(offset + first, static_cast<const std::byte*>(from) + first, end - first);
  });
}

std::unique_ptr<Store> make_memory_store(int64_t bytes) {
  return std::make_unique<MemoryStore>(bytes);
}

}  // namespace chromamba::mamba
