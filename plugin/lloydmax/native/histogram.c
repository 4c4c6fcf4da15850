/* Passes over a large weight, and the fit on their histogram. Twins: clustering/scan.py and clustering/histogram.py. */
#include "floats.h"
#include "partition_core.h"

#define PATH_NAME(name) name##_portable
#define TARGET
#include "histogram.h"
#undef PATH_NAME
#undef TARGET

#if CORE_X86
#define PATH_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "histogram.h"
#undef PATH_NAME
#undef TARGET

#define PATH_NAME(name) name##_avx512
#define TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq")))
#include "histogram.h"
#undef PATH_NAME
#undef TARGET
#endif

enum { KEYS = 1 << 16, HALF = KEYS / 2, COUNTED = 1 << 20, CODED = 1 << 17, LLOYD = 60 };
static const double SCARCE = 1e-9, SETTLED = 1e-6;

/* The keys of float32 values, as int16; returns how far they reach from the centre. */
EXPORT double lm_keys(const float *values, int64_t n, float centre, float scale, int16_t *keys) {
    float top = 0;
    for (int64_t start = 0; start < n; start += 4096) {
        float here = PATH(keys_of)(values + start, MIN(4096, n - start), centre, scale, keys + start);
        top = here > top ? here : top;
    }
    return top;
}

/* Mass and moment of the keys, by ascending value: sums over at most COUNTED weights at a time. `values` 0: no moment;
   `importance` 0: all count alike. Returns 0 where there is no memory. */
EXPORT int lm_count(const uint16_t *keys, const float *values, const float *importance, int64_t n, double *mass,
                    double *moment) {
    int alone = n <= COUNTED;
    double *part = calloc(2 * KEYS, sizeof(double));
    uint32_t *counts = calloc(KEYS, sizeof(uint32_t));
    memset(mass, 0, KEYS * sizeof(double));
    memset(moment, 0, KEYS * sizeof(double));
    for (int64_t start = 0; part && counts && start < n; start += COUNTED) {
        int64_t stop = MIN(n, start + COUNTED);
        double *sums = alone ? moment : part, *masses = alone ? mass : part + KEYS;
        if (importance) {
            for (int64_t i = start; i < stop; i++) {
                double weight = importance[i];
                masses[keys[i]] += weight;
                if (values)
                    sums[keys[i]] += values[i] * weight;
            }
        } else {
            for (int64_t i = start; i < stop; i++) {
                counts[keys[i]]++;
                if (values)
                    sums[keys[i]] += values[i];
            }
        }
        for (int64_t k = 0; !alone && k < KEYS; k++) {
            moment[k] += part[k];
            mass[k] += part[KEYS + k];
        }
        if (!alone)
            memset(part, 0, 2 * KEYS * sizeof(double));
    }
    int made = part && counts;
    for (int64_t k = 0; made && !importance && k < KEYS; k++)
        mass[k] = counts[k];
    free(part);
    free(counts);
    return made;
}

/* Codes of a weight by a table of its keys, of `width` bytes each; of those keys that have the code `mark`, if it is not
   negative, by the limits between centroids; the masses and moments of these are added. */
