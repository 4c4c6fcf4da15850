"""The learning rate of every tensor."""

from __future__ import annotations

from typing import Any

from lloydmax.extend import attached
from torch import Tensor, nn

_LEAST = 1e-3


def learning_rates(model: nn.Module, parameters: list[nn.Parameter], lr: float, relative: bool) -> list[dict[str, Any]]:
    """Groups for an optimizer.

    Args:
        model: the student that the parameters belong to.
        parameters: to be trained.
        lr: of all of them, or in units of the rms of each one's values, at least 1e-3; for centroids that of the
            weights that they stand for.
        relative: whether it is in these units.
    """
    if not relative:
        return [{"params": parameters, "lr": lr}]
    scales = {id(held.centroids): _rms(held.codebook().dequantize()) for held in attached(model)}
    return [{"params": [p], "lr": lr * max(scales.get(id(p), _rms(p)), _LEAST)} for p in parameters]


def _rms(values: Tensor) -> float:
    return float(values.detach().float().square().mean().sqrt())
