/* The fit on the points of a large weight. Its twin is clustering/histogram.py. */
#include "floats.h"
#include "partition_core.h"
#include "points.h"

enum { LLOYD = 60 };
static const double SCARCE = 1e-9, SETTLED = 1e-6;

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
    Points points = {n, low, high, mass, total, moment, 0};
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
