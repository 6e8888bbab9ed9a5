// A small pool of threads that share the elements of one kernel launch.
//
// The thread that asks always works too, so a pool of n cores holds n - 1 threads; several threads
// may ask at once. A forked child starts its own pool, since threads do not survive a fork.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace zmlx {

// A range [0, count) that threads eat in bites of `grain`.
struct Job {
  using Work = void (*)(void* context, int64_t begin, int64_t end);

  Job(Work work, void* context, int64_t count, int64_t grain)
      : work(work), context(context), count(count), grain(grain) {}

  bool exhausted() const {
    return next.load(std::memory_order_relaxed) >= count;
  }

  void eat() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) {
        return;
      }
      const int64_t end = std::min(begin + grain, count);
      work(context, begin, end);
      if (done.fetch_add(end - begin, std::memory_order_acq_rel) + end - begin == count) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return done.load(std::memory_order_acquire) == count; });
  }

  const Work work;
  void* const context;
  const int64_t count;
  const int64_t grain;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
  std::mutex mutex;
  std::condition_variable finished;
};

class Pool {
 public:
  // Runs `work` on at most `width` threads, the caller among them.
  static void run(Job::Work work, void* context, int64_t count, int64_t grain, int width) {
    const int wanted = static_cast<int>(std::min<int64_t>(width, (count + grain - 1) / grain));
    if (wanted <= 1) {
      work(context, 0, count);
    } else {
      get().share(std::make_shared<Job>(work, context, count, grain), wanted);
    }
  }

 private:
  explicit Pool(pid_t owner) : owner_(owner) {}

  // The pool is never destroyed: its threads may still wait when the process ends.
  static Pool& get() {
    static std::atomic<Pool*> current{nullptr};
    Pool* pool = current.load(std::memory_order_acquire);
    if (pool != nullptr && pool->owner_ == getpid()) {
      return *pool;
    }
    Pool* fresh = new Pool(getpid());
    if (current.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) {
      return *fresh;
    }
    delete fresh;
    return *current.load(std::memory_order_acquire);
  }

  void share(const std::shared_ptr<Job>& job, int wanted) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(wanted - 1);
      if (threads_ > 0) {
        jobs_.push_back(job);
      }
    }
    wake_.notify_all();
    job->eat();
    job->wait();
  }

  // A system that refuses a thread leaves fewer of them; the caller alone is enough.
  void grow(int wanted) {
    while (threads_ < wanted) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;
      }
      ++threads_;
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      std::shared_ptr<Job> job = jobs_.front();
      if (job->exhausted()) {
        jobs_.pop_front();
        continue;
      }
      lock.unlock();
      job->eat();
      lock.lock();
    }
  }

  const pid_t owner_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  int threads_{0};
};

}  // namespace zmlx
