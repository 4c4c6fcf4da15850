"""The table of tensors of a safetensors file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lloydmax.errors import CheckpointError

# In the order in which the safetensors library writes them: by alignment, then as it lists them.
DTYPES: dict[torch.dtype, str] = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BY_CODE = {code: dtype for dtype, code in DTYPES.items()}
_RANK = {code: rank for rank, code in enumerate(BY_CODE)}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: of the tensor.
        dtype: as safetensors writes it (``"F32"``).
        shape: of the tensor.
        fill: the bytes of the value that all elements have, in hexadecimal digits; then the file holds no others.
        coded: its share of the bytes of a stream of several, see :mod:`lloydmax.format.steps`; else it has its own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    fill: str | None = None
    coded: int | None = None

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Entry:
        """The entry of a tensor."""
        return cls(name, DTYPES[tensor.dtype], tuple(tensor.shape))

    @property
    def values(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the tensor in memory."""
        return self.values * BY_CODE[self.dtype].itemsize

    @property
    def bytes(self) -> int:
        """Bytes of the data in the file."""
        if self.coded is not None:
            return self.coded
        return self.size if self.fill is None else 0

    @property
    def stored(self) -> str:
        """How the file holds the values: the dtype as PyTorch spells it, or ``"steps"``."""
        return self.torch_dtype if self.coded is None else "steps"

    @property
    def torch_dtype(self) -> str:
        """The dtype as PyTorch spells it, e.g. ``"float32"``."""
        return str(BY_CODE[self.dtype]).removeprefix("torch.")


def constant(name: str, tensor: Tensor) -> Entry | None:
    """The entry of a tensor whose elements are all the same, bit for bit; ``None`` for any other."""
    if not tensor.numel():
        return None
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    elements = flat.view(torch.uint8).view(len(flat), -1)
    if not bool((elements == elements[0]).all()):
        return None
    return Entry(name, DTYPES[tensor.dtype], tuple(tensor.shape), bytes(elements[0].tolist()).hex())


def filled(entry: Entry) -> Tensor:
    """The tensor of an entry with a ``fill``; one element of memory, whatever its shape."""
    element = torch.tensor(list(bytes.fromhex(entry.fill or "")), dtype=torch.uint8).view(BY_CODE[entry.dtype])
    return element.view(()).expand(entry.shape)


def file_order(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in the order in which the safetensors library writes them."""
    return sorted(entries, key=lambda entry: (_RANK[entry.dtype], entry.name))


def expect(condition: bool, otherwise: str) -> None:
    """Refuse the file, with a reason, unless a condition holds."""
    if not condition:
        raise CheckpointError(otherwise)
