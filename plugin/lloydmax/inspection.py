"""Look into a file without its model: what it holds, and whether it is sound."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from lloydmax.fileformat import FLOATS, FORMAT, File, naming


@dataclass(frozen=True)
class StoredParameter:
    """A compressed parameter of a file; ``bytes`` counts codebook and codes, ``stored`` is the codebook's dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    k: int
    bits: int
    granularity: str
    axis: int
    coding: str
    stored: str
    bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """Any other tensor of a file: ``dtype`` in the model, ``stored`` in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        path, bytes: the file and its size; ``original`` is the size of the tensors before they were compressed.
        parameters, tensors: the compressed parameters, and everything else.
        tied: further names -> the name under which the parameter or buffer is stored.
        recipe, storage: how it was made.
        format, lloydmax, torch: version of the format, and versions of the writer.
    """

    path: str
    bytes: int
    original: int
    parameters: tuple[StoredParameter, ...]
    tensors: tuple[StoredTensor, ...]
    tied: dict[str, str]
    recipe: dict[str, Any] | None
    storage: dict[str, str]
    format: int
    lloydmax: str
    torch: str

    @property
    def overhead(self) -> int:
        """Bytes that are no tensor: names, shapes, checksums, the recipe."""
        return self.bytes - sum(item.bytes for item in (*self.parameters, *self.tensors))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "overhead": self.overhead}


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """What a file holds, from its (checked) header alone; see :func:`verify` for the data.

    Raises:
        CheckpointError: the file cannot be read, is none of lloydmax's, or its header is damaged.
    """
    with naming(path), File(path) as file:
        return _inspection(path, file)


def verify(path: str | os.PathLike[str]) -> Inspection:
    """Check everything that can be checked without the model: header, checksums, centroids and codes.

    Raises:
        CheckpointError: with the reason.
    """
    with naming(path), File(path) as file:
        for name in file.document.parameters:
            file.centroids(name)
            for _ in file.codes(name):
                pass
        for name in file.document.plain(file.entries):
            file.tensor(name)
        return _inspection(path, file)


def _inspection(path: str | os.PathLike[str], file: File) -> Inspection:
    document, entries = file.document, file.entries
    parameters = []
    for name, item in document.parameters.items():
        codebook, codes = entries[f"{name}.codebook"], entries[f"{name}.codes"]
        parameters.append(
            StoredParameter(
                name,
                item.shape,
                item.dtype,
                item.k,
                item.bits,
                item.granularity,
                item.axis,
                item.coding,
                codebook.torch_dtype,
                codebook.bytes + codes.bytes,
            )
        )
    tensors = [
        StoredTensor(
            name, entry.shape, document.floats.get(name, entry.torch_dtype), entry.torch_dtype, entry.bytes
        )
        for name, entry in document.plain(entries).items()
    ]
    original = sum(item.count * FLOATS[item.dtype].itemsize for item in document.parameters.values()) + sum(
        entry.bytes * (2 if entry.name in document.floats else 1)
        for entry in document.plain(entries).values()
    )
    return Inspection(
        os.fspath(path),
        file.size,
        original,
        tuple(parameters),
        tuple(tensors),
        document.tied,
        document.recipe,
        document.storage(entries),
        FORMAT,
        document.lloydmax,
        document.torch,
    )
