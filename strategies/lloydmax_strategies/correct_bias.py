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
from itertools import zip_longest
from typing import Any, ClassVar, Literal

import torch
from lloydmax import hookimpl
from lloydmax.extend import Batch, Recovery, Source, evaluating
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.matching.place import How, Place, places
from lloydmax_strategies.tap import What, forward_order


class MatchingOptions(BaseModel):
    """Options of what makes layers compute what the original's do."""

    model_config = ConfigDict(extra="forbid")

    samples: PositiveInt = Field(default=256, description="inputs, drawn at random.")

    rows: PositiveInt | None = Field(
        default=None,
        description="places of the outputs, in all samples, that are looked at, nearly: where each sample has many "
        "(tokens, pixels), fewer samples do, 16 at least; `null`: all.",
    )

    batch_size: PositiveInt = Field(default=64, description="of one forward pass.")

    sequential: bool = Field(
        default=True,
        description="correct each layer on top of the corrected layers before it; else all from the model as it "
        "was, which corrects the same error several times in deep models.",
    )

    source: Literal["data", "reference_data"] = Field(default="data", description="`data` or `reference_data`.")


class CorrectBias:
    """Moves the mean output error of each compressed layer into its bias (Nagel et al. 2019).

    It is the one for models without batch norm. Of recurrent layers it is the mean error of the gates, of attention
    that of queries, keys, values and outputs. Layers without a bias in floats are named in ``without_bias``.
    """

    needs_data = True
    keeps_codes: ClassVar[bool] = True
    name: ClassVar[str] = "correct_bias"
    scales: ClassVar[bool] = False

    class Options(MatchingOptions):
        """Options of `correct_bias`."""

        relative: bool = Field(
            default=True,
            description="aim at the mean of the original's outputs times the slope (at most 1) of the outputs against "
            "the original's, channel by channel, so that outputs which clustering made smaller stay in proportion; "
            "else at the mean itself, as published, which few centroids turn into harm. Gates of recurrent layers, "
            "which keep no proportion, always get the mean itself.",
        )

    def __init__(self, options: MatchingOptions) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Shift every bias in floats that is added to what a compressed weight gives."""
        student, options = recovery.student, self.options
        original = recovery.teacher if recovery.original is None else recovery.original
        source = recovery.source(options.source, padded=False)
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
        order, size = source.draw(options.samples, recovery.seed), recovery.batch_size(options.batch_size, source)
        order = recovery.enough(order, options.rows)
        if not source.deterministic:
            source = _Held(source, order, size)
        moved: list[float] = []
        late: list[Callable[[], None]] = []
        how = How(self.scales, getattr(options, "relative", False), options.sequential)
        with evaluating(student, original):
            calls = forward_order(student, list(taken), source, order[:2])
            still = Frontier(original, source, order, size, still=True)
            fronts = [still, Frontier(student, source, order, size)]
            for index, (module, count) in enumerate(calls.items(), start=1):
                place = taken[module]
                twin = original.get_submodule(place.name)
                for change in place.changes(twin, partial(_read, place, fronts, (twin, module), count), how):
                    late.append(change)
                    if options.sequential:
                        late.pop()()
                moved.append(place.moved)
                recovery.events.step(self.name, index, len(calls), {"corrected": sum(moved) / index})
            for change in late:
                change()
        figures = {"layers": len(calls), "corrected": sum(moved) / max(len(moved), 1), "samples": len(order)}
        return figures | {"without_bias": without}


def _read(
    place: Place, fronts: list[Frontier], modules: tuple[nn.Module, nn.Module], calls: int
) -> Iterator[tuple[Any, Any]]:
    """What the module of the original and that of the student see.

    Of a module that is called again and again it is what the student's sees: where it is given what it said before
    (decoders), the original is soon somewhere else. An expert that a router passes over in one of them is called less
    often there.
    """
    if calls > 1:
        return ((call, call) for call in fronts[1].read(modules[1], what="call", calls=calls))
    what: What = "call" if place.called else "output"
    both = zip_longest(*(front.read(module, what=what) for front, module in zip(fronts, modules, strict=True)))
    return ((ours, theirs) for ours, theirs in both if ours is not None and theirs is not None)


class MatchMoments(CorrectBias):
    """Makes mean and deviation of what each compressed layer computes like the original's: the deviation by a factor
    of the centroids, one for each codebook, then the mean by the bias. It is for models without batch norm what
    `renormalize` is for the others, and takes no bytes.
    """

    name = "match_moments"
    keeps_codes = False
    scales = True

    class Options(MatchingOptions):
        """Options of `match_moments`."""


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
