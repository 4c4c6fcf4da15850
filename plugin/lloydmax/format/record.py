"""The record that a file keeps of one compressed parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lloydmax.codebook.integers import SCALE_BYTES, pays
from lloydmax.codebook.layout import Layout
from lloydmax.errors import CheckpointError, FitError
from lloydmax.format.packing import packed_bytes
from lloydmax.format.tensor_table import Entry, expect

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

MAX_DIMENSIONS = 64
"""As many as PyTorch has."""
_MAX_CENTROIDS = 1 << 24
"""Codes have 24 bits at most."""
_MAX_WEIGHTS = 1 << 60
"""A tensor has fewer than 2**63 bytes."""
CODINGS = ("packed", "entropy", "arithmetic")
"""Of the codes, see :mod:`lloydmax.format.packing`."""
_KEYS = ("dtype", "granularity", "axis", "coding", "even", "block", "int8", "matrices")
"""The optional keys of a record in the document, in the order in which they are looked at."""


@dataclass(frozen=True)
class ParameterRecord:
    """One compressed parameter.

    Attributes:
        layout: of the weight.
        dtype: of the weight in the model: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        coding: one of :data:`CODINGS`.
        even: the centroids are ``scale * (i - zero_point)``; each codebook is stored as these two values.
        int8: the centroids are integers times a scale; see :mod:`lloydmax.codebook.integers`.
    """

    layout: Layout
    dtype: str = "float32"
    coding: str = "packed"
    even: bool = False
    int8: bool = False

    @property
    def packed_bytes(self) -> int:
        """Length of the fixed-width codes."""
        return packed_bytes(self.layout.codes, self.layout.bits)

    @property
    def codebook_shape(self) -> tuple[int, ...]:
        """As stored: that of the centroids, 2 for k where ``even``; ``(codebooks, k * block + 2)`` where ``int8``."""
        if self.int8:
            return (self.layout.codebooks, self.layout.values + SCALE_BYTES)
        return self.layout.with_centroids(2).centroids_shape if self.even else self.layout.centroids_shape

    @property
    def format(self) -> int:
        """The lowest format that has it."""
        if self.coding == "arithmetic":
            return 3
        stacked = self.layout.matrices > 1 and self.layout.channels is not None
        return 2 if self.int8 or self.layout.run is not None or stacked else 1

    @property
    def steps(self) -> bool:
        """Whether its codebook may be whole numbers of a step, see :mod:`lloydmax.format.steps`."""
        return not (self.even or self.int8)

    @property
    def columns(self) -> int:
        """Centroids of a row of which the file has the differences, where it has them in steps."""
        return self.layout.centroids if self.layout.block == 1 else 0

    @property
    def takes_float16(self) -> bool:
        """Whether the codebook may be float16: free centroids, but of bfloat16, and grids of runs."""
        return self.layout.run is not None if self.even else self.dtype != "bfloat16"

    def takes_int8(self, codebooks: str, float_bytes: int) -> bool:
        """Whether the file is to hold the centroids as integers: ``storage`` says so, and it saves bytes."""
        free = codebooks == "int8" and self.dtype == "float32" and not self.even
        return free and pays(self.layout, float_bytes)

    def entries(self, name: str, centroids: str, code_bytes: int | None = None) -> tuple[Entry, Entry]:
        """The codebook and the codes in the file.

        Args:
            name: of the parameter.
            centroids: safetensors dtype of the codebook.
            code_bytes: length of an entropy-coded stream; packed when absent.
        """
        size = self.packed_bytes if code_bytes is None else code_bytes
        grid = "F32" if self.layout.run is None else "F16"
        dtype = grid if self.even else "I8" if self.int8 else centroids
        return Entry(f"{name}.codebook", dtype, self.codebook_shape), Entry(f"{name}.codes", "U8", (size,))

    def to_document(self) -> dict[str, Any]:
        """Shape, k, and whatever is not the default."""
        layout = self.layout
        matrices = 1 if layout.channels is None else layout.matrices  # one codebook knows none
        values = {"granularity": layout.granularity, "axis": layout.axis, "block": layout.block, "dtype": self.dtype}
        values |= {"coding": self.coding, "even": self.even, "int8": self.int8, "matrices": matrices}
        changed = {key: values[key] for key in _KEYS if values[key] != _DEFAULTS[key]}
        return {"shape": list(layout.shape), "k": layout.centroids, **changed}

    @classmethod
    def from_document(cls, value: Any) -> ParameterRecord:
        """The reverse, checked.

        Raises:
            CheckpointError: a key is missing or unknown, or a value has the wrong type or is out of range.
        """
        known = {"shape", "k", *_KEYS}
        expect(isinstance(value, dict) and {"shape", "k"} <= set(value) <= known, "unknown or missing keys")
        value = {**_DEFAULTS, **value}
        shape, k, axis, block, granularity = (value[key] for key in ("shape", "k", "axis", "block", "granularity"))
        expect(
            isinstance(shape, list)
            and len(shape) <= MAX_DIMENSIONS
            and all(type(size) is int and 0 < size < 1 << 63 for size in shape),
            "shape is not a list of sizes",
        )
        expect(math.prod(shape) < _MAX_WEIGHTS, "its shape has too many weights")
        expect(type(k) is int and 1 <= k <= _MAX_CENTROIDS, f"k is not within 1 and {_MAX_CENTROIDS}")
        expect(type(axis) is int and 0 <= axis < max(1, len(shape)), "axis is not within the shape")
        expect(value["dtype"] in list(FLOATS), "unknown dtype")
        expect(value["coding"] in CODINGS, "unknown coding")
        for key in ("even", "int8"):
            expect(type(value[key]) is bool, f"{key} is not a truth value")
        expect(
            not value["int8"] or (not value["even"] and value["dtype"] == "float32"),
            "int8 is for free float32 centroids",
        )
        expect(isinstance(granularity, str) and (bool(shape) or granularity == "tensor"), "bad granularity")
        matrices = value["matrices"]
        expect(type(matrices) is int and matrices >= 1, "matrices is not a number of them")
        expect(type(block) is int and block >= 1 and not (block > 1 and value["even"]), "block is not a length")
        try:
            layout = Layout(tuple(shape), k, granularity, axis, block, matrices)
        except FitError as error:
            raise CheckpointError(str(error)) from None
        return cls(layout, value["dtype"], value["coding"], value["even"], value["int8"])


_DEFAULTS: dict[str, Any] = {
    "dtype": "float32",
    "granularity": "tensor",
    "axis": 0,
    "coding": "packed",
    "even": False,
    "block": 1,
    "int8": False,
    "matrices": 1,
}
