/* One row of codes times up to FOUR vectors, once for each path. ISA: 0 portable, 2 AVX2, 5 AVX-512. Sums are taken in another
   order on each path: products differ by rounding. */

TARGET static ALWAYS_INLINE void PATH_NAME(row_times_all)(const uint8_t *codes, int64_t n, const float *table, int k,
                                                          const float *const *x, const int vectors, float *sums) {
    int64_t i = 0;
    for (int v = 0; v < vectors; v++)
        sums[v] = 0;
#if ISA == 5
    __m512 low = _mm512_loadu_ps(table), high = _mm512_loadu_ps(table + 16), total[FOUR][2];
    for (int v = 0; v < vectors; v++)
        total[v][0] = total[v][1] = _mm512_setzero_ps();
#define STEP(half, w)                                                                                                        \
    for (int v = 0; v < vectors; v++)                                                                                        \
        total[v][half] = _mm512_fmadd_ps(w, _mm512_loadu_ps(x[v] + i + 16 * half), total[v][half]);
#define AT(half) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + i + 16 * half)))
    if (k <= 16) {
        for (; i + 32 <= n; i += 32) {
            STEP(0, _mm512_permutexvar_ps(AT(0), low))
            STEP(1, _mm512_permutexvar_ps(AT(1), low))
        }
    } else if (k <= 32) {
        for (; i + 32 <= n; i += 32) {
            STEP(0, _mm512_permutex2var_ps(low, AT(0), high))
            STEP(1, _mm512_permutex2var_ps(low, AT(1), high))
        }
    } else {
        for (; i + 32 <= n; i += 32) { /* loads one by one are sooner done than gathered ones */
            float w[32];
            for (int j = 0; j < 32; j++)
                w[j] = table[codes[i + j]];
            STEP(0, _mm512_loadu_ps(w))
            STEP(1, _mm512_loadu_ps(w + 16))
        }
    }
#undef STEP
#undef AT
    for (int v = 0; v < vectors; v++)
        sums[v] = _mm512_reduce_add_ps(_mm512_add_ps(total[v][0], total[v][1]));
#elif ISA == 2
    __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8), total[FOUR][2];
    for (int v = 0; v < vectors; v++)
        total[v][0] = total[v][1] = _mm256_setzero_ps();
#define STEP(half, w)                                                                                                        \
    for (int v = 0; v < vectors; v++)                                                                                        \
        total[v][half] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x[v] + i + 8 * half), total[v][half]);
#define AT(half) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + i + 8 * half)))
#define BOTH(at)                                                                                                             \
    _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at), _mm256_permutevar8x32_ps(high, at),                                  \
                     _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)))
    if (k <= 8) {
        for (; i + 16 <= n; i += 16) {
            STEP(0, _mm256_permutevar8x32_ps(low, AT(0)))
            STEP(1, _mm256_permutevar8x32_ps(low, AT(1)))
        }
    } else if (k <= 16) {
        for (; i + 16 <= n; i += 16) {
            __m256i first = AT(0), second = AT(1);
            __m256 w = BOTH(first), u = BOTH(second);
            STEP(0, w)
            STEP(1, u)
        }
    } else {
        for (; i + 16 <= n; i += 16) {
            float w[16];
            for (int j = 0; j < 16; j++)
                w[j] = table[codes[i + j]];
            STEP(0, _mm256_loadu_ps(w))
            STEP(1, _mm256_loadu_ps(w + 8))
        }
    }
#undef STEP
#undef AT
#undef BOTH
    for (int v = 0; v < vectors; v++) {
        float lanes[8];
        _mm256_storeu_ps(lanes, _mm256_add_ps(total[v][0], total[v][1]));
        for (int lane = 0; lane < 8; lane++)
            sums[v] += lanes[lane];
    }
#else
    (void)k;
    float lanes[FOUR][8] = {{0}};
    for (; i + 8 <= n; i += 8) {
        float w[8];
        for (int j = 0; j < 8; j++)
            w[j] = table[codes[i + j]];
        for (int v = 0; v < vectors; v++)
            for (int lane = 0; lane < 8; lane++)
                lanes[v][lane] += w[lane] * x[v][i + lane];
    }
    for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < 8; lane++)
            sums[v] += lanes[v][lane];
#endif
    for (; i < n; i++)
        for (int v = 0; v < vectors; v++)
            sums[v] += table[codes[i]] * x[v][i];
}

TARGET static void PATH_NAME(row_times)(const uint8_t *codes, int64_t n, const float *table, int k, const float *const *x,
                                        int vectors, float *sums) {
    if (vectors == 1)
        PATH_NAME(row_times_all)(codes, n, table, k, x, 1, sums);
    else if (vectors == 2)
        PATH_NAME(row_times_all)(codes, n, table, k, x, 2, sums);
    else if (vectors == 3)
        PATH_NAME(row_times_all)(codes, n, table, k, x, 3, sums);
    else
        PATH_NAME(row_times_all)(codes, n, table, k, x, 4, sums);
}

#if ISA
/* One row of codes below 16 times one vector of int16, whose order is that of `spread`: int32 sums of at most 32 products,
   each below 2^26. */
TARGET static float PATH_NAME(row_times_int16)(const uint8_t *RESTRICT codes, int64_t n, const int16_t *RESTRICT table,
                                               const int16_t *RESTRICT x) {
    uint8_t bytes[2][16];
    for (int c = 0; c < 16; c++) {
        bytes[0][c] = (uint8_t)table[c];
        bytes[1][c] = (uint8_t)((uint16_t)table[c] >> 8);
    }
    __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes[0]));
    __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes[1]));
    __m256 total = _mm256_setzero_ps();
    float lanes[8], sum = 0;
    for (int64_t i = 0; i < n;) {
        __m256i first = _mm256_setzero_si256(), second = first;
        int64_t stop = MIN(n, i + 512);
        for (; i < stop; i += 32) {
            __m256i at = _mm256_loadu_si256((const __m256i *)(codes + i));
            __m256i l = _mm256_shuffle_epi8(low, at), h = _mm256_shuffle_epi8(high, at);
            const __m256i *inputs = (const __m256i *)(x + i);
            first = _mm256_add_epi32(first, _mm256_madd_epi16(_mm256_unpacklo_epi8(l, h), _mm256_loadu_si256(inputs)));
            second = _mm256_add_epi32(second, _mm256_madd_epi16(_mm256_unpackhi_epi8(l, h), _mm256_loadu_si256(inputs + 1)));
        }
        total = _mm256_add_ps(total, _mm256_add_ps(_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(second)));
    }
    _mm256_storeu_ps(lanes, total);
    for (int lane = 0; lane < 8; lane++)
        sum += lanes[lane];
    return sum;
}
#endif
