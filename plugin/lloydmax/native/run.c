/* Weights of codes at work: products with vectors, convolutions, rows of them. The twins decode: running.py.

   Codes lie in blocks of 64, each in planes: the lowest four bits of all, then the next two, then one, as far as the bits of a
   code go. Of a plane of four bits, byte j holds code j and code j + 32; of two bits, codes j, j + 16, j + 32 and j + 48; of one
   bit, codes 8 j to 8 j + 7. Eight bits are bytes. */
#include "core.h"
#if CORE_X86
#include <immintrin.h>
#endif

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 24")
#else
#define UNROLL
#endif

enum { BLOCK = 64, PARTS = 4, FOUR = 4, MOST = 256 };
enum {
    SLICE = 512,             /* weights of a row that are decoded at once for a tile */
    STRETCH = 1024,          /* codes of a row that are opened at once for a vector */
    STRIDE = SLICE + 80,     /* between rows of decoded weights: past their ends, and not all in one set of the cache */
    MOST_ROWS = 24,          /* of a tile */
    PIXELS = 256,            /* that share a decoded weight */
    LINES = 16,              /* of inputs that are laid out in turns */
    PANELS = PIXELS * SLICE, /* floats of inputs that are laid out at once */
    SQUARES = 128,           /* of 2 x 2 pixels, that share a turned kernel: see run_winograd.h */
    DEPTH = 64,              /* channels of a square that are summed before it turns back */
    KERNELS = 32,            /* that are turned at once */
    BETWEEN = 16 * DEPTH + 16,
    SUM_ROOM = 6 * 16 * SQUARES,
    ROOM = PANELS + MOST_ROWS * BETWEEN + SUM_ROOM + 16
};

_Static_assert(16 * DEPTH * SQUARES <= PANELS && STRIDE <= BETWEEN && 8 * PIXELS <= SUM_ROOM, "there is room for both ways");

static const float NOTHING = 0;

/* A weight: rows of `width` codes below k; `shared` rows have one of the tables (.., k). */
struct coded {
    const uint8_t *planes;
    const float *tables;
    int64_t k, rows, width, shared;
    int bits, kind; /* kind: 8, 16, .. 256, not below k */
};

/* A table, as each way of looking up wants it. */
struct table {
    int64_t held;
    float values[MOST], back;
    uint8_t bytes[4][MOST];
    int16_t integers[MOST];
    uint8_t halves[2][MOST];
};

/* What a kernel sees: at pixel (i, j) and offset (a, b), input (i stride - padding + a dilation, ..); 0 outside. `step`: of the
   input in memory, from a channel, row and column to the next; `next`: to the next image. */
struct image {
    const float *x;
    int64_t size[2], kernel[2], stride[2], padding[2], dilation[2], out[2], channel, step[2], next, images;
};

/* Where a row of a weight and a pixel of an image meet: y[image * image + row * step + pixel * next]. */
struct output {
    float *y;
    int64_t image, step, next;
};

/* Squares of 2 x 2 outputs side by side: where the first is, and its place among those at hand. */
struct run {
    int64_t image, row, column, length, at;
};

/* Squares of all images. */
static int64_t squares(const struct image *s) { return s->images * ((s->out[0] + 1) / 2) * ((s->out[1] + 1) / 2); }

/* Whether a convolution is sooner done by squares. */
static int by_squares(const struct image *s, int64_t rows, int64_t channels) {
    int plain = 1;
    for (int i = 0; i < 2; i++)
        plain &= s->kernel[i] == 3 && s->stride[i] == 1 && s->dilation[i] == 1;
    return plain && rows >= 16 && channels >= 8 && squares(s) >= 16;
}

static int runs_of(const struct image *s, int64_t from, int64_t count, struct run *runs) {
    int64_t high = (s->out[0] + 1) / 2, wide = (s->out[1] + 1) / 2;
    int many = 0;
    for (int64_t at = 0; at < count; at += runs[many++].length) {
        int64_t square = from + at, column = square % wide, row = square / wide;
        runs[many] = (struct run){row / high, row % high, column, MIN(count - at, wide - column), at};
    }
    return many;
}

