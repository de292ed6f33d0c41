#include "mamba/built_in_model.h"

#include <cstddef>
#include <span>
#include <string_view>

// The files become part of the object file as they are. CMake passes their paths and rebuilds this
// file when they change.
// clang-format off
#define CHROMAMBA_EMBED(symbol, path)                             \
  __asm__(".pushsection .rodata\n"                                \
          ".balign 64\n"                                          \
          ".global " #symbol "_begin\n" #symbol "_begin:\n"       \
          ".incbin \"" path "\"\n"                                \
          ".global " #symbol "_end\n" #symbol "_end:\n"           \
          ".byte 0\n"                                             \
          ".popsection\n")
// clang-format on

CHROMAMBA_EMBED(chromamba_built_in_config, CHROMAMBA_BUILT_IN_CONFIG);
CHROMAMBA_EMBED(chromamba_built_in_weights, CHROMAMBA_BUILT_IN_WEIGHTS);

extern "C" {
extern const char chromamba_built_in_config_begin[];
extern const char chromamba_built_in_config_end[];
extern const std::byte chromamba_built_in_weights_begin[];
extern const std::byte chromamba_built_in_weights_end[];
}

namespace chromamba::mamba {

Checkpoint open_built_in_checkpoint() {
  const std::string_view config(
      chromamba_built_in_config_begin,
      static_cast<size_t>(chromamba_built_in_config_end - chromamba_built_in_config_begin));
  const std::span<const std::byte> weights(chromamba_built_in_weights_begin,
                                           chromamba_built_in_weights_end);
  return open_checkpoint_memory(std::string(config), weights, "human-d128");
}

}  // namespace chromamba::mamba
