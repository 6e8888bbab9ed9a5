// Watches a launch of a hand-written kernel: every access, every barrier; collects what is wrong.
//
// The kernel is compiled with the compiler's thread sanitizer hooks, which arrive here before the
// access they announce. Groups run one after another on one CPU thread.
#pragma once

#include <string>
#include <vector>

#include "crew.h"
#include "findings.h"
#include "guarded.h"
#include "guards.h"
#include "races.h"
#include "regions.h"

namespace zmlx {

// How a launch is watched; zmlx/device/sanitize.py sets it.
struct Watching {
  int64_t budget = 20'000'000;   // accesses of one thread, at most
  double seconds = 0;            // of the launch, at most; 0: any
  Order order;
};

class Sanitizer : public Watcher, public Heard {
 public:
  static constexpr int64_t kSharedLimit = 32768;
  static constexpr uintptr_t kReserve = 1 << 14;  // bytes of a stack, for this class itself

  static Sanitizer*& current() {
    static thread_local Sanitizer* sanitizer = nullptr;
    return sanitizer;
  }

  explicit Sanitizer(const Watching& watching) : watching_(watching), counts_(1024) {}

  Region& add(const std::string& name, Kind kind, size_t bytes, uint32_t item, uint32_t grain) {
    return regions_.add(name, kind, bytes, item, grain);
  }

  void group_begins(const uint32_t*) override {
    races_.settle();
    races_.group_begins();
    std::fill(counts_.begin(), counts_.end(), 0);
    regions_.empty_shared();
  }

  void barrier(const std::vector<Fiber*>& fibers) override {
    races_.settle();
    const Fiber *first = nullptr, *gone = nullptr, *elsewhere = nullptr;
    bool abandoned = false;
    uint32_t flags = ~0u;
    int64_t missing = 0;
    for (const Fiber* fiber : fibers) {
      abandoned |= fiber->state == State::abandoned;
      if (fiber->state == State::barrier) {
        first = first == nullptr ? fiber : first;
        flags &= fiber->flags;
        if (fiber->site != first->site) {
          elsewhere = elsewhere == nullptr ? fiber : elsewhere;
        }
      } else {
        gone = gone == nullptr ? fiber : gone;
        ++missing;
      }
    }
    if (!abandoned && (gone != nullptr || elsewhere != nullptr)) {
      report_barrier(*first, gone != nullptr ? *gone : *elsewhere, gone != nullptr, missing);
    }
    races_.barrier(flags);
  }

  void simd_barrier(
      const std::vector<Fiber*>& lanes, const Fiber& at, uint32_t simdgroup) override {
    races_.settle();
    const Fiber* other = nullptr;
    bool abandoned = false;
    int64_t missing = 0;
    for (const Fiber* lane : lanes) {
      abandoned |= lane->state == State::abandoned;
      if (lane->state != State::simd_barrier || lane->site != at.site) {
        other = other == nullptr ? lane : other;
        ++missing;
      }
    }
    if (missing > 0 && !abandoned) {
      found_.add("simdgroup barrier not reached", "", 0, {0, at.line, at.file}, {}, other->place)
          .size = missing;
    }
    races_.simd_barrier(simdgroup, at.flags);
  }

  // Of a threadgroup array; bytes are cells, since its elements may be structs.
  void* shared(int64_t bytes, const char* name, uint32_t item) override {
    Region& region = add(name, Kind::shared, static_cast<size_t>(bytes), item, 1);
    std::memset(region.memory(), 0xff, static_cast<size_t>(bytes));
    shared_bytes_ += bytes;
    if (shared_bytes_ > kSharedLimit) {
      report("too much threadgroup memory", region, 0, {}, {}).size = shared_bytes_;
    }
    return region.memory();
  }

  // What a hook or the kernel's header announces.
  void access(uintptr_t address, uint32_t bytes, bool read, bool write, bool atomic, Site site) {
    races_.settle();
    Crew& crew = Crew::mine();
    if (!crew.on_own_stack(reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) - kReserve)) {
      found_.add("stack used up", "", 0, site, {}, crew.now().place);
      crew.abandon();
    }
    if (++counts_[crew.now_index()] > watching_.budget || stopped_ || late_) {
      stop(site);
    }
    if (crew.on_own_stack(address) || crew.is_meeting(address)) {
      return;
    }
    ++accesses_;
    Region* region = regions_.find(address);
    if (region == nullptr) {
      if (!crew.on_a_stack(address) && !regions_.in_an_image(address)) {
        wild(address, std::move(site), write);
      }
      return;
    }
    if (address < region->begin || address + bytes > region->end) {
      outside(*region, address, site, write);
      if (address < region->mapped || address + bytes > region->mapped_end) {
        crew.abandon();
      }
      return;
    }
    if (region->cells.empty()) {
      if (write) {
        report("write to input", *region, region->index(address), site, site);
      }
      return;
    }
    races_.touch(*region, address, bytes, read, write, atomic, site);
  }

