// Seeded random inputs and comparisons that several tests share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/aligned.h"

namespace chromamba::tests {

inline AlignedFloats random_values(int64_t n, unsigned seed, float mean = 0, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  AlignedFloats values(static_cast<size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

// Values that bf16 holds exactly, so that a kernel and its reference start from the same numbers.
inline AlignedFloats rounded(AlignedFloats values) {
  for (float& value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, 4);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    std::memcpy(&value, &bits, 4);
  }
  return values;
}

// What outputs hold before a call, so that a value nobody wrote is seen.
inline AlignedFloats poisoned(int64_t n) {
  return AlignedFloats(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
}

template <typename A, typename B>
bool same_bits(const A& a, const B& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

// Largest |a - b| as a share of the largest |b|; infinite where a NaN meets a number.
template <typename A, typename B>
double relative_error(const A& a, const B& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double error = 0;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i];
    const double y = b[i];
    if (std::isnan(x) && std::isnan(y)) continue;
    if (std::isnan(x) || std::isnan(y)) return std::numeric_limits<double>::infinity();
    error = std::max(error, std::fabs(x - y));
    largest = std::max(largest, std::fabs(y));
  }
  return largest > 0 ? error / largest : error;
}

inline std::string random_dna(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::string bases(static_cast<size_t>(n), 'A');
  for (char& base : bases) base = "ACGT"[random() % 4];
  return bases;
}

}  // namespace chromamba::tests
