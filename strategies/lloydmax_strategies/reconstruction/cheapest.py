"""Which code a weight takes in one column of error feedback: the nearest centroid, or where bits have a price, the one
with the least squared error and price together.

Where all rows have one table, its codes lie between limits, which a weight is looked up in; else distances to all
centroids are compared.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from lloydmax.extend import cheapest
from torch import Tensor

_FLOATS = 1 << 22
"""Distances that are held at once."""
_NEVER = 1e6
"""Bits of a code that no weight has."""


class Choice(Protocol):
    """Of one of so many codes, for some rows."""

    k: int

    def of(self, rows: slice) -> Choice:
        """The same for some of the rows."""

    def made(self, values: Tensor, column: int) -> Tensor:
        """Codes, int64, of the values ``(groups, rows)`` of a column."""

    def decoded(self, codes: Tensor) -> Tensor:
        """The centroids of codes ``(groups, rows)``."""


class Distances:
    """To all centroids.

    Args:
        table: float32 ``(k,)``, or ``(groups, rows, k)``.
        bits: of every code, float32 ``(k,)``; ``None``: they have no price.
        price: of a bit, float32 ``(groups, columns)``.
    """

    def __init__(self, table: Tensor, bits: Tensor | None = None, price: Tensor | None = None) -> None:
        self.k, self._table, self._bits, self._price = table.shape[-1], table, bits, price

    def of(self, rows: slice) -> Distances:
        """The same for some of the rows."""
        return self if self._table.dim() == 1 else Distances(self._table[:, rows], self._bits, self._price)

    def made(self, values: Tensor, column: int) -> Tensor:
        """Codes of a column."""
        table, cost = self._table, None
        if self._bits is not None and self._price is not None:
            cost = self._price[:, column, None, None] * self._bits
        step = max(1, _FLOATS // (len(values) * table.shape[-1]))
        found = []
        for start in range(0, values.shape[1], step):
            here = table if table.dim() == 1 else table[:, start : start + step]
            distance = (values[:, start : start + step, None] - here).square_()
            found.append((distance if cost is None else distance.add_(cost)).argmin(2))
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def decoded(self, codes: Tensor) -> Tensor:
        """Their centroids."""
        table = self._table
        return table.take(codes) if table.dim() == 1 else table.gather(2, codes[..., None])[..., 0]


class Limits:
    """The values at which one code gives way to the next, for each group and column.

    Args:
        table: float32 ``(k,)``.
        bits: see :class:`Distances`.
        price: see there.
    """

    def __init__(self, table: Tensor, bits: Tensor | None = None, price: Tensor | None = None) -> None:
        self.k, self._table = len(table), table
        order = table.argsort(stable=True)
        places = table[order].double().cpu().numpy()
        cost, prices = np.zeros(len(places)), np.zeros((1, 1))
        if bits is not None and price is not None:
            cost = np.minimum(bits[order].double().cpu().numpy(), _NEVER)
            prices = price.double().cpu().numpy()
        gaps = np.diff(places)
        with np.errstate(divide="ignore", invalid="ignore"):
            limits = (places[1:] + places[:-1]) / 2 + prices[..., None] * (np.diff(cost) / (2 * gaps))
            plain = (np.diff(limits) > 0).all(2) & (gaps > 0).all()
        codes = np.broadcast_to(order.cpu().numpy(), (*prices.shape, len(places))).copy()
        for at in map(tuple, np.argwhere(~plain)):
            kept, found = cheapest(places, cost, float(prices[at]))
            limits[at] = np.append(found, np.full(limits.shape[2] - len(found), np.inf))
            codes[at][: len(kept)] = codes[at][kept]
        self._limits = torch.from_numpy(limits.astype(np.float32)).to(table.device)
        self._codes = torch.from_numpy(codes).to(table.device)
        self._as_they_are = (plain & bool((order.diff() == 1).all())).all(0)

    def of(self, rows: slice) -> Limits:
        """The same for some of the rows."""
        return self

    def made(self, values: Tensor, column: int) -> Tensor:
        """Codes of a column."""
        at = column % self._limits.shape[1]
        limits = self._limits[:, at].expand(len(values), -1).contiguous()
        found = torch.searchsorted(limits, values.contiguous())
        return found if self._as_they_are[at] else self._codes[:, at].expand(len(values), -1).gather(1, found)

    def decoded(self, codes: Tensor) -> Tensor:
        """Their centroids."""
        return self._table.take(codes)