  // The compiler's own checks. A pointer of the wrong alignment, or past the end of a variable:
  void misfit(
      const Site& spot, uint32_t column, uintptr_t address, uint32_t alignment, bool write,
      uintptr_t caller) {
    races_.settle();
    Crew& crew = Crew::mine();
    Region* region = regions_.find(address);
    if (address % alignment != 0) {
      Finding& finding = found_.add(
          "misaligned", region != nullptr ? region->name : "", 0, {caller, 0, {}}, {},
          crew.now().place);
      finding.index = region != nullptr ? region->index(address) : 0;
      finding.size = alignment;
      crew.abandon();
    }
    if (region != nullptr) {
      return;  // its own bounds are known
    }
    if (indexed_ != spot.line) {  // else the index has been told
      found_.add(
          write ? "write past a variable" : "read past a variable", "", 0, {caller, 0, {}}, spot,
          crew.now().place)
          .column = column;
    }
    crew.abandon();
  }

  void index(const Site& spot, uint32_t column, int64_t index, int64_t size, uintptr_t caller) {
    races_.settle();
    Finding& finding =
        found_.add("index outside", "", index, {caller, 0, {}}, spot, Crew::mine().now().place);
    finding.size = size;
    finding.column = column;
    indexed_ = spot.line;
  }

  void division(bool by_zero, uintptr_t caller) {
    races_.settle();
    hooked_ = by_zero;
    found_.add(
        by_zero ? "division by zero" : "division overflows", "", 0, {caller, 0, {}}, {},
        Crew::mine().now().place);
  }

  // A lane's value that does not exist, wanted in the call that the thread has come from.
  // A reduction by shuffles up or down makes such values too and drops them.
  void absent(uint32_t lane, bool moved) {
    races_.settle();
    const Fiber& fiber = Crew::mine().now();
    Finding& finding = found_.add(
        moved ? "neighbour absent" : "shuffle", "", lane, {0, fiber.line, fiber.file}, {},
        fiber.place);
    finding.size = lane < kLanes;
  }

  // A division by zero has called its hook before.
  void divided(uintptr_t pc, bool least) override {
    if (least && !hooked_) {
      division(false, pc + 1);
    }
    hooked_ = false;
  }

  void crashed(int number, uintptr_t pc, uintptr_t address) override {
    Crew& crew = Crew::mine();
    const bool deep = number == SIGSEGV && crew.below_own_stack(address);
    found_.add(deep ? "stack used up" : "crash", "", 0, {pc + 1, 0, {}}, {}, crew.now().place)
        .size = number;
    crew.abandon();
  }

  void late(uintptr_t pc) override {
    late_ = true;
    if (Images::all().hold(pc)) {
      stop({pc + 1, 0, {}});
    }
  }

  bool stopped() const {
    return stopped_;
  }

  // After the last group: elements of outputs that nobody wrote.
  void finish() {
    races_.settle();
    for (auto& region : regions_.all()) {
      if (region->kind != Kind::output || region->filled || stopped_) {
        continue;
      }
      int64_t missing = 0, first = -1;
      for (size_t i = 0; i < region->cells.size(); ++i) {
        if (!region->cells[i].write.set) {
          first = first < 0 ? static_cast<int64_t>(i) : first;
          ++missing;
        }
      }
      if (missing > 0) {
        Finding& finding = report("never written", *region, first, {}, {});
        finding.count = missing;
        finding.size = static_cast<int64_t>(region->cells.size());
      }
    }
  }

  // How many accesses were looked at, of memory that is not a thread's own.
  int64_t accesses() const {
    return accesses_;
  }

  std::vector<Finding> findings() const {
    return found_.all();
  }

 private:
  // Ends the launch, thread by thread.
  [[noreturn]] void stop(const Site& site) {
    if (!stopped_) {
      stopped_ = true;
      Finding& finding =
          found_.add("no end", "", 0, site, {}, Crew::mine().now().place);
      finding.size = late_ ? 0 : watching_.budget;
    }
    Crew::mine().abandon();
  }

  [[noreturn]] void wild(uintptr_t address, Site site, bool write) {
    if (const Region* nearest = regions_.nearest(address)) {
      outside(*nearest, address, site, write);
    }
    Crew::mine().abandon();
  }

  // Names the first element outside: of four that are read at once two may be inside.
  void outside(const Region& region, uintptr_t address, const Site& site, bool write) {
    address = address >= region.begin && address < region.end ? region.end : address;
    report(write ? "write outside" : "read outside", region, region.index(address), site, site).size =
        static_cast<int64_t>((region.end - region.begin) / region.item);
  }

  void report_barrier(const Fiber& at, const Fiber& other, bool returned, int64_t missing) {
    const Site site{0, at.line, at.file};
    const Site second = returned ? Site{} : Site{0, other.line, other.file};
    Finding& finding = found_.add(
        returned ? "barrier not reached" : "different barriers", "", 0, site, second, other.place);
    finding.size = missing;
  }

  Finding& report(
      const char* kind, const Region& region, int64_t index, const Site& site, const Site& other) {
    const bool running = site.address != 0 || site.line != 0;
    const Place place = running ? Crew::mine().now().place : Place{};
    return found_.add(kind, region.name, index, site, other, place);
  }

  const Watching watching_;
  Findings found_;
  Races races_{found_};
  Regions regions_;
  int64_t shared_bytes_ = 0;
  int64_t accesses_ = 0;
  std::vector<int64_t> counts_;  // accesses of each thread of the group
  int indexed_ = 0;      // the line of the last index outside an array
  bool hooked_ = false;  // a division by zero was told, and traps now
  bool stopped_ = false, late_ = false;
};

}  // namespace zmlx
