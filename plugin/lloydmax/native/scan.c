/* The passes over a large weight: from values to keys and their masses, and from centroids to codes and exact means. The
   twin is clustering/scan.py, which explains them. */
#include "floats.h"

#define PATH_NAME(name) name##_portable
#define TARGET
#include "scan.h"
#undef PATH_NAME
#undef TARGET

#if CORE_X86
#define PATH_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "scan.h"
#undef PATH_NAME
#undef TARGET

#define PATH_NAME(name) name##_avx512
#define TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq")))
#include "scan.h"
#undef PATH_NAME
#undef TARGET
#endif

enum { KEYS = 1 << 16, HALF = KEYS / 2, COUNTED = 1 << 20, CODED = 1 << 17, SAMPLE = 1 << 13, PASSES = 3 };
static const double LEAST = 1e-30, MOST = 1e37, FUZZ = 1.0 / 32, NEAR = 0.01;

/* The keys of float32 values; returns how far they reach from the centre. */
static double keys_and_top(const float *values, int64_t n, float centre, float scale, uint16_t *keys) {
    float top = 0;
    for (int64_t start = 0; start < n; start += 4096) {
        float here = PATH(keys_of)(values + start, MIN(4096, n - start), centre, scale, keys + start);
        top = here > top ? here : top;
    }
    return top;
}

/* How many weights have each key, and their mass and moment: sums over at most COUNTED weights at a time. `values` 0: no
   moment; `importance` 0: all count alike. Returns 0 where there is no memory. */
static int count(const uint16_t *keys, const float *values, const float *importance, int64_t n, uint32_t *counts,
                 double *mass, double *moment) {
    int alone = n <= COUNTED;
    double *part = alone ? 0 : calloc(2 * KEYS, sizeof(double));
    if (!alone && !part)
        return 0;
    memset(counts, 0, KEYS * sizeof *counts);
    memset(mass, 0, KEYS * sizeof(double));
    memset(moment, 0, KEYS * sizeof(double));
    for (int64_t start = 0; start < n; start += COUNTED) {
        int64_t stop = MIN(n, start + COUNTED);
        double *sums = alone ? moment : part, *masses = alone ? mass : part + KEYS;
        for (int64_t i = start; i < stop; i++) {
            double weight = importance ? importance[i] : 1.0;
            counts[keys[i]]++;
            if (importance)
                masses[keys[i]] += weight;
            if (values)
                sums[keys[i]] += values[i] * weight;
        }
        for (int64_t k = 0; !alone && k < KEYS; k++) {
            moment[k] += part[k];
            mass[k] += part[KEYS + k];
        }
        if (!alone)
            memset(part, 0, 2 * KEYS * sizeof(double));
    }
    for (int64_t k = 0; !importance && k < KEYS; k++)
        mass[k] = counts[k];
    free(part);
    return 1;
}

/* Mass of every key, KEYS of them; importance as above. Returns 0 where there is no memory. */
EXPORT int lm_count(const uint16_t *keys, const float *importance, int64_t n, double *mass) {
    double *moment = malloc(KEYS * sizeof *moment);
    uint32_t *counts = malloc(KEYS * sizeof *counts);
    int made = moment && counts && count(keys, 0, importance, n, counts, mass, moment);
    free(moment);
    free(counts);
    return made;
}

/* Codes of a weight by a table of its keys, of `width` bytes each; of those keys that have the code `mark`, if it is not
   negative, by the limits between centroids; the masses and moments of these are added. */
