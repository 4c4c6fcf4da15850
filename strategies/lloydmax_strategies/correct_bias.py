"""Bias correction: the mean error that clustering adds to a layer's output goes into its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2,
with the mean measured on unlabelled inputs. It serves models without batch norm. Few centroids do not only add an
error, they make outputs smaller as a whole: such outputs around the original's mean are shifted, and the shift grows
from layer to layer. So the mean that is aimed at is made smaller, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import lloydmax
import torch
from lloydmax import hookimpl
from lloydmax.extend import Batch, Recovery, Source, evaluating
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.tap import forward_order

_CONSTANT, _TINY = 1e-6, 1e-30
"""Variance, relative to the squared mean and absolute, below which a channel counts as constant: its slope is 1."""


class CorrectBias:
    """Moves the mean output error of each compressed layer into its bias (Nagel et al. 2019).

    It is the one for models without batch norm.
    """

    needs_data = True

    class Options(BaseModel):
        """Options of `correct_bias`."""

        model_config = ConfigDict(extra="forbid")

        samples: PositiveInt = Field(default=256, description="inputs, drawn at random.")

        batch_size: PositiveInt = Field(default=64, description="of one forward pass.")

        relative: bool = Field(
            default=True,
            description="aim at the mean of the original's outputs times the slope (at most 1) of the outputs against "
            "the original's, channel by channel, so that outputs which clustering made smaller stay in proportion; "
            "else at the mean itself, as published, which few centroids turn into harm.",
        )

        sequential: bool = Field(
            default=True,
            description="correct each layer on top of the corrected layers before it; else all from the model as it "
            "was, which corrects the same error several times in deep models.",
        )

        source: Literal["data", "reference_data"] = Field(default="data", description="`data` or `reference_data`.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Shift the bias of every compressed convolution and linear layer that has one in floats."""
        student, teacher, options = recovery.student, recovery.teacher, self.options
        source = recovery.source(options.source)
        layers = _correctable(student)
        if not layers:
            warnings.warn(
                "correct_bias: no compressed convolution or linear layer has a bias in floats, so nothing was done",
                stacklevel=2,
            )
            return {"layers": 0, "corrected": 0.0, "samples": 0}
        order = source.draw(options.samples, recovery.seed)
        if not source.deterministic:
            source = _Held(source, order, options.batch_size)
        moved: list[float] = []
        late: list[Callable[[], None]] = []
        with evaluating(student, teacher):
            calls = forward_order(student, list(layers), source, order[:2])
            ours, theirs = (Frontier(model, source, order, options.batch_size) for model in (student, teacher))
            for index, (module, count) in enumerate(calls.items(), start=1):
                twin, pair = teacher.get_submodule(layers[module]), _Pair(module)
                outputs = [
                    frontier.read(m, output=True, calls=count) for frontier, m in ((theirs, twin), (ours, module))
                ]
                for wanted, found in zip(*outputs, strict=True):
                    pair.add(wanted, found)
                shift = pair.shift(options.relative)
                moved.append(float((shift.square().mean() / pair.variance().mean().clamp(min=1e-30)).sqrt()))
                late.append(partial(_add, module, shift))
                if options.sequential:
                    late.pop()()
                recovery.events.step("correct_bias", index, len(calls), {"corrected": sum(moved) / index})
            for correct in late:
                correct()
        return {"layers": len(calls), "corrected": sum(moved) / max(len(moved), 1), "samples": len(order)}


def _add(module: nn.Module, shift: Tensor) -> None:
    bias: Any = module.bias
    bias.add_(shift.to(bias))


def _correctable(student: nn.Module) -> dict[nn.Module, str]:
    compressed = lloydmax.codebooks(student)
    return {
        module: name
        for name, module in student.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd))
        and f"{name}.weight".lstrip(".") in compressed
        and f"{name}.bias".lstrip(".") not in compressed
        and module.bias is not None
    }


class _Pair:
    """Means, variances and covariance of the outputs of a layer and its original, channel by channel, in float64."""

    def __init__(self, module: nn.Module) -> None:
        self._axis = 1 if isinstance(module, _ConvNd) else -1
        self._count = 0
        self._mean = self._squares = self._products = torch.zeros(())

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """Take in the outputs of one batch, of the original and of the layer (merged as by Chan et al. 1979)."""
        both = torch.stack(
            [
                x.transpose(0, self._axis if x.dim() > 1 else 0).reshape(x.shape[self._axis], -1).float()
                for x in (wanted, found)
            ]
        )
        count = both.shape[2]
        mean = both.mean(2, keepdim=True)
        both = both - mean
        squares, products = (x.sum(1, dtype=torch.float64) for x in (both[0].square(), both[0] * both[1]))
        mean = mean[:, :, 0].double()
        if self._count:
            shift, total = mean - self._mean, self._count + count
            weight = self._count * count / total
            squares = squares + self._squares + weight * shift[0].square()
            products = products + self._products + weight * shift[0] * shift[1]
            mean = self._mean + shift * (count / total)
        self._mean, self._squares, self._products = mean, squares, products
        self._count += count

    def shift(self, relative: bool) -> Tensor:
        """What the bias of the layer lacks, ``(channels,)``."""
        wanted, found = self._mean
        if not relative:
            return wanted - found
        constant = _CONSTANT * self._count * wanted.square() + _TINY
        slope = (self._products + constant) / (self._squares + constant)
        return wanted * slope.clamp(0, 1) - found

    def variance(self) -> Tensor:
        """Of the outputs of the original, ``(channels,)``."""
        return self._squares / self._count


class _Held(Source):
    """Samples that differ each time they are read, as they were the first time: both models see the same."""

    deterministic = True

    def __init__(self, source: Source, order: Tensor, batch_size: int) -> None:
        self._source, self._order = source, order
        self._batches = list(source.batches(batch_size, order))

    def __len__(self) -> int:
        return len(self._source)

    def describe(self) -> str:
        return self._source.describe()

    def _read(self, order: Tensor, batch_size: int, drop_last: bool) -> Iterator[tuple[Tensor, Batch]]:
        if torch.equal(order, self._order):
            return iter(self._batches)
        return self._source.batches(batch_size, order, drop_last)


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``correct_bias``."""
    return {"correct_bias": CorrectBias}
