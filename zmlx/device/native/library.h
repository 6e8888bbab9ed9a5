// A shared library of compiled kernels, closed when the last kernel and the last pending launch that
// need it are gone: a process has room for some ten thousand of them (vm.max_map_count on Linux).
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

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
    dlclose(handle_);
  }

  const std::string& path() const {
    return path_;
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
};

}  // namespace zmlx
