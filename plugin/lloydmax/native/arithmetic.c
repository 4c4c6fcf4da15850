/* Signed integers as an adaptive arithmetic code. The twin, and what each number means, are in format/arithmetic.py. */
#include "core.h"

enum {
    LENGTHS = 25,                      /* of magnitudes, in bits */
    MODELLED = 8,                      /* bits below the first one that have a model */
    SIDE = LENGTHS << MODELLED,        /* nodes of the tree for one sign */
    SHORT = 5,                         /* lengths of the magnitudes that contexts know */
    NODES = 64,                        /* of those */
    SETS = 4,                          /* contexts: none, row, column, both */
    BUCKETS = 128,
    COLUMNS = 1 << 16,
    TOP = 1791,                        /* the logistic scale: 256 to the unit */
    LEAST = 64,                        /* probability of a decision, of 65536 */
    SLOW = 1023,
    FAST = 255,
};

_Static_assert((-1 >> 1) == -1, "shifts to the right keep the sign");

typedef struct {
    uint64_t low, range, code;
    int64_t place, length, waiting; /* in the stream; bytes that wait for a carry */
    const uint8_t *data;
    uint8_t *out;
    int64_t columns, column, row;
    uint32_t mean, along, seen; /* magnitudes: of all, of the row; how many */
    int32_t held, mixed;
    int32_t weights[NODES][SETS];
    uint32_t tree[2 + 2 * SIDE];
    uint32_t sets[SETS - 1][BUCKETS][NODES];
    uint32_t down[COLUMNS];
} Coder;

/* From -7 on, in halves. */
static const int32_t LOGISTIC[15] = {60,   98,   162,  267,  439,   720,   1179, 1921,
                                     3108, 4971, 7812, 11953, 17625, 24743, 32768};
static int16_t stretched[4096];

static int32_t squash(int32_t x) {
    int32_t at = MIN(TOP, x < 0 ? -x : x), from = TOP + 1 - at, step = from >> 7, rest = from & 127;
    int32_t low = LOGISTIC[step], high = step < 14 ? LOGISTIC[step + 1] : low;
    int32_t p = low + (((high - low) * rest) >> 7);
    return MAX(LEAST, MIN(65536 - LEAST, x < 0 ? p : 65536 - p));
}

/* Once, before anything is coded. */
void lm_make_tables(void) {
    int32_t next = 0;
    for (int32_t x = -TOP; x <= TOP; x++)
        for (int32_t p = squash(x) >> 4; next <= p; next++)
            stretched[next] = (int16_t)x;
    for (; next < 4096; next++)
        stretched[next] = TOP;
}

static inline void learn(uint32_t *state, int bit, uint32_t limit) {
    uint32_t p = *state >> 10, count = *state & 1023;
    uint64_t rate = 131072 / (2 * count + 3);
    if (bit)
        p += (uint32_t)((((uint64_t)0x3fffff - p) * rate) >> 16);
    else
        p -= (uint32_t)(((uint64_t)p * rate) >> 16);
    *state = p << 10 | (count + (count < limit));
}

static void shift_low(Coder *coder) {
    if (coder->low < (uint64_t)0xff << 32 || coder->low >= (uint64_t)1 << 40) {
        int carry = (int)(coder->low >> 40);
        for (int32_t byte = coder->held; coder->waiting >= 0; coder->waiting--, byte = 0xff) {
            if (coder->place >= 0 && coder->place < coder->length)
                coder->out[coder->place] = (uint8_t)(byte + carry);
            coder->place++;
        }
        coder->held = (int32_t)(coder->low >> 32 & 0xff);
        coder->waiting = -1;
    }
    coder->waiting++;
    coder->low = (coder->low & 0xffffffff) << 8;
}

