/* What every file of the core shares: sizes, exports, and the paths that a machine may have. */
#ifndef LLOYDMAX_CORE_H
#define LLOYDMAX_CORE_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "the core and its Python twins agree only where float and double are computed as such"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define EXPORT __declspec(dllexport)
#define RESTRICT __restrict
#pragma fp_contract(off)
#else
#define EXPORT __attribute__((visibility("default")))
#define RESTRICT restrict
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif
#endif

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE __forceinline
#endif

#if defined(_WIN32) && defined(__clang__)
#undef EXPORT
#define EXPORT __declspec(dllexport)
#endif

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define CORE_X86 1
#else
#define CORE_X86 0
#endif

#if defined(__aarch64__) && defined(__GNUC__)
#define CORE_NEON 1
#else
#define CORE_NEON 0
#endif

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* Paths, from the least to the best; a machine has all up to its own. */
enum { PORTABLE = 0, AVX2 = 1, AVX512 = 2, AVX512VBMI = 3 }; /* the last: with VNNI, too */

extern int lm_path; /* the one that is taken */
void lm_make_tables(void);

/* A function of the path that is taken; where there is one path, that of it. */
#if CORE_X86
#define PATH(name) (lm_path >= AVX512 ? name##_avx512 : lm_path >= AVX2 ? name##_avx2 : name##_portable)
#else
#define PATH(name) name##_portable
#endif

/* Bytes that a path may read and write past an array that is marked as padded. */
enum { PADDING = 64 };

#endif
