// What sequences carry on devices: pieces of memory from pools, for a new sequence or snapshot costs no allocation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/device.h"

namespace chromamba::mamba {

// Equal pieces of device memory, contents undefined.
class StatePool {
 public:
  // States are handed out from slabs of about so many bytes.
  static constexpr int64_t kSlabBytes = int64_t{8} << 20;

  StatePool(kernels::DeviceExec& exec, int64_t floats)
      : exec_(exec),
        floats_(floats),
        per_slab_(std::max<int64_t>(1, kSlabBytes / std::max<int64_t>(1, 4 * floats))) {}

  float* take() {
    if (free_.empty()) {
      slabs_.emplace_back(exec_, 4 * floats_ * per_slab_, "the states of sequences");
      for (int64_t i = per_slab_; i-- > 0;) {
        free_.push_back(slabs_.back().as<float>() + i * floats_);
      }
    }
    float* state = free_.back();
    free_.pop_back();
    return state;
  }
  void give_back(float* state) { free_.push_back(state); }
  int64_t floats() const { return floats_; }

 private:
  kernels::DeviceExec& exec_;
  int64_t floats_;
  int64_t per_slab_;
  std::vector<kernels::DeviceBuffer> slabs_;
  std::vector<float*> free_;
};

// One sequence on devices: the carry where its last segment begins, and the tokens since.
struct DeviceSequence {
  // Pieces of a pool, given back in the end.
  struct Pieces {
    std::shared_ptr<StatePool> pool;
    std::vector<float*> taken;

    explicit Pieces(std::shared_ptr<StatePool> from) : pool(std::move(from)) {}
    ~Pieces() {
      for (float* piece : taken) pool->give_back(piece);
    }
    Pieces(const Pieces&) = delete;
    Pieces& operator=(const Pieces&) = delete;
    float* take() { return taken.emplace_back(pool->take()); }
  };

  std::vector<std::unique_ptr<Pieces>> states;  // by stage: one piece each, its layers' states
  std::vector<std::unique_ptr<Pieces>> sums;  // by stage: of pooled groups by slot, D doubles each
  std::vector<int32_t> tail;
  int32_t turn = 0;    // which of its two conv states is the last (kernels/batch.h)
  int64_t anchor = 0;  // the base from which its segments are counted: where it was a snapshot
};

}  // namespace chromamba::mamba
