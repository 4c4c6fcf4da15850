/* Products of codes with inputs. The twin decodes: student/kernels.py. */
#include "core.h"
#if CORE_X86
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE __forceinline
#endif

enum { FOUR = 4, MOST = 256 };

#define PATH_NAME(name) name##_portable
#define TARGET
#define ISA 0
#include "run.h"
#undef PATH_NAME
#undef TARGET
#undef ISA

#if CORE_X86
#define PATH_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define ISA 2
#include "run.h"
#undef PATH_NAME
#undef TARGET
#undef ISA

#define PATH_NAME(name) name##_avx512
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")))
#define ISA 5
#include "run.h"
#undef PATH_NAME
#undef TARGET
#undef ISA
#endif

/* y (batch, out) = x (batch, in) times the weight that codes (out, in) below k <= 256 stand for; `shared` rows have one of the
   tables (.., k). Rows begin to end - 1 are done. */
EXPORT void lm_linear(const float *x, int64_t batch, const uint8_t *codes, int64_t in, int64_t out, const float *tables,
                      int64_t k, int64_t shared, int64_t begin, int64_t end, float *y) {
    float table[MOST] = {0};
    int64_t held = -1;
    for (int64_t r = begin; r < end; r++) {
        if (r / shared != held) {
            held = r / shared;
            memcpy(table, tables + held * k, (size_t)k * sizeof(float));
        }
        for (int64_t b = 0; b < batch; b += FOUR) {
            int vectors = (int)MIN(FOUR, batch - b);
            const float *rows[FOUR] = {0};
            float sums[FOUR];
            for (int v = 0; v < vectors; v++)
                rows[v] = x + (b + v) * in;
            PATH(row_times)(codes + r * in, in, table, (int)k, rows, vectors, sums);
            for (int v = 0; v < vectors; v++)
                y[(b + v) * out + r] = sums[v];
        }
    }
}

/* The same for one vector and k <= 16 in integers of 16 bits, where this machine and the numbers allow it: `in` a multiple of
   32, and the largest input not above `most` times their root mean square. `room`: of `in` int16. Returns 0 where it does not. */
EXPORT int lm_linear_int16(const float *x, const uint8_t *codes, int64_t in, const float *tables, int64_t k, int64_t shared,
                           int64_t begin, int64_t end, float most, int16_t *room, float *y) {
#if CORE_X86
    float top = 0;
    double square = 0;
    if (lm_path < AVX2 || k > 16 || in % 32)
        return 0;
    for (int64_t i = 0; i < in; i++) {
        float size = fabsf(x[i]);
        top = size > top ? size : top;
        square += (double)x[i] * x[i];
    }
    if (!(top > 1e-30f && top < 1e30f && (double)top * top * (double)in <= (double)most * most * square))
        return 0;
    float scale = 16383.0f / top;
    for (int64_t i = 0; i < in; i += 32) /* lanes of 128 bits: 0-7 and 16-23, 8-15 and 24-31 */
        for (int j = 0; j < 32; j++)
            room[i + (j & 7) + ((j >> 4) & 1) * 8 + ((j >> 3) & 1) * 16] = (int16_t)lrintf(x[i + j] * scale);
    int64_t held = -1;
    int16_t table[16] = {0};
    float back = 0;
    for (int64_t r = begin; r < end; r++) {
        if (r / shared != held) {
            const float *own = tables + (held = r / shared) * k;
            float largest = 1e-30f;
            for (int64_t c = 0; c < k; c++)
                largest = MAX(largest, fabsf(own[c]));
            for (int64_t c = 0; c < k; c++)
                table[c] = (int16_t)lrintf(own[c] * (4095.0f / largest));
            back = top / 16383.0f * (largest / 4095.0f);
        }
        y[r] = back * (lm_path >= AVX512 ? row_times_int16_avx512 : row_times_int16_avx2)(codes + r * in, in, table, room);
    }
    return 1;
#else
    (void)x, (void)codes, (void)in, (void)tables, (void)k, (void)shared, (void)begin, (void)end, (void)most, (void)room, (void)y;
    return 0;
#endif
}
