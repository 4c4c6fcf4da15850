"""The codebooks of a model that is too large to be held: one parameter after the other, without inputs.

What bits are worth is told from evenly spaced channels of each parameter; the codebooks are those of the whole one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lloydmax.errors import FitError
from lloydmax.fitting.price import Layer, prices, usual
from lloydmax.fitting.sizing import Sizing
from lloydmax.hooks import registry
from lloydmax.hooks.events import Events
from lloydmax.network.parameters import weight_of
from lloydmax.plan.plan import Plan, PlannedParameter

if TYPE_CHECKING:
    from lloydmax.codebook.codebook import Codebook

_SAMPLE = 1 << 19
"""Weights of a parameter that tell what bits do to it."""


def priced(
    model: nn.Module,
    plan: Plan,
    less: float = 0.0,
    events: Events | None = None,
    let_go: Callable[[], None] = lambda: None,
) -> Plan:
    """The plan with prices at which the file has the size that the recipe's ``bits`` name, nearly. Errors count as
    is :func:`~lloydmax.fitting.price.usual`.

    Args:
        model: whose parameters may be mapped from files.
        plan: of a recipe with ``bits``.
        less: share of the size that is left free.
        events: where progress is reported.
        let_go: called once a parameter was read.

    Raises:
        BudgetError: see :meth:`lloydmax.Plan.room`. FitError: no codebook can be fitted to a parameter.
    """
    events, layers = events or Events(), dict[str, Layer]()
    samples: dict[str, Tensor] = {}
    with events.stage("price", total=len(plan.parameters)):
        for place, (name, p) in enumerate(plan.parameters.items()):
            sample = samples[name] = _some(weight_of(model, name), p)
            let_go()
            try:
                rate = registry.make("quantizer", p.quantizer, p.options).rate(sample)
            except FitError as error:
                raise FitError(f"{name}: {error}") from None
            square = max(float(sample.double().square().mean()), 1e-30)
            layers[name] = Layer(p.weights, square, 0.0, functools.cache(rate))
            events.step("price", place + 1, len(plan.parameters))

        def attempt(tried: Plan) -> dict[str, Codebook]:
            return {name: fitted(p, samples[name]) for name, p in tried.parameters.items()}

        family = prices("as is usual", plan, usual(layers, plan))
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
