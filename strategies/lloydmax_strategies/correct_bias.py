"""Bias correction: the mean error that clustering adds to what a layer computes goes into its bias; and the same for
its scale.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2,
with the mean measured on unlabelled inputs. It serves models without batch norm. Few centroids do not only add an
error, they make outputs smaller as a whole: such outputs around the original's mean are shifted, and the shift grows
from layer to layer. So the mean that is aimed at is made smaller, too; or the scale is mended first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from lloydmax import hookimpl
from lloydmax.extend import Batch, Recovery, Source, evaluating
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.matching.place import Place, places
from lloydmax_strategies.tap import forward_order


class CorrectBias:
    """Moves the mean output error of each compressed layer into its bias (Nagel et al. 2019).

    It is the one for models without batch norm. Of recurrent layers and attention it is the mean error of the gates,
    and of queries, keys, values and outputs. Layers without a bias in floats are named in ``without_bias``.
    """

    needs_data = True
    name: ClassVar[str] = "correct_bias"
    scales: ClassVar[bool] = False

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
        """Shift every bias in floats that is added to what a compressed weight gives."""
        student, teacher, options = recovery.student, recovery.teacher, self.options
        source = recovery.source(options.source)
        found = places(student)
        without = [place.name for place in found.values() if not place.biases]
        taken = {module: place for module, place in found.items() if place.biases or self.scales}
        if not taken:
            warnings.warn(
                f"{self.name}: no compressed convolution, linear, recurrent or attention layer has a bias in floats, "
                "so nothing was done",
                stacklevel=2,
            )
            return {"layers": 0, "corrected": 0.0, "samples": 0, "without_bias": without}
        order = source.draw(options.samples, recovery.seed)
        if not source.deterministic:
            source = _Held(source, order, options.batch_size)
        moved: list[float] = []
        late: list[Callable[[], None]] = []
        with evaluating(student, teacher):
            calls = forward_order(student, list(taken), source, order[:2])
            models = {
                taken[module].name: (teacher.get_submodule(taken[module].name), module, count)
                for module, count in calls.items()
            }
            fronts = [Frontier(model, source, order, options.batch_size) for model in (teacher, student)]

            def read(place: Place) -> Iterator[tuple[Any, Any]]:
                *both, count = models[place.name]
                what = "call" if place.called else "output"
                each = (f.read(m, what=what, calls=count, paired=True) for f, m in zip(fronts, both, strict=True))
                return zip(*each, strict=True)

            for index, module in enumerate(calls, start=1):
                place, twin = taken[module], models[taken[module].name][0]
                for change in self._changes(place, twin, partial(read, place)):
                    late.append(change)
                    if options.sequential:
                        late.pop()()
                moved.append(place.moved)
                recovery.events.step(self.name, index, len(calls), {"corrected": sum(moved) / index})
            for change in late:
                change()
        figures = {"layers": len(calls), "corrected": sum(moved) / max(len(moved), 1), "samples": len(order)}
        return figures | {"without_bias": without}

    def _changes(
        self, place: Place, twin: Any, read: Callable[[], Iterator[tuple[Any, Any]]]
    ) -> Iterator[Callable[[], None]]:
        for _ in range(place.rounds if self.options.sequential else 1):
            if self.scales:
                yield from place.scaled(twin, read())
            if place.biases:
                yield from place.shifted(twin, read(), self.options.relative)


class MatchMoments(CorrectBias):
    """Makes mean and deviation of what each compressed layer computes like the original's: the deviation by a factor
    of the centroids, one for each codebook, then the mean by the bias. It is for models without batch norm what
    `renormalize` is for the others, and takes no bytes.
    """

    name = "match_moments"
    scales = True


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
    """Register ``correct_bias`` and ``match_moments``."""
    return {step.name: step for step in (CorrectBias, MatchMoments)}
