// The threads of one threadgroup as fibers of one CPU thread: barriers, simdgroups, shared memory.
//
// A fiber runs until it waits for others; then the next one runs. Lanes of a simdgroup meet as soon
// as none of them can go on, the group passes a barrier when all its simdgroups wait there. So the
// order is the same in every run.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "runtime.h"

namespace zmlx {

constexpr uint32_t kLanes = 32;
constexpr size_t kStack = size_t(256) << 10;  // of a fiber; pages are taken when touched
constexpr size_t kGuard = 4096;

enum class State { ready, barrier, simd_barrier, meeting, done, abandoned };

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  bool fresh = true;
  State state = State::done;
  Place place;
  uint32_t flags = 0;
  int line = 0;
  const char* file = "";
  uintptr_t site = 0;  // which call it waits in: where a variable of that call lies on the stack
  unsigned char mine[32];
  uint32_t bytes = 0;
};

// What the sanitizer wants to know of a group's course.
struct Watcher {
  virtual ~Watcher() = default;
  virtual void group_begins(const uint32_t* group) = 0;
  virtual void barrier(const std::vector<Fiber*>& fibers) = 0;
  virtual void simd_barrier(const std::vector<Fiber*>& lanes, const Fiber& at, uint32_t simdgroup) = 0;
  virtual void* shared(int64_t bytes, const char* name, uint32_t item) = 0;
};

// In which order threads run where nothing orders them, and what a thread's stack holds at first.
struct Order {
  bool reverse = false;
  int fill = -1;  // a byte; negative: what is left there
};

class Crew {
 public:
  // That of this CPU thread; never destroyed.
  static Crew& mine() {
    static thread_local Crew* crew = new Crew();
    return *crew;
  }

  // Before the first group of a launch: another kernel may use other threadgroup arrays.
  void begin(ThreadEntry entry, const Grid* grid, Watcher* watcher, Order order = {}) {
    entry_ = entry;
    grid_ = grid;
    watcher_ = watcher;
    order_ = order;
    shared_.clear();
  }

  void run_group(int64_t number) {
    const uint32_t count = place_threads(number);
    if (alone()) {
      return entry_(grid_, &fibers_[now_ = 0]->place);
    }
    if (watcher_ != nullptr) {
      watcher_->group_begins(group_);
    }
    for (;;) {
      const uint32_t simdgroups = (count + kLanes - 1) / kLanes;
      for (uint32_t n = 0; n < simdgroups; ++n) {
        const uint32_t first = kLanes * (order_.reverse ? simdgroups - 1 - n : n);
        run_simdgroup(first, std::min(first + kLanes, count));
      }
      bool waiting = false;
      for (uint32_t i = 0; i < count; ++i) {
        waiting |= fibers_[i]->state == State::barrier;
      }
      if (!waiting) {
        return;
      }
      if (watcher_ != nullptr) {
        watcher_->barrier(present_);
      }
      for (uint32_t i = 0; i < count; ++i) {
        if (fibers_[i]->state == State::barrier) {
          fibers_[i]->state = State::ready;
        }
      }
    }
  }

  Fiber& now() {
    return *fibers_[now_];
  }
  uint32_t now_index() const {
    return now_;
  }
  const uint32_t* group() const {
    return group_;
  }

  // The fiber never goes on; its next thread starts on an empty stack.
  [[noreturn]] void abandon() {
    now().state = State::abandoned;
    now().fresh = true;
    _longjmp(home_, 1);
  }

  Place place_of(int64_t number, uint32_t i) const {
    Place place;
    uint32_t size[3];
    locate(number, place.group, size);
    place.at[0] = i % size[0], place.at[1] = i / size[0] % size[1], place.at[2] = i / size[0] / size[1];
    return place;
  }

  bool is_meeting(uintptr_t address) const {
    const auto begin = reinterpret_cast<uintptr_t>(&meeting_);
    return address >= begin && address < begin + sizeof(meeting_);
  }
  bool on_own_stack(uintptr_t address) const {
    return within(address, stacks_[now_]);
  }
  // In the page that guards the end of the stack, or as far from it as one function may reach.
  bool below_own_stack(uintptr_t address) const {
    const auto base = reinterpret_cast<uintptr_t>(stacks_[now_]);
    return address < base + kGuard && address + kGuard >= base;
  }
  bool on_a_stack(uintptr_t address) const {
    const auto holds = [&](const char* stack) { return within(address, stack); };
    return std::any_of(stacks_.begin(), stacks_.end(), holds);
  }

