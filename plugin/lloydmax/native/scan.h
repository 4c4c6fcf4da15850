/* The keys of values, once for each path: trunc(32767 u) with u = (x - centre) / (scale + |x - centre|), from 32768 on. */
TARGET static float PATH_NAME(keys_of)(const float *RESTRICT values, int64_t n, float centre, float scale,
                                       uint16_t *RESTRICT keys) {
    float tops[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int v = 0; v < 16; v++) {
            float u = values[i + v] - centre, a = fabsf(u);
            tops[v] = a > tops[v] ? a : tops[v];
            u = u / (a + scale) * 32767.0f;
            keys[i + v] = (uint16_t)((int32_t)u ^ 0x8000);
        }
    }
    for (; i < n; i++) {
        float u = values[i] - centre, a = fabsf(u);
        tops[0] = a > tops[0] ? a : tops[0];
        u = u / (a + scale) * 32767.0f;
        keys[i] = (uint16_t)((int32_t)u ^ 0x8000);
    }
    for (int v = 1; v < 16; v++)
        tops[0] = tops[v] > tops[0] ? tops[v] : tops[0];
    return tops[0];
}

/* The intervals of values of keys, as far as `top` from the centre. */
TARGET static void PATH_NAME(intervals)(double centre, double scale, double top, const int64_t *RESTRICT keys, int64_t n,
                                        double *RESTRICT low, double *RESTRICT high) {
    const double closest = 1 - 0x1p-23;
    for (int64_t i = 0; i < n; i++) {
        double key = (double)(keys[i] - (1 << 15)), from = (key - (key <= 0)) / 32767, to = (key + (key >= 0)) / 32767;
        from = from < -1 ? -1 : from > closest ? closest : from;
        to = to < -closest ? -closest : to > 1 ? 1 : to;
        from *= scale / (1 - fabs(from));
        to *= scale / (1 - fabs(to));
        from = from < -top ? -top : from > top ? top : from;
        to = to < -top ? -top : to > top ? top : to;
        low[i] = from + centre;
        high[i] = to + centre;
    }
}
