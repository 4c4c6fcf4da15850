/* Many codebooks at once, from sorted values. Its twin is clustering/rows.py. */
#include "partition_core.h"
#include "floats.h"

enum { SETTLE = 8, FEW = 32, COMPARE = 32 };
static const double SCARCE = 1e-9;

/* What one row needs. */
typedef struct {
    float *ordered, *own;
    uint32_t *keys, *order, *keys2, *order2;
    double *sorted_mass, *own_mass, *values, *weighted, *mass, *moment, *square, *measure, *wanted;
    double *centroids, *fresh;
    int64_t *borders;
    float *limits;
    Work work;
    char *room;
} Row;

static int row_make(Row *row, int64_t m, int64_t k) {
    size_t points = (size_t)m + 1, many = (size_t)k + 1;
    char *room = row->room = malloc(9 * points * 8 + 2 * many * 8 + many * 8 + 6 * points * 4 + many * 4);
    if (!room)
        return 0;
    double **doubles[] = {&row->sorted_mass, &row->own_mass, &row->values, &row->weighted, &row->mass,
                          &row->moment,      &row->square,   &row->measure, &row->wanted};
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++, room += points * 8)
        *doubles[i] = (double *)room;
    row->centroids = (double *)room, room += many * 8;
    row->fresh = (double *)room, room += many * 8;
    row->borders = (int64_t *)room, room += many * 8;
    row->ordered = (float *)room, room += points * 4;
    row->own = (float *)room, room += points * 4;
    uint32_t **words[] = {&row->keys, &row->order, &row->keys2, &row->order2};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++, room += points * 4)
        *words[i] = (uint32_t *)room;
    row->limits = (float *)room;
    if (work_make(&row->work, m, k))
        return 1;
    free(row->room);
    return 0;
}

static void row_free(Row *row) {
    work_free(&row->work);
    free(row->room);
}

/* Sort keys, stable, and with them their order where it is wanted; which of the two rooms has the result. */
static int sort_keys(uint32_t *keys, uint32_t *order, uint32_t *keys2, uint32_t *order2, int64_t n) {
    if (n <= FEW) {
        for (int64_t i = 1; i < n; i++) {
            uint32_t key = keys[i], at = order ? order[i] : 0;
            int64_t j = i;
            for (; j && keys[j - 1] > key; j--) {
                keys[j] = keys[j - 1];
                if (order)
                    order[j] = order[j - 1];
            }
            keys[j] = key;
            if (order)
                order[j] = at;
        }
        return 0;
    }
    int bits = n < 4096 ? 8 : 11, passes = (32 + bits - 1) / bits, swapped = 0;
    uint32_t counts[4][2048], mask = (1u << bits) - 1;
    for (int p = 0; p < passes; p++)
        memset(counts[p], 0, (mask + 1) * sizeof(uint32_t));
    for (int64_t i = 0; i < n; i++)
        for (int p = 0; p < passes; p++)
            counts[p][keys[i] >> (p * bits) & mask]++;
    for (int p = 0; p < passes; p++) {
        uint32_t *count = counts[p], sum = 0;
        if (count[keys[0] >> (p * bits) & mask] == (uint32_t)n)
            continue;
        for (uint32_t d = 0; d <= mask; d++) {
            uint32_t here = count[d];
            count[d] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++) {
            uint32_t at = count[keys[i] >> (p * bits) & mask]++;
            keys2[at] = keys[i];
            if (order)
                order2[at] = order[i];
        }
        uint32_t *swap = keys;
        keys = keys2, keys2 = swap;
        swap = order, order = order2, order2 = swap;
        swapped = !swapped;
    }
    return swapped;
}

/* Values ascending, and their masses. */
static void sorted(Row *row, const float *values, const double *mass, int64_t m) {
    for (int64_t i = 0; i < m; i++) {
        row->keys[i] = key_of_float(values[i] + 0.0f);
        row->order[i] = (uint32_t)i;
    }
    int other = sort_keys(row->keys, mass ? row->order : 0, row->keys2, mass ? row->order2 : 0, m);
    const uint32_t *keys = other ? row->keys2 : row->keys, *order = other ? row->order2 : row->order;
    for (int64_t i = 0; i < m; i++)
        row->ordered[i] = float_of_key(keys[i]);
    if (!mass)
        return;
    int any = 0;
    for (int64_t i = 0; i < m; i++)
        any |= mass[i] != 0;
    for (int64_t i = 0; i < m; i++)
        row->sorted_mass[i] = any ? mass[order[i]] : 1.0;
}

/* Distinct values that have mass, and their masses, to `own` and `own_mass`; how many. */
static int64_t distinct(Row *row, const double *mass, int64_t m) {
    int64_t count = 0;
    for (int64_t i = 0; i < m; i++) {
        if (mass && !(mass[i] > 0))
            continue;
        if (count && row->own[count - 1] == row->ordered[i]) {
            row->own_mass[count - 1] += mass ? mass[i] : 1.0;
        } else {
            row->own[count] = row->ordered[i];
            row->own_mass[count++] = mass ? mass[i] : 1.0;
        }
    }
    return count;
}