  static const Runtime* runtime() {
    static const Runtime table{
        &on_barrier, &on_simd_barrier, &on_meet, &on_threadgroup, nullptr, nullptr};
    return &table;
  }

  static void on_barrier(uint32_t flags, int line, const char* file, const void* site) {
    mine().wait(State::barrier, flags, line, file, site);
  }
  static void on_simd_barrier(uint32_t flags, int line, const char* file, const void* site) {
    mine().wait(State::simd_barrier, flags, line, file, site);
  }
  static Meeting* on_meet(
      const void* value, uint32_t bytes, int line, const char* file, const void* site) {
    return mine().meet(value, bytes, line, file, site);
  }
  static void* on_threadgroup(const void* site, int64_t bytes, const char* name, uint32_t item) {
    return mine().shared(site, bytes, name, item);
  }

 private:
  struct Shared {
    const void* site;
    void* memory;
  };

  static bool within(uintptr_t address, const char* stack) {
    const auto base = reinterpret_cast<uintptr_t>(stack);
    return address >= base && address < base + kStack;
  }

  // Sets up the threads of group `number`.
  uint32_t place_threads(int64_t number) {
    uint32_t size[3];
    locate(number, group_, size);
    const uint32_t count = size[0] * size[1] * size[2];
    while (fibers_.size() < count) {
      grow();
    }
    present_.resize(count);
    for (uint32_t i = 0; i < count; ++i) {
      fibers_[i]->state = State::ready;
      fibers_[i]->place = place_of(number, i);
      present_[i] = fibers_[i].get();
    }
    return count;
  }

  // Groups count along x first; those at the grid's end may be smaller.
  void locate(int64_t number, uint32_t* group, uint32_t* size) const {
    for (int d = 0; d < 3; ++d) {
      const uint32_t groups = (grid_->grid[d] + grid_->group[d] - 1) / grid_->group[d];
      group[d] = static_cast<uint32_t>(number % groups);
      number /= groups;
      size[d] = std::min(grid_->group[d], grid_->grid[d] - group[d] * grid_->group[d]);
    }
  }

