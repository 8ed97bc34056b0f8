/* SPDX-License-Identifier: Apache-2.0
 *
 * Included by cpu_tail.c once per instruction set, with SUFFIX, TARGET and, for AVX2, AVX2 defined.
 */

INLINE TARGET f8 NAME(load)(const float *from) {
    f8 value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE TARGET i8 NAME(load_int)(const int32_t *from) {
    i8 value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE TARGET f8 NAME(select)(i8 mask, f8 yes, f8 no) {
    return (f8)(((i8)yes & mask) | ((i8)no & ~mask));
}

INLINE TARGET i8 NAME(select_int)(i8 mask, i8 yes, i8 no) { return (yes & mask) | (no & ~mask); }

INLINE TARGET f8 NAME(splat)(float value) {
    return (f8){value, value, value, value, value, value, value, value};
}

INLINE TARGET i8 NAME(splat_int)(int32_t value) {
    return (i8){value, value, value, value, value, value, value, value};
}

/* Returns from[lanes[k]] for each k; lanes are 0 to 7. */
INLINE TARGET f8 NAME(permuted)(f8 from, i8 lanes) {
#ifdef AVX2
    return (f8)_mm256_permutevar8x32_ps((__m256)from, (__m256i)lanes);
#else
    f8 value;
    for (int k = 0; k < LANES; k++) value[k] = from[lanes[k]];
    return value;
#endif
}

INLINE TARGET i8 NAME(permuted_int)(const int32_t *from, i8 lanes) {
#ifdef AVX2
    return (i8)_mm256_permutevar8x32_epi32((__m256i)NAME(load_int)(from), (__m256i)lanes);
#else
    i8 value;
    for (int k = 0; k < LANES; k++) value[k] = from[lanes[k]];
    return value;
#endif
}

INLINE TARGET void NAME(store_bytes)(uint8_t *to, i8 value, int count) {
    uint8_t bytes[LANES];
#ifdef AVX2
    const __m256i low = _mm256_shuffle_epi8(
        (__m256i)value, _mm256_set1_epi64x((long long)0x808080800c080400ULL));
    const uint64_t left = (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(low));
    const uint64_t right = (uint32_t)_mm_cvtsi128_si32(_mm256_extracti128_si256(low, 1));
    const uint64_t packed = left | right << 32;
    memcpy(bytes, &packed, sizeof packed);
#else
    for (int k = 0; k < LANES; k++) bytes[k] = (uint8_t)value[k];
#endif
    if (count == LANES)
        memcpy(to, bytes, LANES);
    else
        memcpy(to, bytes, count);
}

/* Returns the larger value, or `other` if `value` is NaN. */
INLINE TARGET f8 NAME(larger)(f8 value, f8 other) {
#ifdef AVX2
    return (f8)_mm256_max_ps((__m256)value, (__m256)other);
#else
    return NAME(select)(value > other, value, other);
#endif
}

INLINE TARGET f8 NAME(product_sum)(f8 a, f8 b, f8 c) {
#ifdef AVX2
    return (f8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* Returns 2^x for x <= 0 with a relative error below 2e-3, which changes the confidence by 0.13 of a
 * 255th. The result is exactly 1 for 0, and (nearly) 0 for NaN and -infinity. */
INLINE TARGET f8 NAME(exp2)(f8 x) {
    const f8 rounding = NAME(splat)(ROUNDING);
    x = NAME(larger)(x, NAME(splat)(-125.0f));
    const f8 shifted = x + rounding;
    const f8 rest = x - (shifted - rounding);
    f8 power = NAME(product_sum)(rest, NAME(splat)(EXP2_2), NAME(splat)(EXP2_1));
    power = NAME(product_sum)(rest, power, NAME(splat)(1.0f));
    /* The low bits of `shifted` are the integer part of x; they are added to the exponent. */
    return (f8)((i8)power + ((i8)shifted << 23));
}

/* Returns the class with the highest score for each pixel, and its score in `best`. `value[k]` holds
 * the scores of class `class[k]`, or of class k if `class` is NULL. The result is 255 if no score is
 * above -infinity. */
INLINE TARGET i8 NAME(winner)(const f8 *value, const uint8_t *class, int count, f8 *best) {
    i8 index = NAME(splat_int)(UNLABELLED);
    f8 highest = NAME(splat)(-INFINITY);
    for (int k = 0; k < count; k++) {
        const i8 better = value[k] > highest; /* false for NaN */
        highest = NAME(larger)(value[k], highest);
        index = NAME(select_int)(better, NAME(splat_int)(class ? class[k] : k), index);
    }
    *best = highest;
    return index;
}

/* Returns the sum of the shares of all classes, relative to the winner's share of 1. */
INLINE TARGET f8 NAME(sum_of_shares)(const f8 *value, int classes, f8 best) {
    f8 sum = NAME(splat)(0.0f);
    const f8 scale = NAME(splat)(LOG2_E), minus_best = best * -LOG2_E;
    for (int c = 0; c < classes; c++)
        sum += NAME(exp2)(NAME(product_sum)(value[c], scale, minus_best));
    return NAME(select)(best == INFINITY, sum + 1.0f, sum); /* infinity - infinity is NaN */
}

/* Computes the winner and the sum of shares at each pixel of the scores. */
TARGET static void NAME(corners)(tail *t, const float *scores, int with_shares) {
    const size_t plane = (size_t)t->height * t->width;
    f8 value[UNLABELLED];
    for (int y = 0; y < t->height; y++) {
        int32_t *winners = t->winners + (size_t)y * t->padded;
        float *shares = t->shares + (size_t)y * t->padded;
        for (int x = 0; x < t->width; x += LANES) {
            const int count = t->width - x < LANES ? t->width - x : LANES;
            for (int c = 0; c < t->classes; c++) {
                const float *from = scores + c * plane + (size_t)y * t->width + x;
                if (count == LANES)
                    value[c] = NAME(load)(from);
                else
                    for (int k = 0; k < LANES; k++) value[c][k] = from[k < count ? k : count - 1];
            }
            f8 best;
            const i8 index = NAME(winner)(value, NULL, t->classes, &best);
            memcpy(winners + x, &index, sizeof index);
            if (with_shares) {
                /* NaN if the best score is infinite: interpolation would compute 0 * infinity. */
                const f8 sum = NAME(sum_of_shares)(value, t->classes, best) + (best - best);
                memcpy(shares + x, &sum, sizeof sum);
            }
        }
        for (int x = t->width; x < t->padded; x++) {
            winners[x] = winners[t->width - 1];
            shares[x] = shares[t->width - 1];
        }
    }
}

/* Finds the blocks between two rows of scores whose corners share one sufficiently certain winner. */
TARGET static void NAME(agreements)(tail *t, int top, int bottom, int with_shares) {
    const int32_t *upper = t->winners + (size_t)top * t->padded;
    const int32_t *lower = t->winners + (size_t)bottom * t->padded;
    const float *upper_shares = t->shares + (size_t)top * t->padded;
    const float *lower_shares = t->shares + (size_t)bottom * t->padded;
    for (int block = 0; block < t->blocks; block++) {
        const int first = t->first[block];
        int agreed = upper[first];
        for (int x = first; x <= t->last[block]; x++) {
            if (upper[x] != agreed || lower[x] != agreed) agreed = -1;
            if (with_shares &&
                !(upper_shares[x] <= CERTAIN_SUM && lower_shares[x] <= CERTAIN_SUM))
                agreed = -1;
        }
        t->agreed[block] = agreed == UNLABELLED ? -1 : agreed;
    }
}

/* Copies row `y` of the scores to `row` (classes x padded); the padding repeats the last column. */
TARGET static void NAME(copy_row)(const tail *t, const float *scores, int y, float *row) {
    const size_t plane = (size_t)t->height * t->width;
    for (int c = 0; c < t->classes; c++, row += t->padded) {
        memcpy(row, scores + c * plane + (size_t)y * t->width, t->width * sizeof *row);
        for (int x = t->width; x < t->padded; x++) row[x] = row[t->width - 1];
    }
}

/* Interpolates between the rows `upper` and `lower` into `between`; `weight` is that of `lower`. */
TARGET static void NAME(interpolate_rows)(tail *t, float weight) {
    const float other = 1.0f - weight;
    const size_t count = (size_t)t->classes * t->padded;
    for (size_t i = 0; i < count; i += LANES) {
        const f8 value = NAME(load)(t->upper + i) * other + NAME(load)(t->lower + i) * weight;
        memcpy(t->between + i, &value, sizeof value);
    }
}

/* Chooses, per block between `upper` and `lower`, the classes that may win or affect confidence. */
TARGET static void NAME(choose_candidates)(tail *t) {
    const float margin = logf(1020.0f * t->classes); /* classes * 255 * e^-margin = 1 / 4 */
    for (int block = 0; block < t->blocks; block++) {
        if (t->agreed[block] >= 0) continue;
        float most[UNLABELLED], winning = -INFINITY;
        int finite = 1;
        for (int c = 0; c < t->classes; c++) {
            const float *upper = t->upper + (size_t)c * t->padded;
            const float *lower = t->lower + (size_t)c * t->padded;
            float high = -INFINITY, low = INFINITY, sum = 0.0f;
            for (int x = t->first[block]; x <= t->last[block]; x++) {
                high = upper[x] > high ? upper[x] : high;
                high = lower[x] > high ? lower[x] : high;
                low = upper[x] < low ? upper[x] : low;
                low = lower[x] < low ? lower[x] : low;
                sum += upper[x] + lower[x];
            }
            /* A class that is NaN at a corner may be NaN in the whole block. */
            if (sum != sum) low = -INFINITY;
            most[c] = high;
            finite &= high < INFINITY;
            if (low > winning) winning = low;
        }
        if (!finite) winning = -INFINITY; /* 0 * infinity: the winner may be NaN in the block */
        uint8_t *candidate = t->candidate + (size_t)block * t->classes;
        int count = 0;
        for (int c = 0; c < t->classes; c++)
            if (!(most[c] < winning - margin)) candidate[count++] = (uint8_t)c;
        t->candidates[block] = count;
    }
}

/* Computes one block whose corners do not share a sufficiently certain winner. */
INLINE TARGET void NAME(block)(
    const tail *t, int block, const int32_t *upper, const int32_t *lower, int count,
    uint8_t *labels, uint8_t *confidence) {
    const int first = t->first[block];
    const int candidates = t->candidates[block];
    const uint8_t *candidate = t->candidate + (size_t)block * t->classes;
    const i8 lanes = NAME(load_int)(t->lane + block * LANES);
    const f8 right = NAME(load)(t->weight + block * LANES);
    const f8 left = 1.0f - right;
    f8 value[UNLABELLED];
    for (int k = 0; k < candidates; k++) {
        const float *row = t->between + (size_t)candidate[k] * t->padded + first;
        value[k] = left * NAME(permuted)(NAME(load)(row), lanes) +
                   right * NAME(permuted)(NAME(load)(row + 1), lanes);
    }
    f8 best;
    const i8 index = NAME(winner)(value, candidate, candidates, &best);
    const i8 corner = NAME(permuted_int)(upper + first, lanes);
    const i8 same = (corner == NAME(permuted_int)(upper + first + 1, lanes)) &
                    (corner == NAME(permuted_int)(lower + first, lanes)) &
                    (corner == NAME(permuted_int)(lower + first + 1, lanes));
    NAME(store_bytes)(labels, NAME(select_int)(same, corner, index), count);
    if (confidence) {
        const f8 sum = NAME(sum_of_shares)(value, candidates, best);
        const i8 rounded = (i8)(255.0f / sum + ROUNDING) - ROUNDING_BITS;
        NAME(store_bytes)(
            confidence, NAME(select_int)(index == UNLABELLED, NAME(splat_int)(0), rounded), count);
    }
}

TARGET static void NAME(image)(
    tail *t, const float *scores, uint8_t *labels, uint8_t *confidence) {
    NAME(corners)(t, scores, confidence != NULL);
    int known_top = -1;
    for (int y = 0; y < t->full_height; y++) {
        float weight;
        const int top = place(t->full_height, t->height, y, &weight);
        const int bottom = top + 1 < t->height ? top + 1 : t->height - 1;
        if (top != known_top) {
            NAME(copy_row)(t, scores, top, t->upper);
            NAME(copy_row)(t, scores, bottom, t->lower);
            NAME(agreements)(t, top, bottom, confidence != NULL);
            NAME(choose_candidates)(t);
            known_top = top;
        }
        NAME(interpolate_rows)(t, weight);
        uint8_t *labels_row = labels + (size_t)y * t->full_width;
        uint8_t *confidence_row = confidence ? confidence + (size_t)y * t->full_width : NULL;
        for (int block = 0; block < t->blocks; block++) {
            const int x = block * LANES;
            const int count = t->full_width - x < LANES ? t->full_width - x : LANES;
            if (t->agreed[block] >= 0) {
                memset(labels_row + x, t->agreed[block], count);
                if (confidence) memset(confidence_row + x, 255, count);
            } else {
                NAME(block)(
                    t, block, t->winners + (size_t)top * t->padded,
                    t->winners + (size_t)bottom * t->padded, count, labels_row + x,
                    confidence ? confidence_row + x : NULL);
            }
        }
    }
}
