/* Floats as keys that sort, rounded to a dtype, and the limits between centroids. */
#ifndef LLOYDMAX_FLOATS_H
#define LLOYDMAX_FLOATS_H

#include "core.h"

enum { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2, FLOAT64 = 3 };

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t key_of_float(float x) {
    uint32_t bits = bits_of(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static inline float float_of_key(uint32_t key) { return float_of(key >> 31 ? key & 0x7FFFFFFFu : ~key); }

/* The nearest float16, ties to even. */
static inline float to_float16(float x) {
    uint32_t bits = bits_of(x), sign = bits & 0x80000000u;
    bits ^= sign;
    if (bits >= 0x477FF000u) /* 65520 and above */
        return float_of(sign | 0x7F800000u);
    if (bits < 0x38800000u) { /* subnormal: multiples of 2^-24 */
        float y = float_of(bits) + 0.5f;
        return float_of(sign | bits_of(y - 0.5f));
    }
    bits += 0xFFFu + (bits >> 13 & 1);
    return float_of(sign | (bits & ~0x1FFFu));
}

/* The nearest bfloat16, ties to even. */
static inline float to_bfloat16(float x) {
    uint32_t bits = bits_of(x);
    return float_of((bits + 0x7FFFu + (bits >> 16 & 1)) & 0xFFFF0000u);
}

/* A number as a dtype keeps it. */
static inline double rounded(double x, int dtype) {
    if (dtype == FLOAT64)
        return x;
    float single = (float)x;
    return dtype == FLOAT16 ? to_float16(single) : dtype == BFLOAT16 ? to_bfloat16(single) : single;
}

/* The largest float32 that is not nearer to the second of two centroids; infinite between equal ones. */
static inline float limit_between(double low, double high) {
    double middle = (low + high) / 2;
    float below = (float)middle;
    if (!(high > low))
        return INFINITY;
    return (double)below > middle ? nextafterf(below, -INFINITY) : below;
}

/* Sums from the middle outwards, m + 1 of them, 0 at `middle`. */
static inline void outward(const double *points, int64_t m, int64_t middle, double *sums) {
    double sum = 0;
    sums[middle] = 0;
    for (int64_t i = middle; i < m; i++)
        sums[i + 1] = sum += points[i];
    sum = 0;
    for (int64_t i = middle - 1; i >= 0; i--)
        sums[i] = sum += -points[i];
}

/* In place, ascending; nearly sorted ones quickly. */
static inline void sort_doubles(double *x, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        double one = x[i];
        int64_t j = i;
        for (; j && x[j - 1] > one; j--)
            x[j] = x[j - 1];
        x[j] = one;
    }
}

#endif
