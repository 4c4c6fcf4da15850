"""What reaches a batch norm, against the statistics that it keeps of the training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Moments:
    """Mean and sum of squared deviations of each channel, merged over batches in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Those of the activations ``(N, C, *)``."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x.float(), axes, correction=0)
        found = cls()
        found.count = x.numel() // x.shape[1]
        found.mean, found.squares = mean.double(), variance.double() * found.count
        return found

    def add(self, x: Tensor) -> None:
        """Take in the activations ``(N, C, *)``."""
        self.merge(Moments.of(x))

    def merge(self, other: Moments) -> None:
        """Take in what ``other`` was given."""
        assert other.mean is not None and other.squares is not None
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = other.count, other.mean, other.squares
            return
        total, shift = self.count + other.count, other.mean - self.mean
        self.squares = self.squares + other.squares + shift.square() * (self.count * other.count / total)
        self.mean, self.count = self.mean + shift * (other.count / total), total

    def mean_and_variance(self, unbiased: bool = False) -> tuple[Tensor, Tensor]:
        """``(C,)`` each, float64."""
        assert self.mean is not None and self.squares is not None
        return self.mean, self.squares / max(1, self.count - int(unbiased))


def tracked(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of a model that keep running statistics, by name."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    return {name: norm for name, norm in found.items() if norm.running_mean is not None}


@contextmanager
def listening(model: nn.Module, hear: Callable[[str, _BatchNorm, Tensor], None]) -> Iterator[None]:
    """While the block runs, ``hear(name, norm, inputs)`` gets what reaches each of the :func:`tracked` batch norms."""

    def hook(name: str, norm: _BatchNorm) -> Callable[[nn.Module, Any], None]:
        return lambda _, args: hear(name, norm, args[0])

    with ExitStack() as stack:
        for name, norm in tracked(model).items():
            stack.callback(norm.register_forward_pre_hook(hook(name, norm)).remove)
        yield


def statistics_gap(inputs: Tensor, norm: _BatchNorm) -> Tensor:
    """How far a batch is from what the batch norm keeps: 0-dim, differentiable.

    The mean over channels of ``((mean - m) ** 2 + (deviation - d) ** 2) / d ** 2`` with the kept ``m`` and ``d``.
    ZeroQ (Cai et al. 2020) has the same sum without the division, which makes channels of any scale count alike.

    Args:
        inputs: of the batch norm, ``(N, C, *)``.
        norm: with running statistics.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    features = inputs.float()
    variance, mean = torch.var_mean(features, [0, *range(2, features.dim())], correction=0)
    kept = norm.running_var.float() + norm.eps
    gap = (mean - norm.running_mean.float()).square() + ((variance + norm.eps).sqrt() - kept.sqrt()).square()
    return (gap / kept).mean()


def bhattacharyya(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """The Bhattacharyya distance between Gaussians, element by element: symmetric, and the same at any scale.

    A ratio of variances counts by its logarithm, so that a channel which the data leave silent weighs little.
    """
    pooled = (variance + other_variance) / 2
    return (mean - other_mean).square() / (8 * pooled) + 0.5 * (pooled / (variance * other_variance).sqrt()).log()
