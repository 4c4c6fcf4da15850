"""The caller's own score of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from lloydmax.errors import RecoveryError
from lloydmax.network.guard import guarded
from lloydmax.runtime.modes import evaluating

Evaluate = Callable[[nn.Module], float]


def scored(evaluate: Evaluate | None, model: nn.Module, first: bool) -> float | None:
    """What the caller's function says of a model in evaluation mode; ``None`` without one.

    Args:
        evaluate: the function.
        model: left as it was.
        first: whether nothing has run this model before.

    Raises:
        RecoveryError: the function gives something else than one number.
    """
    if evaluate is None:
        return None
    with evaluating(model):
        found = guarded(model, partial(evaluate, model)) if first else evaluate(model)
    try:
        return float(found)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        kind = type(found).__name__
        raise RecoveryError(f"evaluate has to give one number, not what is of type {kind}: {error}") from error
