/* Which path of the core is taken. */
#include "core.h"

int lm_path = PORTABLE;

/* The best path of this machine. */
EXPORT int lm_best_path(void) {
#if CORE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512dq"))
        return AVX2;
    return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") ? AVX512VBMI : AVX512;
#else
    return PORTABLE;
#endif
}

/* Take a path, at most the best one, before anything else is asked for; returns it. */
EXPORT int lm_take_path(int path) {
    int best = lm_best_path();
    lm_path = MAX(PORTABLE, MIN(path, best));
    lm_make_tables();
    return lm_path;
}

/* The path that is taken. */
EXPORT int lm_path_taken(void) { return lm_path; }

/* What the Python beside it expects: one more whenever a function is added, or takes something else. */
EXPORT int lm_version(void) { return 5; }

/* 1 where the portable path has NEON's instructions. */
EXPORT int lm_neon(void) { return CORE_NEON; }

/* Tools that build extension modules look for this name. The core is no module: it is opened by ctypes. */
EXPORT void *PyInit__core(void) { return 0; }
