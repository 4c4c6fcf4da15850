/* Codebooks where bits have a price, on the points of a weight. The twin is clustering/priced.py, which explains them. */
#include "points.h"

enum { CODED = 1 << 22, TERMS = 11 };
static const double NOTHING = 1e-9, SETTLED = 1e-5, ROOT = 1.4142135623730951, LN2 = 0.6931471805599453;

/* The logarithm of a normal number by elementary operations only, the same everywhere. */
static double log_two(double x) {
    int64_t bits;
    memcpy(&bits, &x, 8);
    int64_t exponent = (bits >> 52) - 1023;
    bits = (bits & INT64_C(0xFFFFFFFFFFFFF)) | INT64_C(0x3FF0000000000000);
    double m;
    memcpy(&m, &bits, 8);
    if (m > ROOT) {
        m /= 2;
        exponent++;
    }
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;
    for (int i = TERMS; i >= 0; i--)
        sum = sum * square + 1.0 / (2 * i + 1);
    return (double)exponent + 2 * s * sum / LN2;
}

/* The limits between those of k ascending centroids that are the cheapest somewhere; how many limits. Room for k in `kept`. */
static int64_t cheapest(const double *centroids, const double *bits, int64_t k, double price, double *limits, int64_t *kept) {
    int plain = 1;
    for (int64_t j = 0; j + 1 < k && plain; j++) {
        double gap = centroids[j + 1] - centroids[j];
        plain = gap > 0;
        limits[j] = (centroids[j + 1] + centroids[j]) / 2 + price * (bits[j + 1] - bits[j]) / (2 * gap);
        plain &= j == 0 || limits[j] > limits[j - 1];
    }
    if (plain)
        return k - 1;
    int64_t held = 0;
    for (int64_t j = 0; j < k; j++) {
        int taken = 1;
        for (; held; held--) {
            int64_t last = kept[held - 1];
            double gap = centroids[j] - centroids[last];
            if (gap <= 0) {
                if (bits[j] >= bits[last]) {
                    taken = 0;
                    break;
                }
                continue;
            }
            double limit = (centroids[j] + centroids[last]) / 2 + price * (bits[j] - bits[last]) / (2 * gap);
            if (held == 1 || limit > limits[held - 2]) {
                limits[held - 1] = limit;
                break;
            }
        }
        if (taken)
            kept[held++] = j;
    }
    return held - 1;
}

/* The iteration: in place of k ascending centroids those that are left, with their masses and bits; how many, 0 where there
   is no memory. `own`: bits of a centroid, which its members bear. */
EXPORT int64_t lm_price(const double *low, const double *high, const double *mass, const double *total, const double *moment,
                        int64_t n, double centre, int64_t k, double price, double own, int64_t rounds, double *centroids,
                        double *masses, double *bits) {
    size_t many = (size_t)k + 1;
    char *room = malloc(2 * many * sizeof(double) + many * sizeof(int64_t));
    if (!room)
        return 0;
    double *limits = (double *)room, *moments = limits + many, all = total[n];
    int64_t *kept = (int64_t *)(moments + many);
    Points points = {n, low, high, mass, total, moment, centre};
    memset(bits, 0, (size_t)k * sizeof *bits);
    for (int64_t round = 0; round < rounds; round++) {
        int64_t borders = cheapest(centroids, bits, k, price, limits, kept), held = 0;
        double before = 0, sum = 0, largest = 0;
        for (int64_t j = 0; j < k; j++)
            largest = fabs(centroids[j]) > largest ? fabs(centroids[j]) : largest;
        for (int64_t j = 0; j <= borders; j++) {
            double upto = all, until = moment[n] - moment[0];
            if (j < borders) {
                up_to(&points, limits[j], &upto, &until);
                until -= moment[0];
            }
            double part = upto - before, parts = until - sum;
            before = upto, sum = until;
            if (part > NOTHING * all) {
                masses[held] = part;
                moments[held++] = parts;
            }
        }
        int settled = held == k;
        for (int64_t j = 0; j < held; j++) {
            double mean = moments[j] / masses[j] + centre;
            settled &= fabs(mean - centroids[j]) <= SETTLED * largest;
            centroids[j] = mean;
            bits[j] = own / masses[j] - log_two(masses[j] / all);
        }
        k = held;
        if (settled)
            break;
    }
    free(room);
    return k;
}

/* Evenly spaced centroids that are the nearest to some of n ascending middles, at most `most` + 1 of them; how many. */
EXPORT int64_t lm_evenly(const double *middle, int64_t n, double mean, double step, int64_t most, double *centroids) {
    int64_t found = 0;
    double last = 0;
    for (int64_t i = 0; i < n && found <= most; i++) {
        double nearest = rint((middle[i] - mean) / step);
        if (i == 0 || nearest != last)
            centroids[found++] = mean + step * nearest;
        last = nearest;
    }
    return found;
}

/* Codes of values by k - 1 ascending limits, `width` bytes each; counts and sums of each code are added, those of at most
   CODED values at a time. Returns 0 where there is no memory. */
EXPORT int lm_assign(const float *values, int64_t n, const double *limits, int64_t k, int width, void *codes, double *counts,
                     double *sums) {
    double *part = calloc(2 * (size_t)k, sizeof *part);
    for (int64_t start = 0; part && start < n; start += CODED) {
        for (int64_t i = start; i < MIN(n, start + CODED); i++) {
            double value = values[i];
            int64_t at = 0, left = k - 1;
            while (left > 0) {
                int64_t half = left / 2;
                int above = limits[at + half] < value;
                at = above ? at + half + 1 : at;
                left = above ? left - half - 1 : half;
            }
            if (width == 1)
                ((uint8_t *)codes)[i] = (uint8_t)at;
            else if (width == 2)
                ((int16_t *)codes)[i] = (int16_t)at;
            else
                ((int32_t *)codes)[i] = (int32_t)at;
            part[at] += 1;
            part[k + at] += value;
        }
        for (int64_t j = 0; j < k; j++) {
            counts[j] += part[j], sums[j] += part[k + j];
            part[j] = part[k + j] = 0;
        }
    }
    int made = part != 0;
    free(part);
    return made;
}
