"""Texts that a language model writes itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.teacher import texts as texts_module
from lloydmax.teacher.asking import Wanted, asked
from lloydmax.teacher.made import sources
from lloydmax.teacher.texts import texts, writes
from torch import Generator, Tensor, nn

WORDS, FORBIDDEN = 40, (0, 7)


class Speaker(nn.Module):
    """Says that each token is followed by the next number, or, now and then, by the one after."""

    def __init__(self, back: int = 0) -> None:
        super().__init__()
        self.words, self.head, self.back = nn.Embedding(WORDS, 48), nn.Linear(48, WORDS, bias=False), back
        with torch.no_grad():
            self.words.weight.copy_(torch.eye(WORDS, 48))
            self.head.weight.copy_(10 * torch.eye(WORDS, 48).roll(1, 0) + 9 * torch.eye(WORDS, 48).roll(2, 0))

    def forward(self, input_ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(input_ids).roll(self.back, 1))
        return found


class Remembering(Speaker):
    """The same in the manner of transformers, with what was read before in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(bos_token_id=0, eos_token_id=[7], pad_token_id=None, other=3)
        self.read: list[int] = []

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        self.read.append(input_ids.shape[1])
        past = [*(past_key_values or []), input_ids]
        return {"logits": super().forward(input_ids), "past_key_values": past if use_cache else None}


def written(model: nn.Module, samples: int = 6, seed: int = 1) -> Tensor:
    found = asked(model)
    assert found is not None and writes(model, found)
    return texts(model, found, samples, Generator().manual_seed(seed))


def test_a_text_is_what_the_model_says_after_a_few_random_tokens() -> None:
    ids = written(Speaker())
    assert ids.shape == (6, 32) and ids.dtype == torch.int64 and len(ids[:, :2].unique()) > 6
    steps = (ids[:, 2:] - ids[:, 1:-1]) % WORDS
    assert set(steps.flatten().tolist()) == {1, 2} and 0.6 < float((steps == 1).float().mean()) < 0.85


def test_tokens_that_are_no_words_are_left_out_and_what_was_read_is_not_read_again() -> None:
    model = Remembering()
    ids = written(model)
    assert not set(FORBIDDEN) & set(ids.flatten().tolist())
    assert model.read[-30:] == [2, *[1] * 29]
    noise = next(iter(sources(model, Wanted(64, "noise"))[0].batches(64)))[1].kwargs["input_ids"]
    assert set(noise.flatten().tolist()) == set(range(WORDS)) - set(FORBIDDEN)


def test_the_same_seed_gives_the_same_texts_whatever_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Remembering()
    before = torch.random.get_rng_state()
    first, again, anew = (written(model, seed=seed) for seed in (1, 1, 2))
    monkeypatch.setattr(texts_module, "_STATES", ())
    assert torch.equal(first, again) and torch.equal(first, written(model)) and not torch.equal(first, anew)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("model", [Speaker(-1), nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 4))])
def test_what_looks_ahead_or_says_something_else_writes_nothing(model: nn.Module) -> None:
    found = asked(model)
    assert found is not None and not writes(model, found)
    described = [source.describe() for source in sources(model, Wanted(8, "written"))]
    assert "natural" in described[0] and "noise" in described[1]


def test_a_language_model_is_compressed_on_what_it_writes() -> None:
    model = Speaker()
    recipe = lloydmax.recipe_for(model, 8, effort=0)
    assert recipe.data()["synthesize"]["kind"] == "written"
    first, again = (lloydmax.compress(model, recipe, progress=False) for _ in range(2))
    assert (first.report.measured_on or "").startswith("32 samples made without data (written)")
    pairs = zip(*(lloydmax.codebooks(found.model).values() for found in (first, again)), strict=True)
    assert all(torch.equal(one.codes, other.codes) for one, other in pairs)
