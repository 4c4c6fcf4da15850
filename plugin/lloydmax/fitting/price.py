"""One price of a bit for all layers.

The Lagrangian of Shoham & Gersho (1988), "Efficient bit allocation for an arbitrary set of quantizers": where every
layer minimizes importance x squared error + price x bits at the same price, no bit can be moved from one layer to
another for less damage.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lloydmax.codebook.weight import check_weight
from lloydmax.errors import FitError
from lloydmax.fitting.sizing import Family
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan, PlannedParameter

_EXACT = 5e-4
"""Share of the bits that may be missing."""
_FEWEST, _MOST = -8, 64  # halvings of the price, by the root of two, from the mean square on
_LITTLE = 1
"""Halvings at which weights have about half their gain."""
_LEAST_GAIN = 1e-3
"""A smaller gain counts as this: the damage of a layer that is all but gone stays finite."""
_PART = 1 << 22
"""Weights that are handled at once."""
_DEPTH = 2.0
"""Halvings of what errors usually do, from the first layer to the last."""
_TABLE = 16.0
"""Times as much as another weight counts one of a table of tokens, or of a head that scores them."""
_EMBEDDINGS = ("Embedding", "EmbeddingBag")
_TOKENS, _SHARE = 256, 0.05
"""Rows of a table of tokens, and its share of all weights, at least."""
_FLOORS = (0.5, 0.25, 0.1, 0.0)
"""Gains below which no layer falls, as long as there are bits for that: at one half the error is that of zeros."""


class Layer:
    """What bits do to one parameter: price, bits and damage on a grid of prices, whose points are made when needed.

    Its damage is energy x the squared error over the mean square, of centroids that were divided by the gain:
    ``1 / gain - 1``. So no price takes all bits from a layer.

    Args:
        weights: their number.
        square: their mean square.
        energy: damage, for each weight, of an error as large as the weight; 0: not known.
        tradeoff: price in squared units of the weight -> bits a weight, gain.
    """

    def __init__(
        self, weights: int, square: float, energy: float, tradeoff: Callable[[float], tuple[float, float]]
    ) -> None:
        self.weights, self.energy = weights, energy
        self._square, self._tradeoff = square, tradeoff
        self._points: dict[int, tuple[float, float]] = {}
        self._floors: dict[float, int] = {}

    def of(self, energy: float) -> Layer:
        """The same with another energy."""
        return Layer(self.weights, self._square, energy, self._tradeoff)

    def at(self, worth: float, floor: float = 0.0) -> tuple[float, float]:
        """Price, and bits a weight, where one bit more would spare ``2 ** worth`` of damage, or those of the least
        gain ``floor``."""
        low, high = _border(self._lowest(floor), _MOST, self._least_place(worth), lambda h: self._point(h)[0] > worth)
        (more, few), (less, many) = self._point(low), self._point(high)
        along = min(max((more - worth) / (more - less), 0.0), 1.0) if more > less else 1.0
        return self._price(low + along), few + along * (many - few)

    def least(self, floor: float) -> float:
        """Bits of all weights at the least gain ``floor``."""
        return self.weights * self._tradeoff(self._price(self._lowest(floor)))[0]

    def _lowest(self, floor: float) -> int:
        """The first point of the grid with so much gain."""
        if floor not in self._floors:
            ends = _FEWEST - 1, _MOST - 1
            starved = _border(*ends, _LITTLE, lambda h: self._tradeoff(self._price(h))[1] < floor) if floor else ends
            self._floors[floor] = starved[1] if floor else _FEWEST
        return self._floors[floor]

    def _least_place(self, worth: float) -> int:
        """Up to which point a bit is worth more, whatever the gain."""
        return math.ceil(2 * (math.log2(self.energy) - worth)) - 1

    def _price(self, halvings: float) -> float:
        return self._square * 2 ** (-halvings / 2)

    def _point(self, halvings: int) -> tuple[float, float]:
        """What a bit is worth, as a power of two, and bits a weight."""
        if halvings not in self._points:
            bits, gain = self._tradeoff(self._price(halvings))
            worth = math.log2(self.energy) - halvings / 2 - 2 * math.log2(max(gain, _LEAST_GAIN))
            self._points[halvings] = worth, bits
        return self._points[halvings]


def _border(low: int, high: int, near: int, below: Callable[[int], bool]) -> tuple[int, int]:
    """Neighbours from ``low`` to ``high``, of which all up to the first, and none from the second on, are below
    something; ``low`` counts as below it, ``high`` does not. Few are asked where it is ``near`` a place."""
    step = 1
    place = min(max(near, low), high)
    while high - low > 1:
        place = min(max(place, low + 1), high - 1)
        if below(place):
            low, place = place, place + step
        else:
            high, place = place, place - step
        step *= 2
        if not low < place < high:
            place = (low + high) // 2
    return low, high


Rates = Callable[[PlannedParameter], Callable[[float], tuple[float, float]]]


def layers_of(model: nn.Module, plan: Plan, importances: Mapping[str, Tensor], rates: Rates) -> dict[str, Layer]:
    """The parameters of a plan, with the energies that their importances tell.

    Args:
        model: the original.
        plan: of a recipe with ``bits``.
        importances: of the weights, by parameter name.
        rates: what prices of a bit lead to, see :class:`~lloydmax.hooks.protocols.Quantizer`.

    Raises:
        FitError: no codebook can be fitted to a parameter, which it names.
    """
    layers = {}
    for name, p in plan.parameters.items():
        weight, importance = weight_of(model, name), importances.get(name)
        try:
            check_weight(weight, importance)
        except FitError as error:
            raise FitError(f"{name}: {error}") from None
        units = units_of(p, weight)
        square = max(_mean(weight, lambda part, unit: (part / unit).square(), units), 1e-30)
        mass = 0.0 if importance is None else _mean(importance, lambda part, unit: part * unit**2, units)
        energy = 0.0 if importance is None else max(mass * square, 1e-30)
        layers[name] = Layer(p.weights, square, energy, functools.cache(rates(p)))
    return layers


def _mean(values: Tensor, of: Callable[[Tensor, Tensor], Tensor], units: Tensor) -> float:
    """The mean of what is made of values and units, in float64; of many values part by part."""
    rows = max(1, _PART * len(values) // values.numel()) if values.dim() and units.numel() == 1 else 0
    parts = values.split(rows) if rows and values.numel() > _PART else (values,)
    if len(parts) == 1:
        return float(of(values.double(), units).mean())
    unit = units.reshape(1)
    return sum(float(of(part.double(), unit).sum()) for part in parts) / values.numel()


def units_of(p: PlannedParameter, weight: Tensor) -> Tensor:
    """What the weights of each codebook are divided by, so that all of them have one; float64, to be broadcast."""
    multiples = torch.tensor(getattr(p.options, "multiples", None) or [1.0], dtype=torch.float64, device=weight.device)
    if len(multiples) == 1 or not weight.dim():
        return multiples.view([1] * weight.dim())
    return p.layout.spread(multiples[p.layout.owners(weight.device)])


def weighed(layers: Mapping[str, Layer], temper: float) -> dict[str, Layer]:
    """The layers with a power of their energies; those of which none is known count alike, each as a whole, and as
    others do on average."""
    known = {name: layer.energy**temper for name, layer in layers.items() if layer.energy and temper}
    logs = [math.log(energy * layers[name].weights) for name, energy in known.items()]
    usual = math.exp(sum(logs) / len(logs)) if logs else 1.0
    return {name: layer.of(known.get(name, usual / layer.weights)) for name, layer in layers.items()}


def usual(layers: Mapping[str, Layer], plan: Plan) -> dict[str, Layer]:
    """The layers with the energies that are usual where nothing tells them: each counts as a whole, and the first one
    four times as much as the last, since its errors go through all others (tests/benchmarks/priors.py compares).

    Where tokens are looked up in a large table, all weights count alike, and those of tables and heads more: a token
    uses a row of a table, not all of it (tests/benchmarks/language/blind.py compares).
    """
    if tables := _tables(plan):
        return {name: layer.of(_TABLE if name in tables else 1.0) for name, layer in layers.items()}
    last = max(1, len(layers) - 1)
    return {
        name: layer.of(2 ** (-_DEPTH * place / last) / layer.weights)
        for place, (name, layer) in enumerate(layers.items())
    }


def _tables(plan: Plan) -> set[str]:
    """The parameters that have a row for each token, where some that tokens are looked up in is large."""
    embeddings = [p for p in plan.parameters.values() if p.layer in _EMBEDDINGS and p.shape[0] >= _TOKENS]
    large = {p.shape[0] for p in embeddings if p.weights >= _SHARE * plan.total_weights}
    return {name for name, p in plan.parameters.items() if len(p.shape) == 2 and p.shape[0] in large}


def alike(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers as if all weights counted alike, by what share of themselves their errors are."""
    return {name: layer.of(1.0) for name, layer in layers.items()}


