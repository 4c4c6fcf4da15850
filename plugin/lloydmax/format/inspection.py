"""Look into a file without its model: what it holds, and whether it is sound."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from lloydmax.format import coding, limits
from lloydmax.format.reader import File, naming
from lloydmax.runtime.text import new_table, printable, render, size
from lloydmax.runtime.threads import shared_out

_ROWS = 500
"""Parameters that are printed; :meth:`Inspection.to_dict` has all."""
_VERSION = 40
"""Characters of a version that are printed."""


@dataclass(frozen=True)
class StoredParameter:
    """A compressed parameter: ``stored`` is the dtype of its codebook, or ``steps``, ``bytes`` counts codebook and
    codes, ``bits`` is the width of a code for ``block`` weights."""

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
    block: int


@dataclass(frozen=True)
class StoredTensor:
    """Any other tensor: ``dtype`` in the model, ``stored`` in the file (``steps``: whole numbers of a step);
    ``bytes`` is 0 where the table says it all, and a share of the stream of those in steps."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        path, bytes: the file and its size.
        original: bytes of the dense tensors in the dtypes of the model.
        decoded: bytes that the tensors take in memory once they are decoded: ``original`` and the centroids. The file
            says so before anything of that size is read; ``limit`` of :func:`lloydmax.load` refuses more.
        parameters, tensors: the compressed parameters, and everything else.
        tied: further names -> the name under which the parameter or buffer is stored.
        recipe, storage: how it was made.
        format, lloydmax, torch: version of the format of this file, and versions of the writer.
        not_finite: names of the other tensors that hold NaN or infinities, which they had when they were saved;
            centroids never do. ``None``: only :func:`verify` looks at the values.
    """

    path: str
    bytes: int
    original: int
    decoded: int
    parameters: tuple[StoredParameter, ...]
    tensors: tuple[StoredTensor, ...]
    tied: dict[str, str]
    recipe: dict[str, Any] | None
    storage: dict[str, str]
    format: int
    lloydmax: str
    torch: str
    not_finite: tuple[str, ...] | None = None

    @property
    def overhead(self) -> int:
        """Bytes that are not tensors: names, shapes, checksums, the recipe."""
        return self.bytes - sum(p.bytes for p in self.parameters) - sum(t.bytes for t in self.tensors)

    def __str__(self) -> str:
        caption = (
            f"{size(self.original)} -> {size(self.bytes)}, {size(self.decoded)} decoded; {len(self.tensors)} other "
            f"tensors of {size(sum(item.bytes for item in self.tensors))}, {size(self.overhead)} of names and "
            f"checksums; written by lloydmax {printable(self.lloydmax, _VERSION)}, "
            f"torch {printable(self.torch, _VERSION)}"
        )
        table = new_table(self.path, caption, spare=("granularity", "dtype", "shape", "codes"))
        table.add_column("parameter", overflow="fold")
        for name in ("shape", "dtype", "centroids", "granularity", "codes", "bytes"):
            table.add_column(name, justify="right")
        for item in self.parameters[:_ROWS]:
            coding = f"{item.bits / item.block:.3g} bits" if item.coding == "packed" else item.coding
            shape = "x".join(map(str, item.shape))
            table.add_row(item.name, shape, item.dtype, str(item.k), item.granularity, coding, f"{item.bytes:,}")
        more = len(self.parameters) - _ROWS
        return "\n".join([render(table), *([f"... and {more:,} more parameters"] if more > 0 else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "overhead": self.overhead}


def inspect(path: str | os.PathLike[str], limit: int | None = None) -> Inspection:
    """What a file holds, from its (checked) header alone; see :func:`verify` for the data.

    Args:
        path: of the file.
        limit: bytes that the file may decode to, see :attr:`Inspection.decoded`. ``None``: any number, since nothing
            is decoded here; but the header may be no larger than a file of its size needs.

    Raises:
        CheckpointError: the file cannot be read, is none of lloydmax's, its header is damaged, or it decodes to more
            than the limit.
    """
    with naming(path), File(path, limit) as file:
        return _inspection(path, file)


def verify(path: str | os.PathLike[str], limit: int | None = None) -> Inspection:
    """Check everything that can be checked without the model: header, checksums, centroids and codes. Codes are decoded
    piece by piece, so that it takes little memory, whatever the file says.

    Args:
        path: of the file.
        limit: as for :func:`inspect`.

    Raises:
        CheckpointError: with the reason.
    """
    with naming(path), File(path, limit) as file:
        for name in file.document.parameters:
            file.check_centroids(name)
        shared_out(
            lambda name: sum(block.size for block in file.codes(name)), list(file.document.parameters),
            lambda name: file.document.parameters[name].layout.codes, coding.WORTH_THREADS,
        )  # fmt: skip
        odd = [name for name in file.document.plain(file.entries) if not file.is_finite(name)]
        return replace(_inspection(path, file), not_finite=tuple(odd))


def _inspection(path: str | os.PathLike[str], file: File) -> Inspection:
    document, entries = file.document, file.entries
    original, parameters, tensors = 0, [], []
    for name, item in document.parameters.items():
        layout = item.layout
        codebook, codes = entries[f"{name}.codebook"], entries[f"{name}.codes"]
        original += limits.weight_bytes(item)
        parameters.append(
            StoredParameter(
                name,
                layout.shape,
                item.dtype,
                layout.centroids,
                layout.bits,
                layout.granularity,
                layout.axis,
                item.coding,
                codebook.stored,
                codebook.bytes + codes.bytes,
                layout.block,
            )
        )
    for name, entry in document.plain(entries).items():
        narrowed = name in document.floats
        original += limits.plain_bytes(document, entry)
        dtype = document.floats[name] if narrowed else entry.torch_dtype
        tensors.append(StoredTensor(name, entry.shape, dtype, entry.stored, entry.bytes))
    return Inspection(
        os.fspath(path),
        file.size,
        original,
        file.decoded,
        tuple(parameters),
        tuple(tensors),
        document.tied,
        document.recipe,
        document.storage(entries),
        document.format,
        document.lloydmax,
        document.torch,
    )
