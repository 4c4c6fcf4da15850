"""What the int8 student has to know of the weights that it quantizes, whoever does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from lloydmax.codebook.layout import Layout
from lloydmax.errors import IntegrationError
from lloydmax.student.layers import LAYERS

UNIFORM = "uniform"
"""The registered quantizer whose layers become int8 layers with trained thresholds."""
_INT8_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d")


class QuantizedWeight(Protocol):
    """What the int8 student has to know of a parameter; a plan's parameters are such."""

    @property
    def name(self) -> str:
        """Full name."""

    @property
    def tied(self) -> tuple[str, ...]:
        """The other names of the same parameter."""

    @property
    def layer(self) -> str:
        """The class name of its module."""

    @property
    def layout(self) -> Layout:
        """Of the weight."""

    @property
    def quantizer(self) -> str:
        """Registered name."""

    @property
    def options(self) -> Any:
        """Validated options of the quantizer."""

    @property
    def even(self) -> bool:
        """Whether the centroids are evenly spaced."""


def levels_of(weight: QuantizedWeight) -> tuple[int, int]:
    """Number of levels and lowest integer of a uniformly quantized weight."""
    count = weight.layout.centroids
    return count, -((count + 1) // 2) + count % 2


def refuse(model: nn.Module | None, weights: Mapping[str, QuantizedWeight]) -> None:
    """Refuse weights that no graph can hold as the recipe says.

    Args:
        model: that has them; ``None``: only what the plan knows is looked at.
        weights: by name.

    Raises:
        IntegrationError: it names each of them, with the reason.
    """
    told = {name: refusal(weight) or untrainable(weight) for name, weight in weights.items()}
    problems = [f"{name}: {reason}" for name, reason in told.items() if reason]
    if model is not None and not problems:
        layers = dict.fromkeys(name.rpartition(".")[0] for name in weights)
        problems = [
            f"{name} has hooks, or a forward of its own, which int8 layers do not keep: remove them, or leave it out"
            for name in layers
            if _is_changed(model.get_submodule(name))
        ]
    if problems:
        raise IntegrationError("'activations:' cannot do what the recipe says: " + "; ".join(problems))


def _is_changed(layer: nn.Module) -> bool:
    """Whether a layer does something else than its class says."""
    return "forward" in vars(layer) or bool(layer._forward_hooks or layer._forward_pre_hooks)


def refusal(weight: QuantizedWeight) -> str | None:
    """Why no host can quantize a weight so; ``None`` where it can."""
    leaf, kind = weight.name.rpartition(".")[2], weight.layer
    if weight.tied:
        return f"it is tied to {', '.join(weight.tied)}, and preparing would untie them"
    if weight.quantizer == UNIFORM:
        if leaf != "weight" or kind not in _INT8_LAYERS:
            return f"int8 layers are made of the weight of exactly {', '.join(_INT8_LAYERS)}, not the {leaf} of {kind}"
        if weight.layout.granularity not in ("tensor", "channel"):
            return f"int8 kernels have one scale a tensor or a channel, not granularity {weight.layout.granularity!r}"
        if weight.options.threshold != "max":
            threshold = weight.options.threshold
            return f"threshold: {threshold} is for codebooks; here the step train_thresholds finds the range"
        return None
    if leaf != "weight" or kind not in {layer.__name__ for layer in LAYERS}:
        kinds = ", ".join(layer.__name__ for layer in LAYERS)
        return (
            f"only the weight of exactly {kinds} can have a codebook, not the {leaf} of {kind} "
            "(lloydmax.integrations.torchao.CodebookQuantizer takes any weight of an exported program)"
        )
    return None


def untrainable(weight: QuantizedWeight) -> str | None:
    """Why a graph that is trained cannot hold a weight, which one that is only converted can; ``None`` where it can."""
    if weight.layer.startswith("ConvTranspose"):
        return (
            f"torch trains no {weight.layer} with a codebook among int8 activations: leave the layer out of the rule "
            "('except:'), so that it stays float, or leave out 'activations:'"
        )
    return None
