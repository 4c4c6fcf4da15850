/* The optimal contiguous partition of sorted points. Its twin, clustering/partition.py, explains the method; both do the
   same operations in the same order, so that they give the same borders, bit for bit. */
#include "partition_core.h"

#define PATH_NAME(name) name##_portable
#define TARGET
#include "partition.h"
#undef PATH_NAME
#undef TARGET

#if CORE_X86
#define PATH_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "partition.h"
#undef PATH_NAME
#undef TARGET

#define PATH_NAME(name) name##_avx512
#ifdef __clang__ /* ignores the whole attribute where it does not know a word of it */
#define TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif
#include "partition.h"
#undef PATH_NAME
#undef TARGET
#endif

enum { CELLS = 16, LEAST = 128, FINER = 8, WIDE = 16, NARROW = 6, BRIEF = 5, ROUNDS = 40, PATIENCE = 1 << 14, LITTLE = 4 };

void below(const float *values, int64_t n, const float *limits, int count, uint8_t *codes) {
    PATH(count_below)(values, n, limits, count, codes);
}

void desires(const double *values, const double *mass, int64_t m, double *wanted) {
    for (int64_t i = 0; i < m; i++) {
        double width = m == 1 ? 1.0 : values[MIN(i + 1, m - 1)] - values[MAX(i - 1, 0)];
        width *= width;
        wanted[i] = mass ? width * mass[i] : width;
    }
    PATH(cube_roots)(wanted, m);
}

double panter_dite(double *wanted, int64_t m, int64_t k, double *measure) {
    double total = 0;
    for (int round = 0; round < 60; round++) {
        double sum = 0;
        for (int64_t i = 0; i < m; i++)
            sum += wanted[i];
        double limit = sum / (double)(2 * k);
        int above = 0;
        for (int64_t i = 0; i < m; i++) {
            int over = wanted[i] > limit;
            wanted[i] = over ? limit : wanted[i];
            above |= over;
        }
        if (!above)
            break;
    }
    measure[0] = 0;
    for (int64_t i = 0; i < m; i++) {
        total += wanted[i];
        measure[i + 1] = total;
    }
    double step = 1.0 / (double)m;
    for (int64_t i = 0; i <= m; i++)
        measure[i] = total > 0 ? measure[i] / total : i == m ? 1.0 : (double)i * step;
    return total * total * total / (double)(12 * k * k);
}

/* First point of each of so many cells of equal measure. */
static void cell_edges(const double *measure, int64_t m, int64_t cells, int64_t *edges) {
    int64_t at = 0;
    edges[0] = 0;
    for (int64_t c = 1; c < cells; c++) {
        while (at <= m && (int64_t)(measure[at] * (double)cells) < c)
            at++;
        edges[c] = at;
    }
    edges[cells] = m;
}

static double score_of(double mass, double moment, double square, int squares) {
    if (mass <= 0)
        mass = -1e-300;
    double t = moment * moment / mass;
    if (squares) {
        t -= square;
        if (t > -1e-14 * square)
            t = 0;
    }
    return t;
}

/* Places around a border, ascending, no two alike: `reach` steps to either side, of one point or, if `wide`, as far as the
   neighbours; how many. */
static int places(const int64_t *borders, int64_t j, int64_t last, int64_t reach, int wide, int64_t *found) {
    int64_t here = borders[j], left = here - borders[j - 1], right = borders[j + 1] - here;
    int count = 0;
    if (wide && left <= reach && right <= reach) { /* every point up to there is one */
        for (int64_t at = here - left; at <= here + right; at++)
            found[count++] = at;
        return count;
    }
    for (int64_t s = -reach; s <= reach; s++) {
        int64_t at = here + s;
        if (wide)
            at = s < 0 ? here - left * -s / reach : here + right * s / reach;
        at = MAX(0, MIN(at, last));
        found[count] = at;
        count += !count || found[count - 1] != at;
    }
    return count;
}

