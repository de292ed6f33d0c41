// Bytes that may be more than memory holds: rows of a layer between two sweeps (sweep_engine.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace chromamba::mamba {

// Several threads may use one at the same time, on bytes that do not overlap. Contents are undefined until written.
class Store {
 public:
  Store() = default;
  virtual ~Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  virtual void read(int64_t offset, void* to, int64_t bytes) const = 0;
  virtual void write(int64_t offset, const void* from, int64_t bytes) = 0;
  // All of it, 64-byte aligned, where it lies in memory; else null.
  virtual std::byte* memory() { return nullptr; }
};

// Gives a store that takes offsets below `bytes`. ResourceError when there is no room.
using MakeStore = std::function<std::unique_ptr<Store>(int64_t bytes)>;

// read() and write() with several threads, which a file in the page cache or on fast disks gains from.
void read_wide(const Store& store, int64_t offset, void* to, int64_t bytes);
void write_wide(Store& store, int64_t offset, const void* from, int64_t bytes);

// In memory.
std::unique_ptr<Store> make_memory_store(int64_t bytes);

}  // namespace chromamba::mamba
