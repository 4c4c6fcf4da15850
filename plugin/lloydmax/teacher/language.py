"""What is told of language models: perplexity on real tokens, and how the divergences of single ones are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lloydmax.data.padding import DECODER_INPUT, LABELS, NO_LABEL
from lloydmax.network.outputs import Leaf, Outputs
from lloydmax.runtime import processes
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.seeding import seeded
from lloydmax.teacher.kinds import vocabularies_of
from lloydmax.teacher.refusal import ask

if TYPE_CHECKING:
    from lloydmax.data import Batch, Source

_FEW = 8
"""Samples of which the longest tells whether the model looks ahead."""
_VALUES = 1 << 20
"""Of the outputs of as many tokens as are compared at once."""
_SAME = 1e-4
"""Change of outputs, relative to the largest, that comes of rounding."""
_IDS = "input_ids"


@dataclass(frozen=True)
class TokenFigures:
    """How alike two models answer at every token; padding does not count.

    Attributes:
        tokens: that were compared.
        kl_mean, kl_median, kl_90, kl_99, kl_99_9, kl_max: of the divergences of single tokens, in nats: mean, median,
            percentiles, and the largest.
        labelled: tokens whose label is known: the next token, or what the data have as ``labels``.
        perplexity: of the model on those; ``None`` where there are none.
        perplexity_original: of the original on the same.
        change: root mean square of the change of the label's probability, 0 to 1.
    """

    tokens: int
    kl_mean: float | None
    kl_median: float | None
    kl_90: float | None
    kl_99: float | None
    kl_99_9: float | None
    kl_max: float | None
    labelled: int = 0
    perplexity: float | None = None
    perplexity_original: float | None = None
    change: float | None = None


@dataclass(frozen=True)
class TokenOutputs:
    """Which output tells something at every token, and what is right there.

    Attributes:
        place: of the output among those that count.
        leaf: it.
        tokens: the input that the tokens are, a name or a position.
        words: whether it has a class for every word of the vocabulary, and the words are real ones.
        ahead: whether it tells the next token of that input; a model with labels of a decoder tells them as they are.
    """

    place: int
    leaf: Leaf
    tokens: str | int
    words: bool
    ahead: bool

    @classmethod
    def of(cls, model: nn.Module, source: Source, outputs: Outputs) -> TokenOutputs | None:
        """As the model tells, which is run on a sample, and on it with another last token; ``None``: no output that has
        classes has an entry for each token.

        Args:
            model: run in evaluation mode, left as it was.
            source: of the inputs.
            outputs: as a trial found them.
        """
        batch = max((part for _, part in source.first(min(_FEW, len(source))).even()), key=_width)
        key = _tokens_in(batch)
        if key is None or batch.whole:
            return None
        one = batch[:1].to(device_of(model))
        tokens = _value(one, key)
        with seeded(0, model), evaluating(model):
            first = outputs.read(ask(model, one), one)
            for place, (leaf, tensor) in enumerate(zip(outputs.leaves, first, strict=True)):
                if not leaf.decides or tensor.dim() != 3 or tensor.shape[:2] != tokens.shape:
                    continue
                known = {getattr(getattr(model, "config", None), "vocab_size", 0)}
                words = tensor.shape[2] in vocabularies_of(model) | known and not source.made
                if key == DECODER_INPUT or not words or tokens.shape[1] < 2:
                    return cls(place, leaf, key, words, words and key == DECODER_INPUT)
                changed = tokens.clone()
                changed[:, -1] = (changed[:, -1] + 1) % tensor.shape[2]
                other = _replaced(one, key, changed)
                second = outputs.read(ask(model, other), other)[place]
                apart = (second - tensor)[:, :-1].abs().max()
                return cls(place, leaf, key, words, bool(apart <= _SAME * tensor.abs().max()))
        return None

    def labels(self, inputs: Batch, real: Tensor | None) -> Tensor | None:
        """What is right at every position, int64 ``(N, T)``, -100 where nothing is known; ``None``: nowhere.

        Args:
            inputs: of a batch.
            real: which positions are no padding, bool ``(N, T)``; ``None``: all.
        """
        tokens, given = _value(inputs, self.tokens), inputs.beside.get(LABELS)
        if not self.words:
            return None
        if given is None or given.shape != tokens.shape:
            if not self.ahead:
                return None
            given = tokens if real is None else tokens.masked_fill(~real.to(tokens.device), NO_LABEL)
        elif self.tokens == DECODER_INPUT or not self.ahead:
            return given
        return torch.cat([given[:, 1:], given.new_full((len(given), 1), NO_LABEL)], 1)


class TokenMeter:
    """Adds up what is measured at the tokens of one batch after the other, some of them at once.

    Args:
        tokens: which output tells them.
        outputs: how outputs are read.
    """

    def __init__(self, tokens: TokenOutputs, outputs: Outputs) -> None:
        self._tokens, self._outputs = tokens, outputs
        self._divergences: list[Tensor] = []
        self._sums = processes.Sums(4)

    def add(self, inputs: Batch, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Take in the outputs for a batch, as :meth:`Outputs.of` gives them."""
        for ours, theirs, labels in self._parts(inputs, student[self._tokens.place], teacher[self._tokens.place]):
            q, p = (F.log_softmax(self._tokens.leaf.logits(scores), 1) for scores in (ours, theirs))
            apart = (p.exp() * (p - q)).masked_fill(p == -math.inf, 0).sum(1)
            self._divergences.append(apart.float().cpu())
            known = labels >= 0
            if bool(known.any()):
                chosen = labels.clamp(min=0)[:, None]
                said, meant = (one.gather(1, chosen)[known, 0].double() for one in (q, p))
                moved = (said.exp() - meant.exp()).square().sum()
                self._sums.add([float(known.sum()), float(-said.sum()), float(-meant.sum()), float(moved)])

    def figures(self, device: torch.device) -> TokenFigures | None:
        """All that was added, of all processes; ``None``: there was nothing."""
        seen = torch.cat(self._divergences) if self._divergences else torch.zeros(0)
        each = processes.gathered(seen[:, None], device).flatten().numpy()
        count, said, meant, moved = self._sums.totals(device)
        if not len(each):
            return None
        middle, *far = map(float, np.quantile(each, [0.5, 0.9, 0.99, 0.999, 1.0]))
        found = TokenFigures(len(each), float(each.mean()), middle, far[0], far[1], far[2], far[3])
        if not count:
            return found
        ours, original = _exponential(said / count), _exponential(meant / count)
        change = math.sqrt(moved / count)
        return replace(found, labelled=int(count), perplexity=ours, perplexity_original=original, change=change)

    def _parts(self, inputs: Batch, student: Tensor, teacher: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scores ``(n, classes)`` of both, and the labels ``(n,)``, of some positions after the other."""
        classes = teacher.shape[-1]
        real = self._outputs.real(inputs, self._tokens.leaf)
        labels = self._tokens.labels(inputs, real)
        if labels is None:
            labels = torch.full((teacher.numel() // classes,), NO_LABEL, device=teacher.device)
        elif teacher.dim() == 2 and real is not None:
            labels = labels[real.to(labels.device)]
        rows = max(1, _VALUES // classes)
        flat = (student.reshape(-1, classes), teacher.reshape(-1, classes), labels.reshape(-1))
        return zip(*(tensor.split(rows) for tensor in flat), strict=True)


def _exponential(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def _tokens_in(batch: Batch) -> str | int | None:
    """The input that holds tokens: the decoder's, ``input_ids``, or the first whole numbers ``(N, T)``."""
    for name in (DECODER_INPUT, _IDS):
        if name in batch.kwargs:
            return name
    inputs: list[tuple[str | int, Any]] = [*enumerate(batch.args), *batch.kwargs.items()]
    whole = (
        key for key, value in inputs if isinstance(value, Tensor) and value.dim() == 2 and value.dtype == torch.int64
    )
    return next(whole, None)


def _value(batch: Batch, key: str | int) -> Tensor:
    found = batch.kwargs[key] if isinstance(key, str) else batch.args[key]
    assert isinstance(found, Tensor)
    return found


def _replaced(batch: Batch, key: str | int, value: Tensor) -> Batch:
    old = _value(batch, key)
    return batch.map(lambda tensor: value if tensor is old else tensor)


def _width(batch: Batch) -> int:
    key = _tokens_in(batch)
    return 0 if key is None else _value(batch, key).shape[1]