static int look_up(const uint16_t *keys, const float *values, const float *importance, int64_t n, const void *table,
                   int width, int64_t mark, const float *limits, int64_t k, void *codes, double *mass, double *moment) {
    double *part = calloc((size_t)(2 * k), sizeof(double));
    if (!part)
        return 0;
    for (int64_t start = 0; start < n; start += CODED) {
        int64_t stop = MIN(n, start + CODED);
        int any = 0;
#define LOOK_UP(type)                                                                                                       \
    for (int64_t i = start; i < stop; i++) {                                                                                \
        int64_t code = ((type *)codes)[i] = ((const type *)table)[keys[i]];                                                 \
        any |= code == mark;                                                                                                \
    }                                                                                                                       \
    for (int64_t i = start; any && values && i < stop; i++) {                                                               \
        if (((type *)codes)[i] != mark)                                                                                     \
            continue;                                                                                                       \
        float value = values[i];                                                                                            \
        int64_t low = 0, high = k - 1;                                                                                      \
        while (low < high) {                                                                                                \
            int64_t half = (low + high) / 2;                                                                                \
            if (limits[half] < value)                                                                                       \
                low = half + 1;                                                                                             \
            else                                                                                                            \
                high = half;                                                                                                \
        }                                                                                                                   \
        ((type *)codes)[i] = (type)low;                                                                                     \
        double weight = importance ? importance[i] : 1.0;                                                                   \
        part[low] += weight;                                                                                                \
        part[k + low] += importance ? value * weight : value;                                                               \
    }
        if (width == 1) {
            LOOK_UP(uint8_t)
        } else if (width == 2) {
            LOOK_UP(int16_t)
        } else {
            LOOK_UP(int32_t)
        }
#undef LOOK_UP
        for (int64_t j = 0; any && j < k; j++) {
            mass[j] += part[j];
            moment[j] += part[k + j];
            part[j] = part[k + j] = 0;
        }
    }
    free(part);
    return 1;
}

/* The number that would be at a place if all were in ascending order; none before it is larger then. */
static float selected(float *x, int64_t n, int64_t at) {
    for (int64_t low = 0, high = n - 1; low < high;) {
        float pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot)
                i++;
            while (pivot < x[j])
                j--;
            if (i <= j) {
                float swap = x[i];
                x[i++] = x[j];
                x[j--] = swap;
            }
        }
        if (at <= j)
            high = j;
        else if (at >= i)
            low = i;
        else
            break;
    }
    return x[at];
}

/* The centre of values, and the scale of their keys: one of `count` multiples of the mean distance. */
static void centre_and_scale(const float *values, int64_t n, const double *multiples, int count, float *sample,
                             float *centre, float *scale) {
    int64_t step = MAX(1, n / SAMPLE) | 1, drawn = 1;
    sample[0] = values[0];
    for (int64_t i = step; i < n; i += step)
        sample[drawn++] = values[i];
    *centre = selected(sample, drawn, drawn / 2);
    if (drawn % 2 == 0) {
        float before = sample[0];
        for (int64_t i = 1; i < drawn / 2; i++)
            before = sample[i] > before ? sample[i] : before;
        *centre = (before + *centre) / 2;
    }
    double first = 0, second = 0, third = 0, fourth = 0, middle = *centre;
    int64_t used = drawn;
    for (int apart = 0;; apart = 1) {
        int any = 0;
        for (int64_t i = 0; i < used; i++) {
            double distance = fabs(sample[i] - middle), square = distance * distance;
            any |= distance != 0;
            first += distance;
            second += square;
            third += square * distance;
            fourth += square * square;
        }
        if (any || apart)
            break;
        sample[0] = sample[1] = values[0]; /* equal ones: the ends of all values */
        for (int64_t i = 1; i < n; i++) {
            sample[0] = values[i] < sample[0] ? values[i] : sample[0];
            sample[1] = values[i] > sample[1] ? values[i] : sample[1];
        }
        used = 2;
    }
    double number = (double)used, best = INFINITY;
    first /= number, second /= number, third /= number, fourth /= number;
    double unit = first > LEAST ? first : LEAST;
    *scale = (float)(unit * multiples[0]);
    for (int i = 0; i < count; i++) {
        double s = unit * multiples[i];
        double width = s * s + 4 * s * first + 6 * second + 4 * third / s + fourth / (s * s);
        if (width != width || width < best) {
            best = width;
            *scale = (float)s;
        }
        if (width != width)
            return;
    }
}

/* Everything that one pass tells of a float32 weight: its keys; and of the keys that it has, ascending, the interval of
   values, mass and moment, at most KEYS of each. Returns how many; 0 where there is no memory. */
