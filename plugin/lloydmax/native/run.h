/* Weights of codes at work, once for each path. ISA: 0 portable, 2 AVX2, 5 AVX-512, 6 AVX-512 with VBMI and VNNI. Above are its
   vectors; below them is the logic, which all paths share. Sums are taken in another order on each path: products differ by
   rounding, but never by how rows, inputs or threads are divided. */

#if ISA >= 5
#define LANES 16
#define WIDEST 4
#define SUMS 24
#define VECTOR __m512
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ALL(value) _mm512_set1_ps(value)
#define ADD(a, b) _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define EACH(v, c)                                                                                                           \
    _mm512_setr_ps(v[(c)[0]], v[(c)[1]], v[(c)[2]], v[(c)[3]], v[(c)[4]], v[(c)[5]], v[(c)[6]], v[(c)[7]], v[(c)[8]],        \
                   v[(c)[9]], v[(c)[10]], v[(c)[11]], v[(c)[12]], v[(c)[13]], v[(c)[14]], v[(c)[15]])
#elif ISA == 2
#define LANES 8
#define WIDEST 2
#define SUMS 12
#define VECTOR __m256
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define ALL(value) _mm256_set1_ps(value)
#define ADD(a, b) _mm256_add_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define EACH(v, c)                                                                                                           \
    _mm256_setr_ps(v[(c)[0]], v[(c)[1]], v[(c)[2]], v[(c)[3]], v[(c)[4]], v[(c)[5]], v[(c)[6]], v[(c)[7]])
#else
#define LANES 4
#define WIDEST 2
#define SUMS 12
#define VECTOR four
#define LOAD(p) load_four(p)
#define STORE(p, v) store_four(p, v)
#define ALL(value) all_four(value)
#define ADD(a, b) add_four(a, b)
#define FMA(a, b, c) add_four(times_four(a, b), c)
#define EACH(v, c) load_four((float[4]){v[(c)[0]], v[(c)[1]], v[(c)[2]], v[(c)[3]]})
#endif
#define STEP (PARTS * LANES) /* codes that are looked up at once */

/* ---- blocks of 64 codes: their planes of bits, and as bytes */

TARGET static ALWAYS_INLINE void PATH_NAME(opened_as)(const uint8_t *RESTRICT planes, int64_t blocks, const int bits,
                                                      uint8_t *RESTRICT codes) {
    for (int64_t b = 0; b < blocks; b++, codes += BLOCK) {
        if (bits == 8) {
            memcpy(codes, planes, BLOCK);
            planes += BLOCK;
            continue;
        }
        int at = 0;
#if ISA >= 5
        __m512i all = _mm512_setzero_si512();
        if (bits & 4) {
            __m256i two = _mm256_loadu_si256((const __m256i *)planes);
            __m512i wide = _mm512_inserti64x4(_mm512_castsi256_si512(two), _mm256_srli_epi16(two, 4), 1);
            all = _mm512_and_si512(wide, _mm512_set1_epi8(15));
            planes += 32, at = 4;
        }
        if (bits & 2) {
            __m512i wide = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)planes));
            wide = _mm512_srlv_epi64(wide, _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6));
            wide = _mm512_and_si512(wide, _mm512_set1_epi8(3));
            all = _mm512_or_si512(all, at ? _mm512_slli_epi16(wide, 4) : wide);
            planes += 16, at += 2;
        }
        if (bits & 1) {
            uint64_t ones;
            memcpy(&ones, planes, 8);
            all = _mm512_or_si512(all, _mm512_maskz_set1_epi8(ones, (char)(1 << at)));
            planes += 8;
        }
        _mm512_storeu_si512(codes, all);
