// A shared library of compiled kernels, closed when the last kernel and the last pending launch that
// need it are gone: a process has room for some ten thousand of them (vm.max_map_count on Linux).
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "signals.h"

namespace zmlx {

class Library {
 public:
  explicit Library(const char* path) : path_(path), handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) {
      refuse();
    }
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  ~Library() {
    if (inside_ != nullptr) {
      Images::all().remove(inside_);
    }
    dlclose(handle_);
  }

  const std::string& path() const {
    return path_;
  }

  // Tells the handler of signals where the library's code is, by one of its symbols.
  void guard(const char* name) {
    inside_ = symbol<void*>(name);
    Images::all().add(inside_);
    Signals::watch_division();
  }

  template <typename Function>
  Function symbol(const char* name) const {
    void* found = dlsym(handle_, name);
    if (found == nullptr) {
      refuse();
    }
    return reinterpret_cast<Function>(found);
  }

 private:
  [[noreturn]] void refuse() const {
    throw std::runtime_error("[zmlx.device] cannot load " + path_ + ": " + dlerror());
  }

  const std::string path_;
  void* const handle_;
  void* inside_ = nullptr;
};

}  // namespace zmlx
