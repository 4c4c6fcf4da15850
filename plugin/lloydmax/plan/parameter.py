"""What happens to one parameter, before any work is done."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from lloydmax.codebook.integers import SCALE_BYTES
from lloydmax.codebook.layout import Layout, with_layout
from lloydmax.format.record import ParameterRecord
from lloydmax.recipe.sections import Storage

_OF_0_1 = {
    "codebooks": "layout.codebooks",
    "code_shape": "layout.code_shape",
    "bits_per_weight": "layout.bits_per_weight",
    "stored": "record",
}


@dataclass(frozen=True)
class PlannedParameter:
    """One parameter that gets a codebook.

    Attributes:
        name: full name (of the first owner, when tied).
        tied: the other names of the same parameter.
        layer: the class name of its module.
        number: its layer's number among all convolution and linear layers (from 1), if it is one.
        layout: shape, granularity, axis, block, and the centroids of one codebook: at most the distinct values.
        dtype: of the weight.
        quantizer: registered name.
        options: validated options of the quantizer.
        rule: index of the rule that won, from 0.
        importance: registered name of an importance, or ``None``.
        even: the centroids are evenly spaced: a codebook is stored as its scale and zero point.
    """

    name: str
    tied: tuple[str, ...]
    layer: str
    number: int | None
    layout: Layout
    dtype: torch.dtype
    quantizer: str
    options: BaseModel
    rule: int
    importance: str | None
    even: bool = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "layout" not in state:
            centroids = state["centroids"]
            state = with_layout({key: state[key] for key in state if key != "centroids"}, centroids)
        self.__dict__.update(state)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What 0.1 had here is asked of the layout and the record, for one more version."""
            if (now := _OF_0_1.get(name)) is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            warnings.warn(
                f"PlannedParameter.{name} is PlannedParameter.{now} now; the old name goes away in the next version",
                DeprecationWarning,
                stacklevel=2,
            )
            return attrgetter(now)(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.layout.shape

    @property
    def centroids(self) -> int:
        """Centroids of one codebook."""
        return self.layout.centroids

    @property
    def granularity(self) -> str:
        """What shares a codebook."""
        return self.layout.granularity

    @property
    def axis(self) -> int:
        """Axis of the output channels."""
        return self.layout.axis

    @property
    def block(self) -> int:
        """Weights of one code."""
        return self.layout.block

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.layout.weights

    @property
    def code_bytes(self) -> int:
        """Bytes of the fixed-width codes."""
        return self.record().packed_bytes

    @property
    def codebook_values(self) -> int:
        """Number of values stored for all codebooks."""
        return self.layout.codebooks * (2 if self.even else self.layout.values)

    def codebook_bytes(self, storage: Storage) -> int:
        """Bytes of all codebooks in a file."""
        if self.record().takes_int8(storage.codebooks, storage.float_bytes):
            return self.codebook_values + self.layout.codebooks * SCALE_BYTES
        if self.even:
            return self.codebook_values * (4 if self.layout.run is None else 2)
        return self.codebook_values * storage.float_bytes

    def with_centroids(self, centroids: int) -> PlannedParameter:
        """The same with another number of centroids."""
        return replace(self, layout=self.layout.with_centroids(centroids))

    def record(self) -> ParameterRecord:
        """As a file describes it."""
        return ParameterRecord(self.layout, str(self.dtype).removeprefix("torch."), even=self.even)
