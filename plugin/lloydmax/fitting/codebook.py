"""Fit the codebook of one weight: the public :func:`lloydmax.fit_codebook`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.weight import check_weight
from lloydmax.errors import FitError
from lloydmax.hooks import registry
from lloydmax.runtime.arguments import whole
from lloydmax.runtime.modes import own_modes


def fit_codebook(
    weight: Tensor,
    centroids: int = 16,
    granularity: str = "tensor",
    importance: Tensor | None = None,
    *,
    quantizer: str = "kmeans",
    axis: int = 0,
    **options: Any,
) -> Codebook:
    """Fit a codebook to a weight: the centroids with the least (weighted) squared error, and the codes.

    Args:
        weight: any shape, float32, float16 or bfloat16, on any device.
        centroids: k >= 1. With k at or above the number of distinct values of a codebook the values are kept
            exactly and ``k`` shrinks to that number; 1 gives the (weighted) mean. Of no meaning to a quantizer that
            has no such option (``uniform`` has ``bits``).
        granularity: ``"tensor"``, ``"channel"`` or ``"group:N"``.
        importance: optional non-negative weight of each squared error, same shape.
        quantizer: any quantizer that an installed plugin registers.
        axis: axis of the output channels, for the finer granularities.
        options: further options of the quantizer; of kmeans, ``block``: weights that share one code.

    Returns:
        A :class:`Codebook` on the device of ``weight``. The same input gives the same bytes.

    Raises:
        FitError: see :func:`check_weight`, or options that the quantizer refuses.
    """
    with own_modes():
        check_weight(weight, importance)
        axis = whole("axis", axis, FitError, least=0)
        given = {"centroids": centroids, "granularity": granularity, **options}
        if "centroids" not in registry.find("quantizer", quantizer, FitError).options.model_fields:
            del given["centroids"]
        chosen = registry.make("quantizer", quantizer, given, FitError)
        codebook: Codebook = chosen.fit(weight.detach(), importance=importance, axis=axis)
    return codebook
