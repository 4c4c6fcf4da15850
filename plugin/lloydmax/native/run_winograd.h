/* Convolutions of 3 x 3 in steps of one, once for each path; included by run.h. Winograd's F(2 x 2, 3 x 3): a square of 4 x 4 inputs
   and a kernel are turned into 16 numbers each, whose products, summed over channels, turn back into a square of 2 x 2 outputs: 16
   products in place of 36. Squares are counted through the rows of all images; a lane is one of them. */

#if ISA >= 5
#define PICK(a, b, from)                                                                                                     \
    _mm512_permutex2var_ps(a, _mm512_setr_epi32(from, from + 2, from + 4, from + 6, from + 8, from + 10, from + 12, from + 14, \
                                                from + 16, from + 18, from + 20, from + 22, from + 24, from + 26, from + 28,  \
                                                from + 30), b)
#define ZIP(a, b, from)                                                                                                      \
    _mm512_permutex2var_ps(a, _mm512_setr_epi32(from, from + 16, from + 1, from + 17, from + 2, from + 18, from + 3, from + 19, \
                                                from + 4, from + 20, from + 5, from + 21, from + 6, from + 22, from + 7,      \
                                                from + 23), b)
#define EVEN(a, b) PICK(a, b, 0)
#define ODD(a, b) PICK(a, b, 1)
#define FIRST(a, b) ZIP(a, b, 0)
#define SECOND(a, b) ZIP(a, b, 8)
#define LESS(a, b) _mm512_sub_ps(a, b)
#define TIMES(a, b) _mm512_mul_ps(a, b)
#elif ISA == 2
#define PICK(a, b, which)                                                                                                    \
    _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, which)), 0xD8))
#define EVEN(a, b) PICK(a, b, 0x88)
#define ODD(a, b) PICK(a, b, 0xDD)
#define FIRST(a, b) _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20)
#define SECOND(a, b) _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31)
#define LESS(a, b) _mm256_sub_ps(a, b)
#define TIMES(a, b) _mm256_mul_ps(a, b)
#else
#define EVEN(a, b) picked_four(a, b, 0, 2)
#define ODD(a, b) picked_four(a, b, 1, 2)
#define FIRST(a, b) zipped_four(a, b, 0)
#define SECOND(a, b) zipped_four(a, b, 2)
#define LESS(a, b) less_four(a, b)
#define TIMES(a, b) times_four(a, b)
#endif

/* Columns `from` to `from + n - 1` of a row of an image; 0 outside. */
TARGET static void PATH_NAME(line)(const struct image *s, const float *row, int64_t from, int64_t n, float *to) {
    int64_t begin = MIN(n, MAX(0, -from)), end = MAX(begin, MIN(n, s->size[1] - from));
    PATH_NAME(cleared)(to, begin);
    if (s->step[1] == 1)
        PATH_NAME(copied)(to + begin, row + from + begin, end - begin);
    else
        for (int64_t j = begin; j < end; j++)
            to[j] = row[(from + j) * s->step[1]];
    PATH_NAME(cleared)(to + end, n - end);
}