#elif ISA == 2
        __m256i low = _mm256_setzero_si256(), high = low;
        if (bits & 4) {
            __m256i two = _mm256_loadu_si256((const __m256i *)planes), four_bits = _mm256_set1_epi8(15);
            low = _mm256_and_si256(two, four_bits);
            high = _mm256_and_si256(_mm256_srli_epi16(two, 4), four_bits);
            planes += 32, at = 4;
        }
        if (bits & 2) {
            __m256i wide = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)planes)), two_bits = _mm256_set1_epi8(3);
            __m256i first = _mm256_and_si256(_mm256_srlv_epi64(wide, _mm256_setr_epi64x(0, 0, 2, 2)), two_bits);
            __m256i second = _mm256_and_si256(_mm256_srlv_epi64(wide, _mm256_setr_epi64x(4, 4, 6, 6)), two_bits);
            low = _mm256_or_si256(low, at ? _mm256_slli_epi16(first, 4) : first);
            high = _mm256_or_si256(high, at ? _mm256_slli_epi16(second, 4) : second);
            planes += 16, at += 2;
        }
        if (bits & 1) {
            int64_t ones;
            memcpy(&ones, planes, 8);
            __m256i wide = _mm256_set1_epi64x(ones), each = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
            __m256i by = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
            __m256i bit = _mm256_set1_epi8((char)(1 << at));
            __m256i first = _mm256_and_si256(_mm256_shuffle_epi8(wide, by), each);
            by = _mm256_add_epi8(by, _mm256_set1_epi8(4));
            __m256i second = _mm256_and_si256(_mm256_shuffle_epi8(wide, by), each);
            low = _mm256_or_si256(low, _mm256_and_si256(_mm256_cmpeq_epi8(first, each), bit));
            high = _mm256_or_si256(high, _mm256_and_si256(_mm256_cmpeq_epi8(second, each), bit));
            planes += 8;
        }
        _mm256_storeu_si256((__m256i *)codes, low);
        _mm256_storeu_si256((__m256i *)(codes + 32), high);
#else
        memset(codes, 0, BLOCK);
        for (int width = 4; width; width /= 2)
            if (bits & width) {
                int length = BLOCK / 8 * width;
                for (int part = 0; part < 8 / width; part++)
                    for (int j = 0; j < length; j++)
                        codes[part * length + j] |= (uint8_t)((planes[width == 1 ? (part * 8 + j) / 8 : j] >>
                                                               (width == 1 ? j & 7 : part * width) & ((1 << width) - 1)) << at);
                planes += length, at += width;
            }
#endif
    }
}

TARGET static void PATH_NAME(opened)(const uint8_t *planes, int64_t blocks, int bits, uint8_t *codes) {
    switch (bits) {
#define CASE(b)                                                                                                              \
    case b:                                                                                                                  \
        PATH_NAME(opened_as)(planes, blocks, b, codes);                                                                      \
        break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
}

/* Codes first to first + count - 1 as bytes, somewhere in `room` of count + 3 * BLOCK. */
TARGET static const uint8_t *PATH_NAME(bytes)(const struct coded *w, int64_t first, int64_t count, uint8_t *room) {
    int64_t block = first / BLOCK, end = (first + count + BLOCK - 1) / BLOCK;
    PATH_NAME(opened)(w->planes + block * (BLOCK / 8) * w->bits, end - block, w->bits, room);
    memset(room + (end - block) * BLOCK, 0, BLOCK); /* what a last step reads and leaves */
    return room + first % BLOCK;
}

/* ---- what STEP codes stand for */

TARGET static ALWAYS_INLINE void PATH_NAME(looked_up)(const uint8_t *codes, const struct table *t, const int kind, VECTOR *w) {
    (void)kind; /* of no use where each is looked up alone */
#if ISA == 6
    if (kind >= 64) { /* the four bytes of a float from tables of their own */
        __m512i order = _mm512_loadu_si512(ORDER), at = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(codes)), byte[4];
        for (int p = 0; p < 4; p++) {
            const uint8_t *own = t->bytes[p];
            __m512i first = _mm512_loadu_si512(own);
            if (kind == 64)
                byte[p] = _mm512_permutexvar_epi8(at, first);
            else
                byte[p] = _mm512_permutex2var_epi8(first, at, _mm512_loadu_si512(own + 64));
            if (kind == 256)
                byte[p] = _mm512_mask_blend_epi8(
                    _mm512_movepi8_mask(at), byte[p],
                    _mm512_permutex2var_epi8(_mm512_loadu_si512(own + 128), at, _mm512_loadu_si512(own + 192)));
        }
        __m512i a = _mm512_unpacklo_epi8(byte[0], byte[1]), b = _mm512_unpackhi_epi8(byte[0], byte[1]);
        __m512i c = _mm512_unpacklo_epi8(byte[2], byte[3]), d = _mm512_unpackhi_epi8(byte[2], byte[3]);
        w[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, c)), w[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, c));
        w[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(b, d)), w[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(b, d));
        return;
    }
