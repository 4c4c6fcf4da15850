/* A row times a vector in integers of 16 bits, once for each path that has them; included by run.h. 64 codes are INTEGERS vectors
   of 16-bit centroids, in the order of the codes. A lane sums at most 32 products, each below 2^26, before it becomes a float. */

#if ISA >= 5
#define INTEGERS 2
#define WHOLE __m512i
#define TOTAL(sum) _mm512_cvtepi32_ps(sum)
#define NONE _mm512_setzero_si512()
#define INPUTS(p) _mm512_loadu_si512(p)
#if ISA == 6
#define GATHER(sum, w, x) _mm512_dpwssd_epi32(sum, w, x)
#else
#define GATHER(sum, w, x) _mm512_add_epi32(sum, _mm512_madd_epi16(w, x))
#endif
#else
#define INTEGERS 4
#define WHOLE __m256i
#define TOTAL(sum) _mm256_cvtepi32_ps(sum)
#define NONE _mm256_setzero_si256()
#define INPUTS(p) _mm256_loadu_si256((const __m256i *)(p))
#define GATHER(sum, w, x) _mm256_add_epi32(sum, _mm256_madd_epi16(w, x))
#endif

/* The largest table that is looked up sooner so than in floats. */
#define MOST_INTEGERS (ISA >= 5 ? 256 : 64)

TARGET static ALWAYS_INLINE void PATH_NAME(integers)(const uint8_t *codes, const struct table *t, const int kind, WHOLE *w) {
#if ISA == 6
    if (kind > 64) {
        __m512i at = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_loadu_si512(codes)), byte[2];
        for (int p = 0; p < 2; p++) {
            const uint8_t *own = t->halves[p];
            byte[p] = _mm512_permutex2var_epi8(_mm512_loadu_si512(own), at, _mm512_loadu_si512(own + 64));
            if (kind == 256)
                byte[p] = _mm512_mask_blend_epi8(
                    _mm512_movepi8_mask(at), byte[p],
                    _mm512_permutex2var_epi8(_mm512_loadu_si512(own + 128), at, _mm512_loadu_si512(own + 192)));
        }
        w[0] = _mm512_unpacklo_epi8(byte[0], byte[1]), w[1] = _mm512_unpackhi_epi8(byte[0], byte[1]);
        return;
    }
#endif
#if ISA >= 5
    for (int half = 0; half < INTEGERS; half++) {
        __m512i at = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(codes + half * 32)));
        if (kind <= 32) {
            w[half] = _mm512_permutexvar_epi16(at, _mm512_loadu_si512(t->integers));
            continue;
        }
        w[half] = _mm512_permutex2var_epi16(_mm512_loadu_si512(t->integers), at, _mm512_loadu_si512(t->integers + 32));
        for (int s = 64; s < kind; s += 64) {
            __m512i low = _mm512_loadu_si512(t->integers + s), high = _mm512_loadu_si512(t->integers + s + 32);
            w[half] = _mm512_mask_mov_epi16(w[half], _mm512_cmpge_epu16_mask(at, _mm512_set1_epi16((short)s)),
                                            _mm512_permutex2var_epi16(low, at, high));
        }
    }
#else
    for (int half = 0; half < 2; half++) {
        __m256i at = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(codes + half * 32)), 0xD8), byte[2];
        __m256i above16 = _mm256_slli_epi16(at, 3), above32 = _mm256_slli_epi16(at, 2), low = _mm256_and_si256(at, _mm256_set1_epi8(15));
        for (int p = 0; p < 2; p++) {
            const uint8_t *own = t->halves[p];
#define OF(s) _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(own + s))), low)
            byte[p] = OF(0);
            if (kind > 16)
                byte[p] = _mm256_blendv_epi8(byte[p], OF(16), above16);
            if (kind > 32)
                byte[p] = _mm256_blendv_epi8(byte[p], _mm256_blendv_epi8(OF(32), OF(48), above16), above32);
#undef OF
        }
        w[2 * half] = _mm256_unpacklo_epi8(byte[0], byte[1]), w[2 * half + 1] = _mm256_unpackhi_epi8(byte[0], byte[1]);
    }
#endif
}

TARGET static ALWAYS_INLINE float PATH_NAME(row_times_integers)(const struct coded *w, int64_t row, const struct table *t,
                                                                const int kind, const int16_t *x) {
    uint8_t room[STRETCH + 3 * BLOCK];
    float lanes[LANES];
    VECTOR total = ALL(0);
    for (int64_t first = 0; first < w->width; first += STRETCH) {
        int64_t n = MIN(STRETCH, w->width - first);
        const uint8_t *codes = PATH_NAME(bytes)(w, row * w->width + first, n, room);
        WHOLE sum[INTEGERS], part[INTEGERS];
        for (int p = 0; p < INTEGERS; p++)
            sum[p] = NONE;
        for (int64_t i = 0; i < n; i += BLOCK) { /* inputs after the last are 0 */
            PATH_NAME(integers)(codes + i, t, kind, part);
            UNROLL for (int p = 0; p < INTEGERS; p++)
                sum[p] = GATHER(sum[p], part[p], INPUTS(x + first + i + p * (BLOCK / INTEGERS)));
        }
        for (int p = 0; p < INTEGERS; p++)
            total = ADD(total, TOTAL(sum[p]));
    }
    STORE(lanes, total);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* A table of 13 bits; `back`: what 1 of it stands for. */
TARGET static void PATH_NAME(prepare_integers)(struct table *t, const float *values, int64_t k) {
    __m256 most = _mm256_set1_ps(1e-30f);
    float room[MOST] = {0}, largest = 0, each[8];
    memcpy(room, values, (size_t)k * sizeof(float));
    for (int64_t c = 0; c < k; c += 8)
        most = _mm256_max_ps(most, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(room + c)));
    _mm256_storeu_ps(each, most);
    for (int lane = 0; lane < 8; lane++)
        largest = MAX(largest, each[lane]);
    for (int64_t c = 0; c < k; c += 8) {
        __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(room + c), _mm256_set1_ps(4095.0f / largest)));
        __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        __m128i bytes = _mm_shuffle_epi8(half, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        _mm_storeu_si128((__m128i *)(t->integers + c), half);
        _mm_storel_epi64((__m128i *)(t->halves[0] + c), bytes);
        _mm_storel_epi64((__m128i *)(t->halves[1] + c), _mm_unpackhi_epi64(bytes, bytes));
    }
    t->back = largest / 4095.0f;
}

/* y[r] of rows begin to end - 1; `back`: what 1 of x stands for. */
TARGET static void PATH_NAME(rows_times_integers)(const struct coded *w, const int16_t *x, float back, int64_t begin, int64_t end,
                                                  float *y) {
    struct table t = {.held = -1};
    for (int64_t r = begin; r < end; r++) {
        if (r / w->shared != t.held)
            PATH_NAME(prepare_integers)(&t, w->tables + (t.held = r / w->shared) * w->k, w->k);
#define DO(kind) y[r] = back * t.back * PATH_NAME(row_times_integers)(w, r, &t, kind, x)
        BY_KIND(w->kind, DO)
#undef DO
    }
}

#undef INTEGERS
#undef WHOLE
#undef TOTAL
#undef NONE
#undef INPUTS
#undef GATHER
#undef MOST_INTEGERS
