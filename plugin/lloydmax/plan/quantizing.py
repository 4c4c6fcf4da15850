"""The quantizer of a planned parameter, which sees several matrices of a weight as one of many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.hooks import registry
from lloydmax.plan.parameter import PlannedParameter


def quantize(p: PlannedParameter, weight: Tensor, importance: Tensor | None = None) -> Codebook:
    """The codebook of a weight, in the layout that is planned.

    Args:
        p: says what fits it.
        weight: in its shape.
        importance: of each squared error, same shape.
    """
    given, mass, axis = _seen(p, weight, importance)
    return laid_out(p, registry.make("quantizer", p.quantizer, p.options).fit(given, importance=mass, axis=axis))


def fit_many(
    p: PlannedParameter, weight: Tensor, importance: Tensor | None, centroids: Sequence[int]
) -> dict[int, Codebook]:
    """Codebooks of one weight with several numbers of centroids.

    A quantizer that has ``fit_many(weight, centroids, importance=..., axis=...) -> list of codebooks`` does it in one
    go (kmeans: one histogram serves all); of any other one ``fit`` is called for each number.
    """
    options = [type(p.options).model_validate({**p.options.model_dump(), "centroids": k}) for k in centroids]
    first: Any = registry.make("quantizer", p.quantizer, options[0])
    given, mass, axis = _seen(p, weight, importance)
    if hasattr(first, "fit_many"):
        many = first.fit_many(given, centroids, importance=mass, axis=axis)
    else:
        makers = (registry.make("quantizer", p.quantizer, option) for option in options)
        many = [quantizer.fit(given, importance=mass, axis=axis) for quantizer in makers]
    return {k: laid_out(p, found) for k, found in zip(centroids, many, strict=True)}


def _seen(p: PlannedParameter, weight: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Weight, importance and axis as the quantizer takes them."""
    layout = p.layout
    if layout.matrices == 1 or layout.channels is None:
        return weight, importance, layout.axis
    rows = [None if one is None else layout.channels_first(one).flatten(1) for one in (weight, importance)]
    assert rows[0] is not None
    return rows[0], rows[1], 0


def laid_out(p: PlannedParameter, found: Codebook) -> Codebook:
    """What a quantizer found, in the layout that is planned."""
    return found.laid_out(p.layout) if found.granularity == p.granularity else found
