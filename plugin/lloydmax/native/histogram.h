/* The keys of values, once for each path: trunc(32767 u) with u = (x - centre) / (scale + |x - centre|). */
TARGET static float PATH_NAME(keys_of)(const float *RESTRICT values, int64_t n, float centre, float scale,
                                       int16_t *RESTRICT keys) {
    float tops[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int v = 0; v < 16; v++) {
            float u = values[i + v] - centre, a = fabsf(u);
            tops[v] = a > tops[v] ? a : tops[v];
            u = u / (a + scale) * 32767.0f;
            keys[i + v] = (int16_t)(int32_t)u;
        }
    }
    for (; i < n; i++) {
        float u = values[i] - centre, a = fabsf(u);
        tops[0] = a > tops[0] ? a : tops[0];
        u = u / (a + scale) * 32767.0f;
        keys[i] = (int16_t)(int32_t)u;
    }
    for (int v = 1; v < 16; v++)
        tops[0] = tops[v] > tops[0] ? tops[v] : tops[0];
    return tops[0];
}
