"""What of a student that a host prepared for integers can be trained: thresholds, and the weights on an int8 grid."""

from __future__ import annotations

from typing import Any

from torch import nn

from lloydmax.student.fake_quantize import CodebookWeightFakeQuantize
from lloydmax.student.thresholds import TrainedThreshold


def thresholds(student: nn.Module) -> list[TrainedThreshold]:
    """The trained thresholds of weights and activations, in the order of the modules."""
    return [module for module in student.modules() if isinstance(module, TrainedThreshold)]


def observers(student: nn.Module, codebooks: bool = True) -> list[Any]:
    """The modules that observe ranges while their ``observer_enabled[0]`` is 1.

    Args:
        student: any host's prepared model.
        codebooks: with those of codebooks, which fit them to what they observe.
    """
    found = [module for module in student.modules() if hasattr(module, "observer_enabled")]
    return [module for module in found if codebooks or not isinstance(module, CodebookWeightFakeQuantize)]


def int8_parameters(student: nn.Module) -> list[str]:
    """The weights on an int8 grid and the biases of their layers, by name."""
    names = []
    for prefix, module in student.named_modules():
        quantizer = getattr(module, "weight_fake_quant", None)
        if quantizer is None or isinstance(quantizer, CodebookWeightFakeQuantize):
            continue
        leaves = [leaf for leaf in ("weight", "bias") if module._parameters.get(leaf) is not None]
        names += [f"{prefix}.{leaf}" if prefix else leaf for leaf in leaves]
    return names
