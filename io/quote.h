// Text of unknown origin, made fit for a one-line error message.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace chromamba::io {

// Puts text between single quotes; control bytes become \xNN and long text is cut at 120 bytes.
inline std::string quote(std::string_view text) {
  constexpr size_t kShown = 120;  // two terminal lines: enough to find the record
  std::string quoted = "'";
  for (const char raw : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(raw);
    if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      (void)std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      quoted += escaped;
    } else {
      quoted += raw;
    }
  }
  if (text.size() > kShown) quoted += "...";
  return quoted + "'";
}

}  // namespace chromamba::io