/* k centroids of m ascending values, of which more than k are distinct. */
static void means_of(Row *row, const float *ordered, const double *weight, int64_t m, int64_t k, int dtype, int brief) {
    int64_t middle = m / 2;
    double centre = ordered[middle], sum = 0, squares = 0;
    double *values = row->values, *weighted = row->weighted, *mass = row->mass, *moment = row->moment;
    for (int64_t i = 0; i < m; i++) {
        values[i] = (double)ordered[i] - centre;
        weighted[i] = weight ? values[i] * weight[i] : values[i];
        mass[i] = weight ? sum : (double)i;
        sum += weight ? weight[i] : 0;
        squares += weighted[i] * values[i];
    }
    mass[m] = weight ? sum : (double)m;
    outward(weighted, m, middle, moment);
    desires(values, weight, m, row->wanted);
    double expected = panter_dite(row->wanted, m, k, row->measure);
    int scarce = expected < SCARCE * squares;
    if (scarce) {
        for (int64_t i = 0; i < m; i++)
            weighted[i] *= values[i];
        outward(weighted, m, middle, row->square);
    }
    Sums sums = {m, mass, moment, scarce ? row->square : 0};
    partition(&sums, row->measure, k, -1, brief, &row->work, row->borders);
    double *centroids = row->centroids;
    int64_t *borders = row->borders;
    memset(centroids, 0, (size_t)k * sizeof *centroids);
    for (int round = 0; round < SETTLE; round++) {
        int same = 1;
        for (int64_t j = 0; j < k; j++) {
            double part = mass[borders[j + 1]] - mass[borders[j]], total = moment[borders[j + 1]] - moment[borders[j]];
            double mean = rounded(part > 0 ? total / part + centre : centroids[j], dtype);
            same &= mean == centroids[j];
            centroids[j] = mean;
        }
        if (same)
            break;
        for (int64_t j = 0; j + 1 < k; j++) {
            float limit = limit_between(centroids[j], centroids[j + 1]);
            int64_t low = 0, high = m, at = borders[j + 1], step = 1;
            if (at < m && ordered[at] <= limit) {
                for (low = at + 1; at + step < m && ordered[at + step] <= limit; step *= 2)
                    low = at + step + 1;
                high = MIN(m, at + step);
            } else {
                for (high = at; at - step >= 0 && ordered[at - step] > limit; step *= 2)
                    high = at - step;
                low = MAX(0, at - step);
            }
            while (low < high) {
                int64_t half = (low + high) / 2;
                if (ordered[half] <= limit)
                    low = half + 1;
                else
                    high = half;
            }
            borders[j + 1] = low;
        }
    }
    sort_doubles(centroids, k);
}

/* Centroids of one row to `out`, the last one repeated; how many it needs. */
static int64_t fit_row(Row *row, const float *values, const double *mass, int64_t m, int64_t k, int dtype, int brief,
                       float *out) {
    sorted(row, values, mass, m);
    const double *weight = mass ? row->sorted_mass : 0;
    int64_t own = distinct(row, weight, m), found = k;
    if (own <= k) {
        for (int64_t j = 0; j < own; j++)
            row->centroids[j] = row->own[j];
        found = own;
    } else {
        means_of(row, row->ordered, weight, m, k, dtype, brief);
        int equal = 0;
        for (int64_t j = 0; j + 1 < k; j++)
            equal |= row->centroids[j] == row->centroids[j + 1];
        if (equal) { /* between equal values there are no borders now */
            means_of(row, row->own, row->own_mass, own, k, dtype, 0);
            found = 0;
            for (int64_t j = 0; j < k; j++)
                if (!found || row->centroids[j] != row->centroids[found - 1])
                    row->centroids[found++] = row->centroids[j];
        }
    }
    for (int64_t j = 0; j < k; j++)
        out[j] = (float)row->centroids[MIN(j, found - 1)];
    return MIN(own, k);
}

/* Codes of values by the limits between ascending centroids; `width` bytes each. */
static void encode(const float *values, int64_t m, const float *centroids, int64_t k, float *limits, int width, void *codes) {
    for (int64_t j = 0; j + 1 < k; j++)
        limits[j] = limit_between(centroids[j], centroids[j + 1]);
    if (k <= COMPARE && width == 1) {
        below(values, m, limits, (int)k - 1, codes);
        return;
    }
    for (int64_t i = 0; i < m; i++) {
        float value = values[i];
        int64_t at = 0, n = k - 1;
        while (n > 0) {
            int64_t half = n / 2;
            int above = limits[at + half] < value;
            at = above ? at + half + 1 : at;
            n = above ? n - half - 1 : half;
        }
        if (width == 1)
            ((uint8_t *)codes)[i] = (uint8_t)at;
        else if (width == 2)
            ((int16_t *)codes)[i] = (int16_t)at;
        else
            ((int32_t *)codes)[i] = (int32_t)at;
    }
}

/* A codebook of at most k centroids for each of n rows of m values; 1 <= k <= m.

   values (n, m); mass (n, m) or 0; dtype of the weight, to which centroids are rounded; brief: rows are many;
   centroids (n, k); codes (n, m) of `width` bytes. Returns the most centroids that a row needs; 0: no memory. */
EXPORT int64_t lm_fit_rows(const float *values, const double *mass, int64_t n, int64_t m, int64_t k, int dtype, int brief,
                           float *centroids, void *codes, int width) {
    Row row;
    int64_t used = 1;
    if (!row_make(&row, m, k))
        return 0;
    for (int64_t i = 0; i < n; i++) {
        float *own = centroids + i * k;
        int64_t count = fit_row(&row, values + i * m, mass ? mass + i * m : 0, m, k, dtype, brief, own);
        used = MAX(used, count);
        encode(values + i * m, m, own, k, row.limits, width, (char *)codes + i * m * width);
    }
    row_free(&row);
    return used;
}
