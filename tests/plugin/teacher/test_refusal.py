"""Data that a model cannot take: what was given, what the model said, what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lloydmax import DataError, RecoveryError
from lloydmax.data import Batch, unlabelled
from lloydmax.teacher.refusal import ask
from lloydmax.teacher.trial import trial
from torch import Tensor, nn


class Tokens(nn.Module):
    """Tokens and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.head = nn.Embedding(50, 8), nn.Parameter(torch.zeros(12, 8)), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.tokens(tokens) + self.places)


class Two(nn.Module):
    """Takes two inputs, the second of which only seems to be optional."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self.layer(x) + other


class Shaped(nn.Module):
    """Counts on four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, _, _, _ = x.shape
        return self.layer(x.reshape(count, -1))


def flat() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 4))


CASES: list[tuple[Callable[[], nn.Module], Tensor, str]] = [
    (lambda: nn.Conv2d(1, 4, 3), torch.zeros(8, 3, 9, 9), r"float32 \(N, 3, 9, 9\).*has to be 1, not 3.*channels=1"),
    (lambda: nn.Conv2d(3, 4, 3), torch.zeros(8, 9, 9, 3), r"\(N, 9, 9, 3\).*x\.permute\(0, 3, 1, 2\)"),
    (lambda: nn.Conv1d(4, 4, 3), torch.zeros(8, 30, 4), r"x\.permute\(0, 2, 1\)"),
    (lambda: nn.Conv1d(4, 4, 3), torch.zeros(8, 1, 30), "has to be 4, not 1"),
    (lambda: nn.Conv2d(3, 4, 3), torch.zeros(8, 9, 9), "too few axes"),
    (lambda: nn.Conv1d(4, 4, 3), torch.zeros(8, 30), "too few axes"),
    (lambda: nn.Conv2d(3, 4, 3), torch.zeros(8, 27), "too few axes"),
    (lambda: nn.LSTM(16, 8, batch_first=True), torch.zeros(8, 5, 2, 16), "too few axes or too many"),
    (Shaped, torch.zeros(8, 4), "too few axes"),
    (lambda: nn.BatchNorm2d(3), torch.zeros(8, 1, 6, 6), "has to be 3, not 1"),
    (lambda: nn.Conv2d(3, 4, 7), torch.zeros(8, 3, 4, 4), r"sizes do not fit.*size=\.\.\."),
    (lambda: nn.MaxPool2d(4), torch.zeros(8, 3, 2, 2), "sizes do not fit"),
    (flat, torch.zeros(8, 3, 16, 16), "sizes do not fit"),
    (lambda: nn.Linear(8, 4), torch.zeros(8, 9), "sizes do not fit"),
    (lambda: nn.LSTM(16, 8, batch_first=True), torch.zeros(8, 5, 12), "sizes do not fit"),
    (lambda: nn.LayerNorm(8), torch.zeros(4, 6), "sizes do not fit"),
    (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.zeros(8, 5, 12), "sizes do not fit"),
    (Tokens, torch.zeros(8, 13, dtype=torch.int64), "sizes do not fit"),
    (Tokens, torch.full((8, 12), 50), "50 to 50.*50 rows.*tokenizer"),
    (lambda: nn.EmbeddingBag(50, 4), torch.full((8, 12), 51), "51 to 51.*tokenizer"),
    (Tokens, torch.zeros(8, 12), r"float32 \(N, 12\).*x\.long\(\)"),
    (lambda: nn.Conv2d(3, 4, 3), torch.zeros(8, 3, 9, 9, dtype=torch.complex64), "floats as in training"),
    (Two, torch.zeros(8, 4), "An input is missing"),
]


@pytest.mark.parametrize(("make", "data", "said"), CASES)
def test_the_usual_cure_is_told(make: Callable[[], nn.Module], data: Tensor, said: str) -> None:
    net = make().eval()
    with pytest.raises(DataError, match=said) as failure:
        trial(net, unlabelled(data, net))
    assert type(net).__name__ in str(failure.value) and "and said: " in str(failure.value)
    assert failure.value.__cause__ is not None and "\n" not in str(failure.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_whole_numbers_for_a_layer_of_floats(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=r"x\.float\(\) / 255"):
        ask(nn.Conv2d(3, 4, 3), Batch((torch.zeros(2, 3, 9, 9, dtype=dtype),)))


class Raises(nn.Module):
    """Fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class Translates(Raises):
    """Has a decoder."""

    def forward(self, x: Tensor, decoder_input_ids: Tensor | None = None) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("make", "words", "said"),
    [
        (Translates, "You must specify exactly one of input_ids or inputs_embeds", "give decoder_input_ids beside"),
        (Translates, "You have to specify either decoder_input_ids or decoder_inputs_embeds", "give decoder_input_ids"),
        (Raises, "You must specify exactly one of input_ids or inputs_embeds", "An input is missing"),
        (
            Raises,
            "Make sure that the channel dimension of the pixel values match. Expected 3 but got 16.",
            r"x\.permute\(0, 3, 1, 2\)",
        ),
    ],
)
def test_what_libraries_say(make: type[Raises], words: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ask(make(ValueError(words)), Batch((torch.zeros(2, 16, 16, 3),)))


def test_what_a_model_raises() -> None:
    batch = Batch((), {"x": torch.zeros(2, 3)})
    for error in (torch.OutOfMemoryError("full"), RecoveryError("ours")):
        with pytest.raises(type(error)):
            ask(Raises(error), batch)
    with pytest.raises(DataError, match="register_buffer"):
        ask(Raises(RuntimeError("Expected all tensors to be on the same device, but found two")), batch)
    with pytest.raises(DataError, match=r"x = float32 \(N, 3\) .*said: KeyError\. Give the inputs as in training"):
        ask(Raises(KeyError()), batch)
