"""Samples and models that the tests of data share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

N = 10
X = torch.arange(N, dtype=torch.float32)[:, None] * torch.ones(3)  # sample i is [i, i, i]
LABELS = 100 + torch.arange(N)


class Two(nn.Module):
    """Two required inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return self.layer(a + b) * scale


class Text(nn.Module):
    """The forward of a Hugging Face classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        assert labels is None
        return self.embedding(input_ids) * attention_mask[..., None]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


def linear() -> nn.Module:
    return nn.Linear(3, 2)


def conv(channels: int = 3) -> nn.Module:
    return nn.Conv2d(channels, 2, 1)


def read(source, batch_size: int = 4, **options) -> tuple[Tensor, Tensor]:
    """All indices and all first inputs."""
    pairs = list(source.batches(batch_size, **options))
    return torch.cat([i for i, _ in pairs]), torch.cat([next(b.tensors()) for _, b in pairs])


def assert_holds_x(source) -> None:
    """The source has the samples of X in order, also in any other order with repeats."""
    assert len(source) == N
    indices, values = read(source)
    assert indices.tolist() == list(range(N))
    assert torch.equal(values, X)
    order = torch.tensor([7, 0, 0, 9, 3])
    indices, values = read(source, 2, order=order)
    assert torch.equal(indices, order)
    assert torch.equal(values, X[order])
    assert [len(b) for _, b in source.batches(4, drop_last=True)] == [4, 4]
