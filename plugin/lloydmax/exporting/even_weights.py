"""Weights on even grids, as runtimes have them: integers, and a scale and a zero point for each run of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.grid import spacing
from lloydmax.student.attachment import attached
from lloydmax.student.layers import CodebookTensor, CodesHolder

Array = npt.NDArray[Any]
_FEWEST, _MOST = 3, 256
"""Levels of a grid that a runtime's integers are worth, and that they can have."""


@dataclass(frozen=True)
class EvenWeight:
    """A weight that is ``(integer - zero) * scale``, each operation rounded to the dtype of the scale.

    Attributes:
        integers: uint8 ``(outputs, length)``, row-major over the other axes of the weight.
        scale: float32 or float16 ``(outputs, runs)``.
        zero: uint8 ``(outputs, runs)``; within the levels.
        run: integers of one scale, consecutive; the last run of a row may be shorter.
        levels: how many integers there may be.
        shape: of the weight.
        axis: of the outputs.
    """

    integers: Array
    scale: Array
    zero: Array
    run: int
    levels: int
    shape: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, codebook: Codebook) -> EvenWeight | None:
        """A codebook as integers; ``None`` where it is not an even grid of a matrix or of a larger weight."""
        layout = codebook.layout
        if not _FEWEST <= codebook.k <= _MOST or layout.matrices > 1 or len(layout.shape) < 2:
            return None
        if (rows := spacing(codebook)) is None:
            return None
        each = (rows if layout.runs > 1 else rows[layout.owners()]).view(layout.outputs, -1, 2)
        integers = layout.channels_first(codebook.codes).reshape(layout.outputs, -1)
        scale = each[..., 0].to(codebook.centroids.dtype).contiguous().numpy()
        zero = each[..., 1].numpy().astype(np.uint8)
        run = layout.run if layout.runs > 1 and layout.run else integers.shape[1]
        return cls(integers.numpy(), scale, zero, run, codebook.k, layout.shape, layout.axis)

    @property
    def runs(self) -> int:
        """Of a row."""
        return int(self.scale.shape[1])

    @property
    def bits(self) -> int:
        """Of the narrowest integers that a runtime has and that hold the levels: 2, 4 or 8."""
        return next(bits for bits in (2, 4, 8) if self.levels <= 1 << bits)

    @property
    def moved(self) -> tuple[int, ...]:
        """Shape of the weight with the outputs first."""
        return (self.shape[self.axis], *self.shape[: self.axis], *self.shape[self.axis + 1 :])

    @property
    def back(self) -> tuple[int, ...]:
        """The permutation of axes that brings the outputs back to their place."""
        order = list(range(1, len(self.shape)))
        order.insert(self.axis, 0)
        return tuple(order)

    def along(self, axis: int) -> EvenWeight | None:
        """The same matrix with its outputs along this axis; ``None`` where scales differ along the other one."""
        if axis == self.axis:
            return self
        if (
            len(self.shape) != 2
            or len({*zip(self.scale.reshape(-1).tolist(), self.zero.reshape(-1).tolist(), strict=True)}) > 1
        ):
            return None
        across = np.ascontiguousarray(self.integers.T)
        ones = np.ones((len(across), 1), self.scale.dtype), np.ones((len(across), 1), np.uint8)
        scale, zero = ones[0] * self.scale[0, 0], ones[1] * self.zero[0, 0]
        return replace(self, integers=across, scale=scale, zero=zero, run=across.shape[1], axis=axis)

    def centred(self, bits: int) -> EvenWeight:
        """The same with every zero point at ``2 ** (bits - 1)``, where the integers have room for that."""
        shift = (1 << (bits - 1)) - int(self.zero[0, 0])
        if (self.zero != self.zero[0, 0]).any() or not 0 <= shift <= (1 << bits) - self.levels:
            return self
        return replace(self, integers=self.integers + np.uint8(shift), zero=self.zero + np.uint8(shift))

    def in_blocks(self, size: int) -> tuple[Array, Array, Array]:
        """Integers ``(outputs, blocks, size)``, scale and zero ``(outputs, blocks)``; the last block is filled up.

        Args:
            size: divides :attr:`run`, or a row has one run.
        """
        outputs, length = self.integers.shape
        blocks = -(-length // size)
        filled = np.zeros((outputs, blocks * size), np.uint8)
        filled[:, :length] = self.integers
        owner = np.arange(blocks) * size // self.run if self.run < length else np.zeros(blocks, np.int64)
        return filled.reshape(outputs, blocks, size), self.scale[:, owner], self.zero[:, owner]


@dataclass(frozen=True)
class Kind:
    """What a runtime can make of a weight.

    Attributes:
        bits: of the narrowest integers that runtimes have and that hold the levels of an even grid, 2, 4 or 8; 0 where
            it is none, or not of a matrix or a larger weight.
        matrix: whether it has two axes.
        run: weights of one grid where an output channel has several, else 0.
    """

    bits: int
    matrix: bool
    run: int = 0

    @classmethod
    def of(cls, codebook: Codebook) -> Kind:
        """That of the weight of a codebook."""
        even = EvenWeight.of(codebook)
        matrix = len(codebook.shape) == 2
        return cls(0, matrix) if even is None else cls(even.bits, matrix, even.run if even.runs > 1 else 0)

    def __str__(self) -> str:
        if not self.bits:
            return "free centroids"
        each = f" for each {self.run} weights" if self.run else ""
        return f"even grids of {self.bits} bits{each}" + ("" if self.matrix else " in convolutions")


def packed(integers: Array, bits: int) -> Array:
    """Integers as bytes, along the last axis, the first one lowest; filled up to whole bytes.

    Args:
        integers: uint8 ``(..., n)``, below ``2 ** bits``.
        bits: 2, 4 or 8.
    """
    share = 8 // bits
    missing = -integers.shape[-1] % share
    full = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, missing)])
    found = np.zeros((*full.shape[:-1], full.shape[-1] // share), np.uint8)
    for place in range(share):
        found |= full[..., place::share] << np.uint8(place * bits)
    return found


DENSE = "dense_values"
"""Name of the buffer that stands for an even weight in a traced program."""


class _Dense(nn.Module):
    """A parameter of a finished module, decoded: what a program has in place of its codes."""

    planes = None
    """No packed codes to run from."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer(DENSE, values)

    def forward(self, *_: Tensor) -> Tensor:
        """The weight, whatever the centroids."""
        values: Tensor = getattr(self, DENSE)
        return values


def _books(model: nn.Module) -> dict[CodesHolder, Codebook]:
    """Whatever holds codes, each once."""
    books: dict[CodesHolder, Codebook] = {held.weight: held.codebook() for held in attached(model)}
    return books | {held: held.codebook() for held in model.modules() if isinstance(held, CodebookTensor)}


def compressed_weights(model: nn.Module) -> list[Codebook]:
    """The codebooks of a model, those of tied parameters once."""
    return [*_books(model).values()]


def laid_bare(model: nn.Module, takes: Callable[[EvenWeight], bool]) -> dict[str, EvenWeight]:
    """Put the decoded weight, a buffer :data:`DENSE`, in place of every holder of an even one.

    Args:
        model: finished; changed in place.
        takes: whether a weight is wanted so; the others keep their codes.

    Returns:
        The weights by the names of those buffers; a weight of several names is one value.
    """
    books = _books(model)
    evens = {
        holder: even for holder, book in books.items() if (even := EvenWeight.of(book)) is not None and takes(even)
    }
    dense = {holder: _Dense(books[holder].dequantize()) for holder in evens}
    found = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in evens:
            parent, _, leaf = name.rpartition(".")
            model.get_submodule(parent)._modules[leaf] = dense[module]
            found[f"{name}.{DENSE}"] = evens[module]
    return found
