/* What a report tells of a weight and its codes. The twins are in report/layers.py and codebook/codebook.py. */
#include "core.h"

#define PATH_NAME(name) name##_portable
#define TARGET
#include "measure.h"
#undef PATH_NAME
#undef TARGET

#if CORE_X86
#define PATH_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "measure.h"
#undef PATH_NAME
#undef TARGET

#define PATH_NAME(name) name##_avx512
#define TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq")))
#include "measure.h"
#undef PATH_NAME
#undef TARGET
#endif

enum { PART = 4096, MOST_COUNTED = 256 };

/* The smallest and the largest of n values, n > 0. */
EXPORT void lm_ends(const float *values, int64_t n, float *ends) { PATH(ends_of)(values, n, ends); }

/* Add to counts how many values lie in each of `bins` bins: trunc((value - low) * factor), the ends in the outer ones. */
EXPORT void lm_bins(const float *values, int64_t n, double low, double factor, int64_t bins, int64_t *counts) {
    int32_t places[PART];
    uint32_t lanes[4][MOST_COUNTED];
    memset(lanes, 0, sizeof lanes);
    for (int64_t start = 0; start < n; start += PART) {
        int64_t part = MIN(PART, n - start), i = 0;
        PATH(places_of)(values + start, part, low, factor, (int32_t)bins, places);
        if (bins <= MOST_COUNTED) {
            for (; i + 4 <= part; i += 4)
                for (int lane = 0; lane < 4; lane++)
                    lanes[lane][places[i + lane]]++;
        }
        for (; i < part; i++)
            counts[places[i]]++;
        for (int64_t bin = 0; bin < bins && bin < MOST_COUNTED; bin++)
            for (int lane = 0; lane < 4; lane++) {
                counts[bin] += lanes[lane][bin];
                lanes[lane][bin] = 0;
            }
    }
}

/* How many codes of each of `rows` rows of m, `width` bytes each, name each of its k centroids. */
EXPORT void lm_members(const void *codes, int width, int64_t rows, int64_t m, int64_t k, int64_t *counts) {
    for (int64_t r = 0; r < rows; r++, counts += k) {
        int64_t i = 0;
        memset(counts, 0, (size_t)k * sizeof *counts);
        if (width == 1) {
            const uint8_t *row = (const uint8_t *)codes + r * m;
            int64_t lanes[3][MOST_COUNTED];
            memset(lanes, 0, m >= PART ? sizeof lanes : 0);
            for (; m >= PART && i + 4 <= m; i += 4) {
                counts[row[i]]++;
                lanes[0][row[i + 1]]++, lanes[1][row[i + 2]]++, lanes[2][row[i + 3]]++;
            }
            for (int64_t j = 0; m >= PART && j < k; j++)
                counts[j] += lanes[0][j] + lanes[1][j] + lanes[2][j];
            for (; i < m; i++)
                counts[row[i]]++;
        } else if (width == 2) {
            for (; i < m; i++)
                counts[((const int16_t *)codes)[r * m + i]]++;
        } else {
            for (; i < m; i++)
                counts[((const int32_t *)codes)[r * m + i]]++;
        }
    }
}

/* Sums of the squares of values, `rows` rows of m, and of what is left of them without their centroids, k for each row. */
EXPORT void lm_noise(const float *values, const void *codes, int width, int64_t rows, int64_t m, const float *centroids,
                     int64_t k, double *sums) {
    float decoded[PART];
    double signal[16] = {0}, noise[16] = {0};
    for (int64_t r = 0; r < rows; r++) {
        const float *table = centroids + r * k;
        for (int64_t start = 0; start < m; start += PART) {
            int64_t part = MIN(PART, m - start), at = r * m + start;
            for (int64_t i = 0; i < part; i++)
                decoded[i] = table[width == 1   ? ((const uint8_t *)codes)[at + i]
                                   : width == 2 ? ((const int16_t *)codes)[at + i]
                                                : ((const int32_t *)codes)[at + i]];
            PATH(squares)(values + at, decoded, part, signal, noise);
        }
    }
    sums[0] = sums[1] = 0;
    for (int lane = 0; lane < 16; lane++) {
        sums[0] += signal[lane];
        sums[1] += noise[lane];
    }
}
