"""Layout: how a weight is divided among codebooks, and into codes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor

from lloydmax.errors import FitError

_FIELDS_OF_0_1 = ("shape", "granularity", "axis", "block")

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of a weight that can have a codebook."""

_LONGEST_SUGGESTED = 64
"""Lengths of blocks beyond this are not suggested."""


def code_bits(centroids: int) -> int:
    """Bits of one fixed-width code, ``ceil(log2(centroids))``; 0 for a single centroid."""
    return (centroids - 1).bit_length()


def code_dtype(centroids: int) -> torch.dtype:
    """The smallest integer dtype that holds the codes ``0 .. centroids - 1`` in memory."""
    if centroids <= 1 << 8:
        return torch.uint8
    return torch.int16 if centroids <= 1 << 15 else torch.int32


def shared_by(granularity: str) -> tuple[int | None, int | None]:
    """What shares one codebook: so many output channels, ``None`` for all of the tensor, and of one channel so many
    weights, ``None`` for all.

    Args:
        granularity: ``"tensor"``, ``"channel"``, ``"group:N"`` or ``"weights:N"`` with N >= 1.

    Raises:
        FitError: any other spelling.
    """
    if granularity == "tensor":
        return None, None
    if granularity == "channel":
        return 1, None
    match = re.fullmatch(r"(group|weights):([1-9][0-9]{0,8})", granularity)
    if match is None:
        raise FitError(
            f"granularity is {granularity!r}; write 'tensor', 'channel', 'group:N' or 'weights:N' with N >= 1"
        )
    return (int(match[2]), None) if match[1] == "group" else (1, int(match[2]))


def _of_channels(granularity: str) -> str:
    if shared_by(granularity)[1] is not None:
        raise FitError(
            f"granularity {granularity!r} is for even grids, quantizer 'uniform'; "
            "write 'tensor', 'channel' or 'group:N'"
        )
    return granularity


Granularity = Annotated[str, AfterValidator(_of_channels)]
"""What shares free centroids, as the type of an option: ``"tensor"``, ``"channel"`` or ``"group:N"``."""


