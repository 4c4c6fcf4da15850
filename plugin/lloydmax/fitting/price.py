"""One price of a bit for all layers, at which the file gets the size that the recipe's ``bits`` name.

The Lagrangian of Shoham & Gersho (1988), "Efficient bit allocation for an arbitrary set of quantizers": where every
layer minimizes importance x squared error + price x bits at the same price, no bit can be moved from one layer to
another for less damage.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lloydmax.codebook.weight import check_weight
from lloydmax.errors import FitError
from lloydmax.format import packing
from lloydmax.format.sizes import predicted_size
from lloydmax.hooks import registry
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook

ROUNDS = 5
"""Sets of codebooks that are fitted at most."""
_CLOSE, _EXACT = (2e-3, 4e-3), 5e-4  # of the size may be missing: recovery can make the file a little larger
TEMPERS = (2 / 3, 1.0, None)
"""Powers of importance x mean square that are tried; ``None``: without importances."""
_CLEARLY = 0.99
"""Of the damage of what was tried before."""
_FEWEST, _MOST = -8, 64  # halvings of the price, by the root of two, from the mean square on
_LEAST_GAIN = 1e-3
"""A smaller gain counts as this: the damage of a layer that is all but gone stays finite."""


class _Layer:
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

    def of(self, energy: float) -> _Layer:
        """The same with another energy."""
        return _Layer(self.weights, self._square, energy, self._tradeoff)

    def at(self, worth: float) -> tuple[float, float]:
        """Price, and bits a weight, where one bit more would spare ``2 ** worth`` of damage."""
        low, high = _FEWEST, _MOST
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._point(middle)[0] > worth else (low, middle)
        (more, few), (less, many) = self._point(low), self._point(high)
        along = min(max((more - worth) / (more - less), 0.0), 1.0) if more > less else 1.0
        return self._price(low + along), few + along * (many - few)

    def _price(self, halvings: float) -> float:
        return self._square * 2 ** (-halvings / 2)

    def _point(self, halvings: int) -> tuple[float, float]:
        """What a bit is worth, as a power of two, and bits a weight."""
        if halvings not in self._points:
            bits, gain = self._tradeoff(self._price(halvings))
            worth = math.log2(self.energy) - halvings / 2 - 2 * math.log2(max(gain, _LEAST_GAIN))
            self._points[halvings] = worth, bits
        return self._points[halvings]


def priced(
    model: nn.Module,
    plan: Plan,
    importances: Mapping[str, Tensor],
    fitted: Callable[[Plan], dict[str, Codebook]],
    judge: Callable[[dict[str, Codebook]], float] | None = None,
) -> Plan:
    """The plan with a price of a bit in every parameter's options, at which the file has the size of ``plan``.

    The damage of a parameter is the squared error over the mean square, times importance x mean square raised to a
    power, summed over its weights: where errors are large the damage grows more slowly than the squared error from
    which importances are derived. Which power suits a model, and whether its importances help at all, ``judge`` tells;
    without one, and where others are not clearly better, it is two thirds (tests/benchmarks/levers.py compares them).
    Parameters whose rules name no importance count alike, each as a whole, and as others do on average. That the coder
    needs more than the entropy, and what codebooks and header take, is learned from codebooks that are fitted on the
    way.

    Args:
        model: the original.
        plan: of a recipe with ``bits``.
        importances: of the weights, by parameter name.
        fitted: fits the codebooks of a plan.
        judge: the damage that codebooks do.

    Raises:
        BudgetError: see :meth:`lloydmax.Plan.room`.
        FitError: no codebook can be fitted to a parameter, which it names.
    """
    layers, start = _layers(model, plan, importances), 8.0 * plan.room(model)
    best, least = plan, math.inf
    for temper in TEMPERS if importances and judge is not None else TEMPERS[:1]:
        tried, start = _sized(model, plan, _weighed(layers, temper), start, fitted)
        if judge is None:
            return tried
        damage = judge(fitted(tried))
        if temper == TEMPERS[0] or damage < _CLEARLY * least:
            best, least = tried, damage
    return best


def _sized(
    model: nn.Module,
    plan: Plan,
    layers: Mapping[str, _Layer],
    wanted: float,
    fitted: Callable[[Plan], dict[str, Codebook]],
) -> tuple[Plan, float]:
    """The plan with prices at which the file has its size, and how many bits the codes may take for that."""
    found: dict[int, Plan] = {}
    few, many = 0.0, math.inf
    for _ in range(ROUNDS):
        worth = _worth(layers.values(), wanted)
        tried = _with(plan, {name: layer.at(worth)[0] for name, layer in layers.items()})
        size = _file_bytes(model, tried, fitted(tried))
        found[size] = tried
        missing = plan.predicted_bytes - size
        if _CLOSE[0] <= missing / plan.predicted_bytes <= _CLOSE[1]:
            break
        short = missing - sum(_CLOSE) / 2 * plan.predicted_bytes
        few, many = (max(few, wanted), many) if short > 0 else (few, min(many, wanted))
        wanted += 8 * short
        if not few < wanted < many:
            wanted = (few + many) / 2
    within = [size for size in found if size <= (1 - _CLOSE[0]) * plan.predicted_bytes]
    return found[max(within) if within else min(found)], wanted


def _layers(model: nn.Module, plan: Plan, importances: Mapping[str, Tensor]) -> dict[str, _Layer]:
    layers = {}
    for name, p in plan.parameters.items():
        weight, importance = weight_of(model, name), importances.get(name)
        try:
            check_weight(weight, importance)
        except FitError as error:
            raise FitError(f"{name}: {error}") from None
        square = max(float(weight.double().square().mean()), 1e-30)
        energy = 0.0 if importance is None else max(float(importance.double().mean()) * square, 1e-30)
        tradeoff = functools.cache(registry.make("quantizer", p.quantizer, p.options).rate(weight))
        layers[name] = _Layer(p.weights, square, energy, tradeoff)
    return layers


def _weighed(layers: Mapping[str, _Layer], temper: float | None) -> dict[str, _Layer]:
    """The layers with a power of their energies; ``None``: as if none was known."""
    known = {name: layer.energy**temper for name, layer in layers.items() if temper is not None and layer.energy}
    logs = [math.log(energy * layers[name].weights) for name, energy in known.items()]
    usual = math.exp(sum(logs) / len(logs)) if logs else 1.0
    return {name: layer.of(known.get(name, usual / layer.weights)) for name, layer in layers.items()}


def _worth(layers: Collection[_Layer], bits: float) -> float:
    """What a bit is worth, as a power of two, where all codes take at most so many bits, nearly as many."""
    low = math.log2(min(layer.energy for layer in layers)) - _MOST / 2
    high = math.log2(max(layer.energy for layer in layers)) - _FEWEST / 2 - 2 * math.log2(_LEAST_GAIN)
    while high - low > _EXACT:
        worth = (low + high) / 2
        excess = sum(layer.weights * layer.at(worth)[1] for layer in layers) - bits
        if -_EXACT * bits <= excess <= 0:
            return worth
        low, high = (worth, high) if excess > 0 else (low, worth)
    return high


def _with(plan: Plan, prices: Mapping[str, float]) -> Plan:
    parameters = {
        name: replace(p, options=p.options.model_copy(update={"price": prices[name]}))
        for name, p in plan.parameters.items()
    }
    return replace(plan, parameters=parameters)


def _file_bytes(model: nn.Module, plan: Plan, codebooks: Mapping[str, Codebook]) -> int:
    streams = {name: len(packing.entropy_encode(held.codes, held.bits)) for name, held in codebooks.items()}
    stored = {name: p.with_centroids(codebooks[name].k).record() for name, p in plan.parameters.items()}
    return predicted_size(model, stored, plan.recipe.data(), plan.recipe.storage, streams)
