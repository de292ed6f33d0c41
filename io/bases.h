// The alphabet: every base leaves io/ as one of A, C, G, T, N in upper case.
// Lower case is the same base (soft masking is lost), U is T, the other IUPAC codes and X are N
// (counted by the readers), anything else is an error. Functions without state: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace chromamba::io {

// Codes of base_codes() besides the letters ACGTN; all have the top bit, which no letter has.
inline constexpr uint8_t kCodeIupac = 0x80 | 'N';
inline constexpr uint8_t kCodeBlank = 0x81;  // space, tab, CR: fine at the end of a line
inline constexpr uint8_t kCodeInvalid = 0x82;

// What each byte of a sequence line stands for.
inline constexpr std::array<uint8_t, 256> kBaseCodes = [] {
  std::array<uint8_t, 256> codes{};
  for (uint8_t& code : codes) code = kCodeInvalid;
  const auto set = [&codes](char upper, uint8_t code) {
    codes[static_cast<uint8_t>(upper)] = code;
    codes[static_cast<uint8_t>(upper | 0x20)] = code;
  };
  for (const char base : {'A', 'C', 'G', 'T', 'N'}) set(base, static_cast<uint8_t>(base));
  set('U', 'T');
  for (const char code : {'R', 'Y', 'S', 'W', 'K', 'M', 'B', 'D', 'H', 'V', 'X'}) {
    set(code, kCodeIupac);
  }
  for (const char blank : {' ', '\t', '\r'}) codes[static_cast<uint8_t>(blank)] = kCodeBlank;
  return codes;
}();

// Writes the code of each of n bytes to out; returns the bitwise OR of all codes, whose top bit
// tells that something other than ACGTNU was among them. in and out must not overlap.
uint8_t translate_bases(const char* in, int64_t n, char* out);

// A<->T, C<->G; every other byte stays (N is its own complement).
constexpr char complement_base(char base) {
  switch (base) {
    case 'A':
      return 'T';
    case 'C':
      return 'G';
    case 'G':
      return 'C';
    case 'T':
      return 'A';
    default:
      return base;
  }
}

// Reverse complement in place, for bases as the readers give them (ACGTN).
void reverse_complement(char* bases, int64_t n);

// Throws the DataError for a byte that is no base, or for an IUPAC code where those are refused.
// position is 0-based (reported 1-based); line 0 = not known.
[[noreturn]] void throw_bad_base(const std::string& file, const std::string& contig,
                                 int64_t position, int64_t line, char byte);

}  // namespace chromamba::io