#if defined(__GNUC__)
typedef float four __attribute__((vector_size(16)));
static inline four add_four(four a, four b) { return a + b; }
static inline four times_four(four a, four b) { return a * b; }
#else
typedef struct {
    float at[4];
} four;
static inline four add_four(four a, four b) {
    for (int i = 0; i < 4; i++)
        a.at[i] += b.at[i];
    return a;
}
static inline four times_four(four a, four b) {
    for (int i = 0; i < 4; i++)
        a.at[i] *= b.at[i];
    return a;
}
#endif
static inline four load_four(const float *p) {
    four v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store_four(float *p, four v) { memcpy(p, &v, sizeof v); }
static inline four less_four(four a, four b) { return add_four(a, times_four(b, load_four((float[4]){-1, -1, -1, -1}))); }
static inline four picked_four(four a, four b, int first, int by) {
    float all[8];
    store_four(all, a), store_four(all + 4, b);
    return load_four((float[4]){all[first], all[first + by], all[first + 2 * by], all[first + 3 * by]});
}
static inline four zipped_four(four a, four b, int first) {
    float left[4], right[4];
    store_four(left, a), store_four(right, b);
    return load_four((float[4]){left[first], right[first], left[first + 1], right[first + 1]});
}
static inline four all_four(float value) {
    float each[4] = {value, value, value, value};
    return load_four(each);
}

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

/* Codes in the order in which bytes become floats: 4 of each 16 codes in every 128 bits. */
static const uint8_t ORDER[BLOCK] = {
#define LINE(l) 4 * (l), 4 * (l) + 1, 4 * (l) + 2, 4 * (l) + 3
#define OF(l) LINE(l), LINE(l + 4), LINE(l + 8), LINE(l + 12)
    OF(0), OF(1), OF(2), OF(3)
#undef OF
#undef LINE
};

#define PATH_NAME(name) name##_avx512vbmi
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")))
#define ISA 6
#include "run.h"
#undef PATH_NAME
#undef TARGET
#undef ISA

#define RUN(name) (lm_path >= AVX512VBMI ? name##_avx512vbmi : PATH(name))
#else
#define RUN(name) PATH(name)
#endif

static struct coded weight(const uint8_t *planes, const float *tables, int64_t k, int64_t rows, int64_t width, int64_t shared) {
    struct coded w = {.planes = planes, .tables = tables, .k = k, .rows = rows, .width = width, .shared = shared, .kind = 8};
    for (w.bits = 1; 1 << w.bits < k;)
        w.bits++;
    while (w.kind < k)
        w.kind *= 2;
    return w;
}

/* n codes as ceil(n / 64) blocks of planes. */
EXPORT void lm_close(const uint8_t *codes, int64_t n, int bits, uint8_t *planes) {
    for (int64_t first = 0; first < n; first += BLOCK) {
        uint8_t all[BLOCK] = {0};
        memcpy(all, codes + first, (size_t)MIN(BLOCK, n - first));
        if (bits == 8) {
            memcpy(planes, all, BLOCK);
            planes += BLOCK;
            continue;
        }
        int at = 0;
        for (int width = 4; width; width /= 2)
            if (bits & width) {
                int length = BLOCK / 8 * width, mask = (1 << width) - 1;
                for (int j = 0; j < length; j++) {
                    int byte = 0;
                    for (int part = 0; part < 8 / width; part++)
                        byte |= (all[width == 1 ? j * 8 + part : part * length + j] >> at & mask) << part * width;
                    planes[j] = (uint8_t)byte;
                }
                planes += length, at += width;
            }
    }
}

/* The reverse. */
EXPORT void lm_open(const uint8_t *planes, int64_t n, int bits, uint8_t *codes) {
    int64_t whole = n / BLOCK;
    RUN(opened)(planes, whole, bits, codes);
    if (n % BLOCK) {
        uint8_t last[BLOCK];
        RUN(opened)(planes + whole * (BLOCK / 8) * bits, 1, bits, last);
        memcpy(codes + whole * BLOCK, last, (size_t)(n % BLOCK));
    }
}

/* Rows index[0 .. end - begin - 1] of a weight, or begin to end - 1: to begin to end - 1 of `out`. */
EXPORT void lm_decode(const uint8_t *planes, const float *tables, int64_t k, int64_t rows, int64_t width, int64_t shared,
                      const int64_t *index, int64_t begin, int64_t end, float *out) {
    struct coded w = weight(planes, tables, k, rows, width, shared);
    struct table t = {.held = -1};
    float part[SLICE + BLOCK];
    out += begin * width;
    for (int64_t i = begin; i < end; i++)
        for (int64_t first = 0, length; first < width; first += length, out += length) {
            length = MIN(SLICE, width - first);
            RUN(decoded)(&w, index ? index[i - begin] : i, first, length, &t, part);
            memcpy(out, part, (size_t)length * sizeof(float));
        }
}

/* y (batch, rows) = x (batch, width) times the weight, a few vectors at a time; rows begin to end - 1 are done. */
EXPORT void lm_few(const float *x, int64_t batch, const uint8_t *planes, const float *tables, int64_t k, int64_t rows, int64_t width,
                   int64_t shared, int64_t begin, int64_t end, float *y) {
    struct coded w = weight(planes, tables, k, rows, width, shared);
    RUN(rows_times)(&w, x, batch, begin, end, y);
}

/* The same for one vector in integers of 16 bits, where this machine and the numbers allow it: the largest input not above `most`
   times their root mean square. `room`: of `width` int16, and 64 more. Returns 0 where it does not. */
EXPORT int lm_integers(const float *x, const uint8_t *planes, const float *tables, int64_t k, int64_t rows, int64_t width,
                       int64_t shared, int64_t begin, int64_t end, float most, int16_t *room, float *y) {
#if CORE_X86
    float top = 0;
    double square = 0;
    if (lm_path < AVX2 || (lm_path < AVX512 && k > 64) || width < 32) /* a few rounded products would not even out */
        return 0;
    for (int64_t i = 0; i < width; i++) {
        float size = fabsf(x[i]);
        top = size > top ? size : top;
        square += (double)x[i] * x[i];
    }
    if (!(top > 1e-30f && top < 1e30f && (double)top * top * (double)width <= (double)most * most * square))
        return 0;
    float scale = 16383.0f / top;
    for (int64_t i = 0; i < width; i++)
        room[i] = (int16_t)lrintf(x[i] * scale);
    memset(room + width, 0, BLOCK * sizeof(int16_t));
    struct coded w = weight(planes, tables, k, rows, width, shared);
    (lm_path >= AVX512VBMI ? rows_times_integers_avx512vbmi
     : lm_path >= AVX512   ? rows_times_integers_avx512
                           : rows_times_integers_avx2)(&w, room, top / 16383.0f, begin, end, y);
    return 1;
#else
    (void)x, (void)planes, (void)tables, (void)k, (void)rows, (void)width, (void)shared, (void)begin, (void)end, (void)most;
    (void)room, (void)y;
    return 0;
#endif
}

static struct image image_of(const int64_t *shape) {
    const int64_t *pair = shape + 3;
    struct image s = {.channel = shape[0], .step = {shape[1], shape[2]}, .images = shape[15], .next = shape[16]};
    for (int i = 0; i < 2; i++) {
        s.size[i] = pair[i], s.kernel[i] = pair[2 + i], s.stride[i] = pair[4 + i], s.padding[i] = pair[6 + i];
        s.dilation[i] = pair[8 + i], s.out[i] = pair[10 + i];
    }
    return s;
}

/* Parts of a convolution that threads may share, see below: pixels of an image, or squares of all. */
EXPORT int64_t lm_parts(const int64_t *shape, int64_t rows) {
    struct image s = image_of(shape);
    return by_squares(&s, rows / shape[17], shape[18]) ? squares(&s) : s.out[0] * s.out[1];
}

/* A convolution, or a product with many vectors. `shape`: of one image the steps of channel, row and column; then in pairs size,
   kernel, stride, padding, dilation, out; then the images and their step, the groups, the channels of each, and of the output the
   steps of image, row of the weight and pixel. Of each group rows begin to end - 1, and parts first to last - 1, are done.
   Returns 0 where there is no memory. */
EXPORT int lm_convolve(const float *x, const uint8_t *planes, const float *tables, int64_t k, int64_t rows, int64_t width,
                       int64_t shared, const float *bias, const int64_t *shape, int64_t begin, int64_t end, int64_t first,
                       int64_t last, float *y) {
    struct image s = image_of(shape);
    int64_t groups = shape[17], channels = shape[18], each = rows / groups, images = s.images;
    int turned = by_squares(&s, each, channels);
    float *room = malloc(ROOM * sizeof(float));
    if (!room)
        return 0;
    float *aligned = room + (16 - (uintptr_t)room / sizeof(float) % 16) % 16;
    struct coded w = weight(planes, tables, k, rows, width, shared);
    for (int64_t image = 0; image < (turned ? 1 : images); image++)
        for (int64_t g = 0; g < groups; g++) {
            struct output out = {y + image * shape[19], shape[19], shape[20], shape[21]};
            s.x = x + image * s.next + g * channels * s.channel;
            if (turned)
                RUN(rows_times_squares)(&w, &s, bias, g * each + begin, g * each + end, first, last, aligned, &out);
            else
                RUN(rows_times_image)(&w, &s, bias, g * each + begin, g * each + end, first, last, aligned, &out);
        }
    free(room);
    return 1;
}
