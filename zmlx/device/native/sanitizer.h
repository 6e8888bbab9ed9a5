// Watches a launch of a hand-written kernel: every access, every barrier; collects what is wrong.
//
// The kernel is compiled with the compiler's thread sanitizer hooks, which arrive here before the
// access they announce. Groups run one after another on one CPU thread; two accesses race when no
// barrier orders them, whatever order they happened to run in.
#pragma once

#include <dlfcn.h>

#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "crew.h"
#include "guarded.h"
#include "library.h"

namespace zmlx {

// Where in the text: an address in the library, or what the kernel's header already knew.
struct Site {
  uintptr_t address = 0;
  int line = 0;
  std::string file;
};

struct Finding {
  std::string kind;
  std::string buffer;
  int64_t index = 0;
  int64_t size = 0;  // elements of the buffer; what else the kind counts
  Site site, other_site;
  Place place{};
  Place other_place{};
  int64_t count = 1;
};

struct SanitizeFault : std::runtime_error {
  SanitizeFault(
      const std::string& kernel, std::shared_ptr<const Library> library,
      std::vector<Finding> findings)
      : std::runtime_error("[zmlx.sanitize] kernel " + kernel + " breaks Metal's rules."),
        kernel(kernel), library(std::move(library)), findings(std::move(findings)) {}
  std::string kernel;
  std::shared_ptr<const Library> library;  // loaded while the findings' addresses are looked up
  std::vector<Finding> findings;
};

class Sanitizer : public Watcher {
 public:
  static constexpr size_t kMost = 20;
  static constexpr int64_t kSharedLimit = 32768;
  static constexpr uint32_t kDevice = 1, kThreadgroup = 2;  // of mem_flags
  static constexpr uintptr_t kReserve = 1 << 14;  // bytes of a stack, for this class itself

  static Sanitizer*& current() {
    static thread_local Sanitizer* sanitizer = nullptr;
    return sanitizer;
  }

  Region& add(const std::string& name, Kind kind, size_t bytes, uint32_t item, uint32_t grain) {
    regions_.push_back(std::make_unique<Region>(name, kind, bytes, item, grain));
    return *regions_.back();
  }

  void group_begins(const uint32_t* group) override {
    ++group_;
    epochs_[0] = epochs_[1] = 0;
    std::fill(subs_.begin(), subs_.end(), uint16_t(0));
    for (auto& region : regions_) {
      if (region->kind == Kind::shared) {
        std::fill(region->cells.begin(), region->cells.end(), Cell{});
        std::memset(region->memory(), 0xff, region->end - region->begin);
      }
    }
  }

