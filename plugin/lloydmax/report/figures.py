"""The report: sizes, errors, agreement and time of one compression."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lloydmax.fitting.candidates import Tried
from lloydmax.format.sizes import Sizes
from lloydmax.network.kinds import ALIKE, IN_WORDS
from lloydmax.network.outputs import Leaf
from lloydmax.report.layers import LayerReport
from lloydmax.report.machine import environment
from lloydmax.runtime import files
from lloydmax.runtime.text import percent
from lloydmax.teacher.agreement import Agreement
from lloydmax.teacher.language import TokenFigures

VERSION = 1
"""Of the JSON."""
_NAMED = 20
"""Samples that are named in a line."""


@dataclass(frozen=True)
class BeforeAfter:
    """One figure before and after recovery; ``None`` where it was not measured."""

    before: float | None
    after: float | None


@dataclass(frozen=True)
class Perplexity:
    """Of a language model on real tokens.

    Attributes:
        original: that of the original.
        before: that of the compressed model before recovery.
        after: that of the finished one.
        tokens: on which they were measured.
    """

    original: float | None
    before: float | None
    after: float | None
    tokens: int


@dataclass(frozen=True)
class Answer:
    """One output that counts.

    Attributes:
        output: where it is, as a recipe's ``kinds`` has it.
        kind: what it tells: ``classes``, ``scores``, ``values``, ``text`` or ``unclear``.
        alike: what ``alike`` in the agreement of a stage is the share of, in words.
    """

    output: str
    kind: str
    alike: str

    @classmethod
    def of(cls, leaf: Leaf) -> Answer:
        """As a trial found it."""
        return cls(leaf.place, leaf.kind, ALIKE[leaf.kind])

    def __str__(self) -> str:
        return f"{self.output} {IN_WORDS.get(self.kind, self.kind)}"


@dataclass(frozen=True)
class Stage:
    """How good the model is at one stage.

    Attributes:
        name: ``original``, ``compressed``, the name of a recovery step, or ``finished``.
        agreement: with the teacher; ``None`` without data, and for the original itself.
        score: what the caller's ``evaluate`` said; ``None`` without it.
    """

    name: str
    agreement: Agreement | None
    score: float | None

    @property
    def agreed(self) -> float | None:
        """How alike the outputs are, in what they tell, 0 to 1, where it was measured."""
        return None if self.agreement is None else self.agreement.agreed


@dataclass(frozen=True)
class Figures:
    """What :func:`lloydmax.compress` measured; :class:`lloydmax.Report` adds the ways out.

    Attributes:
        recipe: its name.
        model: class name of the model.
        bytes: the four accountings ``packed``, ``entropy_coded``, ``gzip_float32``, ``file``, and ``original``.
        stages: agreement with the teacher, and the caller's own score, from the original to the finished model.
        measured_on: what the agreement was measured on, in words; ``None`` without data.
        layers: one entry for each compressed parameter, in forward order.
        trained: the uncompressed parameters that recovery was allowed to train, by name.
        recovery: what each recovery step said: its name under ``step``, its figures, and its curves under ``history``:
            ``{"total": steps, "curves": {metric: [[index, value], ...]}}``, thinned to a few hundred points. After a
            kill the curves of the step that was under way begin where it went on.
        seconds: wall time of each stage.
        seed: of all randomness.
        environment: of the run.
        notes: of the plan, such as large weights that are not compressed, and why.
        data: of ``data`` and ``reference_data``, as far as given: how many ``samples``, how many of them were
            ``left_out``, because they could not be read or are not finite, and ``which``: the reasons by index.
        tried: with ``keep: best``, the codebooks and steps that were compared, with the damage that each did to the
            outputs, and whether it was kept.
        outputs: what counts in what the model returns, and what it tells; empty without data.
        weights: of the original, compressed or not, as a recipe's ``bits`` counts them; ``None`` in reports of 0.1.
    """

    recipe: str
    model: str
    bytes: Sizes
    stages: list[Stage]
    measured_on: str | None
    layers: list[LayerReport]
    trained: list[str]
    recovery: list[dict[str, Any]]
    seconds: dict[str, float]
    seed: int
    environment: dict[str, str] = field(default_factory=environment)
    notes: tuple[str, ...] = ()
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    outputs: list[Answer] = field(default_factory=list)
    weights: int | None = None

    @property
    def bits(self) -> float | None:
        """Bits of the whole file for each weight of the original; ``None`` where these were not counted."""
        return None if self.weights is None else 8 * self.bytes.file / self.weights

    @property
    def others(self) -> int:
        """Bytes of the file beside codes and codebooks: all other tensors, names, shapes, checksums and the recipe."""
        return self.bytes.file - sum(layer.bytes for layer in self.layers)

    @property
    def reduction(self) -> float:
        """Share of the original bytes that the real file saves, 0 to 1."""
        return 1 - self.bytes.file / self.bytes.original

    @property
    def agreement(self) -> BeforeAfter:
        """Share of inputs with the teacher's top-1, 0 to 1, before and after recovery."""
        before, after = self._before_and_after()
        return BeforeAfter(before.top1 if before else None, after.top1 if after else None)

    @property
    def alike(self) -> BeforeAfter:
        """How alike the outputs are, in what they tell, before and after recovery, 0 to 1: of several outputs that
        which is least alike; of a classifier the same as :attr:`agreement`."""
        return BeforeAfter(self.stages[1].agreed, self.stages[-1].agreed)

    @property
    def kl(self) -> BeforeAfter:
        """Mean KL divergence from the teacher in nats, before and after recovery."""
        before, after = self._before_and_after()
        return BeforeAfter(before.kl if before else None, after.kl if after else None)

    @property
    def tokens(self) -> TokenFigures | None:
        """What was measured at every token, at the end; ``None`` where the outputs are not of tokens."""
        last = self.stages[-1].agreement
        return None if last is None else last.tokens

    @property
    def perplexity(self) -> Perplexity | None:
        """Of a language model and its original; ``None`` where the outputs tell no next token, and there are no labels
        of tokens."""
        last = self.tokens
        if last is None or not last.labelled:
            return None
        first = self.stages[1].agreement
        before = None if first is None or first.tokens is None else first.tokens.perplexity
        return Perplexity(last.perplexity_original, before, last.perplexity, last.labelled)

    def left_out(self) -> list[str]:
        """The samples that were left out, a line for each source that has any."""
        return [
            f"{found['left_out']:,} of {found['samples']:,} samples of {name.replace('_', ' ')} left out: "
            f"{_some(found['which'])}"
            for name, found in self.data.items()
            if found["left_out"]
        ]

    def answers(self) -> list[str]:
        """What each output tells, and how alike it is at the end, in words."""
        last = self.stages[-1].agreement
        if last is None or len(last.alike) != len(self.outputs):
            return [str(one) for one in self.outputs]
        pairs = zip(self.outputs, last.alike, strict=True)
        of = "tokens" if last.tokens is not None else "decisions"
        said = [f"{one}: {percent(alike)}, {one.alike.replace('decisions', of)}" for one, alike in pairs]
        if last.top1 is not None and all(one.kind == "unclear" for one in self.outputs):
            said[0] += f"; {percent(last.top1, 1)} with the same top-1, if it has classes"
        return said

    def token_stages(self) -> list[tuple[str, TokenFigures]]:
        """The stages at which tokens were measured, by name."""
        return [(s.name, s.agreement.tokens) for s in self.stages if s.agreement is not None and s.agreement.tokens]

    def _before_and_after(self) -> tuple[Agreement | None, Agreement | None]:
        return self.stages[1].agreement, self.stages[-1].agreement

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers that JSON cannot hold (infinite, NaN) become ``None``."""
        data = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)} | {
            "bytes": self.bytes.to_dict(),
            "bits": self.bits,
            "others": self.others,
            "reduction": self.reduction,
            "agreement": self.agreement,
            "alike": self.alike,
            "kl": self.kl,
            "perplexity": self.perplexity,
        }
        plain: dict[str, Any] = {"version": VERSION, **files.plain(data)}
        return plain


def _some(which: dict[str, str]) -> str:
    """Samples with their reasons, of many the first ones."""
    named = ", ".join(f"{index} ({reason})" for index, reason in list(which.items())[:_NAMED])
    return named + (f" and {len(which) - _NAMED:,} more" if len(which) > _NAMED else "")
