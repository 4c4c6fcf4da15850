"""What a peer's model takes as a file, in the peer's favour: ideal packing, no header, float16 for what stays float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

FLOAT16 = 2


@dataclass(frozen=True)
class Packed:
    """A compressed network.

    Attributes:
        weights: name -> the values that the compressed network computes with, for every tensor that changed.
        bytes: of the file.
        how: what the bytes are of, in words.
        left: names of the weights (two dimensions and more) that stay float.
    """

    weights: Mapping[str, Tensor]
    bytes: int
    how: str
    left: list[str] = field(default_factory=list)


def floats(model: nn.Module) -> dict[str, Tensor]:
    """Every float tensor of a model."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def scalars(model: nn.Module) -> int:
    """How many parameters a model has: what bits per weight are counted by."""
    return sum(parameter.numel() for parameter in model.parameters())


def shared(weight: Tensor, channels: int | None) -> tuple[Tensor, ...]:
    """What shares a codebook: the tensor, or each this number of output channels."""
    return (weight,) if channels is None else weight.split(channels)


def codebooks(model: nn.Module, weights: Mapping[str, Tensor], bits: int, channels: int | None) -> Packed:
    """Weights of at most ``2 ** bits`` values a tensor (or this number of output channels): codes of fixed width,
    float16 codebooks of the values that occur; or plain float16 where that is smaller."""
    sizes = {}
    for name, weight in weights.items():
        entries = sum(len(torch.unique(codebook)) for codebook in shared(weight, channels))
        sizes[name] = math.ceil(bits * weight.numel() / 8) + FLOAT16 * entries
    return _packed(model, weights, sizes, "fixed-width codes, float16 codebooks of the values that occur")


def groups(model: nn.Module, weights: Mapping[str, Tensor], bits: int, size: int | None, zeros: bool) -> Packed:
    """Uniform levels: codes of fixed width, a float16 scale (and a one-byte zero) for each group of a row."""
    sizes = {}
    for name, weight in weights.items():
        inputs = weight[0].numel()
        count = len(weight) * (1 if size is None else math.ceil(inputs / size))
        sizes[name] = math.ceil(bits * weight.numel() / 8) + count * (FLOAT16 + zeros)
    each = "row" if size is None else f"group of {size}"
    return _packed(model, weights, sizes, f"fixed-width codes, a float16 scale{' and a zero' * zeros} a {each}")


def _packed(model: nn.Module, weights: Mapping[str, Tensor], sizes: Mapping[str, int], how: str) -> Packed:
    everything = floats(model)
    total = sum(min(sizes.get(name, math.inf), FLOAT16 * tensor.numel()) for name, tensor in everything.items())
    left = [name for name, tensor in everything.items() if tensor.dim() > 1 and name not in weights]
    return Packed(weights, int(total), f"ideal packing: {how}, float16 for the rest", left)


def installed(model: nn.Module, packed: Packed) -> nn.Module:
    """The model with these weights; it is changed."""
    state = model.state_dict()
    with torch.no_grad():
        for name, weight in packed.weights.items():
            state[name].copy_(weight)
    return model
