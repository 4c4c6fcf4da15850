"""A file that recovery made too large is brought back to its size: codes that are dear give way to cheaper ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.format import steps
from lloydmax.format.sizes import Sizes
from lloydmax.student.attachment import codebooks, recode

_FIRST, _LAST = -6, 10
"""Multiples of the price of a bit that are tried, as powers of the root of two."""
_ROUNDS, _HALVINGS = 3, 18
"""How often single weights are moved, and how finely it is told how many."""
_FULL = 0.99
"""Share of the size at which the file is large enough."""
_DOUBLINGS = 3
"""How often the steps of floats are doubled."""
_SCATTER = 1e-3
"""Part by which the costs of equal moves differ, so that any number of them can be made."""


def within(model: nn.Module, most: int, measured: Callable[[nn.Module], Sizes], weights: Mapping[str, Tensor]) -> Sizes:
    """What a model takes, in place with other codes where that is more than it may be.

    Every weight chooses among the centroids anew, from where it is now, at rising prices of a bit. Where that makes the
    file far too small, or no price does it, single weights move instead, from the last codes that were too large: to
    cheaper centroids nearby, those first whose bits cost the least error. Codebooks whose bits have no price, see
    :class:`~lloydmax.Codebook`, stay, and so does a layer that would end farther from its weights than zeros. Where
    that is not enough, floats that are stored in steps take larger ones.

    Args:
        model: finished.
        most: bytes of the file.
        measured: what a model takes.
        weights: of the original, by name; a tied one by one of its names.
    """

    def or_else(name: str, found: Codebook, other: Codebook) -> Codebook:
        return other if found.starves(weights[name]) and not other.starves(weights[name]) else found

    sizes = measured(model)
    held = {name: one for name, one in codebooks(model).items() if name in weights and one.price and one.k > 1}
    held = {name: replace(one, codes=one.codes.clone()) for name, one in held.items()} if sizes.file > most else {}
    last = held
    for step in range(_FIRST, _LAST if held else _FIRST):
        found = {name: _at_price(one, 2 ** (step / 2)) or last[name] for name, one in held.items()}
        now = {name: or_else(name, one, last[name]) for name, one in found.items()}
        sizes = _given(model, now, measured)
        if sizes.file <= most:
            break
        last = now
    if not held:
        return _coarser(model, most, sizes, measured)
    if _FULL * most <= sizes.file <= most:
        return sizes
    for _ in range(_ROUNDS):
        moved, last = _moved(model, last, most, measured, or_else)
        if moved.file <= most:
            break
    if moved.file > most >= sizes.file:
        return _given(model, now, measured)
    return _coarser(model, most, moved, measured)


def _coarser(model: nn.Module, most: int, sizes: Sizes, measured: Callable[[nn.Module], Sizes]) -> Sizes:
    """The same with floats in larger steps, as long as the file is too large and that makes it smaller."""
    tables = {book.centroids.data_ptr() for book in codebooks(model).values()}
    floats = [parameter.detach() for parameter in model.parameters() if parameter.data_ptr() not in tables]
    for _ in range(_DOUBLINGS):
        if sizes.file <= most:
            break
        before = [value.clone() for value in floats]
        for value in floats:
            if (larger := steps.coarser(value)) is not None:
                value.copy_(larger)
        now = measured(model)
        if now.file >= sizes.file:  # they are stored otherwise
            for value, was in zip(floats, before, strict=True):
                value.copy_(was)
            break
        sizes = now
    return sizes


def _at_price(book: Codebook, times: float) -> Codebook | None:
    """Every weight at so many times the price of a bit; ``None`` where all of them become one."""
    cheaper = replace(book, price=(book.price or 0.0) * times).reassigned(book.dequantize())
    return replace(book, codes=cheaper.codes) if bool((cheaper.codes != cheaper.codes.view(-1)[0]).any()) else None


def _given(model: nn.Module, books: Mapping[str, Codebook], measured: Callable[[nn.Module], Sizes]) -> Sizes:
    for name, book in books.items():
        recode(model, name, book.codes)
    return measured(model)


def _moved(
    model: nn.Module,
    books: Mapping[str, Codebook],
    most: int,
    measured: Callable[[nn.Module], Sizes],
    or_else: Callable[[str, Codebook, Codebook], Codebook],
) -> tuple[Sizes, dict[str, Codebook]]:
    """As few weights moved as make the file small enough; all that can be where that does not."""
    moves = {name: _Moves.of(book) for name, book in books.items()}
    costs = torch.cat([one.costs.reshape(-1) for one in moves.values()])
    costs = costs[costs.isfinite()]
    if not len(costs):
        return _given(model, books, measured), dict(books)

    def at(cost: float) -> dict[str, Codebook]:
        return {name: or_else(name, one.made(books[name], cost), books[name]) for name, one in moves.items()}

    low, high = math.log(max(float(costs.min()), 1e-300)), math.log(max(float(costs.max()), 1e-300)) + 2 * _SCATTER
    best = at(math.exp(high))
    sizes = _given(model, best, measured)
    for _ in range(_HALVINGS if sizes.file <= most else 0):
        if sizes.file >= _FULL * most:
            break
        middle = (low + high) / 2
        found = at(math.exp(middle))
        size = _given(model, found, measured)
        if size.file <= most:
            high, best, sizes = middle, found, size
        else:
            low = middle
    return _given(model, best, measured), best


@dataclass(frozen=True)
class _Moves:
    """Where the weights of a codebook may move, to need fewer bits.

    Attributes:
        costs: squared error for each bit that a move saves, in prices of a bit; float64 ``(codebooks, k)``, infinite
            where there is none.
        targets: the code that a weight with a code moves to; int64 ``(codebooks, k)``.
    """

    costs: Tensor
    targets: Tensor

    @classmethod
    def of(cls, book: Codebook) -> _Moves:
        """Of a codebook whose bits have a price."""
        assert book.price
        members = torch.bincount(book.codes.reshape(-1).int(), minlength=book.k).double()
        bits = -(members.clamp(min=1) / members.sum()).log2()
        saved = bits.view(-1, 1) - bits
        found = []
        for table in book.centroids.detach().double().reshape(-1, book.k, book.block):
            costs = torch.cdist(table, table).square() / (saved * book.price)
            found.append(torch.where(saved > 0, costs, math.inf).min(1))
        costs, targets = (torch.stack(parts) for parts in zip(*found, strict=True))
        if book.zeros:
            costs[book.still().reshape(-1, book.k)] = math.inf
        used = torch.where(members > 0, costs, -1.0)
        if bool(used.isfinite().any()):  # all weights never become one: what costs most stays
            costs.view(-1)[used.where(used.isfinite(), -1.0).argmax()] = math.inf
        return cls(costs, targets)

    def made(self, book: Codebook, most: float) -> Codebook:
        """The codes after all moves that cost at most so much."""
        owners: Tensor | int = 0
        if len(self.costs) > 1:
            device = book.codes.device
            owners = book.layout.spread_over_codes(
                torch.arange(len(self.costs), device=device)[book.layout.owners(device)]
            )
        codes = book.codes.long()
        scatter = torch.rand(codes.shape, generator=Generator().manual_seed(0)).to(codes.device)
        moves = self.costs[owners, codes] * (1 + _SCATTER * scatter) <= most
        return replace(book, codes=torch.where(moves, self.targets[owners, codes], codes).to(book.codes.dtype))
