// SPDX-License-Identifier: Apache-2.0
// Shared by the kernels: float16 without CUDA's headers, vector loads and stores, the four pixels of a
// bilinear sample. nvcc and NVRTC compile this, and so does g++ for the CPU, through host_shim.h.
//
// mul_rn and add_rn round each operation, while a compiler may otherwise fuse a product and a sum.
// Positions and scores use them and have the same bits on every machine. The numpy references repeat
// them operation by operation.
#pragma once

#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER static __device__ __forceinline__
#define DEVICE_METHOD __device__ __forceinline__
// Every thread runs the following block between two barriers; on the CPU this is a loop over threads.
#define FOR_EACH_THREAD
#else
#include "host_shim.h"
#endif

// At least two blocks per multiprocessor: 128 registers per thread.
#define KERNEL extern "C" __global__ void __launch_bounds__(256, 2)

namespace sfseg {

constexpr int VECTOR_BYTES = 16;
constexpr int PIXEL_THREADS = 4;  // threads per pixel of a channels-last map; numpy: PIXEL_TILE
constexpr unsigned char UNLABELLED = 255;

struct Half {
  unsigned short bits;
};

#ifdef __CUDACC__

DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
DEVICE float float_of(unsigned word) { return __uint_as_float(word); }
DEVICE unsigned word_of(float value) { return __float_as_uint(value); }

// Returns a / b rounded to nearest, for an integer b and its rounded reciprocal. Exact by Markstein's
// theorem, with a third of the instructions. An infinite a gives NaN.
DEVICE float quotient(float a, float b, float reciprocal) {
  const float estimate = __fmul_rn(a, reciprocal);
  return __fmaf_rn(__fmaf_rn(-estimate, b, a), reciprocal, estimate);
}

// Returns 1 / x rounded to nearest, without the branch for values that no size has. It is a Newton step from
// an approximation within one unit in the last place, and exact for integers up to 2.7 million.
DEVICE float reciprocal_of(float x) {
  float estimate;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(x));
  return __fmaf_rn(__fmaf_rn(-x, estimate, 1.0f), estimate, estimate);
}

DEVICE float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

DEVICE float float_of(Half half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half.bits));
  return value;
}

DEVICE Half half_of(float value) {
  Half half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
  return half;
}

#else

DEVICE float quotient(float a, float b, float) { return a / b; }
DEVICE float reciprocal_of(float x) { return 1.0f / x; }
DEVICE Half half_of(float value) { return Half{half_bits(value)}; }
DEVICE float float_of(Half half) { return float_of_half_bits(half.bits); }

#endif

DEVICE float float_of(float value) { return value; }
DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a > b ? a : b; }

template <class T>
struct Storage;
template <>
struct Storage<float> {
  DEVICE_MEMBER float from(float value) { return value; }
  DEVICE_MEMBER void unpack(unsigned word, float* values) { values[0] = float_of(word); }
  DEVICE_MEMBER unsigned pack(const float* values) { return word_of(values[0]); }
};
template <>
struct Storage<Half> {
  DEVICE_MEMBER Half from(float value) { return half_of(value); }
  DEVICE_MEMBER void unpack(unsigned word, float* values) {
    values[0] = float_of(Half{static_cast<unsigned short>(word & 0xffffu)});
    values[1] = float_of(Half{static_cast<unsigned short>(word >> 16)});
  }
  DEVICE_MEMBER unsigned pack(const float* values) {
    return half_of(values[0]).bits | static_cast<unsigned>(half_of(values[1]).bits) << 16;
  }
};
template <>  // for integers from 0 to 255
struct Storage<unsigned char> {
  DEVICE_MEMBER unsigned char from(float value) { return static_cast<unsigned char>(value); }
  DEVICE_MEMBER unsigned pack(const float* values) {
    unsigned word = 0;
    for (int i = 0; i < 4; ++i) word |= static_cast<unsigned>(values[i]) << (8 * i);
    return word;
  }
};

// Words that one instruction reads or writes.
template <int N>
struct alignas(4 * N) Words {
  unsigned word[N];
};

// N values as they lie in memory. Their address must be a multiple of their size or of 16; a single value
// needs no alignment. In this form they take few registers until they are used.
template <int N, class T>
struct Packed {
  static constexpr int BYTES = N * sizeof(T), WORDS = BYTES < VECTOR_BYTES ? BYTES / 4 : 4;
  static constexpr int VECTORS = BYTES / (4 * WORDS), PER_WORD = 4 / sizeof(T);
  Words<WORDS> vector[VECTORS];

  DEVICE_METHOD void unpack(float (&values)[N]) const {
#pragma unroll
    for (int i = 0; i < VECTORS * WORDS; ++i)
      Storage<T>::unpack(vector[i / WORDS].word[i % WORDS], values + i * PER_WORD);
  }
  DEVICE_METHOD void pack(const float (&values)[N]) {
#pragma unroll
    for (int i = 0; i < VECTORS * WORDS; ++i)
      vector[i / WORDS].word[i % WORDS] = Storage<T>::pack(values + i * PER_WORD);
  }
};
template <class T>
struct Packed<1, T> {
  T value;
  DEVICE_METHOD void unpack(float (&values)[1]) const { values[0] = float_of(value); }
  DEVICE_METHOD void pack(const float (&values)[1]) { value = Storage<T>::from(values[0]); }
};

