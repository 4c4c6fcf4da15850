"""What stands in padding, where it stands, and batches without any."""

from __future__ import annotations

import pytest
import token_models as made
import torch
from lloydmax import DataError
from lloydmax.data import Batch, even, inputs_of, unlabelled
from lloydmax.data.padding import Padding, real_positions
from lloydmax.teacher.trial import trial
from torch import Tensor, nn
from torch.utils.data import TensorDataset

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("name", "mask", "real"),
    [
        ("attention_mask", MASK, MASK == 1),
        ("attention_mask", 2.0 * MASK, MASK == 1),
        ("padding_mask", MASK, MASK == 1),
        ("padding_mask", MASK == 0, MASK == 1),
        ("src_key_padding_mask", MASK == 0, MASK == 1),
        ("tgt_key_padding_mask", 1 - MASK, MASK == 1),
        ("attention_mask", (1.0 - MASK) * -1e9, None),
        ("attention_mask", MASK[:, None], None),
    ],
)
def test_what_masks_say(name: str, mask: Tensor, real: Tensor | None) -> None:
    found = real_positions(mask, name)
    assert (found is None) if real is None else torch.equal(found, real)


def test_the_same_stands_in_all_padding() -> None:
    model = made.bert()
    model.config.pad_token_id = 9
    given = {"input_ids": torch.tensor([[5, 6, 7], [8, 1, 2]]), "attention_mask": MASK, "token_type_ids": MASK}
    batch = inputs_of(given | {"labels": torch.tensor([[5, 6, 7], [8, 1, 2]])}, model)
    assert batch.kwargs["input_ids"].tolist() == [[5, 6, 9], [8, 9, 9]]
    assert batch.kwargs["token_type_ids"].tolist() == MASK.tolist()
    assert batch.beside["labels"].tolist() == [[5, 6, -100], [8, -100, -100]]
    nothing = {"input_ids": torch.tensor([[5, 6, 7], [8, 1, 2]]), "attention_mask": MASK * torch.tensor([[1], [0]])}
    assert inputs_of(nothing, model).kwargs["input_ids"].tolist() == [[5, 6, 9], [8, 1, 2]]


def test_padding_in_front_goes_behind_where_positions_count() -> None:
    given = {"input_ids": torch.tensor([[0, 5, 6], [0, 0, 8]]), "attention_mask": MASK.flip(1)}
    batch = inputs_of(given, made.gpt2())
    assert batch.kwargs["input_ids"].tolist() == [[5, 6, 0], [8, 0, 0]]
    assert batch.kwargs["attention_mask"].tolist() == MASK.tolist()

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.embed(input_ids)[:, -1]

    assert torch.equal(inputs_of(given, Last()).kwargs["attention_mask"], given["attention_mask"])


def test_batches_without_padding() -> None:
    source = unlabelled(made.padded([[5, 6], [7], [8, 9], [4, 4, 4]]), made.bert())
    (_, batch), *_ = source.batches(4)
    parts = {tuple(rows.tolist()): part.kwargs["input_ids"].tolist() for rows, part in batch.even()}
    assert parts == {(1,): [[7]], (0, 2): [[5, 6], [8, 9]], (3,): [[4, 4, 4]]}
    pairs = {tuple(i.tolist()): b for i, b in even(source, made.bert()).batches(4, torch.tensor([3, 1, 0]))}
    assert set(pairs) == {(3,), (1,), (0,)} and all(bool(b.kwargs["attention_mask"].all()) for b in pairs.values())


def test_a_model_of_one_length_keeps_its_padding() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 4), nn.Linear(12, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head((self.embed(input_ids) * attention_mask[..., None]).flatten(1))

    source = unlabelled(made.padded([[5, 6], [7], [8, 9], [4, 4, 4]]), Fixed())
    assert even(source, Fixed()) is source


def test_encoder_and_decoder_are_padded_apart() -> None:
    rows = [{"input_ids": [5] * n, "labels": [6] * (7 - n)} for n in (2, 3, 4, 2)]
    (_, batch), *_ = unlabelled(rows, made.t5()).batches(4)
    shapes = {
        (part.kwargs["input_ids"].shape[1], part.kwargs["decoder_input_ids"].shape[1]) for _, part in batch.even()
    }
    assert shapes == {(2, 5), (3, 4), (4, 3)}


def test_batches_are_merged_to_the_longest() -> None:
    padding = Padding(("input_ids", "attention_mask"), blank=9)
    one, two = (Batch((), {"input_ids": torch.full((n, n), 5), "attention_mask": torch.ones(n, n)}) for n in (1, 2))
    merged = padding.merged([padding.tidied(one), padding.tidied(two)])
    assert merged.kwargs["input_ids"].tolist() == [[5, 9], [5, 5], [5, 5]]
    assert merged.kwargs["attention_mask"].sum(1).tolist() == [1, 2, 2]
    with pytest.raises(DataError, match="takes no attention_mask"):
        Padding(("ids",)).merged([Batch((torch.ones(1, 2),)), Batch((torch.ones(1, 3),))])


class Recurrent(nn.Module):
    """Takes the length of every sequence, and hears every second step of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor, lengths: Tensor, half: bool = False) -> Tensor:
        found: Tensor = self.head(self.cell(x)[0])
        return found[:, ::2] if half else found


def test_lengths_tell_padding() -> None:
    lengths, draw = torch.tensor([2, 6, 3, 5, 4, 6, 2, 1]), torch.Generator().manual_seed(0)
    found = []
    for content in (0.0, 7.0):
        x = torch.randn(8, 6, 3, generator=draw.manual_seed(0))
        x[torch.arange(6) >= lengths[:, None]] = content
        for inputs in ((x, lengths), {"x": x, "lengths": lengths}):
            model = Recurrent()
            source = unlabelled(TensorDataset(*inputs) if isinstance(inputs, tuple) else inputs, model)
            outputs = trial(model, source)
            (_, batch), *_ = source.batches(8)
            found.append(outputs.of(batch.run(model), batch)[0])
            assert found[-1].shape == (int(lengths.sum()), 5)
    assert all(torch.equal(one, found[0]) for one in found)


def test_outputs_may_have_fewer_steps_than_a_sound() -> None:
    given = {
        "input_values": torch.randn(4, 12),
        "attention_mask": (torch.arange(12) < torch.tensor([[12], [6], [8], [2]])),
    }

    class Heard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 5, 2, stride=2)

        def forward(self, input_values: Tensor, attention_mask: Tensor) -> Tensor:
            return self.conv(input_values[:, None]).transpose(1, 2)

    model = Heard()
    source = unlabelled(given, model)
    (_, batch), *_ = source.batches(4)
    assert trial(model, source).of(batch.run(model), batch)[0].shape == (6 + 3 + 4 + 1, 5)