  void grow() {
    const int ours = MAP_PRIVATE | MAP_ANONYMOUS;
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, ours, -1, 0);
    if (stack == MAP_FAILED) {
      throw std::bad_alloc();
    }
    mprotect(stack, kGuard, PROT_NONE);
    stacks_.push_back(static_cast<char*>(stack));
    fibers_.push_back(std::make_unique<Fiber>());
  }

  void run_simdgroup(uint32_t first, uint32_t end) {
    for (;;) {
      for (uint32_t n = 0; n < end - first; ++n) {
        const uint32_t i = order_.reverse ? end - 1 - n : first + n;
        if (fibers_[i]->state == State::ready) {
          switch_to(i);
        }
      }
      if (!resolve(first, end)) {
        return;
      }
    }
  }

  // Lets the lanes meet that wait in one call; of several the first in the text, so that lanes that
  // left a loop wait for those still in it.
  bool resolve(uint32_t first, uint32_t end) {
    const Fiber* chosen = nullptr;
    for (uint32_t i = first; i < end; ++i) {
      const Fiber& fiber = *fibers_[i];
      const bool waits = fiber.state == State::meeting || fiber.state == State::simd_barrier;
      if (waits && (chosen == nullptr || before(fiber, *chosen))) {
        chosen = &fiber;
      }
    }
    if (chosen == nullptr) {
      return false;
    }
    if (chosen->state == State::simd_barrier && watcher_ != nullptr) {
      lanes_.assign(present_.begin() + first, present_.begin() + end);
      watcher_->simd_barrier(lanes_, *chosen, first / kLanes);
    }
    const State state = chosen->state;
    const uintptr_t site = chosen->site;
    meeting_.mask = 0;
    meeting_.present = static_cast<uint32_t>((uint64_t(1) << (end - first)) - 1);
    for (uint32_t i = first; i < end; ++i) {
      Fiber& fiber = *fibers_[i];
      if (fiber.state == state && fiber.site == site) {
        meeting_.mask |= 1u << (i - first);
        std::memcpy(meeting_.value[i - first], fiber.mine, fiber.bytes);
        fiber.state = State::ready;
      }
    }
    return true;
  }

  // By lines; a helper's come before the body's. On one line the compiler lays out variables in the
  // order of the text, from above or below as it optimises.
  bool before(const Fiber& a, const Fiber& b) const {
    if (std::strcmp(a.file, b.file) != 0) {
      return std::strcmp(a.file, b.file) > 0;  // name.header, name.body
    }
    if (a.line != b.line) {
      return a.line < b.line;
    }
    return watcher_ != nullptr ? a.site < b.site : a.site > b.site;
  }

  // A group of one thread waits for nobody and needs no fiber.
  bool alone() const {
    return present_.size() == 1 && watcher_ == nullptr;
  }

  void wait(State state, uint32_t flags, int line, const char* file, const void* site) {
    if (alone()) {
      return;
    }
    Fiber& fiber = now();
    fiber.state = state;
    fiber.flags = flags;
    fiber.line = line;
    fiber.file = file;
    fiber.site = reinterpret_cast<uintptr_t>(site) - reinterpret_cast<uintptr_t>(stacks_[now_]);
    fiber.bytes = state == State::meeting ? fiber.bytes : 0;
    pause(fiber);
  }

  Meeting* meet(
      const void* value, uint32_t bytes, int line, const char* file, const void* site) {
    if (alone()) {
      meeting_.mask = meeting_.present = 1;
      meeting_.self = 0;
      std::memcpy(meeting_.value[0], value, bytes);
      return &meeting_;
    }
    Fiber& fiber = now();
    std::memcpy(fiber.mine, value, bytes);
    fiber.bytes = bytes;
    wait(State::meeting, 0, line, file, site);
    meeting_.self = now_ % kLanes;
    return &meeting_;
  }

  void* shared(const void* site, int64_t bytes, const char* name, uint32_t item) {
    for (const Shared& one : shared_) {
      if (one.site == site) {
        return one.memory;
      }
    }
    void* memory = watcher_ != nullptr ? watcher_->shared(bytes, name, item) : room(bytes);
    shared_.push_back({site, memory});
    return memory;
  }

  // Memory for the next threadgroup array; kept from launch to launch.
  void* room(int64_t bytes) {
    const size_t number = shared_.size();
    if (rooms_.size() <= number) {
      rooms_.resize(number + 1);
    }
    std::vector<char>& room = rooms_[number];
    if (static_cast<int64_t>(room.size()) < bytes + 64) {
      room = std::vector<char>(static_cast<size_t>(bytes) + 64);
    }
    const auto address = reinterpret_cast<uintptr_t>(room.data());
    return reinterpret_cast<void*>((address + 63) & ~uintptr_t(63));
  }

  void switch_to(uint32_t index) {
    now_ = index;
    if (_setjmp(home_) == 0) {
      Fiber& fiber = now();
      if (!fiber.fresh) {
        _longjmp(fiber.resume, 1);
      }
      fiber.fresh = false;
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = stacks_[index];
      fiber.start.uc_stack.ss_size = kStack;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, &Crew::live, 0);
      setcontext(&fiber.start);
    }
  }

  __attribute__((noinline)) void pause(Fiber& fiber) {
    if (_setjmp(fiber.resume) == 0) {
      _longjmp(home_, 1);
    }
  }

  // Leaves bytes where the next function called has its variables.
  __attribute__((noinline)) static void smear(int fill) {
    char room[8192];
    std::memset(room, fill, sizeof(room));
    asm volatile("" : : "r"(room) : "memory");
  }

  // A fiber's whole life: one thread after another.
  static void live() {
    for (;;) {
      Crew& crew = mine();
      Fiber& fiber = crew.now();
      if (crew.order_.fill >= 0) {
        smear(crew.order_.fill);
      }
      crew.entry_(crew.grid_, &fiber.place);
      fiber.state = State::done;
      crew.pause(fiber);
    }
  }

  ThreadEntry entry_ = nullptr;
  const Grid* grid_ = nullptr;
  Watcher* watcher_ = nullptr;
  Order order_;
  uint32_t group_[3];
  uint32_t now_ = 0;
  jmp_buf home_;
  Meeting meeting_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> present_;
  std::vector<Fiber*> lanes_;
  std::vector<char*> stacks_;
  std::vector<Shared> shared_;
  std::vector<std::vector<char>> rooms_;
};

}  // namespace zmlx
