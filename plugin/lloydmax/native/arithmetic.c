/* Signed integers as an adaptive arithmetic code. The twin, and what each number means, are in format/arithmetic.py. */
#include "core.h"
#if CORE_X86
#include <immintrin.h>
#endif

enum {
    LENGTHS = 25,                      /* of magnitudes, in bits */
    MODELLED = 8,                      /* bits below the first one that have a model */
    SIDE = LENGTHS << MODELLED,        /* nodes of the tree for one sign */
    SHORT = 5,                         /* lengths of the magnitudes that contexts know */
    NODES = 64,                        /* of those */
    SETS = 6,                          /* contexts: none, row, column, both, neighbours, slope and column */
    ROW = 0,                           /* where their sets of nodes begin */
    COLUMN = 64,
    BOTH = 128,
    NEIGHBOURS = 256,
    SLOPE = NEIGHBOURS + 25,
    ALL_SETS = SLOPE + 15 * 16,
    COLUMNS = 1 << 16,
    WEIGHTS = 8,                       /* of SETS, and room for a vector */
    NEAR = 6,                          /* quarters of an octave by which a level begins below the mean */
    PLAIN_WEIGHT = 18000,
    WEIGHT = 12000,
    TOP = 1791,                        /* the logistic scale: 256 to the unit */
    LEAST = 64,                        /* probability of a decision, of 65536 */
    SLOW = 1023,
    FAST = 255,
    COUNT = 1023,                      /* of a node, below its probability */
    MOST_WEIGHT = 1 << 20,
};

_Static_assert((-1 >> 1) == -1, "shifts to the right keep the sign");

/* The range coder in its stream. */
typedef struct {
    uint64_t low, range, code;
    int64_t place, length, waiting; /* in the stream; bytes that wait for a carry */
    const uint8_t *data;
    uint8_t *out;
    int32_t held;
} Stream;

/* Where the next integer is: in its row, in kernels of so many integers and lines of these; the means of magnitudes: of all,
   of so many of them, and of the row; and what was before it, within 255. */
typedef struct {
    int64_t columns, column, row, kernel, line, tap, place;
    uint32_t all, seen, along;
    int32_t left, corner;
} Means;

typedef struct {
    Stream stream;
    Means means;
    int32_t mixed;
    uint32_t near[NODES]; /* of the tree, where contexts know the place, too */
    int32_t weights[NODES][WEIGHTS];
    uint32_t tree[2 + 2 * SIDE];
    uint32_t sets[ALL_SETS][NODES];
    uint32_t down[COLUMNS];
    int16_t last[COLUMNS]; /* of each column */
} Coder;

/* From -7 on, in halves. */
static const int32_t LOGISTIC[15] = {60,   98,   162,  267,  439,   720,   1179, 1921,
                                     3108, 4971, 7812, 11953, 17625, 24743, 32768};
static uint16_t squashed[2 * TOP + 1]; /* of -TOP, .. TOP */
static int16_t stretched[4096];
static uint32_t rates[SLOW + 1];

static int32_t squash(int32_t x) {
    int32_t at = MIN(TOP, x < 0 ? -x : x), from = TOP + 1 - at, step = from >> 7, rest = from & 127;
    int32_t low = LOGISTIC[step], high = step < 14 ? LOGISTIC[step + 1] : low;
    int32_t p = low + (((high - low) * rest) >> 7);
    return MAX(LEAST, MIN(65536 - LEAST, x < 0 ? p : 65536 - p));
}

/* Once, before anything is coded. */
void lm_make_tables(void) {
    int32_t next = 0;
    for (int32_t x = -TOP; x <= TOP; x++) {
        squashed[x + TOP] = (uint16_t)squash(x);
        for (int32_t p = squash(x) >> 4; next <= p; next++)
            stretched[next] = (int16_t)x;
    }
    for (; next < 4096; next++)
        stretched[next] = TOP;
    for (uint32_t count = 0; count <= SLOW; count++)
        rates[count] = 131072 / (2 * count + 3);
}

static void shift_low(Stream *s) {
    if (s->low < (uint64_t)0xff << 32 || s->low >= (uint64_t)1 << 40) {
        int carry = (int)(s->low >> 40);
        for (int32_t byte = s->held; s->waiting >= 0; s->waiting--, byte = 0xff) {
            if (s->place >= 0 && s->place < s->length)
                s->out[s->place] = (uint8_t)(byte + carry);
            s->place++;
        }
        s->held = (int32_t)(s->low >> 32 & 0xff);
        s->waiting = -1;
    }
    s->waiting++;
    s->low = (s->low & 0xffffffff) << 8;
}

