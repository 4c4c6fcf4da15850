"""Floats as whole numbers of a step: what ``floats: fixed`` makes of biases, norms and codebooks.

The step is a power of two, so that the products are exact and the numbers can be told from the floats again: a file
loses nothing, and rounding twice is rounding once. All such tensors of a file are one adaptive arithmetic code, which
takes 6 to 8 bits for a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lloydmax.errors import CheckpointError
from lloydmax.format.arithmetic import coder
from lloydmax.format.tensor_table import BY_CODE, Entry, expect

Numbers = npt.NDArray[np.int64]

FEWEST, MOST = 8, 1 << 16
"""Values of a tensor that may be so stored: fewer save nothing, more are weights."""
FINE, _BETWEEN, _TABLE = 6, 4, 10
"""Bits of the usual magnitude of floats, of the distance of centroids, and of their magnitude, of which an error is
shared by all their weights, and so does not average out."""
_LARGEST = 1 << 18
"""Of the numbers; above it, floats are no longer."""
_LEAST, _GREATEST = -149, 127
"""Exponents of steps: those of binary32."""
_TABLE_BITS, _LEARNT = (5.5, 14.0), 8
"""Expected bits of a centroid, at least, and of one of one; bytes in which the coder learns what is in a tensor."""


@dataclass(frozen=True)
class Steps:
    """A tensor as whole numbers of a step.

    Attributes:
        numbers: flat.
        exponent: of two, of the step.
        columns: of rows of centroids, of which differences are coded; 0 for anything else.
    """

    numbers: Numbers
    exponent: int
    columns: int = 0

    @classmethod
    def of(cls, tensor: Tensor, columns: int = 0) -> Steps | None:
        """The tensor, if that loses no bit of it and saves bytes.

        Args:
            tensor: of any dtype and shape.
            columns: see there.
        """
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) or not FEWEST <= tensor.numel() <= MOST:
            return None
        values = tensor.detach().cpu().double().reshape(-1).numpy()
        if not np.isfinite(values).all() or not values.any() or bool((np.signbit(values) & (values == 0)).any()):
            return None
        exponent = _finest(values)
        numbers = np.ldexp(values, -exponent)
        return None if np.abs(numbers).max() >= _LARGEST else cls(numbers.astype(np.int64), exponent, columns)

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """The values, flat."""
        return torch.from_numpy(np.ldexp(self.numbers.astype(np.float64), self.exponent)).to(dtype)


def _finest(values: npt.NDArray[np.float64]) -> int:
    """The exponent of the lowest bit that any of these binary32 has."""
    fractions, exponents = np.frexp(values[values != 0])
    wholes = np.abs(fractions * (1 << 24)).astype(np.int64)
    return int((exponents + np.log2(wholes & -wholes).astype(np.int64)).min()) - 24


@torch.no_grad()
def rounded(tensor: Tensor, columns: int = 0, fine: int = FINE) -> Tensor | None:
    """A float32 tensor in steps; ``None``: it has too few or too many values, or too different ones.

    The step is a power of two: for values at most ``2 ** -fine`` of their usual magnitude, the square of the mean
    square root, so that few large values do not make it coarse; for ``columns`` sorted centroids at most 1/16 of their
    mean distance and 1/1024 of their root mean square, in the row in which these are least.
    """
    if not FEWEST <= tensor.numel() <= MOST or not bool(torch.isfinite(tensor).all()):
        return None
    values = tensor.detach().cpu().double()
    if columns > 1:
        rows = values.reshape(-1, columns)
        spans = (rows.amax(1) - rows.amin(1)) / (columns - 1)
        least = torch.minimum(spans * 2.0**-_BETWEEN, rows.square().mean(1).sqrt() * 2.0**-_TABLE)
        step = float(least[least > 0].amin()) if bool((least > 0).any()) else 0.0
    else:
        step = float(values.abs().sqrt().mean()) ** 2 * 2.0**-fine
    if step < 2.0 ** (_LEAST + 1):
        return None
    exponent = int(np.floor(np.log2(step)))
    found = Steps.of(tensor)
    if found is not None and found.exponent >= exponent - 1:
        return tensor
    numbers = torch.ldexp(values, torch.tensor(-exponent)).round()
    if float(numbers.abs().amax()) >= _LARGEST:
        return None
    return (torch.ldexp(numbers, torch.tensor(exponent)) + 0.0).to(tensor)


def coarser(tensor: Tensor) -> Tensor | None:
    """The tensor as whole numbers of twice its step; ``None`` where it is not in steps, or nothing would be left."""
    found = Steps.of(tensor)
    if found is None or not (numbers := np.rint(found.numbers / 2) + 0.0).any():  # no negative zeros
        return None
    halves = torch.from_numpy(numbers).reshape(tensor.shape)
    return torch.ldexp(halves, torch.tensor(found.exponent + 1)).to(tensor)


def expected(entry: Entry, tensor: Tensor) -> Entry | None:
    """The entry of a tensor with the bytes that are expected once it is rounded; ``None``: it will not be in steps."""
    if tensor.dtype != torch.float32:
        return None
    stepped = rounded(tensor)
    if stepped is None or (found := Steps.of(stepped)) is None:
        return None
    bits = np.log2(max(0.5, float(np.std(found.numbers))) * np.sqrt(2 * np.pi * np.e))
    return replace(entry, coded=int(np.ceil(bits * entry.values / 8)) + _LEARNT)


def expected_table(entry: Entry, k: int, rounded: bool) -> Entry:
    """The same of codebooks of so many centroids, which are not known: ``rounded`` to steps, or of bfloat16."""
    if not FEWEST <= entry.values <= MOST:
        return entry
    bits = max(_TABLE_BITS[0], _TABLE_BITS[1] - np.log2(k)) if rounded else _TABLE_BITS[1]
    return replace(entry, dtype="F32", coded=int(np.ceil(entry.values * bits / 8)))


def encode(tensors: Iterable[Steps]) -> bytes:
    """The stream of some tensors: their exponents, where their numbers lie, and the distances from there."""
    held = list(tensors)
    coded = [_differences(item) for item in held]
    middles = [int(np.sort(differences)[(differences.size - 1) // 2]) for differences in coded]
    made = coder(True, room=sum(8 * item.numbers.size + 16 for item in held))
    made.rows(0)
    for ahead in ([item.exponent for item in held], middles):
        made.encode(np.diff(ahead, prepend=0).astype(np.int32))
    for item, differences, middle in zip(held, coded, middles, strict=True):
        made.rows(item.columns)
        made.encode((differences - middle).astype(np.int32))
    stream = made.end()
    assert stream is not None, "a number takes at most 49 decisions, of about a bit"
    return stream


def decode(stream: npt.NDArray[np.uint8], wanted: Iterable[tuple[str, str, int, int]]) -> dict[str, Tensor]:
    """The tensors of a stream, flat.

    Args:
        stream: as :func:`encode` gives it.
        wanted: name, dtype as a file spells it, number of values and columns of each.

    Raises:
        CheckpointError: the stream is damaged.
    """
    held = list(wanted)
    made = coder(True, stream)
    made.rows(0)
    exponents, middles = (np.cumsum(made.decode(len(held)).astype(np.int64)) for _ in range(2))
    expect(
        bool(((exponents >= _LEAST) & (exponents <= _GREATEST)).all()) and bool((np.abs(middles) < 2 * _LARGEST).all()),
        "the numbers are damaged",
    )
    found = {}
    for (name, dtype, count, columns), exponent, middle in zip(held, exponents, middles, strict=True):
        made.rows(columns)
        numbers = made.decode(count).astype(np.int64) + middle
        if columns:
            numbers = np.cumsum(numbers.reshape(-1, columns), 1).reshape(-1)
        if np.abs(numbers).max() >= _LARGEST:
            raise CheckpointError(f"the numbers of {name!r} are damaged")
        found[name] = Steps(numbers, int(exponent), columns).tensor(BY_CODE[dtype])
    expect(made.done(), "bytes follow the numbers")
    return found


def _differences(item: Steps) -> Numbers:
    if not item.columns:
        return item.numbers
    return np.diff(item.numbers.reshape(-1, item.columns), axis=1, prepend=0).reshape(-1)


def shared(entries: Sequence[Entry], total: int) -> list[Entry]:
    """The entries of some tensors, each with its share of the bytes of their stream, by its values."""
    ends = list(accumulate((entry.values for entry in entries), initial=0))
    shares = [last * total // ends[-1] - first * total // ends[-1] for first, last in pairwise(ends)]
    return [replace(entry, coded=share) for entry, share in zip(entries, shares, strict=True)]