/* A run of squares of a channel: their 16 numbers, `apart` from each other; up to LANES - 1 more are written. */
TARGET static void PATH_NAME(turned)(const struct image *s, const float *plane, const struct run *run, int64_t apart, float *to) {
    float lines[4][2 * SQUARES + 4 * 16];
    int64_t length = (run->length + LANES - 1) / LANES * LANES, n = 2 * length + LANES;
    for (int i = 0; i < 4; i++) {
        int64_t row = 2 * run->row - s->padding[0] + i;
        if (row >= 0 && row < s->size[0])
            PATH_NAME(line)(s, plane + row * s->step[0], 2 * run->column - s->padding[1], n, lines[i]);
        else
            PATH_NAME(cleared)(lines[i], n);
    }
    for (int64_t j = 0; j < n; j += LANES) {
        VECTOR a = LOAD(lines[0] + j), b = LOAD(lines[1] + j), c = LOAD(lines[2] + j), d = LOAD(lines[3] + j);
        STORE(lines[0] + j, LESS(a, c));
        STORE(lines[1] + j, ADD(b, c));
        STORE(lines[2] + j, LESS(c, b));
        STORE(lines[3] + j, LESS(b, d));
    }
    for (int i = 0; i < 4; i++, to += 4 * apart)
        for (int64_t j = 0; j < length; j += LANES) {
            const float *at = lines[i] + 2 * j;
            VECTOR here = LOAD(at), further = LOAD(at + LANES), next = LOAD(at + 2), last = LOAD(at + 2 + LANES);
            VECTOR a = EVEN(here, further), b = ODD(here, further), c = EVEN(next, last), d = ODD(next, last);
            STORE(to + j, LESS(a, c));
            STORE(to + apart + j, ADD(b, c));
            STORE(to + 2 * apart + j, LESS(c, b));
            STORE(to + 3 * apart + j, LESS(b, d));
        }
}

/* Three numbers as four. */
#define SPREAD(a, b, c, to, apart)                                                                                           \
    do {                                                                                                                     \
        VECTOR outer_ = TIMES(half, ADD(a, c)), inner_ = TIMES(half, b);                                                     \
        STORE(to, a);                                                                                                        \
        STORE(to + (apart), ADD(outer_, inner_));                                                                            \
        STORE(to + 2 * (apart), LESS(outer_, inner_));                                                                       \
        STORE(to + 3 * (apart), c);                                                                                          \
    } while (0)

/* Kernels of channels k to k + n - 1 of a row: number f of channel i to to[f * DEPTH + i]. */
TARGET static void PATH_NAME(turned_kernels)(const struct coded *w, int64_t row, int64_t k, int64_t n, struct table *t, float *to) {
    const VECTOR half = ALL(0.5f);
    for (int64_t from = 0; from < n; from += KERNELS) {
        float each[9 * KERNELS + BLOCK], taps[9][KERNELS], columns[12][KERNELS];
        int64_t some = MIN(KERNELS, n - from);
        PATH_NAME(decoded)(w, row, (k + from) * 9, some * 9, t, each);
        for (int64_t i = 0; i < KERNELS; i++)
            UNROLL for (int tap = 0; tap < 9; tap++)
                taps[tap][i] = each[9 * i + tap];
        for (int64_t i = 0; i < KERNELS; i += LANES) {
            UNROLL for (int b = 0; b < 3; b++) {
                VECTOR above = LOAD(taps[b] + i), middle = LOAD(taps[3 + b] + i), below = LOAD(taps[6 + b] + i);
                SPREAD(above, middle, below, columns[b] + i, 3 * KERNELS);
            }
            UNROLL for (int a = 0; a < 4; a++) {
                const float *of = columns[3 * a] + i;
                VECTOR left = LOAD(of), middle = LOAD(of + KERNELS), right = LOAD(of + 2 * KERNELS);
                SPREAD(left, middle, right, to + 4 * a * DEPTH + from + i, DEPTH);
            }
        }
    }
}

/* Sums of `count` squares, 16 of each, `apart` from each other, as the two lines of their outputs. */
TARGET static void PATH_NAME(turned_back)(const float *sums, int64_t apart, int64_t count, float *upper, float *lower) {
    for (int64_t j = 0; j < count; j += LANES, sums += LANES) {
        VECTOR up[4], down[4];
        UNROLL for (int b = 0; b < 4; b++) {
            VECTOR first = LOAD(sums + b * apart), second = LOAD(sums + (4 + b) * apart);
            VECTOR third = LOAD(sums + (8 + b) * apart), fourth = LOAD(sums + (12 + b) * apart);
            up[b] = ADD(ADD(first, second), third);
            down[b] = LESS(LESS(second, third), fourth);
        }
        VECTOR left = ADD(ADD(up[0], up[1]), up[2]), right = LESS(LESS(up[1], up[2]), up[3]);
        STORE(upper + 2 * j, FIRST(left, right));
        STORE(upper + 2 * j + LANES, SECOND(left, right));
        left = ADD(ADD(down[0], down[1]), down[2]), right = LESS(LESS(down[1], down[2]), down[3]);
        STORE(lower + 2 * j, FIRST(left, right));
        STORE(lower + 2 * j + LANES, SECOND(left, right));
    }
}

