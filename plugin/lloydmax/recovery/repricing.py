"""A file that recovery made too large is brought back to its size: codes that are dear give way to cheaper ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from lloydmax.format.sizes import Sizes
from lloydmax.student.attachment import codebooks, recode

_FIRST, _LAST = -6, 10
"""Multiples of the price of a bit that are tried, as powers of the root of two."""


def within(model: nn.Module, most: int, measured: Callable[[nn.Module], Sizes]) -> Sizes:
    """What a model takes, in place with other codes where that is more than it may be.

    Every weight chooses among the centroids anew, from where it is now, at the lowest price of a bit at which the file
    is small enough. Codebooks whose bits have no price, see :class:`~lloydmax.Codebook`, stay.

    Args:
        model: finished.
        most: bytes of the file.
        measured: what a model takes.
    """
    sizes = measured(model)
    held = {name: one for name, one in codebooks(model).items() if one.price and one.k > 1}
    held = {name: replace(one, codes=one.codes.clone()) for name, one in held.items()} if sizes.file > most else {}
    for step in range(_FIRST, _LAST if held else _FIRST):
        for name, one in held.items():
            cheaper = replace(one, price=one.price * 2 ** (step / 2)).reassigned(one.dequantize())
            if bool((cheaper.codes != cheaper.codes.view(-1)[0]).any()):  # not all weights become one
                recode(model, name, cheaper.codes)
        sizes = measured(model)
        if sizes.file <= most:
            break
    return sizes
