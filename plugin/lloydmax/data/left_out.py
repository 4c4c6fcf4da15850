"""The samples of a source that were left out: counted, named once, too many refused."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from lloydmax.errors import DataError

MOST = 0.01
"""Share of the samples that may be left out; one may be in any case, unless it is the only one."""
_JUDGED = 1000
"""A pass over so many samples tells as well as all of them whether there are too many."""
MISFIT = ", others are "
"""In the reason of a sample that differs from the others in size or dtype."""
_NAMED = 20
"""Samples that are named in a message."""


def most(samples: int, share: float = MOST) -> float:
    """So many of these samples may be left out."""
    return max(1, share * samples)


class LeftOut:
    """The samples of one source that could not be read, or are not finite, or that the teacher cannot be asked about.

    The former are left out wherever they are read, whether known before or not, so that what a pass gives depends on
    nothing that was read earlier. What is kept of them here serves messages and the report. The latter are found before
    the work, and :attr:`refused`.

    Attributes:
        share: of the samples that may be left out; one may be in any case.
        maker: the function of ours whose ``skip_bad`` says another share; empty: there is none.
        reasons: why each sample is left out, by index.
        refused: those of them whose values are well.
    """

    def __init__(self) -> None:
        self.share, self.maker = MOST, ""
        self.reasons: dict[int, str] = {}
        self.refused: set[int] = set()
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reasons)

    def allow(self, share: float, maker: str) -> None:
        """Let this share be left out, as ``skip_bad`` of a function of ours says."""
        self.share, self.maker = share, maker

    def add(self, found: Mapping[int, str]) -> None:
        """Note samples, by index, with the reason why each is left out."""
        with self._lock:
            for index, reason in found.items():
                self.reasons.setdefault(index, reason)

    def refuse(self, found: Mapping[int, str]) -> None:
        """The same for samples whose values are well."""
        self.add(found)
        self.refused |= set(found)

    def state(self) -> dict[str, Any]:
        """What was found, as plain data."""
        with self._lock:
            return {"reasons": dict(self.reasons), "refused": sorted(self.refused)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        with self._lock:
            self.reasons, self.refused = dict(state["reasons"]), set(state["refused"])

    def restart(self) -> None:
        """Forget what was refused: another model may be able to use it."""
        with self._lock:
            for index in self.refused:
                self.reasons.pop(index, None)
            self._told -= self.refused
            self.refused = set()

    def judge(self, samples: int, describe: str, new: int = 0, read: int = 0, steady: bool = True) -> None:
        """Refuse a source with too many of them.

        Args:
            samples: of the source.
            describe: the source in words.
            new: samples that were first found in one pass.
            read: samples that this pass reads.
            steady: whether a sample is the same each time; if not, each pass is judged alone.

        Raises:
            DataError: more than 1 % and at least 2 of all samples, or of those of one pass; or all of them.
        """
        count = len(self)
        if count and count == samples:
            raise DataError(f"none of the samples can be used ({describe}): {self.names()}")
        if steady and count > most(samples, self.share):
            raise DataError(
                f"{count:,} of {samples:,} samples cannot be used, more than {self.share:.0%} ({describe}): "
                f"{self.names()}. {self._advice(count / samples)}"
            )
        if new > most(max(read, min(samples, _JUDGED)), self.share):
            raise DataError(
                f"{new:,} of {read:,} samples that were read cannot be used, more than {self.share:.0%} ({describe}): "
                f"{self.names()}. {self._advice(new / read)}"
            )

    def tell(self, samples: int, describe: str) -> None:
        """Warn of those that no warning has named yet."""
        with self._lock:
            new = {index: self.reasons[index] for index in sorted(set(self.reasons) - self._told)}
            self._told |= set(new)
        if new:
            also = f"{len(self):,} in all now; " if len(new) < len(self) else ""
            warnings.warn(
                f"{len(new):,} of {samples:,} samples left out ({also}{describe}): {_names(new)}. Repair them or take "
                "them out of the data",
                stacklevel=3,
            )

    def names(self) -> str:
        """Index and reason of each, of many the first ones."""
        return _names(self.reasons)

    def _advice(self, share: float) -> str:
        if all(MISFIT in reason for reason in self.reasons.values()):
            return (
                "Inputs of different sizes are made one size by a collate_fn, pictures in the dataset, text by "
                "DataLoader(dataset, collate_fn=transformers.DataCollatorWithPadding(tokenizer))"
            )
        asked = math.ceil(100 * share)
        allowed = f", or let them be left out: --skip-bad {asked}%, skip_bad={asked / 100:g} of {self.maker}"
        return f"Repair them or take them out of the data{allowed if self.maker else ''}"

    def figures(self, samples: int) -> dict[str, Any]:
        """For the report: ``samples``, how many were ``left_out``, and ``which``: the reasons by index."""
        return {
            "samples": samples,
            "left_out": len(self),
            "which": {str(index): self.reasons[index] for index in sorted(self.reasons)},
        }


def _names(reasons: Mapping[int, str]) -> str:
    alike: dict[str, list[int]] = {}
    for index in sorted(reasons)[:_NAMED]:
        alike.setdefault(reasons[index], []).append(index)
    named = [
        f"sample{'s' * (len(found) > 1)} {', '.join(map(str, found))} ({reason})" for reason, found in alike.items()
    ]
    return ", ".join(named) + (f" and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else "")