  void barrier(const std::vector<Fiber*>& fibers) override {
    const Fiber *first = nullptr, *gone = nullptr, *elsewhere = nullptr;
    bool abandoned = false;
    uint32_t flags = ~0u;
    int64_t missing = 0;
    for (const Fiber* fiber : fibers) {
      abandoned |= fiber->state == State::abandoned;
      if (fiber->state == State::barrier) {
        first = first == nullptr ? fiber : first;
        flags &= fiber->flags;
        if (fiber->line != first->line || std::strcmp(fiber->file, first->file) != 0) {
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
    epochs_[0] += (flags & kDevice) != 0;
    epochs_[1] += (flags & kThreadgroup) != 0;
  }

  void simd_barrier(uint32_t simdgroup, uint32_t flags) override {
    subs_[2 * simdgroup] += (flags & kDevice) != 0;
    subs_[2 * simdgroup + 1] += (flags & kThreadgroup) != 0;
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
    Crew& crew = Crew::mine();
    if (!crew.on_own_stack(reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) - kReserve)) {
      report_at("stack used up", "", 0, site, {}, crew.now().place);
      crew.abandon();
    }
    if (crew.on_own_stack(address) || crew.is_meeting(address)) {
      return;
    }
    ++accesses_;
    Region* region = find(address);
    if (region == nullptr) {
      if (!crew.on_a_stack(address) && !in_an_image(address)) {
        wild(address, std::move(site), write);
      }
      return;
    }
    if (address < region->begin || address + bytes > region->end) {
      Finding& finding = report(
          write ? "write outside" : "read outside", *region, region->index(address), site, site);
      finding.size = static_cast<int64_t>((region->end - region->begin) / region->item);
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
    const uint32_t number = site_number(site);
    quiet_ = false;
    const size_t first = (address - region->begin) / region->grain;
    const size_t last = (address + bytes - 1 - region->begin) / region->grain;
    for (size_t i = first; i <= last && i < region->cells.size(); ++i) {
      touch(*region, i, read, write, atomic, number);
    }
  }

  // After the last group: elements of outputs that nobody wrote.
  void finish() {
    for (auto& region : regions_) {
      if (region->kind != Kind::output || region->filled) {
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
    std::vector<Finding> all;
    for (const auto& key : order_) {
      all.push_back(found_.at(key));
    }
    return all;
  }

 private:
  using Key = std::tuple<std::string, std::string, uint64_t, uint64_t>;

  Region* find(uintptr_t address) {
    if (last_ != nullptr && address >= last_->low && address < last_->high) {
      return last_;
    }
    for (auto& region : regions_) {
      if (address >= region->low && address < region->high) {
        return last_ = region.get();
      }
    }
    return nullptr;
  }

  // Constants of the library, and what the runtime itself keeps.
  bool in_an_image(uintptr_t address) {
    if (known_pages_.count(address >> 12) != 0) {
      return true;
    }
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(address), &info) == 0) {
      return false;
    }
    known_pages_.insert(address >> 12);
    return true;
  }

  [[noreturn]] void wild(uintptr_t address, Site site, bool write) {
    const Region* nearest = nullptr;
    uint64_t least = ~uint64_t(0);
    for (const auto& region : regions_) {
      const uint64_t gap = address < region->begin ? region->begin - address : address - region->end;
      if (gap < least) {
        least = gap;
        nearest = region.get();
      }
    }
    if (nearest != nullptr) {
      Finding& finding = report(
          write ? "write outside" : "read outside", *nearest, nearest->index(address), site, site);
      finding.size = static_cast<int64_t>((nearest->end - nearest->begin) / nearest->item);
    }
    Crew::mine().abandon();
  }

  void touch(Region& region, size_t i, bool read, bool write, bool atomic, uint32_t site) {
    Cell& cell = region.cells[i];
    Crew& crew = Crew::mine();
    const int space = region.kind == Kind::shared ? 1 : 0;
    const uint32_t thread = crew.now_index();
    Access now;
    now.group = group_;
    now.epoch = epochs_[space];
    now.sub = subs_[2 * (thread / kLanes) + space];
    now.site = site;
    now.thread = static_cast<uint16_t>(thread);
    now.atomic = atomic;
    now.set = true;
    const int64_t index = static_cast<int64_t>(i * region.grain / region.item);
    if (read && !cell.write.set && !region.filled && !quiet_) {
      quiet_ = true;
      report("read before written", region, index, sites_[site], {});
    }
    bool raced = false;  // one report for an access is enough
    for (const Access* past : {&cell.write, &cell.read, &cell.other_read}) {
      const bool matters = write || past == &cell.write;
      if (!raced && !quiet_ && matters && races(*past, now)) {
        raced = quiet_ = true;
        report_pair("race", region, index, now, *past);
      }
    }
    if (write) {
      const Access& past = cell.write;
      const bool again = past.set && (past.group != now.group || past.thread != now.thread);
      if (again && !quiet_ && !atomic && region.kind == Kind::output && !region.filled) {
        quiet_ = true;
        report_pair("written twice", region, index, now, past);
      }
      cell.write = now;
    } else {
      remember_read(cell, now);
    }
  }

  static void remember_read(Cell& cell, const Access& now) {
    const Access& first = cell.read;
    const bool mine = first.group == now.group && first.thread == now.thread;
    const bool old = first.group == now.group && first.epoch < now.epoch;
    if (!first.set || mine || old) {
      cell.read = now;
    } else {
      cell.other_read = now;
    }
  }

  static bool races(const Access& past, const Access& now) {
    if (!past.set || (past.atomic && now.atomic)) {
      return false;
    }
    if (past.group != now.group) {
      return true;
    }
    const bool ordered = past.thread == now.thread || past.epoch != now.epoch ||
        (past.thread / kLanes == now.thread / kLanes && past.sub != now.sub);
    return !ordered;
  }

  void report_pair(
      const char* kind, Region& region, int64_t index, const Access& now, const Access& past) {
    Finding& finding = report(kind, region, index, sites_[now.site], sites_[past.site]);
    if (finding.count == 1) {
      finding.other_place = Crew::mine().place_of(static_cast<int64_t>(past.group) - 1, past.thread);
    }
  }

  void report_barrier(const Fiber& at, const Fiber& other, bool returned, int64_t missing) {
    const Site site{0, at.line, at.file};
    const Site second = returned ? Site{} : Site{0, other.line, other.file};
    Finding& finding = report_at(
        returned ? "barrier not reached" : "different barriers", "", 0, site, second, other.place);
    finding.size = missing;
  }

  Finding& report(
      const char* kind, const Region& region, int64_t index, const Site& site, const Site& other) {
    const bool running = site.address != 0 || site.line != 0;
    const Place place = running ? Crew::mine().now().place : Place{};
    return report_at(kind, region.name, index, site, other, place);
  }

  Finding& report_at(
      const char* kind, const std::string& buffer, int64_t index, const Site& site,
      const Site& other, const Place& place) {
    const Key key{kind, buffer, std::min(id(site), id(other)), std::max(id(site), id(other))};
    auto found = found_.find(key);
    if (found != found_.end()) {
      ++found->second.count;
      return found->second;
    }
    if (found_.size() >= kMost) {
      return spare_ = Finding{};
    }
    Finding finding;
    finding.kind = kind;
    finding.buffer = buffer;
    finding.index = index;
    finding.site = site;
    finding.other_site = other;
    finding.place = place;
    order_.push_back(key);
    return found_[key] = finding;
  }

  static uint64_t id(const Site& site) {
    return site.address + (uint64_t(static_cast<uint32_t>(site.line)) << 48);
  }

  uint32_t site_number(const Site& site) {
    const auto [place, fresh] = numbers_.try_emplace(id(site), sites_.size());
    if (fresh) {
      sites_.push_back(site);
    }
    return place->second;
  }

  std::vector<std::unique_ptr<Region>> regions_;
  int64_t shared_bytes_ = 0;
  int64_t accesses_ = 0;
  Region* last_ = nullptr;
  uint64_t group_ = 0;  // counted from one
  uint32_t epochs_[2] = {0, 0};
  std::vector<uint16_t> subs_ = std::vector<uint16_t>(2 * 64, 0);
  std::unordered_map<uint64_t, uint32_t> numbers_;
  std::vector<Site> sites_;
  std::unordered_set<uintptr_t> known_pages_;
  std::map<Key, Finding> found_;
  std::vector<Key> order_;
  Finding spare_;
  bool quiet_ = false;  // this access has been reported
};

}  // namespace zmlx
