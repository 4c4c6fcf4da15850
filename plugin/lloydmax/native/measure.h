/* The hot loops of measure.c, once for each path. */

TARGET static void PATH_NAME(ends_of)(const float *RESTRICT values, int64_t n, float *RESTRICT ends) {
    float least[16], most[16];
    for (int v = 0; v < 16; v++)
        least[v] = most[v] = values[0];
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < 16; v++) {
            float x = values[i + v];
            least[v] = x < least[v] ? x : least[v];
            most[v] = x > most[v] ? x : most[v];
        }
    for (; i < n; i++) {
        least[0] = values[i] < least[0] ? values[i] : least[0];
        most[0] = values[i] > most[0] ? values[i] : most[0];
    }
    ends[0] = least[0], ends[1] = most[0];
    for (int v = 1; v < 16; v++) {
        ends[0] = least[v] < ends[0] ? least[v] : ends[0];
        ends[1] = most[v] > ends[1] ? most[v] : ends[1];
    }
}

TARGET static void PATH_NAME(places_of)(const float *RESTRICT values, int64_t n, double low, double factor, int32_t bins,
                                        int32_t *RESTRICT places) {
    for (int64_t i = 0; i < n; i++) {
        double place = ((double)values[i] - low) * factor;
        place = place < 0 ? 0 : place > bins - 1 ? bins - 1 : place;
        places[i] = (int32_t)place;
    }
}

TARGET static void PATH_NAME(squares)(const float *RESTRICT values, const float *RESTRICT decoded, int64_t n,
                                      double *RESTRICT signal, double *RESTRICT noise) {
    double s[16], e[16];
    memcpy(s, signal, sizeof s);
    memcpy(e, noise, sizeof e);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < 16; v++) {
            double x = values[i + v], left = x - (double)decoded[i + v];
            s[v] += x * x;
            e[v] += left * left;
        }
    for (; i < n; i++) {
        double x = values[i], left = x - (double)decoded[i];
        s[0] += x * x;
        e[0] += left * left;
    }
    memcpy(signal, s, sizeof s);
    memcpy(noise, e, sizeof e);
}
