/* The hot loops of the fit, once for each path: PATH_NAME(name) and TARGET are set by who includes this. */

/* Scores of intervals that end at each of `width` candidates and begin at one of the `earlier` ones: the best of
   before[p] + score(p, c), the first one of equals, and which it was. Arrays have room for MOST_WIDTH. */
TARGET static void PATH_NAME(step)(int width, int earlier, const double *RESTRICT mass, const double *RESTRICT moment,
                                   const double *RESTRICT square, const double *RESTRICT mass0,
                                   const double *RESTRICT moment0, const double *RESTRICT square0,
                                   const double *RESTRICT before, double *RESTRICT score, int64_t *RESTRICT choice) {
    int padded = (width + 7) & ~7;
    for (int c = 0; c < padded; c++) {
        score[c] = -INFINITY;
        choice[c] = 0;
    }
    for (int p = 0; p < earlier; p++) {
        double m0 = mass0[p], s0 = moment0[p], b = before[p];
        if (square) {
            double q0 = square0[p];
            for (int c = 0; c < padded; c++) {
                double m = mass[c] - m0, s = moment[c] - s0, q = square[c] - q0;
                m = m <= 0 ? -1e-300 : m;
                double t = s * s / m - q;
                t = t > -1e-14 * q ? 0.0 : t;
                t += b;
                int better = t > score[c];
                score[c] = better ? t : score[c];
                choice[c] = better ? p : choice[c];
            }
        } else {
            for (int c = 0; c < padded; c++) {
                double m = mass[c] - m0, s = moment[c] - s0;
                m = m <= 0 ? -1e-300 : m;
                double t = s * s / m + b;
                int better = t > score[c];
                score[c] = better ? t : score[c];
                choice[c] = better ? p : choice[c];
            }
        }
    }
}

/* How many of the limits lie below each value. */
TARGET static void PATH_NAME(count_below)(const float *RESTRICT values, int64_t n, const float *RESTRICT limits, int count,
                                          uint8_t *RESTRICT codes) {
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        int32_t found[64] = {0};
        for (int j = 0; j < count; j++) {
            float limit = limits[j];
            for (int v = 0; v < 64; v++)
                found[v] += values[i + v] > limit;
        }
        for (int v = 0; v < 64; v++)
            codes[i + v] = (uint8_t)found[v];
    }
    for (; i < n; i++) {
        int found = 0;
        for (int j = 0; j < count; j++)
            found += values[i] > limits[j];
        codes[i] = (uint8_t)found;
    }
}

/* Cube roots of numbers that are not negative, in place, by one step of Halley's iteration from a guess: elementary
   operations only, the same everywhere. */
TARGET static void PATH_NAME(cube_roots)(double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, x + i, 8);
        uint64_t high = bits >> 32, low = bits & 0xFFFFFFFFu, third = high * 0xAAAAAAABu >> 33, less = low * 0xAAAAAAABu >> 33;
        uint64_t rest = high - 3 * third, more = rest + low - 3 * less;
        bits = (third << 32) + rest * 0x55555555u + less + (more >= 3); /* a third of them */
        bits += UINT64_C(0x2A9F789300000000);
        double y;
        memcpy(&y, &bits, 8);
        double cube = y * y * y, root = y * ((cube + 2 * x[i]) / (2 * cube + x[i]));
        x[i] = x[i] > 0 ? root : 0.0;
    }
}
