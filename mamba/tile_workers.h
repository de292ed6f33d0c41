// Threads that walk tiles through layers, and the order in which tiles of one sequence hand over their states.
// Inside mamba/ only.
#pragma once

#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "mamba/mixer.h"

namespace chromamba::mamba {

// A fixed set of threads that all run one function when asked and then wait for the next.
class WorkerPool {
 public:
  explicit WorkerPool(int threads) {
    // The caller is worker 0, so `threads` workers need one thread less.
    for (int i = 1; i < threads; ++i) {
      threads_.emplace_back([this, i](const std::stop_token& stop) { loop(stop, i); });
    }
  }

  ~WorkerPool() {
    for (std::jthread& thread : threads_) thread.request_stop();
    start_.notify_all();
  }

  // Runs work(worker) on every worker and returns when all are done. `work` must not throw.
  template <typename Work>
  void run(const Work& work) {
    {
      const std::lock_guard lock(mutex_);
      work_ = [&work](int worker) { work(worker); };
      ++generation_;
      running_ = static_cast<int>(threads_.size());
    }
    start_.notify_all();
    work(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    work_ = nullptr;
  }

 private:
  void loop(const std::stop_token& stop, int worker) {
    int64_t seen = 0;
    while (true) {
      std::function<void(int)> work;
      {
        std::unique_lock lock(mutex_);
        if (!start_.wait(lock, stop, [&] { return generation_ != seen; })) return;
        seen = generation_;
        work = work_;
      }
      work(worker);
      {
        const std::lock_guard lock(mutex_);
        --running_;
      }
      done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any start_;
  std::condition_variable done_;
  std::function<void(int)> work_;
  int64_t generation_ = 0;
  int running_ = 0;
  std::vector<std::jthread> threads_;  // last: destroyed, and so joined, first
};

// How many tiles of one sequence have passed each hand-over of each layer.
class Tickets {
 public:
  explicit Tickets(int64_t layers) : passed_(static_cast<size_t>(2 * layers)) {}

  // False when the run was abandoned meanwhile.
  bool wait(int64_t layer, CarryPart part, int32_t tile) {
    std::atomic<int32_t>& passed = slot(layer, part);
    int32_t now = passed.load(std::memory_order_acquire);
    while (now < tile) {
      passed.wait(now, std::memory_order_acquire);
      now = passed.load(std::memory_order_acquire);
    }
    return now != kAbandoned;
  }

  void pass_on(int64_t layer, CarryPart part, int32_t tile) {
    std::atomic<int32_t>& passed = slot(layer, part);
    int32_t expected = tile;
    // Not a plain store: it must not overwrite kAbandoned.
    passed.compare_exchange_strong(expected, tile + 1, std::memory_order_release,
                                   std::memory_order_relaxed);
    passed.notify_all();
  }

  void abandon() {
    for (std::atomic<int32_t>& passed : passed_) {
      passed.store(kAbandoned, std::memory_order_release);
      passed.notify_all();
    }
  }

 private:
  static constexpr int32_t kAbandoned = INT32_MAX;

  std::atomic<int32_t>& slot(int64_t layer, CarryPart part) {
    return passed_[static_cast<size_t>(2 * layer + (part == CarryPart::ssm ? 1 : 0))];
  }

  std::vector<std::atomic<int32_t>> passed_;
};

// Thrown inside a worker when another one failed; never leaves forward().
struct Abandoned {};

// A tile's place in the order of its layer.
class TileGate : public CarryGate {
 public:
  TileGate(Tickets& tickets, int64_t layer, int32_t tile)
      : tickets_(tickets), layer_(layer), tile_(tile) {}

  void wait(CarryPart part) override {
    if (!tickets_.wait(layer_, part, tile_)) throw Abandoned();
  }
  void pass_on(CarryPart part) override { tickets_.pass_on(layer_, part, tile_); }

 private:
  Tickets& tickets_;
  int64_t layer_;
  int32_t tile_;
};

}  // namespace chromamba::mamba
