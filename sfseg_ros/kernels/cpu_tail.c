/* SPDX-License-Identifier: Apache-2.0
 *
 * UpsampleArgmax on the processor: the same function as upsample_argmax.cu, defined by
 * upsample_argmax.py. It computes labels and confidence at `stride` times the size of the scores,
 * without storing scores at full size.
 *
 * A block is eight neighbouring pixels of a row. The code interpolates a block first between two
 * rows of scores and then between their columns, in the reference's order of operations, so labels
 * are bit-equal. Interpolated scores lie between the scores at the corners, which saves most of the
 * work:
 *
 * - If all corners of a block have the same winner by a wide margin, the winner is the label and the
 *   confidence is 255. (The shares of the other classes are convex between the corners.)
 * - A block skips the classes whose scores at all corners are far below the winner's. They cannot
 *   win, and together they change the confidence by less than a quarter of a 255th.
 *
 * cpu_tail_body.h holds the code. It is compiled twice: for AVX2, and for the baseline of the
 * architecture. The choice between the two is made at run time.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define UNLABELLED 255
/* Up to this sum of shares, 255 / sum rounds to 255. */
#define CERTAIN_SUM (255.0f / 254.5f)
/* Adding this constant leaves the rounded number (half to even) in the low bits of a float. */
#define ROUNDING 12582912.0f
#define ROUNDING_BITS 0x4b400000
/* 2^x = 1 + x (EXP2_1 + x EXP2_2) for |x| <= 0.5, with the least relative error: 2.0e-03. */
#define EXP2_1 0.7029337f
#define EXP2_2 0.2398580f
#define LOG2_E 1.44269504f

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

#define INLINE static inline __attribute__((always_inline))

/* Sizes and buffers of one image. */
typedef struct {
    int classes, height, width;      /* of the scores */
    int full_height, full_width;     /* of the labels */
    int blocks, padded;              /* blocks per row of labels; floats per padded row of scores */
    float *upper, *lower;            /* classes x padded: two rows of scores */
    float *between;                  /* classes x padded: interpolated between the two rows */
    float *shares;                   /* height x padded: sum of shares */
    int32_t *winners;                /* height x padded */
    int32_t *first, *lane;           /* per block: its first column of scores; per label: offset */
    int32_t *last;                   /* per block: its last column of scores */
    float *weight;                   /* per label: weight of the right column of scores */
    int32_t *agreed;                 /* per block: the common winner, or -1 */
    int32_t *candidates;             /* per block: number of classes that are computed */
    uint8_t *candidate;              /* blocks x classes: the computed classes, ascending */
} tail;

/* Where pixel `index` of `size` lies among `source` pixels: the first of its two neighbours, and the
 * weight of the second. */
static int place(int size, int source, int index, float *weight) {
    const float scale = (float)(source - 1) / (float)(size > 1 ? size - 1 : 1);
    const float position = (float)index * scale;
    int first = (int)position;
    if (first > source - 1) first = source - 1;
    *weight = position - (float)first;
    return first;
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, SUFFIX)

#define SUFFIX _generic
#define TARGET
#include "cpu_tail_body.h"
#undef SUFFIX
#undef TARGET

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2
#define SUFFIX _avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "cpu_tail_body.h"
#endif

static void *aligned(size_t count) {
    const size_t bytes = (count * 4 + 63) / 64 * 64;
    return aligned_alloc(64, bytes);
}

static void release(tail *t) {
    free(t->upper);
    free(t->lower);
    free(t->between);
    free(t->candidates);
    free(t->candidate);
    free(t->shares);
    free(t->winners);
    free(t->first);
    free(t->lane);
    free(t->last);
    free(t->weight);
    free(t->agreed);
}

static int prepare(tail *t, int classes, int height, int width, int stride) {
    memset(t, 0, sizeof *t);
    t->classes = classes;
    t->height = height;
    t->width = width;
    t->full_height = height * stride;
    t->full_width = width * stride;
    t->blocks = (t->full_width + LANES - 1) / LANES;
    /* A block reads LANES + 1 columns from its first; the padding repeats the last column. */
    t->padded = (width + 2 * LANES + LANES - 1) / LANES * LANES;
    t->upper = aligned((size_t)classes * t->padded);
    t->lower = aligned((size_t)classes * t->padded);
    t->between = aligned((size_t)classes * t->padded);
    t->candidates = aligned(t->blocks);
    t->candidate = malloc((size_t)t->blocks * classes);
    t->shares = aligned((size_t)height * t->padded);
    t->winners = aligned((size_t)height * t->padded);
    t->first = aligned(t->blocks);
    t->last = aligned(t->blocks);
    t->agreed = aligned(t->blocks);
    t->lane = aligned((size_t)t->blocks * LANES);
    t->weight = aligned((size_t)t->blocks * LANES);
    if (!t->upper || !t->lower || !t->between || !t->candidates || !t->candidate || !t->shares || !t->winners || !t->first || !t->last || !t->agreed ||
        !t->lane || !t->weight)
        return -1;
    for (int block = 0; block < t->blocks; block++) {
        for (int k = 0; k < LANES; k++) {
            int x = block * LANES + k;
            if (x >= t->full_width) x = t->full_width - 1;
            const int left = place(t->full_width, width, x, &t->weight[block * LANES + k]);
            if (k == 0) t->first[block] = left;
            t->lane[block * LANES + k] = left - t->first[block];
            t->last[block] = left + 1 < width ? left + 1 : width - 1;
        }
    }
    return 0;
}

/* Computes `labels` and, unless NULL, `confidence` from `scores`.
 * scores: float32 (classes, height, width); 1 <= classes <= 255, stride >= 1.
 * labels, confidence: uint8 (height * stride, width * stride).
 * Returns 0, or -1 if out of memory. */
int sfseg_upsample_argmax(const float *scores, int classes, int height, int width, int stride,
                          uint8_t *labels, uint8_t *confidence) {
    tail t;
    const int failed = prepare(&t, classes, height, width, stride);
    if (!failed) {
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            image_avx2(&t, scores, labels, confidence);
        else
#endif
            image_generic(&t, scores, labels, confidence);
    }
    release(&t);
    return failed;
}

/* The same function without AVX2, for tests. */
int sfseg_upsample_argmax_generic(const float *scores, int classes, int height, int width,
                                  int stride, uint8_t *labels, uint8_t *confidence) {
    tail t;
    const int failed = prepare(&t, classes, height, width, stride);
    if (!failed) image_generic(&t, scores, labels, confidence);
    release(&t);
    return failed;
}