/* One decision, of this probability (of 65536) for a 1. */
static ALWAYS_INLINE int decide(Stream *s, const int decodes, int bit, uint32_t p) {
    uint64_t bound = (s->range >> 16) * p;
    if (decodes)
        bit = s->code < bound;
    if (bit) {
        s->range = bound;
    } else {
        s->range -= bound;
        if (decodes)
            s->code -= bound;
        else
            s->low += bound;
    }
    while (s->range < (uint64_t)1 << 32) {
        s->range <<= 8;
        if (decodes) {
            s->code = s->code << 8 | (s->place < s->length ? s->data[s->place] : 0);
            s->place++;
        } else {
            shift_low(s);
        }
    }
    return bit;
}

static ALWAYS_INLINE uint32_t sure(uint32_t state) {
    int32_t p = (int32_t)(state >> 16);
    return (uint32_t)MAX(LEAST, MIN(65536 - LEAST, p));
}

/* Four times the binary logarithm, nearly. */
static inline uint32_t logarithm(uint32_t mean) {
    uint32_t length = 2, value = mean + 4;
#if defined(__GNUC__)
    length = 31 - (uint32_t)__builtin_clz(value);
#else
    for (uint32_t rest = value >> 3; rest; rest >>= 1)
        length++;
#endif
    return MIN(63, (length - 2) * 4 + (value >> (length - 2) & 3));
}

/* A node after a decision. Seen from the other side, a probability only ever shrinks. */
static ALWAYS_INLINE uint32_t learnt(uint32_t state, int bit, uint32_t limit) {
    uint32_t count = state & COUNT, side = bit ? ~(uint32_t)COUNT : 0;
    uint64_t seen = (state ^ side) & ~(uint32_t)COUNT;
    uint32_t less = (uint32_t)(seen * rates[count] >> 26) << 10;
    return (((uint32_t)seen - less) ^ side) | (count + (count < limit));
}

/* A decision at a node of the tree alone. */
static ALWAYS_INLINE int alone(Stream *s, const int decodes, int bit, uint32_t *plain) {
    bit = decide(s, decodes, bit, sure(*plain));
    *plain = learnt(*plain, bit, SLOW);
    return bit;
}

/* Which of 2 * steps + 1 levels a value has: 0, or how large it is beside a mean of 1 / 256, on a logarithmic scale. */
static ALWAYS_INLINE int32_t level(int32_t value, uint32_t scaled, int32_t mean, int shift, int32_t steps) {
    int32_t above = ((int32_t)logarithm(scaled) - mean + NEAR) >> shift;
    above = 1 + MAX(0, MIN(steps - 1, above));
    return steps + (value < 0 ? -above : value ? above : 0);
}

/* The sets for the next integer, by the means of its row and column and by its neighbours. */
static ALWAYS_INLINE void choose(const Coder *coder, const Means *m, int32_t above, uint32_t down, uint32_t *chosen) {
    int32_t left = m->left, corner = m->corner, mean = (int32_t)logarithm(m->all);
    uint32_t row = logarithm(m->along), column = logarithm(down);
    if (m->kernel > 1) {
        int64_t up = m->column - m->line;
        int inner = m->place > 0, lower = m->tap >= m->line;
        left = inner ? left : 0;
        above = lower ? coder->last[up & (COLUMNS - 1)] : 0;
        corner = inner && lower ? coder->last[(up - 1) & (COLUMNS - 1)] : 0;
    }
    int32_t slope = 3 * left + 3 * above - 2 * corner;
    chosen[0] = ROW + row;
    chosen[1] = COLUMN + column;
    chosen[2] = BOTH + row + column;
    chosen[3] = NEIGHBOURS + (uint32_t)(level(left, (uint32_t)abs(left) << 8, mean, 2, 2) * 5 +
                                        level(above, (uint32_t)abs(above) << 8, mean, 2, 2));
    chosen[4] = SLOPE + (uint32_t)level(slope, (uint32_t)abs(slope) << 6, mean, 1, 7) * 16 + (column >> 2);
}

#define PATH_NAME(name) name##_portable
#define TARGET
#define ISA 0
#include "arithmetic.h"
#undef PATH_NAME
#undef TARGET
#undef ISA

#if CORE_X86
#define PATH_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#define ISA 2