template <int N, class T>
DEVICE void load(const T* from, float (&values)[N]) {
  const Packed<N, T> packed = *reinterpret_cast<const Packed<N, T>*>(from);
  packed.unpack(values);
}

template <int N, class T>
DEVICE void store(T* to, const float (&values)[N]) {
  Packed<N, T> packed;
  packed.pack(values);
  *reinterpret_cast<Packed<N, T>*>(to) = packed;
}

template <int BYTES>
DEVICE bool is_aligned(const void* pointer) {
  return reinterpret_cast<size_t>(pointer) % BYTES == 0;
}

// Stores the first `count` of N values, all at once if `is_vector` says that the address allows it.
template <int N, class T>
DEVICE void store_some(T* to, const float (&values)[N], int count, bool is_vector) {
  if (is_vector) {
    store(to, values);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < count) to[i] = Storage<T>::from(values[i]);
  }
}

// Loads up to N values at any address, all at once if possible; zeros after `count`.
template <int N, class T>
DEVICE void load_some(const T* from, int count, float (&values)[N]) {
  constexpr int BYTES = N * sizeof(T) < VECTOR_BYTES ? N * sizeof(T) : VECTOR_BYTES;
  if (count == N && is_aligned<BYTES>(from)) {
    load(from, values);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = i < count ? float_of(from[i]) : 0.0f;
  }
}

// The position to which a flow points along one axis. Paper: SFNet equation 3; numpy:
// flow_warp._position.
struct Axis {
  float size, reciprocal, step;  // of the flow
  float source;
  bool align_corners;
};

DEVICE Axis axis_of(int size, int source, int align_corners) {
  Axis axis;
  axis.size = static_cast<float>(size);
  axis.reciprocal = reciprocal_of(axis.size);
  axis.step = 2.0f * reciprocal_of(static_cast<float>(larger(size - 1, 1)));
  axis.source = static_cast<float>(source);
  axis.align_corners = align_corners != 0;
  return axis;
}

DEVICE float position(const Axis& axis, int index, float flow) {
  const float base = add_rn(mul_rn(static_cast<float>(index), axis.step), -1.0f);
  const float g = add_rn(add_rn(base, quotient(flow, axis.size, axis.reciprocal)), 1.0f);
  if (axis.align_corners) return mul_rn(g, (axis.source - 1.0f) * 0.5f);
  return add_rn(mul_rn(g, axis.source), -1.0f) * 0.5f;
}

// The four pixels of a bilinear sample: top left, top right, bottom left, bottom right.
struct Taps {
  float weight[4];
  int first;      // index of the top left pixel, row * width + column; may be outside
  unsigned mask;  // bit k: pixel k is inside the map
};

constexpr unsigned ALL_INSIDE = 15;

DEVICE Taps taps_at(float x, float y, int width, int height) {
  // False for NaN, too. Positions outside are not converted to integers, which could overflow.
  const bool inside = x >= -1.0f && x < static_cast<float>(width) && y >= -1.0f && y < static_cast<float>(height);
  x = inside ? x : -1.0f;
  y = inside ? y : -1.0f;
  const float left = floorf(x), top = floorf(y);
  const float wx = x - left, wy = y - top;
  const int column = static_cast<int>(left), row = static_cast<int>(top);
  Taps taps;
  taps.weight[0] = (1.0f - wx) * (1.0f - wy);
  taps.weight[1] = wx * (1.0f - wy);
  taps.weight[2] = (1.0f - wx) * wy;
  taps.weight[3] = wx * wy;
  taps.first = row * width + column;
  const unsigned columns = (column >= 0 ? 1u : 0u) | (column + 1 < width ? 2u : 0u);
  const unsigned rows = (row >= 0 ? 3u : 0u) | (row + 1 < height ? 12u : 0u);
  taps.mask = inside ? (columns | columns << 2) & rows : 0u;
  return taps;
}

// Offsets of the four pixels in a map with `stride` elements from pixel to pixel.
template <class T>
struct Corners {
  const T* at[4];
};

template <class T>
DEVICE Corners<T> corners_of(const T* map, const Taps& taps, int width, int stride) {
  Corners<T> corners;
#pragma unroll
  for (int k = 0; k < 4; ++k)
    corners.at[k] = map + (taps.first + (k & 1) + (k >> 1) * width) * stride;
  return corners;
}

// Returns N values from element `c` of each pixel, weighted and summed. ALL: every bit of the mask is set.
template <bool ALL, int N, class T>
DEVICE void sample(const Corners<T>& corners, int c, const Taps& taps, float (&sum)[N]) {
  Packed<N, T> packed[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // all loads precede the first use, so they wait for memory together
    packed[k] = {};
    if (ALL || taps.mask >> k & 1u)
      packed[k] = *reinterpret_cast<const Packed<N, T>*>(corners.at[k] + c);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] = 0.0f;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    float values[N];
    packed[k].unpack(values);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += values[i] * taps.weight[k];
  }
}

}  // namespace sfseg