EXPORT int64_t lm_scan(const float *values, const float *importance, int64_t n, const double *multiples, int multiple,
                       uint16_t *keys, int64_t *held, double *low, double *high, double *mass, double *moment) {
    uint32_t *counts = malloc(KEYS * sizeof *counts);
    float *sample = malloc((SAMPLE * 2 + 2) * sizeof *sample), centre, scale;
    if (!sample || !counts) {
        free(sample);
        free(counts);
        return 0;
    }
    centre_and_scale(values, n, multiples, multiple, sample, &centre, &scale);
    free(sample);
    double top = keys_and_top(values, n, centre, scale, keys), least = values[0], most = values[0];
    int spread = top > LEAST && top < MOST;
    for (int64_t i = 1; i < n && !spread; i++) {
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
    }
    for (int64_t i = 0; i < n && !spread; i++)
        keys[i] = HALF;
    int64_t found = 0, made = count(keys, values, importance, n, counts, mass, moment);
    for (int64_t i = 0; made && i < KEYS; i++) {
        held[found] = i, mass[found] = mass[i], moment[found] = moment[i];
        found += counts[i] > 0;
    }
    free(counts);
    if (spread)
        PATH(intervals)(centre, scale, top, held, found, low, high);
    for (int64_t i = 0; i < found && !spread; i++)
        low[i] = least, high[i] = most;
    return found;
}

/* Codes of a weight that was scanned, `width` bytes each, and in place of k ascending centroids, rounded to a dtype, the
   means of their members, rounded. `held`: the m keys that it has, by ascending values; `values` 0: keys are values.
   Returns 0 where there is no memory. */
EXPORT int lm_encode(const uint16_t *keys, const float *values, const float *importance, int64_t n, const int64_t *held,
                     const double *low, const double *high, const double *mass, const double *moment, int64_t m, int64_t k,
                     int dtype, int width, double *centroids, void *codes) {
    size_t many = (size_t)k;
    char *room = malloc(3 * many * 8 + many * 4 + (size_t)(KEYS * width));
    if (!room)
        return 0;
    double *masses = (double *)room, *moments = masses + many, *before = moments + many;
    float *limits = (float *)(before + many);
    char *table = (char *)(limits + many);
    int made = 1, settled = 0;
    for (int pass = 0; made && pass < PASSES && !settled; pass++) {
        int64_t mark = width > 1 ? -1 : k;
        for (int64_t j = 0; j + 1 < k; j++) {
            limits[j] = limit_between(centroids[j], centroids[j + 1]);
            if (!(limits[j] < INFINITY)) /* between equal centroids: no value is nearest to the first */
                limits[j] = j ? limits[j - 1] : -INFINITY;
        }
        memset(masses, 0, 2 * many * sizeof(double));
        if (width == 1 && k == 256) { /* the code of the least mass */
            for (int64_t i = 0, code = 0; i < m; i++) {
                double from = low[i] - FUZZ * (high[i] - low[i]);
                while (code + 1 < k && (double)limits[code] < from)
                    code++;
                masses[code] += mass[i];
            }
            mark = 0;
            for (int64_t j = 1; j < k; j++)
                mark = masses[j] < masses[mark] ? j : mark;
            memset(masses, 0, many * sizeof(double));
        }
        for (int64_t i = 0, code = 0, last = 0; i < m; i++) {
            double fuzz = FUZZ * (high[i] - low[i]), from = low[i] - fuzz, to = high[i] + fuzz;
            while (code + 1 < k && (double)limits[code] < from)
                code++;
            while (last + 1 < k && (double)limits[last] < to)
                last++;
            int sure = code == last && (code != mark || !values);
            if (sure) {
                masses[code] += mass[i];
                moments[code] += moment[i];
            }
            int64_t found = sure ? code : mark;
            if (width == 1)
                ((uint8_t *)table)[held[i]] = (uint8_t)found;
            else if (width == 2)
                ((int16_t *)table)[held[i]] = (int16_t)found;
            else
                ((int32_t *)table)[held[i]] = (int32_t)found;
        }
        made = look_up(keys, values, importance, n, table, width, mark, limits, k, codes, masses, moments);
        settled = 1;
        memcpy(before, centroids, many * sizeof(double));
        for (int64_t j = 0; j < k; j++) {
            double mean = masses[j] > 0 ? moments[j] / masses[j] : centroids[j];
            if (j)
                settled &= fabs(mean - before[j]) <= NEAR * (before[j] - before[j - 1]);
            centroids[j] = rounded(mean, dtype);
        }
    }
    free(room);
    return made;
}
