"""Codes chosen column by column: the columns that are left make up for the errors of those before.

Frantar, Ashkboos, Hoefler & Alistarh (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", with the centroids of a codebook as the levels, and, where bits have a price, with the price in the
choice. The output error of a weight's error is ``e H e^T``, ``H`` the second moments of the layer's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lloydmax.extend import code_dtype
from torch import Tensor

from lloydmax_strategies.reconstruction.cheapest import Choice, Distances, Limits

_FLOATS = 1 << 22
"""Weights that are done at once."""
_MANY = 32
"""Rows from which limits between codes are worth their making."""
_NOISE = 1e-6
"""Of the largest moment: rounding errors."""
_ITERATIONS = 30
"""Of the conjugate gradients, at most."""


class Factors:
    """``H``, damped, its columns sorted by falling diagonal, as what error feedback needs.

    Args:
        moments: ``(groups, columns, columns)``, float64.
        damping: of the mean of the diagonal of each group, is added to the diagonal.

    Attributes:
        order: of the columns, int64 ``(groups, columns)``.
        upper: float32 ``U`` with ``U^T U`` the inverse of the damped moments.
        relief: float32 ``(groups, columns)``: squares of the diagonal of ``U``. The output error that an error ``e`` in
            a column adds, once the columns after it have made up for what they can, is ``e ** 2 / relief``.
    """

    def __init__(self, moments: Tensor, damping: float) -> None:
        diagonal = moments.diagonal(dim1=1, dim2=2)
        self.order = diagonal.argsort(dim=1, descending=True, stable=True)
        mean = diagonal.mean(1, keepdim=True)
        mean = torch.where(mean > 0, mean, 1.0)
        sorted_ = moments.gather(1, self.order[:, :, None].expand_as(moments))
        sorted_ = sorted_.gather(2, self.order[:, None, :].expand_as(moments))
        sorted_.diagonal(dim1=1, dim2=2).add_(damping * mean)
        lower = _cholesky(sorted_.flip(1, 2)).flip(1, 2)
        unit = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
        self.upper = torch.linalg.solve_triangular(lower, unit.expand_as(lower), upper=True).float()
        self.relief = self.upper.diagonal(dim1=1, dim2=2).square()

    def solved(self, cross: Tensor) -> Tensor:
        """Rows ``(groups, rows, columns)``, float32, times the inverse of the damped moments."""
        places = self.order[:, None, :].expand_as(cross)
        found = cross.gather(2, places) @ self.upper.mT @ self.upper
        return torch.empty_like(found).scatter_(2, places, found)


def _cholesky(moments: Tensor) -> Tensor:
    """The lower factor; where inputs hardly vary, rounding errors are first outweighed by more on the diagonal."""
    more = _NOISE * moments.diagonal(dim1=1, dim2=2).abs().amax(1, keepdim=True).clamp(min=1e-30)
    while True:
        lower, failed = torch.linalg.cholesky_ex(moments)
        if not bool(failed.any()):
            return lower
        moments = moments + torch.diag_embed((more * (failed > 0)[:, None]).expand(-1, moments.shape[1]))
        more = 10 * more


def feedback(
    weight: Tensor,
    factors: Factors,
    table: Tensor,
    bits: Tensor | None = None,
    price: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """Codes with a small output error.

    Args:
        weight: float32 ``(groups, rows, columns)``.
        factors: of the same groups and columns.
        table: centroids, float32 ``(k,)`` for all rows, or ``(groups, rows, k)``.
        bits: of every code, float32 ``(k,)``; ``None``: every weight takes the nearest centroid.
        price: of a bit in squared units of the weight, float32 ``(groups, columns)``, columns in the order of
            ``factors``.
        given: codes that are not to be chosen, integers in the shape of ``weight``; -1 where they are.

    Returns:
        Integers in the shape of ``weight``, of the dtype that codes of so many centroids have.
    """
    by_limits = table.dim() == 1 and weight.shape[1] >= _MANY
    choice: Choice = Limits(table, bits, price) if by_limits else Distances(table, bits, price)
    found = torch.empty(weight.shape, dtype=code_dtype(table.shape[-1]), device=weight.device)
    step = max(1, _FLOATS // (len(weight) * weight.shape[2]))
    for start in range(0, weight.shape[1], step):
        rows = slice(start, start + step)
        fixed = None if given is None else given[:, rows]
        found[:, rows] = _of_rows(weight[:, rows], factors, choice.of(rows), fixed)
    return found


def _of_rows(weight: Tensor, factors: Factors, choice: Choice, given: Tensor | None) -> Tensor:
    """The same for some rows; columns are the second axis within, so that what is done to one of them is in one piece
    of memory."""
    order, upper = factors.order, factors.upper
    group = torch.arange(len(order), device=order.device)[:, None]
    left = weight.mT.contiguous()[group, order]
    given = None if given is None else given.mT.contiguous()[group, order]
    codes = torch.empty(left.shape, dtype=code_dtype(choice.k), device=left.device)

    _Columns(left, codes, upper, choice, given).done(0, left.shape[1])
    found = torch.empty_like(codes)
    found[group, order] = codes
    return found.mT


class _Columns(NamedTuple):
    """Of some rows, in the order in which they are done: what is left of the weights, codes, and what these follow."""

    left: Tensor
    codes: Tensor
    upper: Tensor
    choice: Choice
    given: Tensor | None

    def done(self, start: int, end: int) -> None:
        """Columns, whose errors then take the place of their weights: one half, what the other half is to make up for,
        and that half."""
        left, upper, given = self.left, self.upper, self.given
        if end - start == 1:
            values = left[:, start]
            chosen = self.choice.made(values, start)
            if given is not None:
                chosen = torch.where(given[:, start] < 0, chosen, given[:, start])
            self.codes[:, start] = chosen
            values.sub_(self.choice.decoded(chosen)).div_(upper[:, start, start, None])
            return
        middle = (start + end) // 2
        self.done(start, middle)
        left[:, middle:end].baddbmm_(upper[:, start:middle, middle:end].mT, left[:, start:middle], alpha=-1)
        self.done(middle, end)


def output_errors(error: Tensor, moments: Tensor) -> Tensor:
    """The mean squares that an error of the weight, float32 ``(groups, rows, columns)``, makes in the outputs: float64
    ``(groups, rows)``, one for each output channel."""
    moments = moments.float()
    return torch.cat([(part @ moments).mul_(part).sum(2, dtype=torch.float64) for part in _parts(error)], 1)


def squares(weight: Tensor) -> Tensor:
    """The sums of squares of the rows of ``(groups, rows, columns)``: float64 ``(groups, rows)``."""
    return torch.cat([part.square().sum(2, dtype=torch.float64) for part in _parts(weight)], 1)


def _parts(rows: Tensor) -> Sequence[Tensor]:
    """Some of the rows of each group after the other."""
    found: Sequence[Tensor] = rows.split(max(1, _FLOATS // (len(rows) * rows.shape[2])), 1)
    return found


def refitted(
    centroids: Tensor,
    weight: Tensor,
    moments: Tensor,
    decode: Callable[[Tensor], Tensor],
    gather: Callable[[Tensor], Tensor],
) -> Tensor:
    """The centroids with the least output error for fixed codes: least squares, by conjugate gradients, which need no
    matrix of all pairs of centroids.

    Args:
        centroids: to start from; any shape, float32.
        weight: float32 ``(groups, rows, columns)``.
        moments: float64 ``(groups, columns, columns)``.
        decode: centroids -> weight in the shape of ``weight``; linear.
        gather: its transpose: sums over the members of each centroid.
    """
    moments, found = moments.float(), centroids.clone()
    residual = gather((weight - decode(found)) @ moments)
    direction, power = residual, float(residual.square().sum(dtype=torch.float64))
    enough = 1e-10 * power
    for _ in range(_ITERATIONS):
        if power <= enough:
            break
        image = decode(direction)
        curvature = float(((image @ moments) * image).sum(dtype=torch.float64))
        if curvature <= 0:
            break
        step = power / curvature
        found = found + step * direction
        residual = residual - step * gather(image @ moments)
        before, power = power, float(residual.square().sum(dtype=torch.float64))
        direction = residual + power / before * direction
    return found
