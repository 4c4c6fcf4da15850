"""The models of the language benchmark, their data, and what is measured: divergence, perplexity, errors of vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from size import minilm
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast
from zoo import inputs

from language.corpus import END, Corpus
from language.train import VOCABULARY, trained

DATA, TEST = 128, 128
"""Sequences that methods may use, and sequences held out, of ``corpus.LENGTH`` tokens."""
SENTENCES = 256
_BATCH = 16


@dataclass(frozen=True)
class Subject:
    """A trained model.

    Attributes:
        model: in evaluation mode.
        data: token ids int64 ``(N, L)`` that methods may use.
        measure: of a compressed model; ``kl`` (nats a token) and ``ppl``, or ``error`` and ``cosine``.
        language: whether it predicts the next token.
        tokenizer: of transformers, of a language model.
    """

    model: nn.Module
    data: Tensor
    measure: Callable[[nn.Module], dict[str, float]]
    language: bool = True
    tokenizer: Any = None

    @property
    def damage(self) -> str:
        """The figure by which methods are compared."""
        return "kl" if self.language else "error"


NAMES = ("llama", "gpt2", "minilm")


def subject(name: str, folder: Path) -> Subject:
    """A model by its name.

    Raises:
        SystemExit: it has not been trained, or its package is missing.
    """
    if name == "minilm":
        return _minilm()
    model = trained(name, folder, 0.0)
    if model is None:
        raise SystemExit(f"{name} is not trained: python tests/benchmarks/language/train.py {name} --folder {folder}")
    corpus = Corpus(folder, VOCABULARY)
    drawn = torch.randperm(len(corpus.train), generator=torch.Generator().manual_seed(2))[:DATA]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=corpus.tokenizer._tokenizer, eos_token=END)
    return Subject(model, corpus.train[drawn], _Divergence(model, corpus.test[:TEST]), tokenizer=tokenizer)


class _Divergence:
    """Against the teacher's distribution of every next token; perplexity on the text itself."""

    def __init__(self, teacher: nn.Module, test: Tensor) -> None:
        self._test = test
        self._wanted = list(_distributions(teacher, test))

    def __call__(self, model: nn.Module) -> dict[str, float]:
        divergence = surprise = agreed = 0.0
        for ids, wanted, ours in zip(
            self._test.split(_BATCH), self._wanted, _distributions(model, self._test), strict=True
        ):
            divergence += float((wanted.exp() * (wanted - ours)).sum())
            agreed += float((wanted.argmax(2) == ours.argmax(2)).sum())
            surprise -= float(ours[:, :-1].gather(2, ids[:, 1:, None]).sum())
        rows, length = self._test.shape
        return {
            "kl": divergence / (rows * length),
            "ppl": math.exp(surprise / (rows * (length - 1))),
            "agreed": agreed / (rows * length),
        }


def _distributions(model: nn.Module, ids: Tensor) -> Iterator[Tensor]:
    for batch in ids.split(_BATCH):
        with torch.no_grad():
            yield model(input_ids=batch).logits.float().log_softmax(2)


def _minilm() -> Subject:
    model = minilm.network()
    tokens = minilm.tokens(inputs.texts()[: 2 * SENTENCES])
    data, test = tokens[:SENTENCES], tokens[SENTENCES:]
    with torch.no_grad():
        wanted = model(test)
    spread = float((wanted - wanted.mean(0)).square().sum())

    def measure(student: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found = student(test)
        error = float((found - wanted).square().sum()) / spread
        return {"error": error, "cosine": float(F.cosine_similarity(found, wanted).mean())}

    return Subject(model, data, measure, language=False)
