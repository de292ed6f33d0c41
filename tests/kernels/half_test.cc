#include "kernels/base/half.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

namespace chromamba {
namespace {

TEST_CASE("f16: every value survives the round trip") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = f16_to_f32(half);
    if (std::isnan(wide)) {
      CHECK(std::isnan(f16_to_f32(f32_to_f16(wide))));
    } else if (f32_to_f16(wide) != half) {
      FAIL("f16 bits " << bits);
    }
  }
}

TEST_CASE("f16: rounds to the nearest, ties to even, beyond the range to infinity") {
  CHECK(f32_to_f16(1.0F + 0x1p-11F) == 0x3c00);  // a tie goes to the even mantissa
  CHECK(f32_to_f16(1.0F + 3 * 0x1p-11F) == 0x3c02);
  CHECK(f32_to_f16(65519.996F) == 0x7bff);  // below the tie to infinity
  CHECK(f32_to_f16(65520.0F) == 0x7c00);
  CHECK(f32_to_f16(-1e10F) == 0xfc00);
  CHECK(f32_to_f16(0x1p-25F) == 0);  // half the smallest subnormal: tie to 0
  CHECK(f32_to_f16(std::nextafter(0x1p-25F, 1.0F)) == 1);
  CHECK(f32_to_f16(-0.0F) == 0x8000);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-70000.0F, 70000.0F);
  for (int i = 0; i < 100000; ++i) {
    const float value = uniform(random) * std::exp2(static_cast<float>(i % 40) - 39.0F);
    const uint16_t half = f32_to_f16(value);
    const float chosen = f16_to_f32(half);
    if (std::isinf(chosen)) continue;
    for (const int step : {-1, 1}) {
      const float other = f16_to_f32(static_cast<uint16_t>(half + step));
      if (std::isfinite(other) && std::fabs(other - value) < std::fabs(chosen - value)) {
        FAIL(value << " became " << chosen << ", but " << other << " is nearer");
      }
    }
  }
}

TEST_CASE("bf16 widens to the float with the same upper half") {
  CHECK(bf16_to_f32(0x3f80) == 1.0F);
  CHECK(bf16_to_f32(0xc049) == -3.140625F);
  CHECK(std::isinf(bf16_to_f32(0x7f80)));
}

}  // namespace
}  // namespace chromamba
