"""Optimal contiguous partition of sorted weighted points on a line, many rows at once.

In one dimension the clusters of k-means are intervals, so a clustering is k - 1 borders between sorted points,
and dynamic programming finds the best ones (Fisher 1958). Here every border has a window of candidates around
its present place, and all k - 1 borders are chosen jointly and exactly among their candidates; this is repeated
until nothing improves. The cost is concave Monge, and for such costs a choice that is best among all choices
with every border between its two neighbours is best of all: so wide windows on a few coarse cells find
the right region, and narrow windows on ever finer cells find the points. The start and the cells follow the
density of centroids of Panter & Dite (1951), the cube root of the density of the points.

The native core has the same in partition.c: elementary operations only, sums in the same order, the same borders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 1 << 16  # entries of the cost tensor that are worked on at once: they stay in the cache
_CELLS, _LEAST = 16, 128  # coarse cells: for each cluster, and at least
_FINER = 8  # how many cells of the next level make one cell
_WIDE, _NARROW = 16, 6  # candidates on either side of a border, on coarse cells and on finer ones
_BRIEF = 5  # the same on single points, when there are many rows
_ROUNDS = 40  # joint choices of all borders, at most
SCARCE = 1e-9  # error over the sum of squares, below which their difference has too few digits
_CUBE_ROOT = 0x2A9F789300000000  # a third of a float's bits and this are nearly the bits of its cube root
_PATIENCE, _LITTLE = 1 << 14, 4  # with thousands of clusters, fewer candidates and rounds: they are near optimal anyway


def prefix(points: Floats) -> Floats:
    """Cumulative sums along the last axis that start with 0: ``(rows, m)`` -> ``(rows, m + 1)``."""
    sums = np.zeros((*points.shape[:-1], points.shape[-1] + 1))
    np.cumsum(points, axis=-1, out=sums[..., 1:])
    return sums


def outward(points: Floats, middle: int) -> Floats:
    """Cumulative sums as in :func:`prefix`, but 0 at ``middle``: large values at the ends spoil no digits between."""
    sums = np.zeros((*points.shape[:-1], points.shape[-1] + 1))
    np.cumsum(points[..., middle:], axis=-1, out=sums[..., middle + 1 :])
    np.cumsum(-points[..., :middle][..., ::-1], axis=-1, out=sums[..., :middle][..., ::-1])
    return sums


def desire(values: Floats, mass: Floats | None = None) -> Floats:
    """How much each point attracts centroids: ``mass^(1/3) width^(2/3)``, the width from its neighbours.

    Args:
        values: ``(rows, m)``, ascending.
        mass: ``(rows, m)``, not negative; ``None`` for 1 everywhere.
    """
    width = np.empty_like(values)
    if values.shape[1] > 1:
        width[:, 1:-1] = values[:, 2:] - values[:, :-2]
        width[:, 0], width[:, -1] = values[:, 1] - values[:, 0], values[:, -1] - values[:, -2]
    else:
        width[:] = 1.0
    np.square(width, out=width)
    return _cube_root(width if mass is None else width * mass)


def _cube_root(values: Floats) -> Floats:
    """To five digits, by one step of Halley's iteration: elementary operations only, the same on every machine."""
    guess = (values.view(np.int64) // 3 + _CUBE_ROOT).view(np.float64)
    cube = guess * guess * guess
    return np.where(values > 0, guess * ((cube + 2 * values) / (2 * cube + values)), 0.0)


def total_of(points: Floats) -> Floats:
    """The sum along the last axis, from first to last."""
    return np.cumsum(points, axis=-1)[..., -1]


def panter_dite(desire: Floats, k: int) -> tuple[Floats, Floats]:
    """Where k centroids want to be: the cumulative cube root of the density, from 0 to 1 in each row.

    A single point gets at most half a cluster, however far away it lies.

    Args:
        desire: ``(rows, m)``, see :func:`desire`.
        k: number of clusters.

    Returns:
        The measure ``(rows, m + 1)``, and the error to expect ``(rows,)``: the cube of the whole over 12 k^2.
    """
    for _ in range(60):
        limit = total_of(desire)[:, None] / (2 * k)
        if not (desire > limit).any():
            break
        desire = np.minimum(desire, limit)
    measure = prefix(desire)
    total = measure[:, -1:]
    even = np.linspace(0, 1, measure.shape[1])
    cube = total[:, 0] * total[:, 0] * total[:, 0]
    return np.where(total > 0, measure / np.where(total > 0, total, 1), even), cube / (12 * k * k)


def partition(
    mass: Floats,
    moment: Floats,
    measure: Floats,
    k: int,
    square: Floats | None = None,
    finest: int | None = None,
    brief: bool = False,
) -> Ints:
    """The borders of the k intervals with the least squared error, in each row.

    Args:
        mass: ``(rows, m + 1)``, cumulative masses of the m points of a row, from 0.
        moment: ``(rows, m + 1)``, cumulative mass times value; centre the values, or digits are lost.
        measure: ``(rows, m + 1)``, see :func:`panter_dite`; it steers the search, not the result.
        k: number of intervals, ``1 <= k <= m``.
        square: ``(rows, m + 1)``, cumulative mass times squared value; slower, and needed where the error is less
            than ``SCARCE`` times the sum of squares.
        finest: stop at this many cells per interval; ``None`` goes on to single points.
        brief: rows are many: fewer candidates on single points.

    Returns:
        ``(rows, k + 1)`` indices, ascending, from 0 to m: interval j has the points ``[b[j], b[j + 1])``.
    """
    m, cells = mass.shape[1] - 1, max(_CELLS * k, _LEAST)
    reach = min(_WIDE, max(_LITTLE, _PATIENCE // k))
    thorough = _BRIEF if brief and cells < m else reach
    if cells >= m:
        return _descend(mass, moment, square, _edges(measure, k), thorough, (True, False))
    borders = np.broadcast_to(np.arange(k + 1) * cells // k, (len(mass), k + 1))
    wide = True
    while True:
        edges = _edges(measure, cells)
        coarse = None if square is None else _at(square, edges)
        borders = _descend(_at(mass, edges), _at(moment, edges), coarse, borders, reach, (wide,))
        if finest is not None and cells >= finest * k:
            return _at(edges, borders)
        if _FINER * cells >= m:
            return _descend(mass, moment, square, _at(edges, borders), thorough, (True, False))
        cells, borders, reach, wide = _FINER * cells, _FINER * borders, min(reach, _NARROW), False


def _at(table: NDArray, index: Ints, rows: Ints | None = None) -> NDArray:
    """``table[rows[i], index[i, ...]]`` for every i; ``rows`` are all rows if not given."""
    owner = np.arange(len(table)) if rows is None else rows
    return table.reshape(-1).take(index + owner.reshape(-1, *[1] * (index.ndim - 1)) * table.shape[1])


def _edges(measure: Floats, cells: int) -> Ints:
    """First point of each of ``cells`` cells of equal measure: ``(rows, cells + 1)``."""
    rows, width = measure.shape
    cell = (measure * cells).astype(np.int64)
    cell += np.arange(rows)[:, None] * (cells + 1)
    count = np.bincount(cell.reshape(-1), minlength=rows * (cells + 1)).reshape(rows, cells + 1)
    edges = np.zeros((rows, cells + 1), np.int64)
    np.cumsum(count[:, :-1], axis=1, out=edges[:, 1:])
    edges[:, -1] = width - 1
    return edges


def _descend(
    mass: Floats, moment: Floats, square: Floats | None, borders: Ints, reach: int, wide: tuple[bool, ...]
) -> Ints:
    """Improve the borders of every row until none of the given kinds of candidates has a better choice."""
    borders = borders.copy()
    if borders.shape[1] == 2:
        return borders
    value = np.full(len(borders), -np.inf)
    stuck = np.zeros(len(borders), dtype=np.int64)
    for turn in range(min(_ROUNDS, max(_LITTLE, 8 * _PATIENCE // borders.shape[1]))):
        active = np.flatnonzero(stuck < len(wide))
        if not len(active):
            break
        found, score = _best(mass, moment, square, borders[active], active, reach, wide[turn % len(wide)])
        better = score > value[active] + 1e-15 * np.abs(score)
        changed = active[better]
        stuck[active] += 1
        stuck[active[better & (found != borders[active]).any(axis=1)]] = 0
        borders[changed], value[changed] = found[better], score[better]
    return borders


def _best(
    mass: Floats, moment: Floats, square: Floats | None, borders: Ints, owner: Ints, reach: int, wide: bool
) -> tuple[Ints, Floats]:
    """The best choice of borders among candidates around the present ones, and its score.

    The score is the sum of squares that the intervals explain; with ``square``, minus the error that they leave.

    ``borders`` are those of the rows ``owner``. The candidates are ``reach`` steps to either side: of one point, or,
    if ``wide``, so that they go as far as the neighbouring borders.
    """
    rows, last = len(owner), mass.shape[1] - 1
    steps = np.arange(reach + 1)
    here = borders[:, 1:-1, None]
    if wide:
        span = np.diff(borders, axis=1)[:, :, None]
        left, right = here - span[:, :-1] * steps[:0:-1] // reach, here + span[:, 1:] * steps // reach
    else:
        left, right = here - steps[:0:-1], here + steps
    candidates = np.concatenate([left, right], axis=2)
    np.clip(candidates, 0, last, out=candidates)
    sums = [mass, moment] if square is None else [mass, moment, square]
    tables = [_at(table, candidates, owner) for table in sums]
    inner, width = candidates.shape[1:]

    score = np.empty(candidates.shape)
    choice = np.empty(candidates.shape, dtype=np.int16)
    score[:, 0] = _score(*(table[:, 0] - whole[owner, :1] for table, whole in zip(tables, sums, strict=True)))
    block = max(1, _BLOCK // (rows * width * width))
    for start in range(1, inner, block):
        stop = min(inner, start + block)
        this, before = slice(start, stop), slice(start - 1, stop - 1)
        gain = _score(*(table[:, this, :, None] - table[:, before, None, :] for table in tables))
        for j in range(start, stop):
            total = gain[:, j - start]
            total += score[:, j - 1, None, :]
            np.max(total, axis=-1, out=score[:, j])
        choice[:, this] = gain.argmax(axis=-1)
    final = score[:, -1] + _score(
        *(whole[owner, -1:] - table[:, -1] for table, whole in zip(tables, sums, strict=True))
    )

    pick = final.argmax(axis=1)
    row = np.arange(rows)
    found, best = borders.copy(), final[row, pick]
    for j in range(inner - 1, -1, -1):
        found[:, j + 1] = candidates[row, j, pick]
        pick = choice[row, j, pick].astype(np.intp) if j else pick
    return found, best


def _score(mass: Floats, moment: Floats, square: Floats | None = None) -> Floats:
    """Score of intervals, minus infinity for a reversed one. In place."""
    np.copyto(mass, -1e-300, where=mass <= 0)
    np.square(moment, out=moment)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(moment, mass, out=moment)
        if square is not None:
            moment -= square
            np.copyto(moment, 0, where=moment > -1e-14 * square)  # no more than rounding
    return moment
