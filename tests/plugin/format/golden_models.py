"""The networks of the golden files, and their compressed forms, made with what version 0.1 has, too.

A case is a network, how it is compressed and how it is stored. Nothing here may change what a golden file that
is there loads into; new cases are welcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lloydmax
import torch
from torch import Tensor, nn

try:
    from lloydmax.student.attachment import attach
except ImportError:  # 0.1
    from lloydmax.checkpoint import attach

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALF, ENTROPY, COMPACT = {"floats": "float16"}, {"codes": "entropy"}, {"layout": "compact"}
TIGHT = {"floats": "fixed", "codes": "arithmetic", "layout": "tight"}
EVERY_DTYPE = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.float8_e5m2fnuz, torch.float8_e4m3fnuz, torch.float8_e4m3fn, torch.float8_e5m2),
]


@dataclass(frozen=True)
class Rule:
    """How the codebook of one parameter is made: what :class:`lloydmax.Codebook` takes; ``even`` and ``zeros`` say what
    its centroids are: evenly spaced, the second one exactly 0; ``skew``: how many codes are small."""

    k: int
    granularity: str = "tensor"
    axis: int = 0
    block: int = 1
    even: bool = False
    zeros: bool = False
    skew: int = 6
    matrices: int = 1


@dataclass(frozen=True)
class Case:
    """One golden file.

    Attributes:
        network: the uncompressed architecture; random values.
        rules: parameter -> its codebook; absent, ``recipe`` compresses.
        storage: of the file.
        recipe: that compresses, or is written beside the codebooks.
        dtype: of the model.
        since: the first version that can write it.
    """

    network: Callable[[], nn.Module]
    rules: dict[str, Rule] = field(default_factory=dict)
    storage: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    dtype: str = "float32"
    since: str = "0.1"

    def fresh(self) -> nn.Module:
        """The architecture that the file loads into."""
        network = self.network().eval()
        return network if self.dtype == "float32" else network.to(FLOATS[self.dtype])

    def compressed(self) -> nn.Module:
        """The model that is saved."""
        torch.manual_seed(1)
        model = self.fresh()
        if not self.rules:
            recipe: dict[str, Any] = {**(self.recipe or {}), "storage": self.storage}
            data = torch.randn(64, 3, 8, 8) if "activations" in recipe else None
            return lloydmax.compress(model, recipe, data, progress=False).model
        for name, rule in self.rules.items():
            shape = tuple(dict(model.named_parameters())[name].shape)
            attach(model, name, codebook(shape, rule, FLOATS[self.dtype], len(name)))
        return model


def codebook(shape: tuple[int, ...], rule: Rule, dtype: torch.dtype, seed: int) -> lloydmax.Codebook:
    """Random centroids and codes, of which most are alike, so that entropy coding has something to win."""
    random = torch.Generator().manual_seed(seed)
    channels = rule.matrices * shape[rule.axis] if shape else 1
    count = {"tensor": channels, "channel": 1}.get(rule.granularity) or int(rule.granularity.split(":")[1])
    rows = math.ceil(channels / count)
    if rule.even:
        zeros = torch.randint(rule.k, (rows, 1), generator=random)
        centroids = (torch.arange(rule.k) - zeros).float() * torch.rand(rows, 1, generator=random).to(dtype).float()
    else:
        centroids = torch.randn(rows, rule.k * rule.block, generator=random)
    if rule.zeros:
        centroids[:, 1] = 0
    codes_shape = shape if rule.block == 1 else (channels, math.prod(shape) // channels // rule.block)
    codes = (torch.rand(codes_shape, generator=random) ** rule.skew * rule.k).long().clamp(max=rule.k - 1)
    codes = codes.to(torch.uint8 if rule.k <= 1 << 8 else torch.int16 if rule.k <= 1 << 15 else torch.int32)
    blocks = (rule.block,) if rule.block > 1 else ()
    lead = () if rule.granularity == "tensor" else (rows,)
    centroids = centroids.view(*lead, rule.k, *blocks).to(dtype)
    more = {"matrices": rule.matrices} if rule.matrices > 1 else {}  # 0.1 knows none
    held = shape if blocks else ()
    return lloydmax.Codebook(centroids, codes, rule.granularity, rule.axis, rule.block, held, **more)


class Scale(nn.Module):
    """A parameter without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(()))


def layouts() -> nn.Module:
    """A layer for every way to lay out codebooks and codes."""
    return nn.ModuleDict({
        "tensor": nn.Linear(40, 30),
        "channel": nn.Conv2d(8, 6, 3),
        "group": nn.Conv2d(4, 7, 3, bias=False),
        "group_of_all": nn.Linear(5, 4, bias=False),
        "transposed": nn.ConvTranspose2d(4, 6, 3, bias=False),
        "blocks": nn.Conv2d(16, 20, 3, bias=False),
        "blocks_of_groups": nn.Linear(12, 10, bias=False),
        "blocks_of_channels": nn.ConvTranspose2d(4, 6, 2, bias=False),
        "two": nn.Linear(50, 20, bias=False),
        "three": nn.Linear(50, 20, bias=False),
        "byte": nn.Embedding(30, 16),
        "wider": nn.Embedding(90, 16),
        "norm": nn.BatchNorm2d(6),
        "scale": Scale(),
        "plain": nn.Linear(3, 2),
    })  # fmt: skip