TARGET static void PATH_NAME(tile_of_squares)(const float *w, const float *panel, int64_t n, int wide, int left, float *sums,
                                              int64_t step) {
    PATH_NAME(tile_between)(w, BETWEEN, panel, n, wide, left, 1, sums, step);
}

/* Rows begin to end - 1 times squares first to last - 1. `room`: ROOM floats. */
TARGET static void PATH_NAME(rows_times_squares)(const struct coded *w, const struct image *s, const float *bias, int64_t begin,
                                                 int64_t end, int64_t first, int64_t last, float *room, const struct output *y) {
    int wide = PATH_NAME(wide)(last - first), rows = SUMS / wide;
    int64_t side = wide * LANES, channels = w->width / 9, apart = MIN(SQUARES, (last - first + side - 1) / side * side);
    float *weights = room + PANELS, *sums = weights + MOST_ROWS * BETWEEN;
    struct table t = {.held = -1};
    memset(weights, 0, MOST_ROWS * BETWEEN * sizeof(float));
    for (int64_t from = first; from < last; from += SQUARES) {
        int64_t count = MIN(SQUARES, last - from);
        struct run runs[SQUARES];
        int many = runs_of(s, from, count, runs);
        for (int64_t k = 0; k < channels; k += DEPTH) {
            int64_t n = MIN(DEPTH, channels - k);
            for (int64_t i = 0; i < n; i++) {
                float numbers[16][SQUARES + 16];
                for (int r = 0; r < many; r++)
                    PATH_NAME(turned)(s, s->x + runs[r].image * s->next + (k + i) * s->channel, runs + r, SQUARES + 16,
                                      numbers[0] + runs[r].at);
                for (int64_t at = 0; at < count; at += side) {
                    int64_t left = (MIN(side, count - at) + LANES - 1) / LANES * LANES;
                    for (int f = 0; f < 16; f++)
                        PATH_NAME(copied)(room + f * DEPTH * SQUARES + at * n + i * left, numbers[f] + at, left);
                }
            }
            for (int64_t r = begin; r < end; r += rows) {
                int few = (int)MIN(rows, end - r);
                for (int one = 0; one < few; one++)
                    PATH_NAME(turned_kernels)(w, r + one, k, n, &t, weights + one * BETWEEN);
                for (int f = 0; f < 16; f++)
                    for (int64_t at = 0; at < count; at += side) {
                        int left = (int)((MIN(side, count - at) + LANES - 1) / LANES);
                        PATH_NAME(tile_of_squares)(weights + f * DEPTH, room + f * DEPTH * SQUARES + at * n, n, wide, left,
                                                   sums + f * apart + at, 16 * apart);
                    }
                for (int one = 0; one < few; one++) {
                    float lines[2][2 * SQUARES];
                    const float *start = k ? NULL : bias ? bias + r + one : &NOTHING;
                    PATH_NAME(turned_back)(sums + one * 16 * apart, apart, count, lines[0], lines[1]);
                    for (int i = 0; i < 2 * many; i++) {
                        const struct run *run = runs + i / 2;
                        int64_t row = 2 * run->row + i % 2, column = 2 * run->column;
                        struct output image = {y->y + run->image * y->image, y->image, y->step, y->next};
                        if (row < s->out[0])
                            PATH_NAME(put)(&image, r + one, row * s->out[1] + column, MIN(2 * run->length, s->out[1] - column),
                                           lines[i % 2] + 2 * run->at, start);
                    }
                }
            }
        }
    }
}

#undef PICK
#undef ZIP
#undef EVEN
#undef ODD
#undef FIRST
#undef SECOND
#undef LESS
#undef TIMES
#undef SPREAD
