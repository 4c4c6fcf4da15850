"""The ways to compress a network of the zoo: lloydmax's, and those that it is compared with."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lloydmax
import torch
from size import peers
from size.packing import Packed, groups, installed
from torch import Tensor, nn

from zoo.network import Loaded

SMALLEST = 1024
"""Values of a buffer that is counted as a weight: importers leave weights in buffers."""


@dataclass(frozen=True)
class Made:
    """A compressed network.

    Attributes:
        model: it.
        bytes: of its file.
    """

    model: nn.Module
    bytes: int


def weights(model: nn.Module) -> int:
    """Parameters, and the values of large float buffers: what bits are counted by."""
    buffers = [value for value in model.buffers() if value.is_floating_point() and value.dim() > 1]
    large = [value for value in buffers if value.numel() >= SMALLEST]
    return sum(value.numel() for value in [*model.parameters(), *large])


def ours(loaded: Loaded, bits: float, data: Tensor | None, effort: float, **given: Any) -> Made:
    """What ``recipe_for`` makes: a file of at most so many bits a weight."""
    recipe = lloydmax.recipe_for(loaded.model, bits, data, effort, **given)
    return _saved(lloydmax.compress(loaded.model, recipe, data, progress=False))


def noise(inputs: Tensor) -> Tensor:
    """As many inputs of noise of the same mean and deviation, or of integers of the same range."""
    generator = torch.Generator().manual_seed(0)
    if not inputs.is_floating_point():
        low, high = int(inputs.min()), int(inputs.max())
        return torch.randint(low, high + 1, inputs.shape, generator=generator).to(inputs.dtype)
    return torch.randn(inputs.shape, generator=generator) * inputs.std() + inputs.mean()


def plain(loaded: Loaded, bits: float) -> Made:
    """k-means alone, ``2 ** bits`` centroids for each output channel, codes entropy coded."""
    return _plain(loaded, round(2**bits), "channel")


def plain_fitting(loaded: Loaded, bits: float) -> Made:
    """The same with as many centroids as a file of so many bits a weight has room for, for each output channel; where
    there is no room for two, for each tensor."""
    sizes = sorted({max(2, int(2 ** (bits + 1) * part / 8)) for part in range(1, 9)})
    for granularity in ("channel", "tensor"):
        fitting: list[Made] = []
        low, high = 0, len(sizes)
        while low < high:
            middle = (low + high) // 2
            made = _plain(loaded, sizes[middle], granularity)
            if made.bytes <= bits / 8 * weights(loaded.model):
                fitting, low = [made], middle + 1
            else:
                high = middle
        if fitting:
            return fitting[0]
    raise RuntimeError("no file is small enough")


def _plain(loaded: Loaded, centroids: int, granularity: str) -> Made:
    recipe = lloydmax.recipe_for(loaded.model, 8).data()
    named = [{key: rule[key] for key in ("layers", "parameter") if key in rule} for rule in recipe["quantize"]]
    rules = [rule | {"centroids": centroids, "granularity": granularity} for rule in named]
    alone = {"version": 1, "quantize": rules, "storage": recipe["storage"]}
    return _saved(lloydmax.compress(loaded.model, alone, progress=False))


def peer(loaded: Loaded, bits: float, name: str) -> Made:
    """A peer with whole bits a code, as ``accuracy_at_size.py`` runs it and counts its bytes."""
    packed = peers.PEERS[name].run(copy.deepcopy(loaded.model), int(bits), loaded.inputs[:2])
    return Made(installed(copy.deepcopy(loaded.model), packed), packed.bytes)


def rtn(loaded: Loaded, bits: float) -> Made:
    """Rounding to the nearest of an even grid of whole bits for each output channel, and its scale."""
    rounded, bits = {}, int(bits)
    for name, weight in loaded.model.state_dict().items():
        if weight.is_floating_point() and weight.dim() > 1 and weight.numel() >= SMALLEST:
            most = 2 ** (bits - 1)
            scale = weight.flatten(1).abs().amax(1).clamp(min=1e-30).reshape(-1, *[1] * (weight.dim() - 1)) / (
                most - 0.5
            )
            rounded[name] = ((weight / scale - 0.5).round().clamp(-most, most - 1) + 0.5) * scale
    packed: Packed = groups(loaded.model, rounded, bits, None, zeros=False)
    return Made(installed(copy.deepcopy(loaded.model), packed), packed.bytes)


ROWS: dict[str, tuple[str, Callable[[Loaded, float], Made]]] = {
    "none": ("no data", lambda loaded, bits: ours(loaded, bits, None, 1.0)),
    "made": ("inputs made", lambda loaded, bits: ours(loaded, bits, None, 1.0, example_inputs=loaded.inputs[:2])),
    "noise": ("noise as data", lambda loaded, bits: ours(loaded, bits, noise(loaded.inputs), 0.0)),
    "effort0": ("data, effort 0", lambda loaded, bits: ours(loaded, bits, loaded.inputs, 0.0)),
    "effort1": ("data, effort 1", lambda loaded, bits: ours(loaded, bits, loaded.inputs, 1.0)),
    "plain": ("plain k-means a channel", plain),
    "plain-fitting": ("plain k-means of that size", plain_fitting),
    "coremltools": ("coremltools, a codebook a tensor", partial(peer, name="coremltools-tensor")),
    "coremltools-channel": ("coremltools, a codebook a channel", partial(peer, name="coremltools-channel")),
    "rtn": ("even grid a channel", rtn),
}
"""Row -> title, and what makes it: a network, bits a weight (of the file, or of a code) -> the compressed network."""
OURS = ("none", "made", "noise", "effort0", "effort1")


def _saved(result: lloydmax.Result) -> Made:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        result.save(path)
        return Made(result.model, path.stat().st_size)
