/* Codes as bits of fixed width, and as symbols of a byte. The twins are in format/packing.py. */
#include "core.h"

#if (defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) || defined(_MSC_VER)
#define LITTLE 1
#else
#define LITTLE 0
#endif

static inline uint64_t load(const uint8_t *bytes, int n) {
    uint64_t word = 0;
#if LITTLE
    if (n == 8) {
        memcpy(&word, bytes, 8);
        return word;
    }
#endif
    for (int b = 0; b < n; b++)
        word |= (uint64_t)bytes[b] << (8 * b);
    return word;
}

static inline void store(uint8_t *bytes, uint64_t word, int n) {
#if LITTLE
    if (n == 8) {
        memcpy(bytes, &word, 8);
        return;
    }
#endif
    for (int b = 0; b < n; b++)
        bytes[b] = (uint8_t)(word >> (8 * b));
}

static inline uint32_t code_at(const void *codes, int width, int64_t i) {
    return width == 1 ? ((const uint8_t *)codes)[i] : width == 2 ? ((const uint16_t *)codes)[i] : ((const uint32_t *)codes)[i];
}

static inline void code_to(void *codes, int width, int64_t i, uint32_t code) {
    if (width == 1)
        ((uint8_t *)codes)[i] = (uint8_t)code;
    else if (width == 2)
        ((uint16_t *)codes)[i] = (uint16_t)code;
    else
        ((uint32_t *)codes)[i] = code;
}

/* Eight codes, one a byte, close up: pairs of 8, then of 16, then of 32 bits join. */
static inline uint64_t close_up(uint64_t word, int bits) {
    for (int lane = 8; lane <= 32; lane *= 2) {
        int width = bits * lane / 8;
        uint64_t one = (UINT64_C(1) << width) - 1, low = 0;
        for (int at = 0; at < 64; at += 2 * lane)
            low |= one << at;
        word = (word & low) | (word >> (lane - width) & low << width);
    }
    return word;
}

static inline uint64_t open_up(uint64_t word, int bits) {
    for (int lane = 32; lane >= 8; lane /= 2) {
        int width = bits * lane / 8;
        uint64_t one = (UINT64_C(1) << width) - 1, low = 0;
        for (int at = 0; at < 64; at += 2 * lane)
            low |= one << at;
        word = (word & low) | (word & low << width) << (lane - width);
    }
    return word;
}

/* The bits of n codes of `width` bytes, lowest first, to ceil(n * bits / 8) bytes. */
EXPORT void lm_pack(const void *codes, int width, int64_t n, int bits, uint8_t *stream) {
    int64_t i = 0, size = (n * bits + 7) / 8;
    if (width == 1 && bits <= 8) {
#define PACK(b)                                                                                                              \
    case b:                                                                                                                  \
        for (; i + 8 <= n && (i / 8 + 1) * b + 8 - b <= size; i += 8)                                                        \
            store(stream + i / 8 * b, close_up(load((const uint8_t *)codes + i, 8), b), 8);                                  \
        break;
        switch (bits) { PACK(1) PACK(2) PACK(3) PACK(4) PACK(5) PACK(6) PACK(7) PACK(8) }
#undef PACK
    }
    uint64_t word = 0;
    int held = 0;
    uint8_t *out = stream + i / 8 * bits;
    for (; i < n; i++) {
        word |= (code_at(codes, width, i) & ((UINT64_C(1) << bits) - 1)) << held;
        for (held += bits; held >= 8; held -= 8, word >>= 8)
            *out++ = (uint8_t)word;
    }
    if (held)
        *out = (uint8_t)word;
}

/* The reverse. */
EXPORT void lm_unpack(const uint8_t *stream, int bits, int64_t n, int width, void *codes) {
    int64_t i = 0, size = (n * bits + 7) / 8;
    if (width == 1 && bits <= 8) {
#define UNPACK(b)                                                                                                            \
    case b:                                                                                                                  \
        for (; i + 8 <= n && i / 8 * b + 8 <= size; i += 8)                                                                  \
            store((uint8_t *)codes + i, open_up(load(stream + i / 8 * b, 8), b), 8);                                         \
        break;
        switch (bits) { UNPACK(1) UNPACK(2) UNPACK(3) UNPACK(4) UNPACK(5) UNPACK(6) UNPACK(7) UNPACK(8) }
#undef UNPACK
    }
    const uint8_t *in = stream + i / 8 * bits;
    uint64_t word = 0;
    int held = 0;
    for (; i < n; i++) {
        for (; held < bits; held += 8)
            word |= (uint64_t)*in++ << held;
        code_to(codes, width, i, (uint32_t)(word & ((UINT64_C(1) << bits) - 1)));
        word >>= bits;
        held -= bits;
    }
}

/* Symbols of a byte from n codes of at most 8 bits, each of 8 / bits codes, the first one lowest. */
EXPORT void lm_to_symbols(const uint8_t *codes, int64_t n, int bits, uint8_t *symbols) {
    int each = 8 / bits;
    int64_t whole = n / each, s = 0;
    if (each == 1) {
        memcpy(symbols, codes, (size_t)n);
        return;
    }
    if (each == 2)
        for (; s < whole; s++)
            symbols[s] = (uint8_t)(codes[2 * s] | codes[2 * s + 1] << bits);
    for (; s * each < n; s++) {
        unsigned symbol = 0;
        for (int place = 0; place < each && s * each + place < n; place++)
            symbol |= (unsigned)codes[s * each + place] << (place * bits);
        symbols[s] = (uint8_t)symbol;
    }
}

/* The reverse; 0 where a symbol holds more than it may. */
EXPORT int lm_from_symbols(const uint8_t *symbols, int64_t n, int bits, uint8_t *codes) {
    int each = 8 / bits, mask = (1 << bits) - 1;
    int64_t whole = n / each, s = 0;
    unsigned any = 0;
    if (each == 2)
        for (; s < whole; s++) {
            any |= symbols[s];
            codes[2 * s] = (uint8_t)(symbols[s] & mask);
            codes[2 * s + 1] = (uint8_t)(symbols[s] >> bits & mask);
        }
    for (; s * each < n; s++) {
        any |= symbols[s];
        for (int place = 0; place < each && s * each + place < n; place++)
            codes[s * each + place] = (uint8_t)(symbols[s] >> (place * bits) & mask);
    }
    return any >> (bits * each) == 0;
}
