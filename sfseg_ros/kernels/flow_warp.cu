// SPDX-License-Identifier: Apache-2.0
// FlowWarp: flow_warp.py defines the result.
#include "sfseg_kernels.cuh"

namespace sfseg {

// Warps one pixel, N channels at a time. Several threads share the pixel.
template <bool ALL, int N, class T>
DEVICE void warp_pixel(const Corners<T>& corners, const Taps& taps, int channels, T* warped) {
#pragma unroll 2
  for (int c = threadIdx.x * N; c < channels; c += PIXEL_THREADS * N) {
    float sum[N];
    sample<ALL>(corners, c, taps, sum);
    store(warped + c, sum);
  }
}

// A block is (threads per pixel, columns, rows).
template <class T, class F>
DEVICE void flow_warp_hwc(
    const T* features, const F* flow, int channels, int h, int w, int height, int width,
    int align_corners, T* warped) {
  const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y * blockDim.z + threadIdx.z;
  if (x >= width || y >= height) return;
  const long long n = blockIdx.z;
  const int pixels = height * width, pixel = y * width + x;
  flow += n * 2 * pixels + pixel;
  const float flow_x = float_of(flow[0]), flow_y = float_of(flow[pixels]);
  const float px = position(axis_of(width, w, align_corners), x, flow_x);
  const float py = position(axis_of(height, h, align_corners), y, flow_y);
  const Taps taps = taps_at(px, py, w, h);
  features += n * h * w * channels;
  warped += (n * pixels + pixel) * channels;
  const Corners<T> corners = corners_of(features, taps, w, channels);

  constexpr int N = VECTOR_BYTES / sizeof(T);
  // A pixel's channels start at a multiple of 16 bytes if the map does and a pixel has whole vectors.
  if (channels % N != 0 || !is_aligned<VECTOR_BYTES>(features) || !is_aligned<VECTOR_BYTES>(warped))
    warp_pixel<false, 1>(corners, taps, channels, warped);
  else if (taps.mask == ALL_INSIDE)  // away from the border no test is needed
    warp_pixel<true, N>(corners, taps, channels, warped);
  else
    warp_pixel<false, N>(corners, taps, channels, warped);
}

// Warps P pixels of the channels `first` to `last`.
template <bool ALL, int P, class T>
DEVICE void warp_planes(
    const T* features, const Taps (&taps)[P], int h, int w, int first, int last, int pixels,
    int count, bool is_vector, T* warped) {
  for (int c = first; c < last; ++c) {
    const T* plane = features + static_cast<long long>(c) * h * w;
    float sums[P];
#pragma unroll
    for (int i = 0; i < P; ++i) {
      float sum[1];
      sample<ALL>(corners_of(plane, taps[i], w, 1), 0, taps[i], sum);
      sums[i] = sum[0];
    }
    store_some(warped + static_cast<long long>(c) * pixels, sums, count, is_vector);
  }
}

// A thread makes P consecutive pixels in row-major order, possibly across the end of a row, for some
// channels.
template <class T, class F>
DEVICE void flow_warp_linear(
    const T* features, const F* flow, int channels, int h, int w, int height, int width,
    int align_corners, T* warped) {
  constexpr int P = VECTOR_BYTES / sizeof(T), CHANNELS = 16;  // numpy: LINEAR_CHANNELS
  const int pixels = height * width;
  const long long index = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * P;
  if (index >= pixels) return;
  const int pixel = static_cast<int>(index), count = smaller(P, pixels - pixel);
  const long long n = blockIdx.z;
  features += n * channels * h * w;
  flow += n * 2 * pixels + pixel;
  warped += n * channels * pixels + pixel;
  const bool is_vector = pixels % P == 0 && is_aligned<VECTOR_BYTES>(warped);

  float flow_x[P], flow_y[P];
  load_some(flow, count, flow_x);
  load_some(flow + pixels, count, flow_y);
  const Axis x_axis = axis_of(width, w, align_corners), y_axis = axis_of(height, h, align_corners);
  Taps taps[P];
  unsigned mask = ALL_INSIDE;
  int x = pixel % width, y = pixel / width;
#pragma unroll
  for (int i = 0; i < P; ++i) {
    taps[i] = taps_at(position(x_axis, x, flow_x[i]), position(y_axis, y, flow_y[i]), w, h);
    mask &= taps[i].mask;
    if (++x == width) {
      x = 0;
      ++y;
    }
  }
  const int first = blockIdx.y * CHANNELS, last = smaller(channels, first + CHANNELS);
  // Away from the border no test is needed: one branch instead of one per load.
  if (mask == ALL_INSIDE)
    warp_planes<true>(features, taps, h, w, first, last, pixels, count, is_vector, warped);
  else
    warp_planes<false>(features, taps, h, w, first, last, pixels, count, is_vector, warped);
}

}  // namespace sfseg

#define FLOW_WARP(NAME, LAYOUT, T, F)                                                                 \
  KERNEL sfseg_flow_warp_##NAME(                                                                      \
      const T* __restrict__ features, const F* __restrict__ flow, int channels, int h, int w,         \
      int height, int width, int align_corners, T* __restrict__ warped) {                             \
    FOR_EACH_THREAD {                                                                                 \
      sfseg::flow_warp_##LAYOUT(                                                                      \
          features, flow, channels, h, w, height, width, align_corners, warped);                      \
    }                                                                                                 \
  }

FLOW_WARP(f32_linear, linear, float, float)
FLOW_WARP(f32_hwc, hwc, float, float)
FLOW_WARP(f16_linear, linear, sfseg::Half, float)
FLOW_WARP(f16_hwc, hwc, sfseg::Half, float)
FLOW_WARP(f16_linear_flow_f16, linear, sfseg::Half, sfseg::Half)
FLOW_WARP(f16_hwc_flow_f16, hwc, sfseg::Half, sfseg::Half)
