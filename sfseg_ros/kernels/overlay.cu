// SPDX-License-Identifier: Apache-2.0
// ColorMask and Overlay: overlay.py defines the results.
#include "sfseg_kernels.cuh"

namespace sfseg {

constexpr int OVERLAY_PIXELS = 16;  // per thread; numpy: PIXELS

struct ColorMask {
  DEVICE_METHOD unsigned operator()(unsigned, unsigned, unsigned colour) const { return colour; }
};

struct Overlay {
  float share, rest;
  DEVICE_METHOD unsigned operator()(unsigned image, unsigned label, unsigned colour) const {
    if (label == UNLABELLED) return image;
    const float blended =
        add_rn(mul_rn(static_cast<float>(image), rest), mul_rn(static_cast<float>(colour), share));
    return static_cast<unsigned>(fminf(rintf(blended), 255.0f));
  }
};

// `rgb` may be null if `paint` does not read the image.
template <class Paint>
DEVICE void painted(
    const unsigned char* rgb, const unsigned char* labels, const unsigned char* palette,
    long long pixels, const Paint& paint, unsigned char* result) {
  const long long first =
      (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * OVERLAY_PIXELS;
  if (first >= pixels) return;
  labels += first;
  result += 3 * first;
  if (rgb != nullptr) rgb += 3 * first;
  if (first + OVERLAY_PIXELS <= pixels && is_aligned<VECTOR_BYTES>(labels) &&
      is_aligned<VECTOR_BYTES>(result) && is_aligned<VECTOR_BYTES>(rgb)) {
    const Words<4> label_words = *reinterpret_cast<const Words<4>*>(labels);
#pragma unroll
    for (int part = 0; part < 3; ++part) {  // 16 of the 48 bytes of the colours
      Words<4> image = {};
      if (rgb != nullptr) image = reinterpret_cast<const Words<4>*>(rgb)[part];
      Words<4> out = {};
#pragma unroll
      for (int i = 0; i < VECTOR_BYTES; ++i) {
        const int byte = part * VECTOR_BYTES + i, pixel = byte / 3, shift = 8 * (i % 4);
        const unsigned label = label_words.word[pixel / 4] >> (8 * (pixel % 4)) & 255u;
        const unsigned value =
            paint(image.word[i / 4] >> shift & 255u, label, palette[3 * label + byte % 3]);
        out.word[i / 4] |= value << shift;
      }
      reinterpret_cast<Words<4>*>(result)[part] = out;
    }
  } else {
    const int count = first + OVERLAY_PIXELS <= pixels ? OVERLAY_PIXELS : static_cast<int>(pixels - first);
    for (int i = 0; i < 3 * count; ++i) {
      const unsigned label = labels[i / 3];
      result[i] = static_cast<unsigned char>(
          paint(rgb != nullptr ? rgb[i] : 0u, label, palette[3 * label + i % 3]));
    }
  }
}

}  // namespace sfseg

KERNEL sfseg_color_mask(
    const unsigned char* __restrict__ labels, const unsigned char* __restrict__ palette, int pixels,
    unsigned char* __restrict__ mask) {
  FOR_EACH_THREAD { sfseg::painted(nullptr, labels, palette, pixels, sfseg::ColorMask{}, mask); }
}

KERNEL sfseg_overlay(
    const unsigned char* __restrict__ rgb, const unsigned char* __restrict__ labels,
    const unsigned char* __restrict__ palette, int pixels, float share, float rest,
    unsigned char* __restrict__ overlay) {
  FOR_EACH_THREAD {
    sfseg::painted(rgb, labels, palette, pixels, sfseg::Overlay{share, rest}, overlay);
  }
}
