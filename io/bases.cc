#include "io/bases.h"

#include <cctype>
#include <cstdio>
#include <utility>

#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::io {

uint8_t translate_bases(const char* in, int64_t n, char* out) {
  uint8_t seen = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t code = kBaseCodes[static_cast<uint8_t>(in[i])];
    out[i] = static_cast<char>(code);
    seen |= code;
  }
  return seen;
}

void reverse_complement(char* bases, int64_t n) {
  int64_t left = 0;
  int64_t right = n - 1;
  for (; left < right; ++left, --right) {
    const char first = complement_base(bases[left]);
    bases[left] = complement_base(bases[right]);
    bases[right] = first;
  }
  if (left == right) bases[left] = complement_base(bases[left]);
}

void throw_bad_base(const std::string& file, const std::string& contig, int64_t position,
                    int64_t line, char byte) {
  const auto value = static_cast<unsigned char>(byte);
  char hex[8];
  (void)std::snprintf(hex, sizeof hex, "0x%02x", value);
  std::string found;
  std::string advice;
  const uint8_t code = kBaseCodes[value];
  if (code == kCodeIupac) {
    found = "the ambiguity code " + quote({&byte, 1});
    advice = "ambiguity codes are refused here: replace it by N or allow them to be read as N";
  } else if (code == kCodeBlank) {
    found = std::string(byte == '\r'   ? "a carriage return"
                        : byte == '\t' ? "a tab"
                                       : "a space") +
            " between bases";
    advice = byte == '\r' ? "expected LF or CRLF line ends: convert the file"
                          : "expected an unbroken line of bases: remove the white space";
  } else {
    found = std::isgraph(value) != 0 ? "the byte " + quote({&byte, 1}) + " (" + hex + ")"
                                     : "the byte " + std::string(hex);
    advice = "expected A, C, G, T, U, N or an IUPAC code";
    if (byte == '-' || byte == '.') {
      advice += ": remove the gaps of an alignment first";
    } else if (std::isalpha(value) != 0 || byte == '*') {
      advice += ": is this protein?";
    }
  }
  throw DataError(file + ": contig " + quote(contig) + ", position " +
                  std::to_string(position + 1) +
                  (line > 0 ? ", line " + std::to_string(line) : std::string()) + ": found " +
                  found + "; " + advice);
}

}  // namespace chromamba::io
