/* Points of one weight, as the fits on them use them. */
#ifndef LLOYDMAX_POINTS_H
#define LLOYDMAX_POINTS_H

#include "core.h"

/* Points of one weight: masses spread evenly over disjoint ascending intervals. */
typedef struct {
    int64_t n;
    const double *low, *high, *mass;
    const double *total, *moment;
    double centre;
} Points;

/* Mass and moment of everything not above a value. */
static inline void up_to(const Points *points, double value, double *total, double *moment) {
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

#endif
