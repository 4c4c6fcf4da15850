"""One price of a bit for all layers, at which the file gets the size that the recipe's ``bits`` name.

The Lagrangian of Shoham & Gersho (1988), "Efficient bit allocation for an arbitrary set of quantizers": where every
layer minimizes importance x squared error + price x bits at the same price, no bit can be moved from one layer to
another for less damage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lloydmax import packing, plugins
from lloydmax.choosing.allocation import BudgetError
from lloydmax.codebook import check_weight
from lloydmax.errors import FitError
from lloydmax.sizes import predicted_size

if TYPE_CHECKING:
    from lloydmax.codebook import Codebook
    from lloydmax.plan import Plan

_LEAST, _MOST = 1e-12, 1e2  # prices over importance x mean square: of no consequence, and nothing but one centroid
ROUNDS = 5
"""Sets of codebooks that are fitted at most."""
_CLOSE, _EXACT = (2e-3, 4e-3), 5e-4  # of the size may be missing: recovery can make the file a little larger
TEMPER = 2 / 3
"""Exponent of importance x mean square."""


@dataclass(frozen=True)
class _Layer:
    """What a price does to one parameter.

    Attributes:
        weights: their number.
        importance: of a squared error.
        energy: importance x mean square.
        rate: price in squared units of the weight -> bits a weight.
    """

    weights: int
    importance: float
    energy: float
    rate: Callable[[float], float]


def priced(
    model: nn.Module, plan: Plan, importances: Mapping[str, Tensor], fitted: Callable[[Plan], dict[str, Codebook]]
) -> Plan:
    """The plan with a price of a bit in every parameter's options, at which the file has the size of ``plan``.

    Where a rule names no importance, every layer may lose the same share of its energy, its mean square. Else that
    share counts the more the greater importance x mean square is, raised to two thirds: at few bits the damage
    grows more slowly than the squared error from which importances are derived (an empirical choice;
    tests/benchmarks/levers.py compares exponents). That the coder needs more than the entropy, and what codebooks
    and header take, is learned from codebooks that are fitted on the way.

    Args:
        model: the original.
        plan: of a recipe with ``bits``.
        importances: of the weights, by parameter name.
        fitted: fits the codebooks of a plan.

    Raises:
        BudgetError: even without any bit for codes the file would be larger.
        FitError: no codebook can be fitted to a parameter, which it names.
    """
    layers = {name: _layer(model, plan, name, importances.get(name)) for name in plan.parameters}
    wanted = _code_bits(model, plan)
    if wanted <= 0:
        raise BudgetError(
            f"{plan.recipe.at('bits')}: at {plan.recipe.bits:g} bits a weight the file may have "
            f"{plan.predicted_bytes} bytes, which what is not compressed fills alone: give more bits, compress more "
            "parameters (embeddings, for example), or store floats as float16"
        )
    found: dict[int, Plan] = {}
    price = sum(layer.energy for layer in layers.values()) / len(layers)
    for _ in range(ROUNDS):
        price = _price(layers.values(), wanted, price)
        tried = _with(plan, {name: price / layer.importance for name, layer in layers.items()})
        size = _file_bytes(model, tried, fitted(tried))
        found[size] = tried
        missing = plan.predicted_bytes - size
        if _CLOSE[0] <= missing / plan.predicted_bytes <= _CLOSE[1]:
            break
        wanted = max(wanted + 8 * (missing - sum(_CLOSE) / 2 * plan.predicted_bytes), 0.0)
    within = [size for size in found if size <= (1 - _CLOSE[0]) * plan.predicted_bytes]
    return found[max(within) if within else min(found)]


def _layer(model: nn.Module, plan: Plan, name: str, importance: Tensor | None) -> _Layer:
    p, weight = plan.parameters[name], model.get_parameter(name).detach()
    try:
        check_weight(weight, importance)
    except FitError as error:
        raise FitError(f"{name}: {error}") from None
    square = float(weight.double().square().mean())
    square = max(square, 1e-30)
    energy = 1.0 if importance is None else max(float(importance.double().mean()) * square, 1e-30) ** TEMPER
    quantizer = plugins.make("quantizer", p.quantizer, p.options)
    return _Layer(p.weights, energy / square, energy, quantizer.rate(weight))


def _price(layers: Collection[_Layer], bits: float, guess: float) -> float:
    """The least price, nearly, at which all codes take at most so many bits.

    At high rates a bit more costs a quarter of the price (Bennett 1948), which gives the next guess within the bracket.
    """
    weights = sum(layer.weights for layer in layers)
    low = math.log(_LEAST * min(layer.energy for layer in layers))
    high = math.log(_MOST * max(layer.energy for layer in layers))
    at = math.log(guess)
    while high - low > _EXACT:
        price = math.exp(at)
        excess = sum(layer.weights * layer.rate(price / layer.importance) for layer in layers) - bits
        if -_EXACT * bits <= excess <= 0:
            return price
        low, high = (at, high) if excess > 0 else (low, at)
        at += math.log(4) * excess / weights
        if not low < at < high:
            at = (low + high) / 2
    return math.exp(high)


def _with(plan: Plan, prices: Mapping[str, float]) -> Plan:
    parameters = {
        name: replace(p, options=p.options.model_copy(update={"price": prices[name]}))
        for name, p in plan.parameters.items()
    }
    return replace(plan, parameters=parameters)


def _code_bits(model: nn.Module, plan: Plan) -> float:
    """Bits that are left for codes, at most."""
    return 8.0 * (plan.predicted_bytes - _size(model, plan, dict.fromkeys(plan.parameters, 1), {}))


def _file_bytes(model: nn.Module, plan: Plan, codebooks: Mapping[str, Codebook]) -> int:
    streams = {name: len(packing.entropy_encode(held.codes, held.bits)) for name, held in codebooks.items()}
    return _size(model, plan, {name: held.k for name, held in codebooks.items()}, streams)


def _size(model: nn.Module, plan: Plan, centroids: Mapping[str, int], streams: Mapping[str, int]) -> int:
    stored = {name: replace(p, centroids=centroids[name]).stored() for name, p in plan.parameters.items()}
    coded = {name: streams.get(name, 0) for name in stored}
    return predicted_size(model, stored, plan.recipe.data(), plan.recipe.storage, coded)
