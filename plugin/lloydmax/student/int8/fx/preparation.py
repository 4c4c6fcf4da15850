"""Which call of ``prepare_fx`` makes a fake quantizer, and whether that call knows codebook weights.

Torch tells a QConfig's constructors nothing about the backend configuration. But ``prepare`` copies the QConfigMapping,
with every argument of its constructors, then reads the backend configuration, then makes fake quantizers: so the copy
of one argument, a :class:`Preparation`, meets them all.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from lloydmax.student.int8.fx.host import BackendPatternConfig, DTypeConfig, QConfigMapping


class Preparation:
    """An argument of a fake quantizer's constructor: the call of ``prepare`` that it belongs to.

    A copy that is made together with a QConfigMapping stands for a new call; any other copy is the same object.
    Constructors that differ in nothing else are equal.

    Attributes:
        begun: it is a copy that stands for a call.
        extended: that call read a backend configuration that knows codebook weights.
        warned: somebody was told that it did not.
    """

    def __init__(self, begun: bool = False) -> None:
        self.begun, self.extended, self.warned = begun, False, False

    def __deepcopy__(self, memo: dict[int, Any]) -> Preparation:
        if not any(isinstance(copied, QConfigMapping) for copied in memo.values()):
            return self
        copied = Preparation(begun=True)
        _latest.set(copied)
        return copied

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preparation)

    def __hash__(self) -> int:
        return hash(Preparation)


UNPREPARED = Preparation()
"""What every constructor gets; one object, so that all that are copied at once share their copy."""

_latest: ContextVar[Preparation] = ContextVar("the latest call of prepare in this thread")


class ExtendedPatternConfig(BackendPatternConfig):
    """An entry of a backend configuration that knows codebook weights, and tells when it is read."""

    @classmethod
    def of(cls, entry: BackendPatternConfig, dtype_configs: list[DTypeConfig]) -> ExtendedPatternConfig:
        """That entry, with further dtypes."""
        extended = cls()
        vars(extended).update(vars(entry))
        extended.set_dtype_configs([*entry.dtype_configs, *dtype_configs])
        return extended

    @property
    def dtype_configs(self) -> list[DTypeConfig]:
        """What is supported."""
        if (preparation := _latest.get(None)) is not None:
            preparation.extended = True
        supported: list[DTypeConfig] = self.__dict__["dtype_configs"]
        return supported

    @dtype_configs.setter
    def dtype_configs(self, supported: list[DTypeConfig]) -> None:
        self.__dict__["dtype_configs"] = supported
