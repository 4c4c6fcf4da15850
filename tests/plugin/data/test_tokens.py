"""Samples that are sequences: as people have them, from tokenizers, collators and datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import token_models as made
import torch
import transformers
from lloydmax import DataError
from lloydmax.data import Source, unlabelled
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

TEXTS = made.sentences(20)
IDS = made.tokens(20)
FAST = made.tokenizer()
ENCODED = [FAST(text) for text in TEXTS]


class Rows(Dataset[Any]):
    """As datasets.Dataset has them: rows are dicts, all values lists, ``column_names``, several rows at once."""

    column_names = ("input_ids", "attention_mask", "label", "text")

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**ENCODED[index], "label": index % 2, "text": TEXTS[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([dict(one) for one in ENCODED])


def loader(collate: Any, size: int = 7) -> DataLoader[Any]:
    return DataLoader([dict(one) for one in ENCODED], batch_size=size, collate_fn=collate)


def slow(text: str) -> list[int]:
    return made.bare_tokenizer().encode(text).ids


FORMS: dict[str, Any] = {
    "lists of numbers": IDS,
    "one BatchEncoding each": ENCODED,
    "a BatchEncoding of lists": FAST(TEXTS),
    "a padded BatchEncoding": FAST(TEXTS, padding=True, return_tensors="pt"),
    "a BatchEncoding of arrays": FAST(TEXTS, padding=True, return_tensors="np"),
    "batches of tensors": [FAST(TEXTS[n : n + 7], padding=True, return_tensors="pt") for n in range(0, 20, 7)],
    "batches of lists": [FAST(TEXTS[n : n + 7]) for n in range(0, 20, 7)],
    "a generator of samples": lambda: iter(ENCODED),
    "a dataset": Rows(),
    "a stream": Streamed(),
    "DataCollatorWithPadding": loader(transformers.DataCollatorWithPadding(FAST)),
    "DataCollatorForLanguageModeling": loader(transformers.DataCollatorForLanguageModeling(FAST, mlm=False)),
    "a loader of rows": DataLoader(Rows(), batch_size=7),
    "a loader of texts": DataLoader(TEXTS, batch_size=7),  # type: ignore[arg-type]
    "batches of texts": [TEXTS[n : n + 7] for n in range(0, 20, 7)],
    "columns of texts": {"text": TEXTS, "label": list(range(20))},
    "texts": TEXTS,
    "left": FAST(TEXTS, padding=True, padding_side="left", return_tensors="pt"),
}


def rows(source: Source, size: int) -> list[list[int]]:
    """The tokens of every sample, without padding."""
    found: dict[int, list[int]] = {}
    for indices, batch in source.batches(size):
        inputs = batch.kwargs
        for index, ids, mask in zip(indices.tolist(), inputs["input_ids"], inputs["attention_mask"], strict=True):
            found[index] = ids[mask == 1].tolist()
            assert bool((mask[1:] <= mask[:-1]).all()), "padding stands behind"
            assert bool((ids[mask == 0] == 0).all())
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_samples(name: str) -> None:
    form = FORMS[name]() if callable(FORMS[name]) else FORMS[name]
    source = unlabelled(form, made.bert(), tokenizer=FAST)
    assert rows(source, 6) == IDS
    if source.varies:
        assert rows(source, 20) == IDS


def test_a_dataset_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets", reason="the test needs datasets (extra test)")
    table = datasets.Dataset.from_list([dict(one) | {"label": 1} for one in ENCODED])
    for form in (table, table.with_format("torch"), DataLoader(table.with_format("torch"), batch_size=7)):  # type: ignore[arg-type]
        assert rows(unlabelled(form, made.bert()), 6) == IDS
    texts = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * 20})
    assert rows(unlabelled(texts, made.bert(), tokenizer=FAST), 6) == IDS


@pytest.mark.parametrize(
    "tokenizer",
    [FAST, made.bare_tokenizer(), slow, lambda text: FAST(text)],
    ids=["fast", "bare", "slow", "function"],
)
def test_any_tokenizer(tokenizer: Any) -> None:
    assert rows(unlabelled(TEXTS, made.bert(), tokenizer=tokenizer), 6) == IDS


def test_padding_and_truncation_of_a_tokenizer_are_left_out() -> None:
    bare = made.bare_tokenizer()
    bare.enable_padding(length=40)
    bare.enable_truncation(3)
    source = unlabelled(TEXTS, made.bert(), tokenizer=bare)
    assert rows(source, 6) == IDS
    assert len(bare.encode(TEXTS[0]).ids) == 40, "the caller's own is left alone"


@pytest.mark.parametrize(
    "form",
    [TEXTS, [TEXTS[:3], TEXTS[3:]], DataLoader(TEXTS, batch_size=4), {"text": TEXTS}],  # type: ignore[arg-type]
    ids=["list", "batches", "loader", "columns"],
)
def test_texts_without_a_tokenizer_say_what_to_write(form: Any) -> None:
    with pytest.raises(DataError, match=r"no tokenizer was given: write compress\(model, recipe, data, tokenizer="):
        unlabelled(form, made.bert())


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ("gpt2", r"is a name.*AutoTokenizer.from_pretrained\('gpt2'\)"),
        (7, "a tokenizer of type int cannot be called"),
        (lambda text: {"ids": [1]}, "a dict with 'input_ids'"),
        (lambda text: "abc", "has to give a list of whole numbers"),
    ],
)
def test_what_is_no_tokenizer(tokenizer: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        unlabelled(TEXTS, made.bert(), tokenizer=tokenizer)


def test_one_text_is_no_path() -> None:
    with pytest.raises(DataError, match="one text, which is taken as a path: give a list"):
        unlabelled("the cat sat on the mat", made.bert(), tokenizer=FAST)


def test_a_model_without_a_mask_reads_sequences_of_one_length_together() -> None:
    source = unlabelled(IDS, made.Words())
    found = [batch.args[0] for _, batch in source.batches(100)]
    assert sorted(row.tolist() for ids in found for row in ids) == sorted(IDS)
    assert {len(ids) for ids in IDS} == {ids.shape[1] for ids in found}


def test_the_mask_of_torch_is_true_at_padding() -> None:
    (_, batch), *_ = unlabelled(IDS, made.Encoder()).batches(20)
    mask: Tensor = batch.kwargs["src_key_padding_mask"]
    assert mask.dtype == torch.bool and (~mask).sum(1).tolist() == [len(ids) for ids in IDS]
    assert torch.equal(batch.beside["real"], ~mask)


@pytest.mark.parametrize("build", [made.t5, made.bart])
def test_a_decoder_reads_the_labels_one_later(build: Any) -> None:
    model = build()
    rows_ = [{"input_ids": ids, "labels": ids[:3]} for ids in IDS[:6]]
    collated = transformers.DataCollatorForSeq2Seq(FAST)([dict(row) for row in rows_])
    for form in (rows_, collated):
        (_, batch), *_ = unlabelled(form, model).batches(6)
        labels = batch.beside["labels"]
        shifted = model.prepare_decoder_input_ids_from_labels(labels)
        real = labels != -100
        assert torch.equal(batch.kwargs["decoder_input_ids"][real], shifted[real])
        assert torch.equal(batch.kwargs["decoder_attention_mask"], real.long())
        assert "labels" not in batch.kwargs
    given = {"input_ids": torch.tensor([IDS[0]]), "decoder_input_ids": torch.tensor([[5, 6]])}
    (_, batch), *_ = unlabelled(given, model).batches(1)
    assert torch.equal(batch.kwargs["decoder_input_ids"], given["decoder_input_ids"])


def test_sequences_that_do_not_go_together_are_named() -> None:
    with pytest.raises(DataError, match="other inputs"):
        next(
            unlabelled([{"input_ids": IDS[0]}, {"input_ids": IDS[1], "token_type_ids": [0] * 3}], made.bert()).batches(
                2
            )
        )


def test_a_sample_that_is_none_of_them_is_left_out() -> None:
    broken = [*map(dict, ENCODED), {"input_ids": "x"}]
    with pytest.warns(UserWarning, match="sample 20"):
        source = unlabelled(broken, made.bert())
        assert rows(source, 21) == IDS


def test_a_sample_without_a_token_is_left_out() -> None:
    with pytest.warns(UserWarning, match=r"sample 20 \(it has no token\)"):
        source = unlabelled([*IDS, []], made.bert())
        assert rows(source, 21) == IDS


class Several(dict[str, Any]):
    """As datasets.DatasetDict."""


def test_one_of_several_sets_has_to_be_chosen() -> None:
    with pytest.raises(DataError, match=r"several sets \('train', 'test'\): give one of them, as in data\['train'\]"):
        unlabelled(Several(train=Rows(), test=Rows()), made.bert())


def test_texts_come_in_other_containers() -> None:
    for form in (tuple(TEXTS), np.array(TEXTS), (text for text in TEXTS)):
        assert rows(unlabelled(form, made.bert(), tokenizer=FAST), 6) == IDS
