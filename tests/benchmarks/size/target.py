"""How small a compressed network is to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The number of bits of a code, or the largest file.

    Attributes:
        bits: of each code; with ``file``, of the whole file for each parameter of the original.
        file: whether every byte of the file counts: codebooks, what stays float, names.
    """

    bits: float
    file: bool = False

    def __str__(self) -> str:
        return f"at{self.bits:g}" if self.file else f"{self.bits:g}"

    @property
    def title(self) -> str:
        """For tables."""
        return f"file ≤ {self.bits:g}" if self.file else f"{self.bits:g} bits"

    @classmethod
    def read(cls, text: str) -> Target:
        """From ``4`` (codes of 4 bits) or ``at4.3`` (a file of at most 4.3 bits for each parameter)."""
        return cls(float(text.removeprefix("at")), text.startswith("at"))

    def limit(self, parameters: int) -> float:
        """Bytes that a file may have.

        Args:
            parameters: scalars of the original.
        """
        return self.bits * parameters / 8 if self.file else float("inf")
