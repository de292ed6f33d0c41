// SHA-256 of byte streams; the digest is what `sha256sum` prints for the same bytes.
#pragma once

#include <memory>
#include <string>

#include "mamba/byte_source.h"

namespace chromamba::mamba {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void add(const void* bytes, size_t size);
  void add(const ByteSource& source);  // all of it, read in blocks
  std::string hex();                   // 64 digits; call once, at the end

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace chromamba::mamba