/* The six nodes of a decision after it, of which the first has a limit of its own. */
TARGET static ALWAYS_INLINE void learn_avx2(uint32_t *const *nodes, int bit) {
    const __m256i counts = _mm256_set1_epi32(COUNT), side = _mm256_set1_epi32(bit ? ~COUNT : 0);
    const __m256i limits = _mm256_setr_epi32(SLOW, FAST, FAST, FAST, FAST, FAST, FAST, FAST);
    __m128i low = _mm_insert_epi32(_mm_cvtsi32_si128((int)*nodes[0]), (int)*nodes[1], 1);
    __m128i middle = _mm_insert_epi32(_mm_cvtsi32_si128((int)*nodes[2]), (int)*nodes[3], 1);
    __m128i high = _mm_insert_epi32(_mm_cvtsi32_si128((int)*nodes[4]), (int)*nodes[5], 1);
    __m256i states = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi64(low, middle)), high, 1);
    __m256i count = _mm256_and_si256(states, counts), seen = _mm256_andnot_si256(counts, _mm256_xor_si256(states, side));
    __m256 odd = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_add_epi32(count, count), _mm256_set1_epi32(3)));
    __m256i rate = _mm256_cvttps_epi32(_mm256_div_ps(_mm256_set1_ps(131072), odd)); /* exact: never near a whole number */
    __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(seen, rate), 26);
    __m256i other = _mm256_srli_epi64(_mm256_mul_epu32(_mm256_srli_epi64(seen, 32), _mm256_srli_epi64(rate, 32)), 26);
    seen = _mm256_sub_epi32(seen, _mm256_slli_epi32(_mm256_blend_epi32(even, _mm256_slli_epi64(other, 32), 0xAA), 10));
    count = _mm256_sub_epi32(count, _mm256_cmpgt_epi32(limits, count));
    states = _mm256_or_si256(_mm256_xor_si256(seen, side), count);
    low = _mm256_castsi256_si128(states), high = _mm256_extracti128_si256(states, 1);
    *nodes[0] = (uint32_t)_mm_cvtsi128_si32(low), *nodes[1] = (uint32_t)_mm_extract_epi32(low, 1);
    *nodes[2] = (uint32_t)_mm_extract_epi32(low, 2), *nodes[3] = (uint32_t)_mm_extract_epi32(low, 3);
    *nodes[4] = (uint32_t)_mm_cvtsi128_si32(high), *nodes[5] = (uint32_t)_mm_extract_epi32(high, 1);
}

#include "arithmetic.h"
#define INTEGERS(...) (lm_path >= AVX2 ? integers_avx2 : integers_portable)(__VA_ARGS__)
#else
#define INTEGERS(...) integers_portable(__VA_ARGS__)
#endif

/* Bytes of a coder. */
EXPORT int64_t lm_arithmetic_size(void) { return sizeof(Coder); }

/* Begin: to encode into `out` of this length, or to decode `data` of it. */
EXPORT void lm_arithmetic_begin(Coder *coder, int decodes, int mixed, const uint8_t *data, uint8_t *out, int64_t length) {
    memset(coder, 0, offsetof(Coder, down));
    Stream *s = &coder->stream;
    s->range = ((uint64_t)1 << 40) - 1;
    s->data = data;
    s->out = out;
    s->length = length;
    s->place = decodes ? 0 : -1;
    coder->mixed = mixed;
    coder->means.all = 256;
    for (; decodes && s->place < 5; s->place++)
        s->code = s->code << 8 | (s->place < length ? data[s->place] : 0);
    for (int at = 0; at < 2 + 2 * SIDE; at++)
        coder->tree[at] = 1u << 31;
    for (int set = 0; mixed && set < ALL_SETS; set++)
        for (int at = 0; at < NODES; at++)
            coder->sets[set][at] = 1u << 31;
    for (int at = 0; at < NODES; at++)
        coder->near[at] = 1u << 31;
    for (int at = 0; at < NODES; at++)
        for (int set = 0; set < SETS; set++)
            coder->weights[at][set] = set ? WEIGHT : PLAIN_WEIGHT;
}

/* What follows are rows of so many integers, in kernels of so many and lines of these. */
EXPORT void lm_arithmetic_rows(Coder *coder, int64_t columns, int64_t kernel, int64_t line) {
    Means *m = &coder->means;
    m->columns = columns, m->kernel = kernel, m->line = line;
    m->column = m->row = m->tap = m->place = 0;
    m->left = m->corner = 0;
    m->along = m->all;
}

EXPORT void lm_arithmetic_encode(Coder *coder, const int32_t *values, int64_t count) {
    INTEGERS(coder, 0, values, NULL, count);
}

EXPORT void lm_arithmetic_decode(Coder *coder, int32_t *values, int64_t count) {
    INTEGERS(coder, 1, NULL, values, count);
}

/* Encoding ends: the length of the stream, which may be more than there is room for. */
EXPORT int64_t lm_arithmetic_end(Coder *coder) {
    Stream *s = &coder->stream;
    for (int bits = 40; bits >= 0; bits -= 8) {
        uint64_t mask = ((uint64_t)1 << bits) - 1, value = (s->low + mask) & ~mask;
        if (value < s->low + s->range) {
            s->low = value;
            break;
        }
    }
    for (int at = 0; at < 6; at++)
        shift_low(s);
    int64_t length = MAX(0, s->place);
    while (length && length <= s->length && !s->out[length - 1])
        length--;
    return length;
}

/* Decoding ends: whether the stream does, too. */
EXPORT int lm_arithmetic_done(const Coder *coder) { return coder->stream.place >= coder->stream.length; }
