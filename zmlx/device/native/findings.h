// What the sanitizer found in a launch: at most 20 kinds at different places, each counted.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "library.h"
#include "runtime.h"

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
  uint32_t column = 0;  // in the line of `site`, where the compiler knew it
};

struct SanitizeFault : std::runtime_error {
  SanitizeFault(
      const std::string& kernel, std::shared_ptr<const Library> library,
      std::vector<Finding> findings)
      : std::runtime_error("[zmlx.sanitize] kernel " + kernel + " breaks Metal's rules."),
        kernel(kernel), library(std::move(library)), findings(std::move(findings)) {}
  // Whether there is more than notes.
  bool wrong() const {
    return std::any_of(findings.begin(), findings.end(), [](const Finding& one) {
      return one.kind != "same value" && one.kind != "neighbour absent";
    });
  }

  std::string kernel;
  std::shared_ptr<const Library> library;  // loaded while the findings' addresses are looked up
  std::vector<Finding> findings;
};

// Of launches that broke no rule, until somebody asks.
class Notes {
 public:
  static Notes& mine() {
    static Notes* notes = new Notes();
    return *notes;
  }

  void add(SanitizeFault fault) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (kept_.size() < kMost) {
      kept_.push_back(std::move(fault));
    }
  }

  std::vector<SanitizeFault> take() {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(kept_, {});
  }

 private:
  static constexpr size_t kMost = 20;

  std::mutex mutex_;
  std::vector<SanitizeFault> kept_;
};

class Findings {
 public:
  static constexpr size_t kMost = 20;

  Finding& add(
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

  // In the order in which they were found.
  std::vector<Finding> all() const {
    std::vector<Finding> found;
    for (const auto& key : order_) {
      found.push_back(found_.at(key));
    }
    return found;
  }

 private:
  using Key = std::tuple<std::string, std::string, uint64_t, uint64_t>;

  std::map<Key, Finding> found_;
  std::vector<Key> order_;
  Finding spare_;
};

}  // namespace zmlx
