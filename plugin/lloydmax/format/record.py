"""What a file says about one compressed parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lloydmax.codebook import int8
from lloydmax.codebook.blocks import code_shape, misfit
from lloydmax.codebook.layout import channels_per_codebook, code_bits, codebook_count
from lloydmax.errors import CheckpointError, FitError
from lloydmax.format import packing
from lloydmax.format.entries import Entry, expect

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

MAX_DIMENSIONS = 64
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
        block: weights of one code; see :mod:`lloydmax.codebook.blocks`.
        int8: the centroids are integers times a scale; see :mod:`lloydmax.codebook.int8`.
    """

    shape: tuple[int, ...]
    k: int
    dtype: str = "float32"
    granularity: str = "tensor"
    axis: int = 0
    coding: str = "packed"
    even: bool = False
    block: int = 1
    int8: bool = False

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
    def codebooks(self) -> int:
        """Number of codebooks."""
        return codebook_count(self.shape, self.granularity, self.axis)

    @property
    def centroids_shape(self) -> tuple[int, ...]:
        """In memory: ``(k,)`` for granularity ``tensor``, else ``(codebooks, k)``; with ``block`` as a last axis where
        it is above 1."""
        one = (self.k,) if self.block == 1 else (self.k, self.block)
        return one if self.granularity == "tensor" else (self.codebooks, *one)

    @property
    def codebook_shape(self) -> tuple[int, ...]:
        """As stored: that of the centroids, 2 for k where ``even``; ``(codebooks, k * block + 2)`` where ``int8``."""
        if self.int8:
            return (self.codebooks, self.k * self.block + int8.SCALE_BYTES)
        stored = (2,) if self.even else (self.k,) if self.block == 1 else (self.k, self.block)
        if self.granularity == "tensor":
            return stored
        return (self.codebooks, *stored)

    def takes_int8(self, codebooks: str, float_bytes: int) -> bool:
        """Whether the file is to hold the centroids as integers: ``storage`` says so, and it saves bytes."""
        free = codebooks == "int8" and self.dtype == "float32" and not self.even
        return free and int8.pays(self.k, self.block, float_bytes)

    def entries(self, name: str, centroids: str, code_bytes: int | None = None) -> tuple[Entry, Entry]:
        """The codebook and the codes in the file.

        Args:
            name: of the parameter.
            centroids: safetensors dtype of the codebook.
            code_bytes: length of an entropy-coded stream; packed when absent.
        """
        size = self.packed_bytes if code_bytes is None else code_bytes
        dtype = "F32" if self.even else "I8" if self.int8 else centroids
        return Entry(f"{name}.codebook", dtype, self.codebook_shape), Entry(f"{name}.codes", "U8", (size,))

    def to_document(self) -> dict[str, Any]:
        """Shape, k, and whatever is not the default."""
        optional = ("dtype", "granularity", "axis", "coding", "even", "block", "int8")
        changed = {key: value for key in optional if (value := getattr(self, key)) != getattr(Parameter, key)}
        return {"shape": list(self.shape), "k": self.k, **changed}

    @classmethod
    def from_document(cls, value: Any) -> Parameter:
        """The reverse, checked.

        Raises:
            CheckpointError: a key is missing or unknown, or a value has the wrong type or is out of range.
        """
        keys = {"shape", "k", "dtype", "granularity", "axis", "coding", "even", "block", "int8"}
        expect(isinstance(value, dict) and {"shape", "k"} <= set(value) <= keys, "unknown or missing keys")
        shape, k, axis = value["shape"], value["k"], value.get("axis", 0)
        expect(
            isinstance(shape, list)
            and len(shape) <= MAX_DIMENSIONS
            and all(type(size) is int and 0 < size < 1 << 63 for size in shape),
            "shape is no list of sizes",
        )
        expect(type(k) is int and 1 <= k <= _MAX_CENTROIDS, f"k is not within 1 and {_MAX_CENTROIDS}")
        expect(type(axis) is int and 0 <= axis < max(1, len(shape)), "axis is not within the shape")
        expect(value.get("dtype", "float32") in list(FLOATS), "unknown dtype")
        expect(value.get("coding", "packed") in ("packed", "entropy"), "unknown coding")
        for key in ("even", "int8"):
            expect(type(value.get(key, False)) is bool, f"{key} is no truth value")
        expect(
            not value.get("int8") or (not value.get("even") and value.get("dtype", "float32") == "float32"),
            "int8 is for free float32 centroids",
        )
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