def allocation(layers: Mapping[str, Layer], bits: float) -> dict[str, tuple[float, float]]:
    """Price and bits a weight of every layer where all of them take at most so many bits, nearly as many, and no bit
    is worth more in another one."""
    floors = (floor for floor in _FLOORS if _sum((one.least(floor) for one in _largest(layers.values())), bits) <= bits)
    floor = next(floors, 0.0)
    worth = _worth(layers.values(), bits, floor)
    return {name: layer.at(worth, floor) for name, layer in layers.items()}


def _worth(layers: Collection[Layer], bits: float, floor: float) -> float:
    """What a bit is worth, as a power of two, where all codes take at most so many bits, nearly as many."""
    layers = _largest(layers)
    low = math.log2(min(layer.energy for layer in layers)) - _MOST / 2
    high = math.log2(max(layer.energy for layer in layers)) - _FEWEST / 2 - 2 * math.log2(_LEAST_GAIN)
    while high - low > _EXACT:
        worth = (low + high) / 2
        excess = _sum((layer.weights * layer.at(worth, floor)[1] for layer in layers), bits) - bits
        if -_EXACT * bits <= excess <= 0:
            return worth
        low, high = (worth, high) if excess > 0 else (low, worth)
    return high


def _largest(layers: Collection[Layer]) -> list[Layer]:
    """With the most weights first."""
    return sorted(layers, key=lambda layer: -layer.weights)


def _sum(bits: Iterable[float], most: float) -> float:
    """Of all, or of the first whose sum is more than ``most``: the others need not be known."""
    total = 0.0
    for one in bits:
        total += one
        if total > most:
            break
    return total


def prices(name: str, plan: Plan, layers: Mapping[str, Layer]) -> Family:
    """The plans with a price of a bit in every parameter's options."""

    def at(bits: float) -> Plan:
        found = allocation(layers, bits)
        return replace(plan, parameters={n: at_price(p, found[n][0]) for n, p in plan.parameters.items()})

    return Family(name, at, cheaper)


def at_price(p: PlannedParameter, price: float) -> PlannedParameter:
    """The parameter with this price of a bit."""
    return replace(p, options=p.options.model_copy(update={"price": price}))


def cheaper(p: PlannedParameter, bits: float) -> PlannedParameter:
    """The same at a price at which codes take so many bits a weight more, nearly."""
    return at_price(p, p.options.price * 4**-bits)  # type: ignore[attr-defined]
