// Which accesses of a watched launch race: no barrier orders them, whatever order they ran in; and
// what is read before it was written.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "crew.h"
#include "findings.h"
#include "guarded.h"

namespace zmlx {

class Races {
 public:
  static constexpr uint32_t kDevice = 1, kThreadgroup = 2;  // of mem_flags

  explicit Races(Findings& found) : found_(found) {}

  void group_begins() {
    ++group_;
    epochs_[0] = epochs_[1] = 0;
    std::fill(subs_.begin(), subs_.end(), uint16_t(0));
  }

  // All threads of the group have passed a barrier for memory of `flags`.
  void barrier(uint32_t flags) {
    epochs_[0] += (flags & kDevice) != 0;
    epochs_[1] += (flags & kThreadgroup) != 0;
  }

  void simd_barrier(uint32_t simdgroup, uint32_t flags) {
    subs_[2 * simdgroup] += (flags & kDevice) != 0;
    subs_[2 * simdgroup + 1] += (flags & kThreadgroup) != 0;
  }

  // An access of the thread that runs, within `region`.
  void touch(
      Region& region, uintptr_t address, uint32_t bytes, bool read, bool write, bool atomic,
      const Site& site) {
    const uint32_t number = site_number(site);
    quiet_ = false;
    const size_t first = (address - region.begin) / region.grain;
    const size_t last = (address + bytes - 1 - region.begin) / region.grain;
    for (size_t i = first; i <= last && i < region.cells.size(); ++i) {
      touch_cell(region, i, read, write, atomic, number);
    }
    if (pending_.set) {
      pending_.address = address;
      pending_.held.assign(reinterpret_cast<const char*>(address), bytes);
    }
  }

  // Tells the pending race, now that the write that made it is done.
  void settle() {
    if (!pending_.set) {
      return;
    }
    pending_.set = false;
    const bool same = std::memcmp(
        reinterpret_cast<const char*>(pending_.address), pending_.held.data(),
        pending_.held.size()) == 0;
    report_pair(same ? "same value" : "race", *pending_.region, pending_.index, pending_.now,
        pending_.past, pending_.place);
  }

 private:
  // A write that would race, if it changes what another thread has written: seen after it was done.
  struct Pending {
    bool set = false;
    uintptr_t address = 0;
    std::string held;
    Region* region = nullptr;
    int64_t index = 0;
    Access now, past;
    Place place{};
  };

  void touch_cell(Region& region, size_t i, bool read, bool write, bool atomic, uint32_t site) {
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
      found_.add("read before written", region.name, index, sites_[site], {}, crew.now().place);
    }
    bool raced = false;  // one report for an access is enough
    for (const Access* past : {&cell.write, &cell.read, &cell.other_read}) {
      const bool matters = write || past == &cell.write;
      if (!raced && !quiet_ && matters && races(*past, now)) {
        raced = quiet_ = true;
        if (write && !read && !past->atomic && !atomic && past == &cell.write) {
          pending_ = {true, 0, {}, &region, index, now, *past, crew.now().place};
        } else {
          report_pair("race", region, index, now, *past, crew.now().place);
        }
      }
    }
    if (write) {
      const Access& past = cell.write;
      const bool again = past.set && (past.group != now.group || past.thread != now.thread);
      if (again && !quiet_ && !atomic && region.kind == Kind::output && !region.filled) {
        quiet_ = true;
        report_pair("written twice", region, index, now, past, crew.now().place);
      }
      if (!outranks(past, now)) {
        cell.write = now;
      }
    } else if (!outranks(cell.read, now)) {
      remember_read(cell, now);
    }
  }

  // A plain access says more of races than an atomic one that the same thread makes after it.
  static bool outranks(const Access& past, const Access& now) {
    return past.set && now.atomic && !past.atomic && past.group == now.group &&
        past.thread == now.thread && past.epoch == now.epoch && past.sub == now.sub;
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
      const char* kind, Region& region, int64_t index, const Access& now, const Access& past,
      const Place& place) {
    Finding& finding =
        found_.add(kind, region.name, index, sites_[now.site], sites_[past.site], place);
    if (finding.count == 1) {
      finding.other_place = Crew::mine().place_of(static_cast<int64_t>(past.group) - 1, past.thread);
    }
  }

  uint32_t site_number(const Site& site) {
    const auto [place, fresh] = numbers_.try_emplace(Findings::id(site), sites_.size());
    if (fresh) {
      sites_.push_back(site);
    }
    return place->second;
  }

  Findings& found_;
  uint64_t group_ = 0;  // counted from one
  uint32_t epochs_[2] = {0, 0};
  std::vector<uint16_t> subs_ = std::vector<uint16_t>(2 * 64, 0);
  std::unordered_map<uint64_t, uint32_t> numbers_;
  std::vector<Site> sites_;
  Pending pending_;
  bool quiet_ = false;  // this access has been reported
};

}  // namespace zmlx
