// Random inputs and medians that the benchmarks of CPU and GPU kernels share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/aligned.h"

namespace chromamba::kernels {

inline AlignedFloats normal_values(int64_t n, float mean, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  AlignedFloats values(static_cast<size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Largest |difference| as a share of the largest expected value; a NaN is an error too.
inline double relative_error(const AlignedFloats& actual, const AlignedFloats& expected) {
  double error = 0;
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual[i]) - expected[i]);
    if (!(difference <= error)) error = difference;
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return largest > 0 ? error / largest : error;
}

// "256 x 128"
inline std::string dims(int64_t a, int64_t b) {
  return std::to_string(a) + " x " + std::to_string(b);
}

}  // namespace chromamba::kernels