/* The best choice of borders among candidates around the present ones: `found`, and its score. */
static double best(const Sums *sums, const int64_t *borders, int64_t k, int64_t reach, int wide, Work *work, int64_t *found) {
    int most = (int)(2 * reach + 1), width = 0;
    int64_t inner = k - 1, last = sums->points;
    const double *tables[3] = {sums->mass, sums->moment, sums->square};
    double now[3][MOST_WIDTH], then[3][MOST_WIDTH], score[MOST_WIDTH], before[MOST_WIDTH];
    int64_t choice[MOST_WIDTH];
    int kinds = sums->square ? 3 : 2;
    for (int64_t j = 0; j < inner; j++) {
        int64_t *candidates = work->candidates + j * most;
        int earlier = width, padded;
        width = places(borders, j + 1, last, reach, wide, candidates);
        padded = (width + 7) & ~7;
        for (int t = 0; t < kinds; t++) {
            memcpy(then[t], now[t], sizeof now[t]);
            for (int c = 0; c < padded; c++)
                now[t][c] = tables[t][candidates[MIN(c, width - 1)]];
        }
        if (j == 0) {
            for (int c = 0; c < width; c++)
                score[c] = score_of(now[0][c] - tables[0][0], now[1][c] - tables[1][0],
                                    kinds == 3 ? now[2][c] - tables[2][0] : 0, kinds == 3);
        } else {
            memcpy(before, score, sizeof score);
            PATH(step)(width, earlier, now[0], now[1], kinds == 3 ? now[2] : 0, then[0], then[1], kinds == 3 ? then[2] : 0,
                       before, score, choice);
            for (int c = 0; c < width; c++)
                work->choice[j * most + c] = (uint8_t)choice[c];
        }
    }
    int pick = 0;
    double top = 0;
    for (int c = 0; c < width; c++) {
        double t = score[c] + score_of(tables[0][last] - now[0][c], tables[1][last] - now[1][c],
                                       kinds == 3 ? tables[2][last] - now[2][c] : 0, kinds == 3);
        if (c == 0 || t > top) {
            top = t;
            pick = c;
        }
    }
    found[0] = borders[0];
    found[k] = borders[k];
    for (int64_t j = inner - 1; j >= 0; j--) {
        found[j + 1] = work->candidates[j * most + pick];
        pick = j ? work->choice[j * most + pick] : 0;
    }
    return top;
}

enum { SPREAD = 1, SINGLE = 2 }; /* kinds of candidates: as far as the neighbours, and one by one */

/* Improve the borders until no kind of candidates has a better choice; where there are both, they take turns. */
static void descend(const Sums *sums, int64_t *borders, int64_t k, int64_t reach, int kinds, Work *work) {
    if (k == 1)
        return;
    double value = -INFINITY;
    int64_t rounds = MIN(ROUNDS, MAX(LITTLE, 8 * (int64_t)PATIENCE / (k + 1)));
    int stuck = 0, both = kinds == (SPREAD | SINGLE);
    for (int64_t turn = 0; turn < rounds && stuck < 1 + both; turn++) {
        int wide = both ? turn % 2 == 0 : kinds == SPREAD;
        double score = best(sums, borders, k, reach, wide, work, work->found);
        int better = score > value + 1e-15 * fabs(score);
        int moved = memcmp(work->found, borders, (size_t)(k + 1) * sizeof *borders) != 0;
        stuck = better && moved ? 0 : stuck + 1;
        if (better) {
            memcpy(borders, work->found, (size_t)(k + 1) * sizeof *borders);
            value = score;
        }
    }
}

static void gather(double *out, const double *table, const int64_t *at, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        out[i] = table[at[i]];
}

void partition(const Sums *sums, const double *measure, int64_t k, int64_t finest, int brief, Work *work, int64_t *borders) {
    int64_t m = sums->points, cells = MAX(CELLS * k, LEAST);
    int64_t reach = MIN(WIDE, MAX(LITTLE, PATIENCE / k));
    int64_t thorough = brief && cells < m ? BRIEF : reach;
    if (cells >= m) {
        cell_edges(measure, m, k, borders);
        descend(sums, borders, k, thorough, SPREAD | SINGLE, work);
        return;
    }
    for (int64_t j = 0; j <= k; j++)
        borders[j] = j * cells / k;
    for (int kind = SPREAD;; kind = SINGLE) {
        cell_edges(measure, m, cells, work->edges);
        Sums coarse = {cells, work->coarse[0], work->coarse[1], sums->square ? work->coarse[2] : 0};
        gather(work->coarse[0], sums->mass, work->edges, cells + 1);
        gather(work->coarse[1], sums->moment, work->edges, cells + 1);
        if (sums->square)
            gather(work->coarse[2], sums->square, work->edges, cells + 1);
        descend(&coarse, borders, k, reach, kind, work);
        int done = finest >= 0 && cells >= finest * k, last = FINER * cells >= m;
        if (done || last) {
            for (int64_t j = 0; j <= k; j++)
                borders[j] = work->edges[borders[j]];
            if (!done)
                descend(sums, borders, k, thorough, SPREAD | SINGLE, work);
            return;
        }
        cells *= FINER;
        for (int64_t j = 0; j <= k; j++)
            borders[j] *= FINER;
        reach = MIN(reach, NARROW);
    }
}

int work_make(Work *work, int64_t m, int64_t k) {
    size_t points = (size_t)m + 1, many = (size_t)k * (2 * WIDE + 1);
    size_t doubles = 3 * points * sizeof(double), whole = (points + (size_t)k + 1) * sizeof(int64_t);
    char *room = work->room = malloc(doubles + whole + many * (sizeof(int64_t) + 1));
    if (!room)
        return 0;
    for (int t = 0; t < 3; t++, room += points * sizeof(double))
        work->coarse[t] = (double *)room;
    work->edges = (int64_t *)room;
    room += points * sizeof(int64_t);
    work->found = (int64_t *)room;
    room += ((size_t)k + 1) * sizeof(int64_t);
    work->candidates = (int64_t *)room;
    room += many * sizeof(int64_t);
    work->choice = (uint8_t *)room;
    return 1;
}

void work_free(Work *work) { free(work->room); }
