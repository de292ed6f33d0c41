#include "app/progress.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "pipelines/job.h"

namespace chromamba::app {
namespace {

std::atomic<int> signal_received{0};

extern "C" void handle_signal(int number) { signal_received.store(number); }

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void install_signal_handlers() {
  // The handler runs once (a second signal ends the program at once) and does not restart a wait for
  // input, which then sees that it should stop. What the caller ignores (nohup) stays ignored.
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = handle_signal;
    action.sa_flags = SA_RESETHAND;
    sigaction(number, &action, nullptr);
  }
  // A closed pipe and a file at its size limit are write errors, with a message.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

pipelines::StopSignal stop_signal() { return &signal_received; }

std::string short_count(double value) {
  static constexpr const char* kUnits[] = {"", " k", " M", " G"};
  size_t unit = 0;
  while (value >= 1000.0 && unit + 1 < std::size(kUnits)) {
    value /= 1000.0;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, value < 10 && unit > 0 ? "%.2f%s" : "%.1f%s", value,
                kUnits[unit]);
  return text;
}

std::string clock_time(double seconds) {
  if (seconds < 59.5) {
    char text[32];
    std::snprintf(text, sizeof text, seconds < 9.95 ? "%.1f s" : "%.0f s", seconds);
    return text;
  }
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  char text[32];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(whole / 3600),
                  static_cast<long long>(whole / 60 % 60), static_cast<long long>(whole % 60));
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", static_cast<long long>(whole / 60),
                  static_cast<long long>(whole % 60));
  }
  return text;
}

Progress::Progress(std::string verb, bool quiet) : verb_(std::move(verb)), quiet_(quiet) {}

Progress::~Progress() { stop(); }

void Progress::start(int64_t total) {
  if (quiet_) return;
  total_ = total;
  started_ = now_seconds();
  thread_ = std::jthread([this](const std::stop_token& stop) { loop(stop); });
}

void Progress::stop() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
  if (isatty(STDERR_FILENO) != 0) std::cerr << "\r\033[K" << std::flush;
}

void Progress::loop(const std::stop_token& stop) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto period = terminal ? std::chrono::milliseconds(500) : std::chrono::milliseconds(60000);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait_for(lock, stop, period, [] { return false; });
    if (stop.stop_requested()) return;
    print(terminal);
  }
}

void Progress::print(bool terminal) const {
  const auto done = static_cast<double>(done_.load());
  const double rate = done / (now_seconds() - started_);
  const auto total = static_cast<double>(total_);
  std::string text = verb_ + ": " + short_count(done);
  if (done <= total) {  // else it is not known, or was only about right
    char percent[32];
    std::snprintf(percent, sizeof percent, " (%.1f %%)", 100.0 * done / total);
    text += " of " + short_count(total) + " bases" + percent;
  } else {
    text += " bases";
  }
  text += ", " + short_count(rate) + " bases/s";
  if (done <= total) text += ", " + (rate > 0 ? clock_time((total - done) / rate) : "?") + " left";
  if (terminal) {
    std::cerr << '\r' << text << "\033[K" << std::flush;
  } else {
    std::cerr << "chromamba: " << text << std::endl;
  }
}

}  // namespace chromamba::app
