#include "mamba/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/base/error.h"

namespace chromamba::mamba {
namespace {

void require(bool done) {
  if (!done) throw InternalError("SHA-256: the OpenSSL digest failed");
}

}  // namespace

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  require(context_->evp != nullptr && EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::add(const void* bytes, size_t size) {
  require(EVP_DigestUpdate(context_->evp, bytes, size) == 1);
}

void Sha256::add(const ByteSource& source) {
  constexpr uint64_t kBlock = uint64_t{1} << 20;  // large enough to hide the cost of a read call
  std::vector<std::byte> block(std::min(kBlock, source.size()));
  for (uint64_t offset = 0; offset < source.size(); offset += block.size()) {
    const auto bytes =
        static_cast<size_t>(std::min<uint64_t>(block.size(), source.size() - offset));
    source.read(offset, block.data(), bytes);
    add(block.data(), bytes);
  }
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  require(EVP_DigestFinal_ex(context_->evp, digest.data(), &size) == 1);
  constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += kHex[digest[i] >> 4];
    text += kHex[digest[i] & 15];
  }
  return text;
}

}  // namespace chromamba::mamba
