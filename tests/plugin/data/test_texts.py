"""Texts from lists and files, packed or one by one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import token_models as made
import torch
from lloydmax import DataError
from lloydmax.data import unlabelled

TEXTS = made.sentences(20)
IDS = made.tokens(20)
STREAM = [token for ids in IDS for token in ids]
FAST = made.tokenizer()


def packed(data: Any, model: Any, **options: Any) -> torch.Tensor:
    (_, batch), *_ = unlabelled(data, model, **options).batches(10**6)
    return next(batch.tensors())


@pytest.mark.parametrize("build", [made.gpt2, made.Words])
def test_a_language_model_gets_one_stream_cut_into_sequences(build: Any) -> None:
    found = packed(lloydmax.texts(TEXTS, FAST, length=16), build())
    assert found.shape == (len(STREAM) // 16, 16) and found.flatten().tolist() == STREAM[: found.numel()]
    found = packed(TEXTS, build(), tokenizer=made.bare_tokenizer())
    longest = 64 if build is made.gpt2 else 256
    assert found.shape[1] == min(longest, len(STREAM))


@pytest.mark.parametrize("form", [tuple, iter, lambda given: (text for text in given)])
def test_texts_are_packed_in_whatever_they_come(form: Any) -> None:
    assert packed(form(TEXTS), made.gpt2(), tokenizer=FAST).equal(packed(TEXTS, made.gpt2(), tokenizer=FAST))


def test_long_texts_are_tokenized_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["lloydmax.data.texts"], "_PIECE", 60)
    seen: list[str] = []

    def tokenize(text: str) -> list[int]:
        seen.append(text)
        return [len(word) for word in text.split()]

    for text in ("\n".join(TEXTS), "a" * 200):
        seen.clear()
        found = packed(lloydmax.texts([text], tokenize, length=1), made.gpt2()).flatten().tolist()
        assert "".join(seen) == text and max(map(len, seen)) <= 60 and len(seen) > 3
        assert found == [len(word) for one in seen for word in one.split()]
        assert "\n" not in text or all(one.endswith("\n") for one in seen[:-1])


def test_the_end_of_a_text_stands_behind_it() -> None:
    found = packed(lloydmax.texts(["the cat", "a dogs"], lambda text: [7] * len(text.split()), length=2), made.gpt2())
    assert found.flatten().tolist() == [7] * 4

    class Ended:
        eos_token_id = 3

        def __call__(self, text: str) -> list[int]:
            return [7] * len(text.split())

    assert packed(lloydmax.texts(["the cat", "a dogs"], Ended(), length=6), made.gpt2()).tolist() == [
        [7, 7, 3, 7, 7, 3]
    ]


def test_others_get_text_by_text() -> None:
    source = unlabelled(lloydmax.texts(TEXTS, FAST, length=5), made.bert())
    assert len(source) == 20
    (_, batch), *_ = source.batches(20)
    assert batch.kwargs["attention_mask"].sum(1).tolist() == [min(5, len(ids)) for ids in IDS]
    asked = unlabelled(lloydmax.texts(TEXTS, FAST, pack=False), made.gpt2())
    assert len(asked) == 20 and asked.varies
    assert len(unlabelled(lloydmax.texts(TEXTS, FAST, pack=True, length=16), made.bert())) == len(STREAM) // 16


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:10]))
    (tmp_path / "deep").mkdir()
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(TEXTS[10:])]
    (tmp_path / "deep" / "b.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "notes.md").write_text("not read")
    model, given = made.bert(), {"tokenizer": FAST}
    assert list(lloydmax.texts(tmp_path / "a.txt").samples()) == TEXTS[:10]
    assert list(lloydmax.texts(tmp_path / "deep" / "b.jsonl").samples()) == TEXTS[10:]
    assert len(unlabelled(tmp_path, model, **given)) == len(unlabelled(str(tmp_path), model, **given)) == 20
    assert len(unlabelled(tmp_path / "a.txt", model, **given)) == 10
    assert packed(tmp_path / "a.txt", made.gpt2(), **given).shape == (1, sum(map(len, IDS[:10])) - 18)


def test_so_many_at_most() -> None:
    assert len(lloydmax.texts(TEXTS, limit=3)) == 3
    assert len(packed(lloydmax.texts(TEXTS, FAST, length=8, limit=3), made.gpt2())) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": 3}', r"t.jsonl, line 2: there is no text in text or .*, but text: name it by texts"),
        ('{"text": "a"}\nnonsense', "t.jsonl, line 2: this is no JSON"),
        ("[1]", "line 1: this is neither an object nor a text"),
        ("", "there is no text from"),
    ],
)
def test_what_a_file_cannot_hold(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(DataError, match=said):
        lloydmax.texts(tmp_path / "t.jsonl")


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for source, said in [
        (tmp_path / "missing.txt", "there is no file"),
        (tmp_path / "bytes.txt", "cannot be read as text in UTF-8"),
        (7, "not what is of type int"),
        ([1, 2], "not what is of type list"),
        ([], "there is no text in memory"),
        (["", "  "], "there is no text in memory"),
    ]:
        with pytest.raises(DataError, match=said):
            lloydmax.texts(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no .txt or .jsonl file lies in"):
        lloydmax.texts(tmp_path / "empty")
    with pytest.raises(DataError, match="length must be a whole number"):
        lloydmax.texts(TEXTS, length=0)
    with pytest.raises(DataError, match="no tokenizer was given"):
        unlabelled(lloydmax.texts(TEXTS), made.gpt2())


def test_another_field_of_the_objects(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a", "body": "b"}\n"c"')
    assert lloydmax.texts(tmp_path / "t.jsonl", field="body").samples() == ["b", "c"]