#endif
#if ISA >= 5
    if (kind <= 128) {
        for (int part = 0; part < PARTS; part++) {
            __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + part * LANES)));
            if (kind <= 16) {
                w[part] = _mm512_permutexvar_ps(at, LOAD(t->values));
                continue;
            }
            w[part] = _mm512_permutex2var_ps(LOAD(t->values), at, LOAD(t->values + 16));
            for (int s = 32; s < kind; s += 32) {
                __m512 more = _mm512_permutex2var_ps(LOAD(t->values + s), at, LOAD(t->values + s + 16));
                w[part] = _mm512_mask_mov_ps(w[part], _mm512_cmpge_epu32_mask(at, _mm512_set1_epi32(s)), more);
            }
        }
        return;
    }
#elif ISA == 2
    if (kind <= 32) {
        for (int part = 0; part < PARTS; part++) {
            __m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + part * LANES)));
            __m256 above8 = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)), above16 = _mm256_castsi256_ps(_mm256_slli_epi32(at, 27));
#define OF(s) _mm256_permutevar8x32_ps(LOAD(t->values + s), at)
            w[part] = OF(0);
            if (kind > 8)
                w[part] = _mm256_blendv_ps(w[part], OF(8), above8);
            if (kind > 16)
                w[part] = _mm256_blendv_ps(w[part], _mm256_blendv_ps(OF(16), OF(24), above8), above16);
#undef OF
        }
        return;
    }
#endif
    UNROLL for (int part = 0; part < PARTS; part++) /* loads one by one are sooner done than gathered ones */
        w[part] = EACH(t->values, codes + part * LANES);
}

/* A table for all that looks up in it. */
TARGET static void PATH_NAME(prepare)(struct table *t, const float *values, int64_t k) {
    memcpy(t->values, values, (size_t)k * sizeof(float));
#if ISA == 6
    if (k > 32)
        for (int c = 0; c < (k <= 64 ? 64 : k <= 128 ? 128 : 256); c += LANES) {
            __m512i all = _mm512_castps_si512(LOAD(t->values + c));
            _mm_storeu_si128((__m128i *)(t->bytes[0] + c), _mm512_cvtepi32_epi8(all));
            _mm_storeu_si128((__m128i *)(t->bytes[1] + c), _mm512_cvtepi32_epi8(_mm512_srli_epi32(all, 8)));
            _mm_storeu_si128((__m128i *)(t->bytes[2] + c), _mm512_cvtepi32_epi8(_mm512_srli_epi32(all, 16)));
            _mm_storeu_si128((__m128i *)(t->bytes[3] + c), _mm512_cvtepi32_epi8(_mm512_srli_epi32(all, 24)));
        }
#endif
}

/* The table of a row, ready. */
TARGET static void PATH_NAME(table_of)(const struct coded *w, int64_t row, struct table *t) {
    if (row / w->shared != t->held)
        PATH_NAME(prepare)(t, w->tables + (t->held = row / w->shared) * w->k, w->k);
}

#define BY_KIND(kind, DO)                                                                                                    \
    switch (kind) {                                                                                                          \
    case 8:                                                                                                                  \
        DO(8);                                                                                                               \
        break;                                                                                                               \
    case 16:                                                                                                                 \
        DO(16);                                                                                                              \
        break;                                                                                                               \
    case 32:                                                                                                                 \
        DO(32);                                                                                                              \
        break;                                                                                                               \
    case 64:                                                                                                                 \
        DO(64);                                                                                                              \
        break;                                                                                                               \
    case 128:                                                                                                                \
        DO(128);                                                                                                             \
        break;                                                                                                               \
    default:                                                                                                                 \
        DO(256);                                                                                                             \
    }

TARGET static ALWAYS_INLINE void PATH_NAME(decoded_as)(const uint8_t *RESTRICT codes, int64_t n, const struct table *RESTRICT t,
                                                       const int kind, float *RESTRICT out) {
    for (int64_t i = 0; i < n; i += STEP) {
        VECTOR w[PARTS];
        PATH_NAME(looked_up)(codes + i, t, kind, w);
        for (int part = 0; part < PARTS; part++)
            STORE(out + i + part * LANES, w[part]);
    }
}

