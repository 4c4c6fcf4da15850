"""The discriminator: a small network that tells from which of two domains features come."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256)
"""Channels of the three convolutions."""
_PROBE_STEPS = 60
_PROBE_BATCH = 32
_PROBE_LR = 1e-3
"""Of the short training in :func:`separability`: steps, samples of each domain in one, and learning rate of Adam."""
_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Discriminator(nn.Module):
    """Features ``(N, C, *)`` of any size -> logits ``(N,)``, positive for the reference domain.

    Three convolutions with stride 2 and leaky rectifiers, the mean over all positions, a linear layer. Where an axis
    is down to one position (``(N, C)`` has one), the kernel has one, too. Features are standardized by channel with
    the statistics of ``examples``, so that their scale does not matter.

    Args:
        examples: float features of both domains.
        generator: draws the initial weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, examples: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        examples = _with_positions(examples.detach().float())
        channels, sizes = examples.shape[1], list(examples.shape[2:])
        layers: list[nn.Module] = []
        with torch.device("meta"):
            for width in WIDTHS:
                kernel = tuple(3 if size > 1 else 1 for size in sizes)
                stride = tuple(2 if size > 1 else 1 for size in sizes)
                padding = tuple(size // 2 for size in kernel)
                layers += [_CONVOLUTIONS[len(sizes)](channels, width, kernel, stride, padding), nn.LeakyReLU(0.2)]
                channels, sizes = width, [-(-size // by) for size, by in zip(sizes, stride, strict=True)]
            self.body, self.head = nn.Sequential(*layers), nn.Linear(channels, 1)
        self.to_empty(device="cpu")
        for layer in (*self.body[::2], self.head):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                layer.bias.zero_()
        axes = [axis for axis in range(examples.dim()) if axis != 1]
        variance, mean = torch.var_mean(examples, axes, correction=0, keepdim=True)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", variance.sqrt() + 1e-3 * variance.mean().sqrt() + 1e-12)
        self.to(examples.device)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of float32."""
        x = self.body((_with_positions(features.float()) - self.mean) / self.deviation)
        logits: Tensor = self.head(x.flatten(2).mean(2)).squeeze(1)
        return logits


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradient, None


def reversed_gradient(x: Tensor, coefficient: float) -> Tensor:
    """``x``, with its gradient times ``-coefficient`` (Ganin & Lempitsky, ICML 2015)."""
    result: Tensor = _Reversal.apply(x, coefficient)
    return result


def told_apart(reference: Tensor, foreign: Tensor) -> Tensor:
    """The discriminator's loss ``-E log D(reference) - E log(1 - D(foreign))`` from its logits; 0-dim."""
    return F.softplus(-reference).mean() + F.softplus(foreign).mean()


def separability(learn: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int) -> float:
    """How well a fresh discriminator, trained the same short way each time, tells two sets of features apart.

    Args:
        learn: features ``(N, C, *)`` of the reference and of the foreign domain to train on.
        test: features of both that it has not seen.
        seed: of the initial weights and of the batches.

    Returns:
        The mean of its accuracies on the two domains: 1 where they are told apart, 0.5 where they are alike.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        model = Discriminator(torch.cat([part[: min(map(len, learn))] for part in learn]), generator)
        optimizer = torch.optim.Adam(model.parameters(), lr=_PROBE_LR)
        for _ in range(_PROBE_STEPS):
            rows = (torch.randint(len(part), (_PROBE_BATCH,), generator=generator) for part in learn)
            reference, foreign = (part[row.to(part.device)] for part, row in zip(learn, rows, strict=True))
            optimizer.zero_grad(set_to_none=True)
            told_apart(model(reference), model(foreign)).backward()
            optimizer.step()
    with torch.no_grad():
        right = (model(test[0]) > 0).float().mean() + (model(test[1]) <= 0).float().mean()
    return float(right) / 2


def _with_positions(features: Tensor) -> Tensor:
    return features[..., None] if features.dim() == 2 else features