LAYOUTS = {
    "tensor.weight": Rule(16),
    "tensor.bias": Rule(1),
    "channel.weight": Rule(5, "channel"),
    "group.weight": Rule(6, "group:3"),
    "group_of_all.weight": Rule(4, "group:1000"),
    "transposed.weight": Rule(4, "channel", axis=1),
    "blocks.weight": Rule(7, block=9),
    "blocks_of_groups.weight": Rule(3, "group:4", block=4),
    "blocks_of_channels.weight": Rule(3, "channel", axis=1, block=8),
    "two.weight": Rule(2),
    "three.weight": Rule(3, zeros=True),
    "byte.weight": Rule(256),
    "wider.weight": Rule(257),
    "scale.value": Rule(1),
}


def evens() -> nn.Module:
    """Layers for evenly spaced codebooks."""
    return nn.ModuleDict({
        "tensor": nn.Linear(40, 30),
        "channel": nn.Conv2d(8, 6, 3),
        "group": nn.Linear(30, 7, bias=False),
        "transposed": nn.ConvTranspose2d(4, 6, 3, bias=False),
        "many": nn.Linear(20, 9, bias=False),
    })  # fmt: skip


EVENS = {
    "tensor.weight": Rule(15, even=True),
    "channel.weight": Rule(255, "channel", even=True),
    "group.weight": Rule(3, "group:2", even=True),
    "transposed.weight": Rule(16, "channel", axis=1, even=True),
    "many.weight": Rule(70_000, even=True),
}
EVENS_OF_HALVES = {name: rule for name, rule in EVENS.items() if name != "many.weight"}


class Tied(nn.Module):
    """An embedding that is the output layer, too, norms that share a weight, a buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 20)
        self.embed = nn.Embedding(20, 12)
        self.first, self.second = nn.LayerNorm(12), nn.LayerNorm(12)
        self.embed.weight, self.second.weight = self.out.weight, self.first.weight
        self.register_buffer("a", torch.arange(5.0))
        self.b: Tensor
        self.register_buffer("b", self.a)


class Odd(nn.Module):
    """Buffers of every dtype, without elements, without axes, of odd values and under odd names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)
        for dtype in EVERY_DTYPE:
            name = f"of_{str(dtype).removeprefix('torch.')}"
            some = torch.arange(6).view(2, 3).to(torch.float32).to(dtype)
            self.register_buffer(name, some if dtype != torch.bool else some != 2)
            self.register_buffer(f"one_{name}", torch.ones((), dtype=torch.float32).to(dtype))
            self.register_buffer(f"same_{name}", torch.ones(3, 2, dtype=torch.float32).to(dtype))
        for number, name in enumerate(['"quoted" \\ and \t tabbed\n', "grün", "\U0001f600", "\ue000", "/<&>\x7f"]):
            self.register_buffer(name, torch.tensor([number, 7.5]))
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("values", torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3.4e38, 65504, 6e-8]))
        self.register_buffer("negative_zeros", torch.full((4,), -0.0))


def convolution() -> nn.Module:
    """A network for pictures of 3 x 8 x 8."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *head)


class Counting(nn.Linear):
    """A layer with extra state."""

    calls: Any = None

    def get_extra_state(self) -> Any:
        return {"calls": 3, "scales": [0.5, 1e-7, 1e22], "name": "ü"} if self.calls is None else self.calls

    def set_extra_state(self, state: Any) -> None:
        self.calls = state


def counting() -> nn.Module:
    return nn.Sequential(Counting(12, 20), nn.ReLU(), nn.Linear(20, 3))


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(12, 20)), nn.ReLU(), nn.Linear(20, 3))


def runs() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 2), nn.Linear(12, 5))


class Stacked(nn.Module):
    """Matrices that lie one after the other, with their outputs along either axis."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Parameter(torch.randn(3, 8, 5)), nn.Parameter(torch.randn(3, 4, 6))
        self.flat, self.even = nn.Parameter(torch.randn(12, 5)), nn.Parameter(torch.randn(2, 3, 7))
        self.blocks = nn.Parameter(torch.randn(12, 6))


