/* Layers run from codes: each code is looked up in a table of float32 centroids, which stays in registers where the
 * CPU allows it, so that a weight costs one byte of memory traffic. Compiled by native.py on the machine that runs it.
 *
 * A weight is `rows` x `cols` codes, row-major; `shared` rows in turn share one of the `tables` of `k` <= 256
 * centroids. Every output is summed in the same order, whatever the number of threads. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TABLE 256
#define SUMS 4

#if defined(__AVX512F__)
#define LANES 16
#define IN_REGISTERS 128
typedef __m512 vec;

INLINE vec permute(const float *table, int k, __m512i i) {
    if (k <= 32)
        return _mm512_permutex2var_ps(_mm512_loadu_ps(table), i, _mm512_loadu_ps(table + 16));
    __mmask16 upper = _mm512_test_epi32_mask(i, _mm512_set1_epi32(k / 2));
    return _mm512_mask_blend_ps(upper, permute(table, k / 2, i), permute(table + k / 2, k / 2, i));
}

INLINE vec look(const float *table, int k, const uint8_t *codes) {
    __m512i i = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    return k > IN_REGISTERS ? _mm512_i32gather_ps(i, table, 4) : permute(table, k, i);
}
#elif defined(__AVX2__)
#define LANES 8
#define IN_REGISTERS 16
typedef __m256 vec;

INLINE vec look(const float *table, int k, const uint8_t *codes) {
    __m256i i = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes));
    if (k > IN_REGISTERS)
        return _mm256_i32gather_ps(table, i, 4);
    vec low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
    vec high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
#else
#define LANES 4
#define IN_REGISTERS TABLE
typedef float vec __attribute__((vector_size(16)));

INLINE vec look(const float *table, int k, const uint8_t *codes) {
    (void)k;
    return (vec){table[codes[0]], table[codes[1]], table[codes[2]], table[codes[3]]};
}
#endif

INLINE vec load(const float *from) {
    vec value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE float total(vec value) {
    float lanes[LANES], sum = 0;
    memcpy(lanes, &value, sizeof value);
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

INLINE void expand_row(const float *table, int k, const uint8_t *codes, float *out, ptrdiff_t cols) {
    ptrdiff_t j = 0;
    for (; j + LANES <= cols; j += LANES) {
        vec weights = look(table, k, codes + j);
        memcpy(out + j, &weights, sizeof weights);
    }
    for (; j < cols; j++)
        out[j] = table[codes[j]];
}

/* `batch` (1, 2 or 4) inputs times one row of the weight; the outputs are `rows` apart. */
INLINE void multiply_row(const float *table, int k, const uint8_t *codes, const float *x, int batch, float *out,
                         ptrdiff_t rows, ptrdiff_t cols) {
    const int unrolled = k > 64 || k > IN_REGISTERS ? 1 : SUMS / batch; /* large tables leave no registers for more */
    vec sums[SUMS] = {0};
    ptrdiff_t j = 0;
    for (; j + unrolled * LANES <= cols; j += unrolled * LANES)
        for (int u = 0; u < unrolled; u++) {
            vec weights = look(table, k, codes + j + u * LANES);
            for (int b = 0; b < batch; b++)
                sums[u * batch + b] += weights * load(x + b * cols + j + u * LANES);
        }
    for (int b = 0; b < batch; b++) {
        vec all = sums[b];
        for (int u = 1; u < unrolled; u++)
            all += sums[u * batch + b];
        float sum = total(all);
        for (ptrdiff_t rest = j; rest < cols; rest++)
            sum += table[codes[rest]] * x[b * cols + rest];
        out[b * rows] = sum;
    }
}

/* The number of centroids as a constant, so that the table stays in registers. */
#define FOR_TABLE_SIZE(k, call)                                                                                        \
    do {                                                                                                               \
        if ((k) <= 16)                                                                                                 \
            call(16);                                                                                                  \
        else if ((k) <= 32)                                                                                            \
            call(32);                                                                                                  \
        else if ((k) <= 64)                                                                                            \
            call(64);                                                                                                  \
        else if ((k) <= 128)                                                                                           \
            call(128);                                                                                                 \
        else                                                                                                           \
            call(TABLE);                                                                                               \
    } while (0)

/* out: rows x cols */
void expand(const uint8_t *codes, const float *tables, float *out, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t k,
            ptrdiff_t shared, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t row = 0; row < rows; row++) {
        float table[TABLE] = {0};
        memcpy(table, tables + row / shared * k, (size_t)k * sizeof(float));
#define CALL(size) expand_row(table, size, codes + row * cols, out + row * cols, cols)
        FOR_TABLE_SIZE(k, CALL);
#undef CALL
    }
}

/* x: batch x cols; out: batch x rows */
void multiply(const float *x, const uint8_t *codes, const float *tables, float *out, ptrdiff_t batch, ptrdiff_t rows,
              ptrdiff_t cols, ptrdiff_t k, ptrdiff_t shared, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t row = 0; row < rows; row++) {
        float table[TABLE] = {0};
        memcpy(table, tables + row / shared * k, (size_t)k * sizeof(float));
        for (ptrdiff_t b = 0, step; b < batch; b += step) {
            step = batch - b >= 4 ? 4 : batch - b >= 2 ? 2 : 1;
#define ROWS(size, count) multiply_row(table, size, codes + row * cols, x + b * cols, count, out + b * rows + row, rows, cols)
#define CALL(size) step == 4 ? ROWS(size, 4) : step == 2 ? ROWS(size, 2) : ROWS(size, 1)
            FOR_TABLE_SIZE(k, CALL);
        }
    }
}
