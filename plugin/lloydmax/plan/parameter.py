"""What happens to one parameter, before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel

from lloydmax.codebook import int8
from lloydmax.codebook.blocks import code_shape
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import code_bits, codebook_count
from lloydmax.format import packing
from lloydmax.format.record import Parameter

if TYPE_CHECKING:
    from lloydmax.recipe.sections import Storage


@dataclass(frozen=True)
class PlannedParameter:
    """One parameter that gets a codebook.

    Attributes:
        name: full name (of the first owner, when tied).
        tied: the other names of the same parameter.
        layer: the class name of its module.
        number: its layer's number among all convolution and linear layers (from 1), if it is one.
        shape: of the weight.
        dtype: of the weight.
        quantizer: registered name.
        options: validated options of the quantizer.
        centroids: of one codebook, at most the number of distinct values.
        granularity: what shares a codebook.
        axis: axis of the output channels.
        rule: index of the rule that won, from 0.
        importance: registered name of an importance, or ``None``.
        even: the centroids are evenly spaced: a codebook is stored as its scale and zero point.
        block: weights of one code.
    """

    name: str
    tied: tuple[str, ...]
    layer: str
    number: int | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    quantizer: str
    options: BaseModel
    centroids: int
    granularity: str
    axis: int
    rule: int
    importance: str | None
    even: bool = False
    block: int = 1

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(torch.Size(self.shape).numel())

    @property
    def codebooks(self) -> int:
        """Number of codebooks."""
        return codebook_count(self.shape, self.granularity, self.axis)

    @property
    def code_bytes(self) -> int:
        """Bytes of the fixed-width codes."""
        return packing.packed_bytes(self.weights // self.block, code_bits(self.centroids))

    @property
    def codebook_values(self) -> int:
        """Number of values stored for all codebooks."""
        return self.codebooks * (2 if self.even else self.centroids * self.block)

    def codebook_bytes(self, storage: Storage) -> int:
        """Bytes of all codebooks in a file."""
        if self.stored().takes_int8(storage.codebooks, storage.float_bytes):
            return self.codebook_values + self.codebooks * int8.SCALE_BYTES
        return self.codebook_values * (4 if self.even else storage.float_bytes)

    @property
    def bits_per_weight(self) -> float:
        """Bits of a fixed-width code for each weight that it stands for."""
        return code_bits(self.centroids) / self.block

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the codes in memory."""
        return code_shape(self.shape, self.axis, self.block)

    def stored(self) -> Parameter:
        """As a file describes it."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Parameter(
            self.shape, self.centroids, dtype, self.granularity, self.axis, even=self.even, block=self.block
        )


def layout(centroids: int, of: Codebook | PlannedParameter) -> str:
    """How many centroids share what, in words."""
    blocks = f" in blocks of {of.block}" if of.block > 1 else ""
    return f"{centroids} centroids per {of.granularity}{blocks}"