EXPORT int lm_code(const uint16_t *keys, const float *values, const float *importance, int64_t n, const void *table,
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

/* Points of one weight: masses spread evenly over disjoint ascending intervals. */
typedef struct {
    int64_t n;
    const double *low, *high, *mass;
    double *middle, *total, *moment, centre;
} Points;

/* Mass and moment of everything not above a value; `at` is how many intervals do not end above it. */
static void up_to(const Points *points, double value, double *total, double *moment) {
    int64_t low = 0, high = points->n;
    while (low < high) {
        int64_t half = (low + high) / 2;
        if (points->high[half] <= value)
            low = half + 1;
        else
            high = half;
    }
    double mass = 0, middle = 0;
    if (low < points->n) {
        double begin = points->low[low], width = points->high[low] - begin;
        if (width > 0) {
            double share = (value - begin) / width;
            share = share < 0 ? 0 : share > 1 ? 1 : share;
            mass = share * points->mass[low];
            double end = begin + width;
            middle = (begin + (value < end ? value : end)) / 2;
        }
    }
    *total = points->total[low] + mass;
    *moment = points->moment[low] + mass * (middle - points->centre);
}

/* k centroids of n points, k < n, rounded to a dtype; returns their sum of squared errors, negative without memory.
   `finest`: cells per centroid at which the search ends. */
EXPORT double lm_solve(const double *low, const double *high, const double *mass, const double *sums, int64_t n, int64_t k,
                       int64_t finest, int dtype, double *centroids) {
    Work work;
    if (!work_make(&work, n, k))
        return -1;
    size_t many = (size_t)n + 1;
    double *room = malloc((6 * many + 3 * ((size_t)k + 1)) * sizeof(double));
    int64_t *borders = malloc(((size_t)k + 1) * sizeof(int64_t));
    if (!room || !borders) {
        free(room);
        free(borders);
        work_free(&work);
        return -1;
    }
    double *middle = room, *total = room + many, *moment = room + 2 * many, *each = room + 3 * many,
           *square = room + 4 * many, *measure = room + 5 * many, *totals = room + 6 * many,
           *moments = totals + k + 1, *means = moments + k + 1;
    Points points = {n, low, high, mass, middle, total, moment, 0};
    total[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        double at = sums[i] / mass[i];
        at = at > low[i] ? at : low[i];
        middle[i] = at < high[i] ? at : high[i];
        total[i + 1] = total[i] + mass[i];
    }
    int64_t start = 0;
    while (start < n && total[start] <= total[n] / 2)
        start++;
    start = MIN(start, n) - 1;
    double centre = points.centre = middle[start], all = 0, around = 0;
    for (int64_t i = 0; i < n; i++) {
        double distance = middle[i] - centre, width = high[i] - low[i];
        each[i] = mass[i] * distance;
        measure[i] = mass[i] * (distance * distance);
        all += measure[i];
        around += measure[i] + mass[i] * (width * width) / 12;
    }
    outward(each, n, start, moment);
    outward(measure, n, start, square);
    desires(middle, mass, n, each);
    double expected = panter_dite(each, n, k, measure);
    Sums cumulative = {n, total, moment, expected < SCARCE * all ? square : 0};
    partition(&cumulative, measure, k, finest, 0, &work, borders);
    for (int64_t j = 0; j <= k; j++) {
        totals[j] = total[borders[j]];
        moments[j] = moment[borders[j]];
    }
    for (int64_t j = 0; j < k; j++) {
        double part = totals[j + 1] - totals[j], other = middle[MAX(borders[j], 1) - 1];
        means[j] = part > 0 ? (moments[j + 1] - moments[j]) / part + centre : other;
        centroids[j] = rounded(means[j], dtype);
    }
    for (int round = 0; round < LLOYD; round++) {
        int settled = 1;
        for (int64_t j = 1; j < k; j++)
            up_to(&points, (centroids[j - 1] + centroids[j]) / 2, totals + j, moments + j);
        for (int64_t j = 0; j < k; j++) {
            double part = totals[j + 1] - totals[j];
            means[j] = part > 0 ? (moments[j + 1] - moments[j]) / part + centre : centroids[j];
            if (j)
                settled &= fabs(means[j] - centroids[j]) <= SETTLED * (centroids[j] - centroids[j - 1]);
        }
        if (settled)
            break;
        for (int64_t j = 0; j < k; j++)
            centroids[j] = rounded(means[j], dtype);
    }
    double explained = 0;
    for (int64_t j = 0; j < k; j++) {
        double distance = means[j] - centre;
        explained += (totals[j + 1] - totals[j]) * (distance * distance);
    }
    free(room);
    free(borders);
    work_free(&work);
    double error = around - explained;
    return error > 0 ? error : 0;
}

/* Add to counts how many values lie in each of `bins` bins: trunc((value - low) * factor), the ends in the outer ones. */
EXPORT void lm_bins(const float *values, int64_t n, double low, double factor, int64_t bins, int64_t *counts) {
    for (int64_t i = 0; i < n; i++) {
        int64_t place = (int64_t)(((double)values[i] - low) * factor);
        counts[place < 0 ? 0 : place < bins ? place : bins - 1]++;
    }
}