/* One decision, of this probability (of 65536) for a 1. */
static inline int decide(Coder *coder, int decodes, int bit, uint32_t p) {
    uint64_t bound = (coder->range >> 16) * p;
    if (decodes)
        bit = coder->code < bound;
    if (bit) {
        coder->range = bound;
    } else {
        coder->range -= bound;
        if (decodes)
            coder->code -= bound;
        else
            coder->low += bound;
    }
    while (coder->range < (uint64_t)1 << 32) {
        coder->range <<= 8;
        if (decodes) {
            coder->code = coder->code << 8 | (coder->place < coder->length ? coder->data[coder->place] : 0);
            coder->place++;
        } else {
            shift_low(coder);
        }
    }
    return bit;
}

static inline uint32_t sure(uint32_t state) {
    int32_t p = (int32_t)(state >> 16);
    return (uint32_t)MAX(LEAST, MIN(65536 - LEAST, p));
}

/* A decision at a node: of the tree, and of what contexts know (or -1). */
static inline int node(Coder *coder, int decodes, int bit, uint32_t *plain, int known, uint32_t *const *places) {
    if (!coder->mixed || known < 0) {
        bit = decide(coder, decodes, bit, sure(*plain));
        learn(plain, bit, SLOW);
        return bit;
    }
    int32_t inputs[SETS], *weights = coder->weights[known];
    int64_t sum = 0;
    inputs[0] = stretched[*plain >> 20];
    for (int set = 1; set < SETS; set++)
        inputs[set] = stretched[places[set - 1][known] >> 20];
    for (int set = 0; set < SETS; set++)
        sum += (int64_t)weights[set] * inputs[set];
    sum >>= 16;
    int32_t p = squash((int32_t)MAX(-TOP, MIN(TOP, sum)));
    bit = decide(coder, decodes, bit, (uint32_t)p);
    int32_t error = (bit << 16) - p;
    for (int set = 0; set < SETS; set++) {
        int64_t weight = weights[set] + (((int64_t)inputs[set] * error) >> 17);
        weights[set] = (int32_t)MAX(-(1 << 20), MIN(1 << 20, weight));
    }
    learn(plain, bit, SLOW);
    for (int set = 1; set < SETS; set++)
        learn(&places[set - 1][known], bit, FAST);
    return bit;
}

/* Four times the binary logarithm, nearly. */
static inline uint32_t logarithm(uint32_t mean) {
    uint32_t length = 2, value = mean + 4;
    for (uint32_t rest = value >> 3; rest; rest >>= 1)
        length++;
    return MIN(63, (length - 2) * 4 + (value >> (length - 2) & 3));
}

static inline int32_t integer(Coder *coder, int decodes, int32_t value) {
    uint32_t *places[SETS - 1] = {0, 0, 0}, *down = &coder->down[coder->column & (COLUMNS - 1)];
    if (coder->mixed) {
        if (coder->row == 0 && coder->column < COLUMNS)
            *down = coder->mean;
        uint32_t row = logarithm(coder->along), column = logarithm(*down);
        places[0] = coder->sets[0][row];
        places[1] = coder->sets[1][column];
        places[2] = coder->sets[2][row + column];
    }
    uint32_t magnitude = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    int32_t found = 0;
    if (node(coder, decodes, magnitude != 0, &coder->tree[0], 0, places)) {
        int side = node(coder, decodes, value < 0, &coder->tree[1], 1, places), length = 0;
        uint32_t *tree = coder->tree + 2 + side * SIDE;
        int short_side = 2 + side * 31;
        while (length < LENGTHS - 1 && node(coder, decodes, magnitude >> (length + 1) != 0, &tree[length << MODELLED],
                                            length < SHORT ? short_side + length : -1, places))
            length++;
        uint32_t prefix = 1;
        int short_node = short_side + SHORT + (1 << length) - 1 - length - 1;
        for (int bit = length - 1; bit >= 0; bit--) {
            int given = (int)(magnitude >> bit & 1);
            if (length - 1 - bit < MODELLED)
                given = node(coder, decodes, given, &tree[length << MODELLED | prefix],
                             length < SHORT ? short_node + (int)prefix : -1, places);
            else
                given = decide(coder, decodes, given, 32768);
            prefix = prefix << 1 | (uint32_t)given;
        }
        found = side ? -(int32_t)prefix : (int32_t)prefix;
        magnitude = prefix;
    }
    if (coder->mixed) {
        uint32_t seen = MIN(magnitude, 255) << 8;
        uint32_t shift = coder->seen < 2 ? 1 : coder->seen < 6 ? 2 : coder->seen < 30 ? 4 : coder->seen < 254 ? 6 : 8;
        coder->mean += (seen >> shift) - (coder->mean >> shift);
        coder->seen += coder->seen < 254;
        shift = coder->column < 2 ? 2 : coder->column < 14 ? 3 : 4;
        coder->along += (seen >> shift) - (coder->along >> shift);
        shift = coder->row < 2 ? 1 : coder->row < 6 ? 2 : 3;
        *down += (seen >> shift) - (*down >> shift);
        if (++coder->column == coder->columns) {
            coder->column = 0;
            coder->row++;
            coder->along = coder->mean;
        }
    }
    return found;
}

