// Signals that a kernel's code raises: none of them ends the process.
//
// An integer division by zero, and the least integer by -1, trap on x86, where a GPU goes on with some
// value: the handler steps over the instruction. While a launch is watched the others (an address that
// belongs to nothing, an instruction that is none) end the thread of the kernel. Signals from elsewhere
// go to whom they went before. library.h tells of the code of kernels.
#pragma once

#include <dlfcn.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#ifdef __linux__
#include <link.h>
#endif

namespace zmlx {

// Where the code of loaded kernels lies.
class Images {
 public:
  static Images& all() {
    static Images* images = new Images();
    return *images;
  }

  // The object that holds `address`.
  void add([[maybe_unused]] const void* address) {
#ifdef __linux__
    Search search{reinterpret_cast<uintptr_t>(address), {0, 0}};
    dl_iterate_phdr(&look, &search);
    if (search.found.second != 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      ranges_.push_back(search.found);
    }
#endif
  }

  void remove(const void* address) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto at = reinterpret_cast<uintptr_t>(address);
    for (size_t i = 0; i < ranges_.size(); ++i) {
      if (at >= ranges_[i].first && at < ranges_[i].second) {
        ranges_.erase(ranges_.begin() + static_cast<long>(i));
        return;
      }
    }
  }

  // Asked where a kernel's own instruction has trapped: its thread holds no lock.
  bool hold(uintptr_t at) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [begin, end] : ranges_) {
      if (at >= begin && at < end) {
        return true;
      }
    }
    return false;
  }

 private:
  using Range = std::pair<uintptr_t, uintptr_t>;
#ifdef __linux__
  struct Search {
    uintptr_t address;
    Range found;
  };

  static int look(dl_phdr_info* info, size_t, void* to) {
    auto* search = static_cast<Search*>(to);
    Range range{~uintptr_t(0), 0};
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& part = info->dlpi_phdr[i];
      if (part.p_type == PT_LOAD) {
        const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
        range.first = begin < range.first ? begin : range.first;
        range.second = begin + part.p_memsz > range.second ? begin + part.p_memsz : range.second;
      }
    }
    const bool holds = search->address >= range.first && search->address < range.second;
    if (holds) {
      search->found = range;
    }
    return holds;
  }
#endif

  std::mutex mutex_;
  std::vector<Range> ranges_;
};

// Who wants to hear of what a kernel's thread has raised; `crashed` does not return.
struct Heard {
  virtual ~Heard() = default;
  virtual void divided(uintptr_t pc, bool least) = 0;  // by zero, or of the least number
  virtual void crashed(int number, uintptr_t pc, uintptr_t address) = 0;
  virtual void late(uintptr_t pc) = 0;

  // That of this CPU thread, while it runs a watched launch.
  static Heard*& now() {
    static thread_local Heard* heard = nullptr;
    return heard;
  }
};

class Signals {
 public:
  static constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP};

  // Asked at each load: another library may have taken the signal meanwhile.
  static void watch_division() {
    take(SIGFPE, &on_fault);
  }

  static void take(int number, void (*handler)(int, siginfo_t*, void*)) {
    struct sigaction old;
    sigaction(number, nullptr, &old);
    if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction == handler) {
      return;
    }
    before()[number] = old;
    struct sigaction mine {};
    mine.sa_sigaction = handler;
    mine.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(number, &mine, nullptr);
  }

  static void give_back(int number) {
    sigaction(number, &before()[number], nullptr);
  }

  static uintptr_t pc_of(void* context) {
    auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__linux__) && defined(__x86_64__)
    return static_cast<uintptr_t>(machine->gregs[REG_RIP]);
#elif defined(__linux__) && defined(__aarch64__)
    return static_cast<uintptr_t>(machine->pc);
#else
    return machine == nullptr;
#endif
  }

  static void on_fault(int number, siginfo_t* info, void* context) {
    const uintptr_t pc = pc_of(context);
    Heard* heard = Heard::now();
    bool least = false;
    if (number == SIGFPE && Images::all().hold(pc) && step_over_division(context, &least)) {
      if (heard != nullptr) {
        heard->divided(pc, least);
      }
      return;
    }
    Dl_info whose;
    const bool ours = Images::all().hold(pc) || dladdr(reinterpret_cast<void*>(pc), &whose) == 0;
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (heard != nullptr && info->si_code > 0 && (ours || number != SIGFPE)) {
      heard->crashed(number, pc, address);
    }
    const struct sigaction& old = before()[number];
    if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr) {
      old.sa_sigaction(number, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
      old.sa_handler(number);
    } else {  // the instruction runs again, and ends the process
      signal(number, SIG_DFL);
      if (info->si_code <= 0) {
        raise(number);
      }
    }
  }

 private:
  static struct sigaction* before() {
    static struct sigaction actions[NSIG];
    return actions;
  }

  // Past a `div` or `idiv` at the program counter: the remainder is 0, the quotient what was divided.
  static bool step_over_division(void* context, bool* least) {
#if defined(__linux__) && defined(__x86_64__)
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto* start = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
    const unsigned char* at = start;
    while (*at == 0x66 || *at == 0xf2 || *at == 0xf3 || *at == 0x2e || *at == 0x3e) {
      ++at;
    }
    const bool wide = (*at & 0xf8) == 0x48;
    at += (*at & 0xf0) == 0x40;
    const bool bytes = *at == 0xf6;
    if (*at != 0xf6 && *at != 0xf7) {
      return false;
    }
    const unsigned char form = *++at;
    const int mode = form >> 6, operation = form >> 3 & 7, base = form & 7;
    if (operation != 6 && operation != 7) {
      return false;
    }
    ++at;
    bool far = mode == 2 || (mode == 0 && base == 5);
    if (mode != 3 && base == 4) {
      far = far || (mode == 0 && (*at & 7) == 5);
      ++at;
    }
    at += far ? 4 : mode == 1 ? 1 : 0;
    registers[REG_RIP] += at - start;
    const auto divided = static_cast<uint64_t>(registers[REG_RAX]);
    *least = operation == 7 &&
        (wide ? divided == uint64_t(1) << 63 : static_cast<uint32_t>(divided) == 0x80000000u);
    if (bytes) {
      registers[REG_RAX] &= 0xff;
    } else {
      registers[REG_RDX] = 0;
    }
    return true;
#else
    return context == nullptr || least == nullptr;
#endif
  }
};

}  // namespace zmlx
