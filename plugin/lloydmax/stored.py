"""What a file says about one compressed parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lloydmax import packing
from lloydmax.blocks import code_shape, misfit
from lloydmax.codebook import channels_per_codebook, code_bits, codebook_count
from lloydmax.entries import Entry, expect
from lloydmax.errors import CheckpointError, FitError

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_MAX_DIMENSIONS = 64
_MAX_CENTROIDS = 1 << 24


@dataclass(frozen=True)
class Parameter:
    """One compressed parameter.

    Attributes:
        shape: of the weight.
        k: centroids of one codebook.
        dtype: of the weight in the model: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        granularity: what shares a codebook.
        axis: axis of the output channels.
        coding: ``"packed"`` or ``"entropy"``.
        even: the centroids are ``scale * (i - zero_point)``; each codebook is stored as these two values.
        block: weights of one code; see :mod:`lloydmax.blocks`.
    """

    shape: tuple[int, ...]
    k: int
    dtype: str = "float32"
    granularity: str = "tensor"
    axis: int = 0
    coding: str = "packed"
    even: bool = False
    block: int = 1

    @property
    def count(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.count // self.block

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the codes in memory."""
        return code_shape(self.shape, self.axis, self.block)

    @property
    def bits(self) -> int:
        """Bits of one fixed-width code."""
        return code_bits(self.k)

    @property
    def packed_bytes(self) -> int:
        """Length of the fixed-width codes."""
        return packing.packed_bytes(self.codes, self.bits)

    @property
    def codebook_shape(self) -> tuple[int, ...]:
        """As stored: ``(k,)`` for granularity ``tensor``, else ``(codebooks, k)``; 2 for k where ``even``; with
        ``block`` as a last axis where it is above 1."""
        stored = (2,) if self.even else (self.k,) if self.block == 1 else (self.k, self.block)
        if self.granularity == "tensor":
            return stored
        return (codebook_count(self.shape, self.granularity, self.axis), *stored)

    def entries(self, name: str, centroids: str, code_bytes: int | None = None) -> tuple[Entry, Entry]:
        """The codebook and the codes in the file.

        Args:
            name: of the parameter.
            centroids: safetensors dtype of the codebook.
            code_bytes: length of an entropy-coded stream; packed when absent.
        """
        size = self.packed_bytes if code_bytes is None else code_bytes
        dtype = "F32" if self.even else centroids
        return Entry(f"{name}.codebook", dtype, self.codebook_shape), Entry(f"{name}.codes", "U8", (size,))

    def to_document(self) -> dict[str, Any]:
        """Shape, k, and whatever is not the default."""
        optional = ("dtype", "granularity", "axis", "coding", "even", "block")
        changed = {key: value for key in optional if (value := getattr(self, key)) != getattr(Parameter, key)}
        return {"shape": list(self.shape), "k": self.k, **changed}

    @classmethod
    def from_document(cls, value: Any) -> Parameter:
        """The reverse, checked.

        Raises:
            CheckpointError: a key is missing or unknown, or a value has the wrong type or is out of range.
        """
        keys = {"shape", "k", "dtype", "granularity", "axis", "coding", "even", "block"}
        expect(isinstance(value, dict) and {"shape", "k"} <= set(value) <= keys, "unknown or missing keys")
        shape, k, axis = value["shape"], value["k"], value.get("axis", 0)
        expect(
            isinstance(shape, list)
            and len(shape) <= _MAX_DIMENSIONS
            and all(type(size) is int and 0 < size < 1 << 63 for size in shape),
            "shape is no list of sizes",
        )
        expect(type(k) is int and 1 <= k <= _MAX_CENTROIDS, f"k is not within 1 and {_MAX_CENTROIDS}")
        expect(type(axis) is int and 0 <= axis < max(1, len(shape)), "axis is not within the shape")
        expect(value.get("dtype", "float32") in list(FLOATS), "unknown dtype")
        expect(value.get("coding", "packed") in ("packed", "entropy"), "unknown coding")
        expect(type(value.get("even", False)) is bool, "even is no truth value")
        granularity = value.get("granularity", "tensor")
        expect(isinstance(granularity, str) and (bool(shape) or granularity == "tensor"), "bad granularity")
        try:
            channels_per_codebook(granularity)
        except FitError as error:
            raise CheckpointError(str(error)) from None
        block = value.get("block", 1)
        expect(type(block) is int and block >= 1 and not (block > 1 and value.get("even")), "block is no length")
        expect(misfit(shape, axis, block) is None, "blocks do not divide the channels")
        return cls(**{**value, "shape": tuple(shape)})
