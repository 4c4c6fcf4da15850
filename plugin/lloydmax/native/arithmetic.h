/* The decisions of an integer, once for each path: ISA 0 portable, 2 AVX2, which gives the same; included by arithmetic.c. */

/* A decision at a place that contexts know: of its nodes in the tree, and in the sets that they choose. */
TARGET static ALWAYS_INLINE int PATH_NAME(blended)(Stream *s, const int decodes, int bit, int32_t *RESTRICT weights,
                                                   uint32_t *RESTRICT tree, uint32_t (*RESTRICT sets)[NODES],
                                                   const uint32_t *chosen, int place) {
    uint32_t *nodes[SETS] = {tree, &sets[chosen[0]][place], &sets[chosen[1]][place], &sets[chosen[2]][place],
                             &sets[chosen[3]][place], &sets[chosen[4]][place]};
    int32_t inputs[SETS];
    int64_t sum = 0;
    for (int set = 0; set < SETS; set++) {
        inputs[set] = stretched[*nodes[set] >> 20];
        sum += (int64_t)weights[set] * inputs[set];
    }
    int32_t p = squashed[MAX(-TOP, MIN(TOP, sum >> 16)) + TOP];
    bit = decide(s, decodes, bit, (uint32_t)p);
    int32_t error = (bit << 16) - p;
#if ISA == 2
    const __m256i most = _mm256_set1_epi32(MOST_WEIGHT), least = _mm256_set1_epi32(-MOST_WEIGHT);
    __m256i moved = _mm256_setr_epi32(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5], 0, 0);
    moved = _mm256_srai_epi32(_mm256_mullo_epi32(moved, _mm256_set1_epi32(error)), 15);
    moved = _mm256_add_epi32(moved, _mm256_loadu_si256((const __m256i *)weights));
    _mm256_storeu_si256((__m256i *)weights, _mm256_max_epi32(_mm256_min_epi32(moved, most), least));
    learn_avx2(nodes, bit);
#else
    for (int set = 0; set < SETS; set++) {
        int32_t weight = weights[set] + ((inputs[set] * error) >> 15);
        weights[set] = MAX(-MOST_WEIGHT, MIN(MOST_WEIGHT, weight));
        *nodes[set] = learnt(*nodes[set], bit, set ? FAST : SLOW);
    }
#endif
    return bit;
}

/* One integer, with the sets that contexts chose. */
TARGET static ALWAYS_INLINE int32_t PATH_NAME(integer)(Coder *coder, Stream *s, const int decodes, const int mixed,
                                                       int32_t value, const uint32_t *chosen) {
#define NODE(bit, known, place, node)                                                                                        \
    (mixed && (known)                                                                                                        \
         ? PATH_NAME(blended)(s, decodes, bit, coder->weights[place], coder->near + (place), coder->sets, chosen, place)     \
         : alone(s, decodes, bit, coder->tree + (node)))
    uint32_t magnitude = value < 0 ? 0u - (uint32_t)value : (uint32_t)value, prefix = 1;
    if (!NODE(magnitude != 0, 1, 0, 0))
        return 0;
    int side = NODE(value < 0, 1, 1, 1), place = 2 + side * 31, node = 2 + side * SIDE, length = 0;
    while (length < LENGTHS - 1 &&
           NODE(magnitude >> (length + 1) != 0, length < SHORT, place + length, node + (length << MODELLED)))
        length++;
    place += SHORT + (1 << length) - 1 - length - 1;
    node += length << MODELLED;
    for (int bit = length - 1; bit >= 0; bit--) {
        int given = (int)(magnitude >> bit & 1);
        if (length - 1 - bit < MODELLED)
            given = NODE(given, length < SHORT, place + (int)prefix, node + (int)prefix);
        else
            given = decide(s, decodes, given, 32768);
        prefix = prefix << 1 | (uint32_t)given;
    }
#undef NODE
    return side ? -(int32_t)prefix : (int32_t)prefix;
}

/* So many integers: of `values`, or into `found`. */
TARGET static ALWAYS_INLINE void PATH_NAME(integers_of)(Coder *coder, const int decodes, const int mixed,
                                                        const int32_t *values, int32_t *found, int64_t count) {
    Stream s = coder->stream;
    Means m = coder->means;
    for (int64_t at = 0; at < count; at++) {
        int64_t here = m.column & (COLUMNS - 1);
        uint32_t *down = &coder->down[here], chosen[SETS - 1] = {0};
        int32_t above = 0;
        if (mixed) {
            if (m.row == 0 && m.column < COLUMNS) {
                *down = m.all;
                coder->last[here] = 0;
            }
            above = coder->last[here];
            choose(coder, &m, above, *down, chosen);
        }
        int32_t value = PATH_NAME(integer)(coder, &s, decodes, mixed, decodes ? 0 : values[at], chosen);
        if (decodes)
            found[at] = value;
        if (mixed) {
            uint32_t seen = (uint32_t)MIN(value < 0 ? -value : value, 255) << 8;
            uint32_t shift = m.seen >= 254 ? 8 : m.seen >= 30 ? 6 : m.seen >= 6 ? 4 : m.seen >= 2 ? 2 : 1;
            m.all += (seen >> shift) - (m.all >> shift);
            m.seen += m.seen < 254;
            shift = m.column >= 14 ? 4 : m.column >= 2 ? 3 : 2;
            m.along += (seen >> shift) - (m.along >> shift);
            shift = m.row >= 6 ? 3 : m.row >= 2 ? 2 : 1;
            *down += (seen >> shift) - (*down >> shift);
            m.corner = above;
            m.left = MAX(-255, MIN(255, value));
            coder->last[here] = (int16_t)m.left;
            if (++m.place == m.line)
                m.place = 0;
            if (++m.tap == m.kernel)
                m.tap = 0;
            if (++m.column == m.columns) {
                m.column = m.place = m.tap = 0;
                m.row++;
                m.along = m.all;
                m.left = m.corner = 0;
            }
        }
    }
    coder->stream = s;
    coder->means = m;
}

TARGET static void PATH_NAME(integers)(Coder *coder, int decodes, const int32_t *values, int32_t *found, int64_t count) {
    if (decodes && coder->mixed)
        PATH_NAME(integers_of)(coder, 1, 1, values, found, count);
    else if (decodes)
        PATH_NAME(integers_of)(coder, 1, 0, values, found, count);
    else if (coder->mixed)
        PATH_NAME(integers_of)(coder, 0, 1, values, found, count);
    else
        PATH_NAME(integers_of)(coder, 0, 0, values, found, count);
}
