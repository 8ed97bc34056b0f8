// SPDX-License-Identifier: Apache-2.0
// GatedFlowFusion: gated_flow_fusion.py defines the result.
#include "sfseg_kernels.cuh"

namespace sfseg {

DEVICE float gated(float gate, float high, float low) { return gate * high + (1.0f - gate) * low; }

// Fuses one pixel, N channels at a time. Several threads share the pixel.
template <bool ALL, int N, class T>
DEVICE void fuse_pixel(
    const Corners<T>& high, const Taps& high_taps, const Corners<T>& low, const Taps& low_taps,
    float gate, int channels, T* fused) {
#pragma unroll 1  // eight loads of 16 bytes are already in flight
  for (int c = threadIdx.x * N; c < channels; c += PIXEL_THREADS * N) {
    float low_sum[N], sum[N];
    sample<ALL>(low, c, low_taps, low_sum);
    sample<ALL>(high, c, high_taps, sum);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = gated(gate, sum[i], low_sum[i]);
    store(fused + c, sum);
  }
}

// A block is (threads per pixel, columns, rows).
template <class T, class F>
DEVICE void gated_flow_fusion_hwc(
    const T* high, const T* low, const F* flow, const F* gate, int channels, int h, int w,
    int height, int width, int align_corners, T* fused) {
  const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y * blockDim.z + threadIdx.z;
  if (x >= width || y >= height) return;
  const long long n = blockIdx.z;
  const int pixels = height * width, pixel = y * width + x;
  flow += n * 4 * pixels + pixel;
  const float share = float_of(gate[n * pixels + pixel]);
  float flows[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) flows[k] = float_of(flow[static_cast<long long>(k) * pixels]);
  const Axis x_high = axis_of(width, w, align_corners), y_high = axis_of(height, h, align_corners);
  const Axis x_low = axis_of(width, width, align_corners), y_low = axis_of(height, height, align_corners);
  const Taps high_taps =
      taps_at(position(x_high, x, flows[0]), position(y_high, y, flows[1]), w, h);
  const Taps low_taps =
      taps_at(position(x_low, x, flows[2]), position(y_low, y, flows[3]), width, height);
  high += n * h * w * channels;
  low += n * pixels * channels;
  fused += (n * pixels + pixel) * channels;

  const Corners<T> high_corners = corners_of(high, high_taps, w, channels);
  const Corners<T> low_corners = corners_of(low, low_taps, width, channels);

  constexpr int N = VECTOR_BYTES / sizeof(T);
  // A pixel's channels start at a multiple of 16 bytes if the map does and a pixel has whole vectors.
  const bool is_vector = channels % N == 0 && is_aligned<VECTOR_BYTES>(high) &&
                         is_aligned<VECTOR_BYTES>(low) && is_aligned<VECTOR_BYTES>(fused);
  if (!is_vector)
    fuse_pixel<false, 1>(high_corners, high_taps, low_corners, low_taps, share, channels, fused);
  else if ((high_taps.mask & low_taps.mask) == ALL_INSIDE)  // away from the border no test is needed
    fuse_pixel<true, N>(high_corners, high_taps, low_corners, low_taps, share, channels, fused);
  else
    fuse_pixel<false, N>(high_corners, high_taps, low_corners, low_taps, share, channels, fused);
}

// Fuses P pixels of the channels `first` to `last`.
template <bool ALL, int P, class T>
DEVICE void fuse_planes(
    const T* high, const Taps (&high_taps)[P], int h, int w, const T* low, const Taps (&low_taps)[P],
    int width, const float (&gate)[P], int first, int last, int pixels, int count, bool is_vector,
    T* fused) {
  for (int c = first; c < last; ++c) {
    const T* high_plane = high + static_cast<long long>(c) * h * w;
    const T* low_plane = low + static_cast<long long>(c) * pixels;
    float sums[P];
#pragma unroll
    for (int i = 0; i < P; ++i) {
      float low_sum[1], high_sum[1];
      sample<ALL>(corners_of(low_plane, low_taps[i], width, 1), 0, low_taps[i], low_sum);
      sample<ALL>(corners_of(high_plane, high_taps[i], w, 1), 0, high_taps[i], high_sum);
      sums[i] = gated(gate[i], high_sum[0], low_sum[0]);
    }
    store_some(fused + static_cast<long long>(c) * pixels, sums, count, is_vector);
  }
}

// A thread makes P consecutive pixels in row-major order, possibly across the end of a row, for some
// channels.
template <class T, class F>
DEVICE void gated_flow_fusion_linear(
    const T* high, const T* low, const F* flow, const F* gate, int channels, int h, int w,
    int height, int width, int align_corners, T* fused) {
  constexpr int P = 4, CHANNELS = 16;  // numpy: LINEAR_PIXELS, LINEAR_CHANNELS
  const int pixels = height * width;
  const long long index = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * P;
  if (index >= pixels) return;
  const int pixel = static_cast<int>(index), count = smaller(P, pixels - pixel);
  const long long n = blockIdx.z;
  high += n * channels * h * w;
  low += n * channels * pixels;
  flow += n * 4 * pixels + pixel;
  fused += n * channels * pixels + pixel;
  const bool is_vector = pixels % P == 0 && is_aligned<P * sizeof(T)>(fused);

  float flows[4][P], share[P];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_some(flow + static_cast<long long>(k) * pixels, count, flows[k]);
  load_some(gate + n * pixels + pixel, count, share);
  const Axis x_high = axis_of(width, w, align_corners), y_high = axis_of(height, h, align_corners);
  const Axis x_low = axis_of(width, width, align_corners), y_low = axis_of(height, height, align_corners);
  Taps high_taps[P], low_taps[P];
  unsigned mask = ALL_INSIDE;
  int x = pixel % width, y = pixel / width;
#pragma unroll
  for (int i = 0; i < P; ++i) {
    high_taps[i] = taps_at(position(x_high, x, flows[0][i]), position(y_high, y, flows[1][i]), w, h);
    low_taps[i] =
        taps_at(position(x_low, x, flows[2][i]), position(y_low, y, flows[3][i]), width, height);
    mask &= high_taps[i].mask & low_taps[i].mask;
    if (++x == width) {
      x = 0;
      ++y;
    }
  }
  const int first = blockIdx.y * CHANNELS, last = smaller(channels, first + CHANNELS);
  // Away from the border no test is needed: one branch instead of one per load.
  if (mask == ALL_INSIDE)
    fuse_planes<true>(
        high, high_taps, h, w, low, low_taps, width, share, first, last, pixels, count, is_vector, fused);
  else
    fuse_planes<false>(
        high, high_taps, h, w, low, low_taps, width, share, first, last, pixels, count, is_vector, fused);
}

}  // namespace sfseg

#define GATED_FLOW_FUSION(NAME, LAYOUT, T, F)                                                         \
  KERNEL sfseg_gated_flow_fusion_##NAME(                                                              \
      const T* __restrict__ high, const T* __restrict__ low, const F* __restrict__ flow,              \
      const F* __restrict__ gate, int channels, int h, int w, int height, int width,                  \
      int align_corners, T* __restrict__ fused) {                                                     \
    FOR_EACH_THREAD {                                                                                 \
      sfseg::gated_flow_fusion_##LAYOUT(                                                              \
          high, low, flow, gate, channels, h, w, height, width, align_corners, fused);                \
    }                                                                                                 \
  }

GATED_FLOW_FUSION(f32_linear, linear, float, float)
GATED_FLOW_FUSION(f32_hwc, hwc, float, float)
GATED_FLOW_FUSION(f16_linear, linear, sfseg::Half, float)
GATED_FLOW_FUSION(f16_hwc, hwc, sfseg::Half, float)
GATED_FLOW_FUSION(f16_linear_flow_f16, linear, sfseg::Half, sfseg::Half)
GATED_FLOW_FUSION(f16_hwc_flow_f16, hwc, sfseg::Half, sfseg::Half)
