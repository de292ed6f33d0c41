#include "kernels/conv_project.h"

#include "kernels/check.h"

namespace chromamba::kernels {

// A product of 16 x 8 with 16 of the inner axis wants from lane l the weights of output l / 4 and inner 2 (l % 4) + {0, 1, 8, 9}.

// Sixteen bytes a lane: two steps of the inner axis. [W / 8][E / 32][32 lanes][2 steps][2][2]
AlignedFloats pack_x_weight(const AlignedFloats& weight_WE, int64_t width, int64_t channels) {
  require(width % 8 == 0 && channels % 32 == 0, "conv_project: sizes of x_weight");
  AlignedFloats packed;
  packed.reserve(weight_WE.size());
  for (int64_t tile = 0; tile < width / 8; ++tile) {
    for (int64_t inner = 0; inner < channels; inner += 32) {
      for (int64_t lane = 0; lane < 32; ++lane) {
        for (int64_t i = 0; i < 8; ++i) {
          const int64_t e = inner + i / 2 * 8 + 2 * (lane % 4) + i % 2;
          packed.push_back(weight_WE[static_cast<size_t>((tile * 8 + lane / 4) * channels + e)]);
        }
      }
    }
  }
  return packed;
}

// Eight bytes a lane. The eight outputs of four neighbouring tiles are dealt so that a lane ends with eight consecutive
// channels: output o of tile i is channel 8 (o / 2) + 2 i + o % 2 of 32. [E / 32][R / 16][4 tiles][32 lanes][2][2]
AlignedFloats pack_dt_weight(const AlignedFloats& weight_ER, int64_t channels, int64_t rank) {
  require(channels % 32 == 0 && rank % 16 == 0, "conv_project: sizes of dt_weight");
  AlignedFloats packed;
  packed.reserve(weight_ER.size());
  for (int64_t first = 0; first < channels; first += 32) {
    for (int64_t inner = 0; inner < rank; inner += 16) {
      for (int64_t tile = 0; tile < 4; ++tile) {
        for (int64_t lane = 0; lane < 32; ++lane) {
          const int64_t output = lane / 4;
          const int64_t e = first + 8 * (output / 2) + 2 * tile + output % 2;
          for (int64_t i = 0; i < 4; ++i) {
            const int64_t r = inner + i / 2 * 8 + 2 * (lane % 4) + i % 2;
            packed.push_back(weight_ER[static_cast<size_t>(e * rank + r)]);
          }
        }
      }
    }
  }
  return packed;
}

}  // namespace chromamba::kernels
