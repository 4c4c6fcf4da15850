"""Codes of some output channels that keep their outputs, at the entropy from before."""

from __future__ import annotations

from dataclasses import replace

import torch
from lloydmax import Codebook
from lloydmax.extend import Layout
from torch import Tensor

from lloydmax_strategies.reconstruction.feedback import Factors, feedback, output_errors

_ROUNDS, _TOLERANCE = 8, 0.005
"""Until codes whose bits have a price have the entropy from before, or a little less."""
_MORE, _TRIES = 10.0, 3
"""By which the damping grows where codes are farther from the weights than zeros, and how often it is tried."""
_FEW = 1 << 21
"""Weights, of a larger one, that tell which price gives them that entropy."""
_STEEPER = 4
"""Times as much must a price alone grow, as one with the distance of centroids, to save a bit."""


def errors(weight: Tensor, book: Codebook, moments: Tensor) -> Tensor:
    """Of the outputs, for each output channel: float64 ``(groups * rows,)``.

    Args:
        weight: wanted, float32 ``(groups, rows, columns)``.
        book: of the same, ``(groups * rows, columns)``.
        moments: float64 ``(groups, columns, columns)``.
    """
    if len(weight) > 1:
        return output_errors(weight - book.dequantize().float().view_as(weight), moments).flatten()
    moments = moments.float()
    parts = ((weight[:, rows], part.dequantize().float()) for rows, part in book.parts())
    return torch.cat([output_errors(some - dense, moments)[0] for some, dense in parts])


def choice(
    weight: Tensor, zeros: Tensor, held: Codebook, moments: Tensor, damping: float, free: bool, idle: Tensor
) -> Codebook:
    """Codes with less output error than those that are held, and no more entropy where bits have a price.

    Where inputs hardly vary, codes with little output error may be farther from the weights than zeros are: then the
    damping grows, and if that does not help, the codes stay.

    Args:
        weight: wanted, float32 ``(groups, rows, columns)``.
        zeros: the original, in whose place zeros are kept, in the shape of ``held``.
        held: the codes from before, ``(groups * rows, columns)``.
        moments: float64 ``(groups, columns, columns)``.
        damping: see :class:`Factors`.
        free: whether the centroids may change, all by one factor.
        idle: bool ``(groups,)``: nothing is known of these groups, and their codes stay.
    """
    if held.starves(zeros):
        return _chosen(weight, zeros, held, moments, damping, free, idle)
    tries = (_chosen(weight, zeros, held, moments, damping * _MORE**more, free, idle) for more in range(_TRIES))
    return next((tried for tried in tries if not tried.starves(zeros)), held)


def _chosen(
    weight: Tensor, zeros: Tensor, held: Codebook, moments: Tensor, damping: float, free: bool, idle: Tensor
) -> Codebook:
    factors, table = Factors(moments, damping), held.centroids.float()
    if held.granularity != "tensor":
        table = table[held.layout.owners(table.device)].view(*weight.shape[:2], held.k)
    given = None
    if held.zeros:
        given = held.zeros_kept(zeros, torch.full(held.shape, -1, device=weight.device)).view_as(weight).long()
    if bool(idle.any()):
        given = torch.full_like(weight, -1, dtype=torch.int64) if given is None else given
        given[idle] = held.codes.view_as(weight)[idle].long()
    units = _units(held).view(*weight.shape[:2], 1) if held.price and held.granularity != "tensor" else None
    scaled = weight
    if units is not None:
        scaled, table = weight / units, table / units

    def coded(rows: slice, book: Codebook, scale: float = 1.0, price: Tensor | None = None) -> Codebook:
        bits = None if price is None else book.priced_bits().float()
        here = table if table.dim() == 1 else table[:, rows]
        fixed = None if given is None else given[:, rows]
        codes = feedback(scaled[:, rows], factors, here * scale, bits, price, fixed)
        return replace(book, centroids=held.centroids * scale, codes=codes.view(book.shape).to(held.codes.dtype))

    if not held.price:
        tried = coded(slice(None), held)
        better = errors(weight, tried, moments) < errors(weight, held, moments)
        return replace(tried, codes=torch.where(better[:, None], tried.codes, held.codes))
    price, step = held.price * factors.relief / factors.relief.log().mean().exp(), 1.0

    def settled(rows: slice, book: Codebook) -> Codebook:
        """With the entropy from before, or a little less; the step that does it is kept."""
        nonlocal step
        wanted = book.entropy
        for _ in range(_ROUNDS):
            book = coded(rows, book, step if free else 1.0, price * step**2)
            if wanted * (1 - _TOLERANCE) <= book.entropy <= wanted:
                break
            step *= 2 ** ((book.entropy - wanted * (1 - _TOLERANCE / 2)) * (1 if free else _STEEPER))
        return book

    every = weight.numel() // _FEW
    if every > 1 and table.dim() == 1 and len(weight) == 1:  # some rows tell what all of them need
        settled(slice(None, None, every), _rows_of(held, slice(None, None, every)))
    tried = settled(slice(None), held)
    each = 1.0 if units is None else units.flatten() ** 2
    found = [float((errors(weight, book, moments) / each).sum()) for book in (tried, held)]
    return tried if tried.entropy <= held.entropy and found[0] < found[1] else held


def _rows_of(book: Codebook, rows: slice) -> Codebook:
    """The codebook of some rows of one that all of them share."""
    codes = book.codes[rows].contiguous()
    return Codebook.of(Layout(tuple(codes.shape), book.k), book.centroids, codes, book.price, book.zeros)


def _units(held: Codebook) -> Tensor:
    """By which an output channel is divided so that a bit has the same price in all of them, ``(rows,)``."""
    return (held.prices() / held.price).sqrt().float()[held.layout.owners(held.codes.device)]
