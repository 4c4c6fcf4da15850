/* The partition of sorted points, as the fits of rows and of histograms use it. */
#ifndef LLOYDMAX_PARTITION_CORE_H
#define LLOYDMAX_PARTITION_CORE_H

#include "core.h"

enum { MOST_WIDTH = 40 };

/* Cumulative sums of `points` points, `points + 1` long; `square` may be 0. */
typedef struct {
    int64_t points;
    const double *mass, *moment, *square;
} Sums;

/* Room for partitions of at most m points into at most k intervals. */
typedef struct {
    double *coarse[3];
    int64_t *edges, *found, *candidates;
    uint8_t *choice;
    char *room;
} Work;

int work_make(Work *work, int64_t m, int64_t k);
void work_free(Work *work);

/* How much each of m ascending points attracts centroids; `mass` may be 0. */
void desires(const double *values, const double *mass, int64_t m, double *wanted);

/* Where k centroids want to be, `measure` of m + 1 numbers from 0 to 1; returns the error to expect. Changes `wanted`. */
double panter_dite(double *wanted, int64_t m, int64_t k, double *measure);

/* The borders, k + 1 of them, of the k intervals with the least squared error. `finest` < 0: go on to single points. */
void partition(const Sums *sums, const double *measure, int64_t k, int64_t finest, int brief, Work *work, int64_t *borders);

/* How many of at most 255 limits lie below each value. */
void below(const float *values, int64_t n, const float *limits, int count, uint8_t *codes);

#endif