STACKED = {
    "rows": Rule(5, "channel", axis=1, matrices=3),
    "columns": Rule(4, "group:4", axis=2, matrices=3),
    "flat": Rule(6, "channel", axis=1, matrices=3, zeros=True),
    "even": Rule(4, "channel", axis=2, matrices=2, even=True),
    "blocks": Rule(3, "group:6", axis=1, block=2, matrices=3),
}
TIED = {"out.weight": Rule(6, "channel"), "out.bias": Rule(2)}
FOLD: dict[str, Any] = {
    "quantize": [{"layers": "all", "centroids": 4}],
    "recover": [{"step": "fold_batch_norm"}],
}
INT8: dict[str, Any] = {
    "quantize": [
        {"layers": ["0"], "quantizer": "uniform", "bits": 4, "granularity": "channel"},
        {"layers": ["5"], "quantizer": "uniform", "bits": 8},
    ],
    "activations": {"bits": 8},
    "recover": [{"step": "fold_batch_norm"}],
}
RUNS: dict[str, Any] = {
    "quantize": [
        {"layers": ["0"], "quantizer": "uniform", "bits": 4, "granularity": "weights:16"},
        {"layers": ["1"], "quantizer": "uniform", "bits": 3, "granularity": "weights:7", "scheme": "asymmetric"},
        {"layers": ["2"], "quantizer": "uniform", "bits": 8, "granularity": "weights:12"},
    ],
}
PLAIN: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 4}]}
CASES = {
    **{
        f"{codes}-{dtype}": Case(layouts, LAYOUTS, {"codes": codes}, {"lr": 1e-5, "wide": 1e16, "n": -1}, dtype)
        for codes in ("packed", "entropy")
        for dtype in FLOATS
    },
    "floats-float16": Case(layouts, LAYOUTS, HALF),
    "floats-bfloat16-entropy": Case(layouts, LAYOUTS, {"floats": "bfloat16", **ENTROPY}),
    "even-packed": Case(evens, EVENS),
    "even-entropy-float16": Case(evens, EVENS_OF_HALVES, ENTROPY, dtype="float16"),
    "even-compact-bfloat16": Case(evens, EVENS_OF_HALVES, {**ENTROPY, **COMPACT}, dtype="bfloat16"),
    "int8-codebooks": Case(layouts, LAYOUTS, {"codebooks": "int8"}),
    "smallest": Case(layouts, LAYOUTS, {**HALF, **ENTROPY, **COMPACT, "norms": "merged", "codebooks": "int8"}),
    "compact": Case(layouts, LAYOUTS, COMPACT),
    "compact-float16": Case(layouts, LAYOUTS, {**ENTROPY, **COMPACT}, dtype="float16"),
    "constants": Case(layouts, LAYOUTS, {"norms": "merged"}),
    "tied": Case(Tied, TIED),
    "tied-smallest": Case(Tied, TIED, {**HALF, **ENTROPY, **COMPACT}),
    "odd": Case(Odd, {"layer.weight": Rule(3)}),
    "odd-constants": Case(Odd, {"layer.weight": Rule(3)}, {**HALF, "norms": "merged"}),
    "odd-compact": Case(Odd, {"layer.weight": Rule(3)}, COMPACT),
    "pieces": Case(lambda: nn.Embedding(263, 1000), {"weight": Rule(300, skew=1000)}, {**HALF, **ENTROPY}),
    "folded": Case(convolution, recipe=FOLD),
    "folded-compact": Case(convolution, recipe=FOLD, storage={**HALF, **COMPACT}),
    "int8-activations": Case(convolution, recipe=INT8),
    "int8-activations-compact": Case(convolution, recipe=INT8, storage={**ENTROPY, **COMPACT}),
    "extra": Case(counting, recipe=PLAIN, since="newer"),
    "extra-compact": Case(counting, recipe=PLAIN, storage=COMPACT, since="newer"),
    "stacked": Case(Stacked, STACKED, since="newer"),
    "stacked-smallest": Case(Stacked, STACKED, {**HALF, **ENTROPY, **COMPACT, "codebooks": "int8"}, since="newer"),
    "runs": Case(runs, recipe=RUNS, since="newer"),
    "runs-smallest-float16": Case(runs, recipe=RUNS, storage={**ENTROPY, **COMPACT}, dtype="float16", since="newer"),
    "baked": Case(normed, recipe=PLAIN, since="newer"),
    **{f"tight-{dtype}": Case(layouts, LAYOUTS, TIGHT, {"lr": 1e-5}, dtype, since="newer") for dtype in FLOATS},
    "tight-tied": Case(Tied, TIED, TIGHT, since="newer"),
    "tight-odd": Case(Odd, {"layer.weight": Rule(3)}, TIGHT, since="newer"),
    "tight-stacked-int8": Case(Stacked, STACKED, {**TIGHT, "codebooks": "int8"}, since="newer"),
    "tight-runs": Case(runs, recipe=RUNS, storage=TIGHT, since="newer"),
    "tight-extra": Case(counting, recipe=PLAIN, storage=TIGHT, since="newer"),
    "arithmetic-compact": Case(layouts, LAYOUTS, {**COMPACT, "codes": "arithmetic"}, since="newer"),
}
"""Name of a golden file -> what is in it."""