@dataclass(frozen=True)
class Layout:
    """How one weight is divided among codebooks, and into codes.

    A block is ``block`` consecutive weights of one output channel, row-major over the remaining axes (9 is a 3 x 3
    kernel); each block has one code.

    Attributes:
        shape: of the weight.
        centroids: of one codebook, k.
        granularity: what shares a codebook: ``"tensor"``, ``"channel"`` (each output channel), ``"group:N"``
            (N output channels; the last group may be smaller) or ``"weights:N"`` (each run of N weights of one output
            channel, row-major over the remaining axes; the last run may be shorter). A scalar has one codebook
            whatever it says.
        axis: axis of the output channels: 0, or 1 for transposed convolutions and linear layers.
        block: weights of one code.
        matrices: so many lie one after the other along the first axis, the experts of a layer for example, each with
            output channels of its own; they are numbered matrix by matrix. 1 where that axis is ``axis``.
        channels: output channels of one codebook; ``None``: all.
        run: weights of one channel that share a codebook; ``None``: all.

    Raises:
        FitError: another granularity, an axis that the shape does not have, blocks that do not divide the channels of
            the weight or that have runs, or matrices that do not divide its first axis.
    """

    shape: tuple[int, ...]
    centroids: int
    granularity: str = "tensor"
    axis: int = 0
    block: int = 1
    matrices: int = 1
    channels: int | None = field(init=False, repr=False, compare=False)
    run: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        channels, run = shared_by(self.granularity)
        object.__setattr__(self, "channels", channels)
        object.__setattr__(self, "run", run)
        if self.run is not None and self.block > 1:
            raise FitError(f"granularity {self.granularity!r} is for single weights, not for blocks of {self.block}")
        if not 0 <= self.axis < max(1, len(self.shape)):
            raise FitError(f"axis {self.axis} is not one of its shape {self.shape}")
        if self.matrices != 1 and (self.matrices < 1 or not self.axis or self.shape[0] % self.matrices):
            raise FitError(f"{self.matrices} matrices do not lie along the first axis of its shape {self.shape}")
        size = self.weights_per_channel
        if size % self.block:
            lengths = [d for d in range(1, min(size, _LONGEST_SUGGESTED) + 1) if size % d == 0]
            raise FitError(
                f"its shape {self.shape} has {size} weights per output channel, which blocks of {self.block} do not "
                f"divide; lengths that do: {', '.join(map(str, lengths))}"
            )

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def weights_per_channel(self) -> int:
        """Number of weights of one output channel."""
        return math.prod(self.shape[: self.axis]) // self.matrices * math.prod(self.shape[self.axis + 1 :])

    @property
    def outputs(self) -> int:
        """Number of output channels, of all matrices; 1 of a scalar."""
        return self.matrices * self.shape[self.axis] if self.shape else 1

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.weights // self.block

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """What tells the output channels of weights of one shape apart: the axis, and the matrices if there are any."""
        return (self.axis,) if self.matrices == 1 else (self.axis, self.matrices)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the codes: that of the weight, or ``(channels, blocks per channel)`` for blocks of several."""
        if self.block == 1:
            return self.shape
        return (self.outputs, self.weights_per_channel // self.block)

    @property
    def bits(self) -> int:
        """Bits of one fixed-width code."""
        return code_bits(self.centroids)

    @property
    def bits_per_weight(self) -> float:
        """Bits of a fixed-width code for each weight that it stands for."""
        return self.bits / self.block

    @property
    def runs(self) -> int:
        """Codebooks of one output channel that no other has; 1 where it has one, or shares one."""
        return 1 if self.run is None or not self.shape else math.ceil(self.weights_per_channel / self.run)

    @property
    def codebooks(self) -> int:
        """Number of codebooks."""
        return 1 if self.channels is None or not self.shape else math.ceil(self.outputs / self.channels) * self.runs

    @property
    def values(self) -> int:
        """Number of values of one codebook: its centroids, each of ``block`` weights."""
        return self.centroids * self.block

    @property
    def centroids_shape(self) -> tuple[int, ...]:
        """Shape of the centroids: ``(k,)`` for granularity ``tensor``, else ``(codebooks, k)``; with ``block`` as a
        last axis where it is above 1."""
        one = (self.centroids,) if self.block == 1 else (self.centroids, self.block)
        return one if self.granularity == "tensor" else (self.codebooks, *one)

    def __str__(self) -> str:
        blocks = f" in blocks of {self.block}" if self.block > 1 else ""
        stacked = f" of {self.matrices} matrices" if self.matrices > 1 and self.channels is not None else ""
        return f"{self.centroids} centroids per {self.granularity}{stacked}{blocks}"

    def with_centroids(self, centroids: int) -> Layout:
        """The same with another number of centroids."""
        return replace(self, centroids=centroids)

    def fits(self, other: Layout) -> bool:
        """Whether a codebook of the layout ``other`` is one of this layout, perhaps with fewer centroids."""
        alike = (self.shape, self.granularity, self.block) == (other.shape, other.granularity, other.block)
        return alike and other.centroids <= self.centroids

    def owners(self, device: torch.device | None = None) -> Tensor:
        """Number of the codebook of every output channel: int64 ``(channels,)``.

        Raises:
            FitError: a channel has several.
        """
        if self.runs > 1:
            raise FitError(f"one codebook for each output channel is needed here, granularity is {self.granularity!r}")
        return torch.arange(self.outputs, device=device) // (self.channels or self.outputs)

    def channels_first(self, tensor: Tensor) -> Tensor:
        """A tensor in the shape of the weight, with the output channels along its first axis: ``(outputs, ...)``."""
        if self.matrices == 1:
            return tensor.movedim(self.axis, 0)
        return tensor.unflatten(0, (self.matrices, -1)).movedim(self.axis + 1, 1).flatten(0, 1)

    def channels_back(self, moved: Tensor) -> Tensor:
        """The reverse, from any shape in which the output channels are first; contiguous."""
        if not self.shape:
            return moved.reshape(())
        rows = self.shape[0] // self.matrices
        others = (rows, *self.shape[1 : self.axis], *self.shape[self.axis + 1 :])
        if self.matrices == 1:
            others = (*self.shape[: self.axis], *self.shape[self.axis + 1 :])
            return moved.reshape(self.shape[self.axis], *others).movedim(0, self.axis).contiguous()
        apart = moved.reshape(self.matrices, self.shape[self.axis], *others)
        return apart.movedim(1, self.axis + 1).reshape(self.shape)

    def spread(self, each: Tensor) -> Tensor:
        """A value for each output channel ``(outputs,)``, to be broadcast against the weight."""
        if not self.shape:
            return each.reshape(())
        after = [1] * (len(self.shape) - self.axis - 1)
        if self.matrices == 1:
            return each.view(*[1] * self.axis, -1, *after)
        apart = each.view(self.matrices, *[1] * self.axis, -1, *after)
        rows = self.shape[0] // self.matrices
        return apart.expand(-1, rows, *[-1] * (apart.dim() - 2)).flatten(0, 1)

    def blocks(self, weight: Tensor) -> Tensor:
        """``(channels, blocks per channel, block)`` of a tensor in the shape of the weight."""
        return self.channels_first(weight).reshape(self.outputs, -1, self.block)

    def zeros(self, weight: Tensor) -> Tensor:
        """Which weights, or whole blocks, are exactly 0: bool, :attr:`code_shape`."""
        return weight == 0 if self.block == 1 else (self.blocks(weight) == 0).all(-1)

    def free(self, weight: Tensor) -> Tensor:
        """1 where a weight, or any in its block, is other than 0, else 0: float32, in the shape of the weight."""
        values = torch.tensor([1.0, 0.0], device=weight.device)
        values = values if self.block == 1 else values[:, None].expand(-1, self.block)
        return replace(self, centroids=2, granularity="tensor").decode(values, self.zeros(weight).int())

    def in_runs(self, weight: Tensor) -> Tensor:
        """The weights of every codebook where channels have several, ``(codebooks, run)``; 0 where a last run ends.

        Args:
            weight: in its shape.
        """
        assert self.run is not None
        rows = self.channels_first(weight).reshape(self.outputs, -1)
        return F.pad(rows, (0, self.runs * self.run - rows.shape[1])).reshape(-1, self.run)

    def from_runs(self, rows: Tensor) -> Tensor:
        """The reverse of :meth:`in_runs`."""
        return self.channels_back(rows.reshape(self.outputs, -1)[:, : self.weights_per_channel])

    def groups(self, weight: Tensor) -> Iterator[Tensor]:
        """The blocks of every codebook, ``(codebooks, n, block)``: those of full groups of channels, then those of a
        smaller last group; runs have :meth:`in_runs`."""
        blocks = self.blocks(weight)
        channels = self.channels or len(blocks)
        full = len(blocks) // channels * channels
        for part in (blocks[:full], blocks[full:]):
            if len(part):
                yield part.reshape(-1, min(channels, len(part)) * blocks.shape[1], self.block)

    def slots(self, codes: Tensor) -> Tensor:
        """Each code's place in the codebooks laid end to end: int32, flat.

        Args:
            codes: integers ``0 .. k - 1``, :attr:`code_shape`.
        """
        index = codes.int()
        if self.runs > 1:
            index = (
                index
                + self.with_each(torch.arange(self.codebooks, device=codes.device, dtype=torch.int32)) * self.centroids
            )
        elif self.channels is not None and self.shape:
            owner = torch.arange(self.outputs, device=codes.device, dtype=torch.int32) // self.channels
            index = index + self.spread_over_codes(owner * self.centroids)
        return index.reshape(-1)

    def with_each(self, values: Tensor) -> Tensor:
        """A value for each codebook ``(codebooks,)``, to be broadcast against the codes."""
        if self.runs > 1:
            assert self.run is not None
            return self.from_runs(values[:, None].expand(-1, self.run).contiguous())
        return self.spread_over_codes(values[self.owners(values.device)]) if self.channels and self.shape else values

    def spread_over_codes(self, each: Tensor) -> Tensor:
        """A value for each output channel ``(outputs,)``, to be broadcast against the codes."""
        return self.spread(each) if self.block == 1 else each[:, None]

    def decode(self, centroids: Tensor, codes: Tensor) -> Tensor:
        """The dense weight: every code replaced by its centroid.

        Differentiable with respect to ``centroids``. ``torch.index_select`` is used because its backward pass is far
        cheaper on the CPU than that of ``F.embedding`` for a few centroids and millions of codes.

        Args:
            centroids: :attr:`centroids_shape`, any dtype.
            codes: integers ``0 .. k - 1``, :attr:`code_shape`.

        Returns:
            A tensor in the shape of the weight and the dtype of ``centroids``.
        """
        if self.block == 1:
            return torch.index_select(centroids.reshape(-1), 0, self.slots(codes)).view(codes.shape)
        rows = torch.index_select(centroids.reshape(-1, self.block), 0, self.slots(codes))
        return self.channels_back(rows)


def with_layout(state: dict[str, Any], centroids: int) -> dict[str, Any]:
    """The state of something that 0.1 pickled with shape, granularity, axis and block of its own, as it is now."""
    kept = {key: value for key, value in state.items() if key not in _FIELDS_OF_0_1}
    return {**kept, "layout": Layout(centroids=centroids, **{key: state[key] for key in _FIELDS_OF_0_1})}