/* Bytes of a coder. */
EXPORT int64_t lm_arithmetic_size(void) { return sizeof(Coder); }

/* Begin: to encode into `out` of this length, or to decode `data` of it. */
EXPORT void lm_arithmetic_begin(Coder *coder, int decodes, int mixed, const uint8_t *data, uint8_t *out, int64_t length) {
    memset(coder, 0, offsetof(Coder, down));
    coder->range = ((uint64_t)1 << 40) - 1;
    coder->mixed = mixed;
    coder->data = data;
    coder->out = out;
    coder->length = length;
    coder->place = decodes ? 0 : -1;
    coder->mean = 256;
    for (; decodes && coder->place < 5; coder->place++)
        coder->code = coder->code << 8 | (coder->place < length ? data[coder->place] : 0);
    for (int at = 0; at < 2 + 2 * SIDE; at++)
        coder->tree[at] = 1u << 31;
    for (int at = 0; mixed && at < (SETS - 1) * BUCKETS * NODES; at++)
        coder->sets[at / (BUCKETS * NODES)][at / NODES % BUCKETS][at % NODES] = 1u << 31;
    for (int at = 0; at < NODES; at++)
        for (int set = 0; set < SETS; set++)
            coder->weights[at][set] = set ? 1 << 14 : 3 << 13;
}

/* What follows are rows of so many integers. */
EXPORT void lm_arithmetic_rows(Coder *coder, int64_t columns) {
    coder->columns = columns;
    coder->column = coder->row = 0;
    coder->along = coder->mean;
}

EXPORT void lm_arithmetic_encode(Coder *coder, const int32_t *values, int64_t count) {
    for (int64_t at = 0; at < count; at++)
        integer(coder, 0, values[at]);
}

EXPORT void lm_arithmetic_decode(Coder *coder, int32_t *values, int64_t count) {
    for (int64_t at = 0; at < count; at++)
        values[at] = integer(coder, 1, 0);
}

/* Encoding ends: the length of the stream, which may be more than there is room for. */
EXPORT int64_t lm_arithmetic_end(Coder *coder) {
    for (int bits = 40; bits >= 0; bits -= 8) {
        uint64_t mask = ((uint64_t)1 << bits) - 1, value = (coder->low + mask) & ~mask;
        if (value < coder->low + coder->range) {
            coder->low = value;
            break;
        }
    }
    for (int at = 0; at < 6; at++)
        shift_low(coder);
    int64_t length = MAX(0, coder->place);
    while (length && length <= coder->length && !coder->out[length - 1])
        length--;
    return length;
}

/* Decoding ends: whether the stream does, too. */
EXPORT int lm_arithmetic_done(const Coder *coder) { return coder->place >= coder->length; }
