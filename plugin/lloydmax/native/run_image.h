/* Rows times many vectors, and what a kernel sees of an image, once for each path; included by run.h. */

/* ---- tiles of SUMS vectors of sums */

/* `between`: rows of weights. `fresh`: sums begin at 0. */
TARGET static ALWAYS_INLINE void PATH_NAME(tile_of)(const float *RESTRICT w, const int between, const float *RESTRICT panel, int64_t n,
                                                    const int rows, const int wide, const int fresh, float *RESTRICT sums,
                                                    int64_t step) {
    VECTOR sum[SUMS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < wide; v++)
            sum[r * wide + v] = fresh ? ALL(0) : LOAD(sums + r * step + v * LANES);
    for (int64_t i = 0; i < n; i++, panel += wide * LANES) {
        VECTOR x[WIDEST];
        UNROLL for (int v = 0; v < wide; v++)
            x[v] = LOAD(panel + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            VECTOR one = ALL(w[r * between + i]);
            UNROLL for (int v = 0; v < wide; v++)
                sum[r * wide + v] = FMA(one, x[v], sum[r * wide + v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < wide; v++)
            STORE(sums + r * step + v * LANES, sum[r * wide + v]);
}

/* Of `wide` vectors; the last tile of pixels has only `left` of them. */
TARGET static ALWAYS_INLINE void PATH_NAME(tile_between)(const float *w, const int between, const float *panel, int64_t n, int wide,
                                                         int left, const int fresh, float *sums, int64_t step) {
#define DO(rows, own) PATH_NAME(tile_of)(w, between, panel, n, rows, own, fresh, sums, step)
    if (wide == 1)
        DO(SUMS, 1);
    else if (wide == 2 && left == 2)
        DO(SUMS / 2, 2);
    else if (wide == 2)
        DO(SUMS / 2, 1);
#if WIDEST == 4
    else if (left == 4)
        DO(SUMS / 4, 4);
    else if (left == 3)
        DO(SUMS / 4, 3);
    else if (left == 2)
        DO(SUMS / 4, 2);
    else
        DO(SUMS / 4, 1);
#endif
#undef DO
}

TARGET static void PATH_NAME(tile)(const float *w, const float *panel, int64_t n, int wide, int left, float *sums, int64_t step) {
    PATH_NAME(tile_between)(w, STRIDE, panel, n, wide, left, 0, sums, step);
}

/* ---- what a kernel sees, and where its sums go */

TARGET static ALWAYS_INLINE void PATH_NAME(copied)(float *RESTRICT to, const float *RESTRICT from, int64_t n) {
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
        STORE(to + j, LOAD(from + j));
    for (; j < n; j++)
        to[j] = from[j];
}

TARGET static ALWAYS_INLINE void PATH_NAME(cleared)(float *to, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        to[j] = 0;
}

/* Weights k to k + n - 1 of a kernel see pixels p to p + count - 1: (n, side), 0 from `count` on. */
TARGET static void PATH_NAME(shown)(const struct image *s, int64_t k, int64_t n, int64_t p, int64_t count, int64_t side, float *to) {
    int64_t taps = s->kernel[0] * s->kernel[1], next = s->step[1] * s->stride[1], top = p / s->out[1], left = p % s->out[1];
    if (taps == 1 && s->out[0] == 1 && !s->padding[0] && !s->padding[1] && s->channel == 1) { /* rows of inputs */
        for (int64_t from = 0; from < n; from += 16)
            for (int64_t j = 0; j < side; j++)
                for (int64_t i = from; i < MIN(n, from + 16); i++)
                    to[i * side + j] = j < count ? s->x[(p + j) * next + k + i] : 0;
        return;
    }
    int64_t tap = k % taps, a = tap / s->kernel[1], b = tap % s->kernel[1];
    const float *plane = s->x + k / taps * s->channel;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = top, column = left, y = row * s->stride[0] - s->padding[0] + a * s->dilation[0];
        for (int64_t done = 0; done < count; row++, column = 0, y += s->stride[0]) {
            int64_t run = MIN(count - done, s->out[1] - column), from = 0, until = 0;
            int64_t x = column * s->stride[1] - s->padding[1] + b * s->dilation[1];
            if (y >= 0 && y < s->size[0]) {
                int64_t stop = x + (run - 1) * s->stride[1]; /* the last column */
                from = x >= 0 ? 0 : MIN(run, (-x + s->stride[1] - 1) / s->stride[1]);
                until = stop < s->size[1] ? run : x >= s->size[1] ? from : (s->size[1] - x + s->stride[1] - 1) / s->stride[1];
                until = MAX(from, until);
            }
            PATH_NAME(cleared)(to, from);
            if (until > from) {
                const float *line = plane + y * s->step[0] + x * s->step[1] + from * next;
                if (next == 1)
                    PATH_NAME(copied)(to + from, line, until - from);
                else
                    for (int64_t j = from; j < until; j++, line += next)
                        to[j] = *line;
            }
            PATH_NAME(cleared)(to + until, run - until);
            to += run;
            done += run;
        }
        PATH_NAME(cleared)(to, side - count);
        to += side - count;
        if (++b == s->kernel[1]) {
            b = 0;
            if (++a == s->kernel[0])
                a = 0, plane += s->channel;
        }
    }
}

/* Sums of a row to their pixels: on top of one number, or of what is there. */
TARGET static void PATH_NAME(put)(const struct output *out, int64_t row, int64_t p, int64_t count, const float *RESTRICT sums,
                                  const float *start) {
    float *RESTRICT y = out->y + row * out->step + p * out->next;
    if (out->next == 1 && start)
        for (int64_t j = 0; j < count; j++)
            y[j] = *start + sums[j];
    else if (out->next == 1)
        for (int64_t j = 0; j < count; j++)
            y[j] += sums[j];
    else
        for (int64_t j = 0; j < count; j++)
            y[j * out->next] = (start ? *start : y[j * out->next]) + sums[j];
}

/* Vectors of a tile of so many pixels. */
static inline int PATH_NAME(wide)(int64_t pixels) {
    return pixels <= LANES ? 1 : pixels <= 2 * LANES || WIDEST == 2 ? 2 : 4;
}

/* Pixels that are laid out at once; more of more. */
static inline int64_t PATH_NAME(step)(int64_t pixels) {
    int64_t side = PATH_NAME(wide)(pixels) * LANES;
    return MIN((pixels + side - 1) / side * side, PIXELS);
}

/* Rows begin to end - 1 times pixels first to last - 1 of what an image shows through a kernel. `room`: ROOM floats. */
TARGET static void PATH_NAME(rows_times_image)(const struct coded *w, const struct image *s, const float *bias, int64_t begin,
                                               int64_t end, int64_t first, int64_t last, float *room, const struct output *y) {
    int wide = PATH_NAME(wide)(last - first), rows = SUMS / wide;
    int64_t side = wide * LANES, step = PATH_NAME(step)(last - first);
    int64_t depth = PANELS / PATH_NAME(step)(s->out[0] * s->out[1]) / SLICE * SLICE; /* whoever shares the image sums alike */
    float *weights = room + PANELS, *sums = weights + MOST_ROWS * STRIDE;
    struct table t = {.held = -1};
    memset(weights, 0, MOST_ROWS * STRIDE * sizeof(float));
    for (int64_t p = first; p < last; p += step)
        for (int64_t k = 0; k < w->width; k += depth) {
            int64_t count = MIN(step, last - p), n = MIN(depth, w->width - k);
            for (int64_t i = 0; i < n; i += LINES) /* pixels that lie side by side are read one after the other */
                for (int64_t at = 0; at < count; at += side) {
                    int64_t some = MIN(side, count - at), lanes = (some + LANES - 1) / LANES * LANES;
                    PATH_NAME(shown)(s, k + i, MIN(LINES, n - i), p + at, some, lanes, room + at * n + i * lanes);
                }
            for (int64_t r = begin; r < end; r += rows) {
                int few = (int)MIN(rows, end - r);
                memset(sums, 0, (size_t)(rows * step) * sizeof(float));
                for (int64_t i = 0; i < n; i += SLICE) {
                    int64_t length = MIN(SLICE, n - i);
                    for (int one = 0; one < few; one++)
                        PATH_NAME(decoded)(w, r + one, k + i, length, &t, weights + one * STRIDE);
                    for (int64_t at = 0; at < count; at += side) {
                        int left = (int)((MIN(side, count - at) + LANES - 1) / LANES);
                        PATH_NAME(tile)(weights, room + at * n + i * left * LANES, length, wide, left, sums + at, step);
                    }
                }
                for (int one = 0; one < few; one++)
                    PATH_NAME(put)(y, r + one, p, count, sums + one * step, k ? NULL : bias ? bias + r + one : &NOTHING);
            }
        }
}
