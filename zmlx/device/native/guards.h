// What keeps a watched launch from ending the process, or never ending: signals of its threads are
// heard on a stack of their own, and a clock looks in on it.
#pragma once

#include <time.h>
#include <unistd.h>

#include <vector>

#include "signals.h"

namespace zmlx {

class Guards {
 public:
  Guards(Heard* heard, double seconds) : stack_(size_t(1) << 17) {
    Heard::now() = heard;
    stack_t mine{};
    mine.ss_sp = stack_.data();
    mine.ss_size = stack_.size();
    sigaltstack(&mine, &before_);
    Signals::watch_division();
    for (const int number : Signals::kFaults) {
      Signals::take(number, &Signals::on_fault);
    }
    start_clock(seconds);
  }
  Guards(const Guards&) = delete;

  ~Guards() {
    stop_clock();
    for (const int number : Signals::kFaults) {
      Signals::give_back(number);
    }
    sigaltstack(&before_, nullptr);
    Heard::now() = nullptr;
  }

 private:
  static void on_clock(int, siginfo_t*, void* context) {
    if (Heard::now() != nullptr) {
      Heard::now()->late(Signals::pc_of(context));
    }
  }

#ifdef __linux__
  void start_clock(double seconds) {
    ticks_ = seconds > 0;
    if (!ticks_) {
      return;
    }
    Signals::take(SIGRTMAX - 3, &on_clock);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMAX - 3;
    event._sigev_un._tid = gettid();
    ticks_ = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &clock_) == 0;
    itimerspec when{};
    when.it_value.tv_sec = static_cast<time_t>(seconds);
    when.it_value.tv_nsec = static_cast<long>((seconds - double(when.it_value.tv_sec)) * 1e9) + 1;
    when.it_interval.tv_nsec = 20'000'000;  // again, should it have come while the runtime ran
    if (ticks_) {
      timer_settime(clock_, 0, &when, nullptr);
    }
  }
  void stop_clock() {
    if (ticks_) {
      timer_delete(clock_);
    }
  }
  timer_t clock_{};
  bool ticks_ = false;
#else
  void start_clock(double) {}
  void stop_clock() {}
#endif

  std::vector<char> stack_;
  stack_t before_{};
};

}  // namespace zmlx
