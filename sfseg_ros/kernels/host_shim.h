// SPDX-License-Identifier: Apache-2.0
// Lets g++ compile the kernels for the CPU: a kernel becomes a function that runs one block, its threads
// one after the other. It checks index arithmetic, bounds and rounding, but not races, the alignment that
// a GPU requires, or speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>

#define DEVICE static inline
#define DEVICE_MEMBER static inline
#define DEVICE_METHOD inline
#define __global__
#define __launch_bounds__(...)
#define __shared__ static
#define FOR_EACH_THREAD for (sfseg::ThreadLoop loop; loop.goes_on(); loop.next())

struct Index {
  unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim;
static bool is_reversed;

extern "C" void sfseg_host_block_size(unsigned x, unsigned y, unsigned z) { blockDim = Index{x, y, z}; }
extern "C" void sfseg_host_reverse(bool reversed) { is_reversed = reversed; }
extern "C" void sfseg_host_block(unsigned x, unsigned y, unsigned z) { blockIdx = Index{x, y, z}; }

static inline void __syncthreads() {}
static inline int atomicAdd(int* counter, int value) {
  const int before = *counter;
  *counter += value;
  return before;
}

namespace sfseg {

struct ThreadLoop {
  ThreadLoop() : count(blockDim.x * blockDim.y * blockDim.z), done(0) { choose(); }
  bool goes_on() const { return done < count; }
  void next() {
    ++done;
    choose();
  }

 private:
  void choose() {
    const unsigned thread = is_reversed ? count - 1 - done : done;
    threadIdx = Index{
        thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
  }
  unsigned count, done;
};

// The compiler gets -ffp-contract=off, so it fuses no product with a sum.
static inline float mul_rn(float a, float b) { return a * b; }
static inline float add_rn(float a, float b) { return a + b; }
static inline float exp2_fast(float x) { return std::exp2(x); }

static inline float float_of(unsigned word) {
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

static inline unsigned word_of(float value) {
  unsigned word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

// float16: 1 sign bit, 5 of exponent (bias 15), 10 of fraction.
static inline float float_of_half_bits(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 0x3ffu;
  if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return float_of(sign | word_of(static_cast<float>(fraction) * 0x1p-24f));
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

// Rounds to nearest, half to even; values from 65520 on become infinity.
static inline unsigned short half_bits(float value) {
  const unsigned word = word_of(value), sign = word >> 16 & 0x8000u, magnitude = word & 0x7fffffffu;
  unsigned result;
  if (magnitude > 0x7f800000u) {
    result = 0x7fff;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    result = 0x7c00;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, which the sum rounds to
    result = word_of(float_of(magnitude) + 0.5f) - word_of(0.5f);
  } else {
    result = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<unsigned short>(sign | result);
}

}  // namespace sfseg
