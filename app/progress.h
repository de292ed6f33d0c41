// Talk to the person (or log) at the other end of stderr while a job runs, and the signals that end it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "pipelines/interrupt.h"

namespace chromamba::app {

// Installs handlers for SIGINT, SIGTERM and SIGHUP; the first one asks the job to stop, a second
// one ends the program at once.
void install_signal_handlers();
pipelines::StopSignal stop_signal();

// While alive, reports bases done, rate and time left: on a terminal a line that renews itself, else
// one line a minute.
class Progress {
 public:
  // Does nothing when quiet.
  Progress(std::string verb, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  std::atomic<int64_t>* counter() { return &done_; }
  void start(int64_t total);  // 0: not known
  void stop();

 private:
  void loop(const std::stop_token& stop);
  void print(bool terminal) const;

  std::string verb_;
  bool quiet_;
  int64_t total_ = 0;
  std::atomic<int64_t> done_{0};
  double started_ = 0;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;
};

// "12.3 k" of 12,345: a rate for reading.
std::string short_count(double value);
// "2.4 s", "31 s", "4:05" or "1:02:03".
std::string clock_time(double seconds);

}  // namespace chromamba::app