/* Weights first to first + n - 1 of a row, n at most SLICE; up to STEP - 1 more are written. */
TARGET static void PATH_NAME(decoded)(const struct coded *w, int64_t row, int64_t first, int64_t n, struct table *t, float *out) {
    uint8_t room[SLICE + 3 * BLOCK];
    const uint8_t *codes = PATH_NAME(bytes)(w, row * w->width + first, n, room);
    PATH_NAME(table_of)(w, row, t);
#define DO(kind) PATH_NAME(decoded_as)(codes, n, t, kind, out)
    BY_KIND(w->kind, DO)
#undef DO
}

/* ---- a row times one, two or four vectors */

TARGET static ALWAYS_INLINE void PATH_NAME(row_times_all)(const struct coded *w, int64_t row, const struct table *t, const int kind,
                                                          const float *const *x, const int vectors, float *sums) {
    uint8_t room[STRETCH + 3 * BLOCK];
    VECTOR total[FOUR][PARTS];
    const int apart = vectors == 1 ? 4 : 2;
    float rest[FOUR] = {0};
    for (int v = 0; v < vectors; v++)
        for (int one = 0; one < apart; one++)
            total[v][one] = ALL(0);
    for (int64_t first = 0; first < w->width; first += STRETCH) {
        int64_t n = MIN(STRETCH, w->width - first), i = 0;
        const uint8_t *codes = PATH_NAME(bytes)(w, row * w->width + first, n, room);
        VECTOR part[PARTS];
        for (; i + STEP <= n; i += STEP) {
            PATH_NAME(looked_up)(codes + i, t, kind, part);
            UNROLL for (int p = 0; p < PARTS; p++)
                UNROLL for (int v = 0; v < vectors; v++)
                    total[v][p % apart] = FMA(part[p], LOAD(x[v] + first + i + p * LANES), total[v][p % apart]);
        }
        if (i < n) {
            float last[STEP];
            PATH_NAME(looked_up)(codes + i, t, kind, part);
            for (int p = 0; p < PARTS; p++)
                STORE(last + p * LANES, part[p]);
            for (int v = 0; v < vectors; v++)
                for (int64_t j = i; j < n; j++)
                    rest[v] += last[j - i] * x[v][first + j];
        }
    }
    for (int v = 0; v < vectors; v++) {
        float lanes[LANES];
        for (int one = 1; one < apart; one++)
            total[v][0] = ADD(total[v][0], total[v][one]);
        STORE(lanes, total[v][0]);
        for (int half = LANES / 2; half; half /= 2)
            for (int lane = 0; lane < half; lane++)
                lanes[lane] += lanes[lane + half];
        sums[v] = lanes[0] + rest[v];
    }
}

/* y[v * rows + r] of rows begin to end - 1. */
TARGET static void PATH_NAME(rows_times)(const struct coded *w, const float *x, int64_t batch, int64_t begin, int64_t end, float *y) {
    struct table t = {.held = -1};
    for (int64_t r = begin; r < end; r++) {
        PATH_NAME(table_of)(w, r, &t);
        for (int64_t b = 0; b < batch; b += FOUR) {
            int count = (int)MIN(FOUR, batch - b);
            const float *each[FOUR];
            float sums[FOUR];
            for (int v = 0; v < FOUR; v++)
                each[v] = x + (b + MIN(v, count - 1)) * w->width;
#define DO(kind)                                                                                                             \
    if (count == 1)                                                                                                          \
        PATH_NAME(row_times_all)(w, r, &t, kind, each, 1, sums);                                                             \
    else if (count == 2)                                                                                                     \
        PATH_NAME(row_times_all)(w, r, &t, kind, each, 2, sums);                                                             \
    else                                                                                                                     \
        PATH_NAME(row_times_all)(w, r, &t, kind, each, 4, sums)
            BY_KIND(w->kind, DO)
#undef DO
            for (int v = 0; v < count; v++)
                y[(b + v) * w->rows + r] = sums[v];
        }
    }
}

#include "run_image.h"
#include "run_winograd.h"
#if ISA
#include "run_integers.h"
#endif

#undef LANES
#undef WIDEST
#undef SUMS
#undef VECTOR
#undef LOAD
#undef STORE
#undef ALL
#undef ADD
#undef FMA
#undef EACH
#undef STEP
