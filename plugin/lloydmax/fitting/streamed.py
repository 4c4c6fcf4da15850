"""The codebooks of a model that is too large to be held: one parameter after the other, without inputs.

What bits are worth is told from evenly spaced channels of each parameter; the codebooks are those of the whole one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lloydmax.errors import FitError
from lloydmax.fitting.price import Layer, prices
from lloydmax.fitting.sizing import Sizing
from lloydmax.hooks import registry
from lloydmax.hooks.events import Events
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan, PlannedParameter

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook

_SAMPLE = 1 << 19
"""Weights of a parameter that tell what bits do to it."""
_HEAD, _FIRST = 16.0, 4.0
"""How much more an error counts in a weight of the head, where nothing comes after it, and of the first layer, whose
errors go through all others, than in the last one (tests/benchmarks/language/ compares)."""


def priced(
    model: nn.Module,
    plan: Plan,
    heads: Collection[str],
    less: float = 0.0,
    events: Events | None = None,
    let_go: Callable[[], None] = lambda: None,
) -> Plan:
    """The plan with prices at which the file has the size that the recipe's ``bits`` name, nearly.

    All weights count alike, by what share of themselves their errors are; those of heads and first layers more.

    Args:
        model: whose parameters may be mapped from files.
        plan: of a recipe with ``bits``.
        heads: names of parameters that make the outputs.
        less: share of the size that is left free.
        events: where progress is reported.
        let_go: called once a parameter was read.

    Raises:
        BudgetError: see :meth:`lloydmax.Plan.room`. FitError: no codebook can be fitted to a parameter.
    """
    events, layers = events or Events(), dict[str, Layer]()
    samples: dict[str, Tensor] = {}
    last = max(1, len(plan.parameters) - 1)
    with events.stage("price", total=len(plan.parameters)):
        for place, (name, p) in enumerate(plan.parameters.items()):
            sample = samples[name] = _some(weight_of(model, name), p)
            let_go()
            try:
                rate = registry.make("quantizer", p.quantizer, p.options).rate(sample)
            except FitError as error:
                raise FitError(f"{name}: {error}") from None
            worth = _FIRST ** (1 - place / last) * (_HEAD if name in heads else 1.0)
            square = max(float(sample.double().square().mean()), 1e-30)
            layers[name] = Layer(p.weights, square, worth, functools.cache(rate))
            events.step("price", place + 1, len(plan.parameters))

        def attempt(tried: Plan) -> dict[str, Codebook]:
            return {name: fitted(p, samples[name]) for name, p in tried.parameters.items()}

        family = prices("all weights alike, heads and first layers more", plan, layers)
        budget = round((1 - less) * plan.predicted_bytes)
        sizing = Sizing(model, replace(plan, predicted_bytes=budget), attempt)
        found = sizing.closest(family, 8.0 * (plan.room(model) - (plan.predicted_bytes - budget)))
        return replace(found.plan, predicted_bytes=plan.predicted_bytes)


def _some(weight: Tensor, p: PlannedParameter) -> Tensor:
    """Evenly spaced output channels, a copy."""
    channels = weight.movedim(p.axis, 0) if weight.dim() else weight.reshape(1)
    return channels[:: max(1, weight.numel() // _SAMPLE)].clone(memory_format=torch.contiguous_format)


def fitted(p: PlannedParameter, weight: Tensor) -> Codebook:
    """The codebook of a parameter, or of some of its output channels along the first axis.

    Raises:
        FitError: none can be fitted; it names the parameter.
    """
    try:
        found: Codebook = registry.make("quantizer", p.quantizer, p.options).fit(weight, axis=p.axis)
    except FitError as error:
        raise FitError(f"{p.name}: {error}") from None
    return found
