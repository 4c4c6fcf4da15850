"""Re-normalization: batch-norm statistics re-estimated on the compressed model from unlabelled inputs.

He & Cheng, "Learning Compression from Limited Unlabeled Data", ECCV 2018: clustering shifts the statistics that
batch norm assumes; 1,000 unlabelled images suffice to estimate them anew. Nothing learned is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import Batch, Moments, Recovery, Source, device_of, evaluating
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.tap import forward_order

_LIVE = 3.0
"""Activations alive at once in a forward pass without gradients, in units of the largest layer's input + output."""
_MOST = 16.0
"""How far a channel that the inputs hardly excite may be scaled."""
_FEWEST = 8
"""Samples of a batch, however little memory there is: their statistics are what it normalizes with."""


class Renormalize:
    """Re-estimates the batch-norm statistics on the compressed model (He & Cheng 2018)."""

    needs_data = True
    settles = True
    keeps_codes = True

    class Options(BaseModel):
        """Options of `renormalize`."""

        model_config = ConfigDict(extra="forbid")

        samples: int = Field(default=1000, ge=2, description="inputs, drawn at random whatever order they come in.")

        mode: Literal["exact", "fast"] = Field(
            default="exact",
            description="`exact`: the statistics are those of one forward pass of all samples in batch-statistics "
            "mode, so that each layer sees inputs normalized with the pooled statistics of the layers before it. "
            "Where that pass does not fit in `memory` the layers are estimated one after the other, from small "
            "batches; the activations between two layers are kept where they fit. `fast`: one pass of small batches, "
            "each normalized with its own statistics, which are pooled (mean of variances plus variance of means): "
            "approximate, the more so the smaller the batches, but with `relative`, where each batch is compared with "
            "the same batch in the teacher, as good.",
        )

        batch_size: PositiveInt = Field(default=64, description="of small batches.")

        memory: PositiveFloat = Field(default=2.0, description="GiB that the one pass may take.")

        source: Literal["data", "reference_data"] = Field(
            default="data",
            description="`data`, or `reference_data` where there are a few inputs of the original domain.",
        )

        relative: bool = Field(
            default=False,
            description="for data of another domain: the teacher's own statistics, moved by the difference (by less "
            "in channels that these inputs excite more), and scaled by the ratio, that clustering makes on these "
            "inputs, so that the domain cancels out. Where the inputs are of the teacher's domain it comes to the "
            "same.",
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Re-estimate the running mean and variance of every batch norm that the student uses.

        Raises:
            RecoveryError: there is none, or no data.
        """
        student, options = recovery.student, self.options
        source = recovery.source(options.source)
        found = [m for m in student.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not found:
            raise RecoveryError(
                f"renormalize: {type(student).__name__} has no batch norm with running statistics (or they are "
                "folded, as 'activations:' does): leave the step out; 'correct_bias' is the one for such models"
            )
        order, size = source.draw(options.samples, recovery.seed), self._batch(recovery)
        if options.relative and recovery.teacher is student:
            raise RecoveryError("renormalize with relative: true compares with the original: pass teacher=...")
        with evaluating(student, recovery.teacher):
            calls = forward_order(student, found, source, order[:2])
            told = _Told(recovery, calls)
            if options.mode == "fast":
                how = "one pass, pooled batch statistics"
                self._one_pass(recovery, source, order, told, size)
            elif max(calls.values()) == 1 and self._fits(student, source, order):
                how = "one batch of all samples"
                self._one_pass(recovery, source, order, told, len(order))
            else:
                how = "layer by layer"
                self._layer_by_layer(recovery, source, order, told)
        return {"layers": len(calls), "moved": told.moved(), "samples": len(order), "how": how}

    def _batch(self, recovery: Recovery) -> int:
        """Samples of one forward pass; fewer where memory is limited."""
        most = None if recovery.outputs is None else recovery.outputs.at_most
        return self.options.batch_size if most is None else min(self.options.batch_size, max(most, _FEWEST))

    def _one_pass(self, recovery: Recovery, source: Source, order: Tensor, told: _Told, batch_size: int) -> None:
        """The teacher sees each batch just before the student, so that what is special to the batch cancels out."""
        student = recovery.student
        pooled = {norm: Moments() for norm in told.calls}
        taught = _Taught(recovery, told.calls if self.options.relative else ())

        def normalize_with_batch(norm: Any, args: tuple[Tensor]) -> None:
            batch = Moments.of(args[0])
            pooled[norm].merge(batch)
            _write(norm, batch, taught.of_batch(norm), unbiased=False)
            told.done(norm)

        told.total = sum(told.calls.values()) * -(-len(order) // batch_size)
        with ExitStack() as stack:
            for norm in told.calls:
                stack.callback(norm.register_forward_pre_hook(normalize_with_batch).remove)
            for _, batch in source.batches(batch_size, order):
                taught.see(batch)
                batch.to(device_of(student), channels_last=True).run(student)
        for norm, moments in pooled.items():
            _write(norm, moments, taught.of_all(norm), unbiased=True)
            told.note(norm)

    def _layer_by_layer(self, recovery: Recovery, source: Source, order: Tensor, told: _Told) -> None:
        taught = _Taught(recovery, told.calls if self.options.relative else ())
        if self.options.relative:
            with recovery.events.stage("teacher", total=len(order)):
                done = 0
                for indices, batch in source.batches(self.options.batch_size, order):
                    taught.see(batch)
                    done += len(indices)
                    recovery.events.step("teacher", done, len(order))
        found: dict[_BatchNorm, Moments] = {}
        told.total = len(told.calls)
        frontier = Frontier(recovery.student, source, order, self.options.batch_size, self.options.memory * 2**30)
        for norm, count in told.calls.items():
            found[norm] = Moments()
            for inputs in frontier.read(norm, calls=count):
                found[norm].add(inputs)
            _write(norm, found[norm], taught.of_all(norm), unbiased=False)
            told.done(norm)
        for norm, moments in found.items():
            _write(norm, moments, taught.of_all(norm), unbiased=True)
            told.note(norm)

    def _fits(self, model: nn.Module, source: Source, order: Tensor) -> bool:
        """Whether a forward pass of all samples fits in the memory allowed, told from a pass of two."""
        largest = 0

        def weigh(_: nn.Module, args: Any, result: Any) -> None:
            nonlocal largest
            tensors = [t for t in (*args, result) if isinstance(t, Tensor)]
            largest = max(largest, sum(t.numel() * t.element_size() for t in tensors))

        few = order[:2]
        batches = [batch for _, batch in source.batches(len(order), order[: min(len(order), 4)])]
        if len(batches) > 1:
            return False
        with ExitStack() as stack:
            for module in model.modules():
                stack.callback(module.register_forward_hook(weigh).remove)
            next(source.through(model, len(few), few, channels_last=False))
        return _LIVE * largest / len(few) * len(order) <= self.options.memory * 2**30


def _write(norm: _BatchNorm, moments: Moments, baseline: _Baseline | None, *, unbiased: bool) -> None:
    """Store into the running statistics; batch norm keeps the unbiased variance, normalizes with the other."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, variance = moments.mean_and_variance(unbiased)
    if baseline is not None:
        mean, variance = baseline.moved(mean, variance)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


class _Told:
    """How far the statistics have moved, for people who wait.

    Attributes:
        calls: batch norms, and how often a forward pass calls each.
        total: statistics that will be estimated.
    """

    def __init__(self, recovery: Recovery, calls: dict[_BatchNorm, int]) -> None:
        self.calls, self.total = calls, len(calls)
        self._events, self._index = recovery.events, 0
        self._before = {norm: _statistics(norm) for norm in calls}
        self._moved: dict[_BatchNorm, float] = {}

    def done(self, norm: _BatchNorm) -> None:
        """The statistics of one batch norm were estimated, from one batch or from all."""
        self.note(norm)
        self._index += 1
        self._events.step("renormalize", self._index, self.total, {"moved": self.moved()})

    def note(self, norm: _BatchNorm) -> None:
        """Measure a batch norm."""
        (mean, variance), (own_mean, own_variance) = _statistics(norm), self._before[norm]
        shift, stretch = mean - own_mean, variance.sqrt() - own_variance.sqrt()
        self._moved[norm] = float(((shift.square() + stretch.square()) / own_variance).mean().sqrt())

    def moved(self) -> float:
        """Of means and deviations, in deviations: the root mean square over channels, its mean over batch norms."""
        return sum(self._moved.values()) / len(self._moved)


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.double().clone(), norm.running_var.double() + norm.eps


class _Taught:
    """What reaches the teacher's batch norms from the same inputs."""

    def __init__(self, recovery: Recovery, norms: Iterable[_BatchNorm]) -> None:
        names = {module: name for name, module in recovery.student.named_modules()}
        self._teacher = recovery.teacher
        self._twins: dict[_BatchNorm, Any] = {norm: self._teacher.get_submodule(names[norm]) for norm in norms}
        self._all = {norm: Moments() for norm in self._twins}
        self._calls: dict[_BatchNorm, list[Moments]] = {}

    def see(self, batch: Batch) -> None:
        """Run the teacher, if any batch norm is compared."""
        if not self._twins:
            return
        self._calls = {norm: [] for norm in self._twins}

        def hear(norm: _BatchNorm, args: tuple[Tensor]) -> None:
            self._calls[norm].append(Moments.of(args[0]))
            self._all[norm].merge(self._calls[norm][-1])

        with ExitStack() as stack:
            for norm, twin in self._twins.items():
                hook = twin.register_forward_pre_hook(lambda _, args, norm=norm: hear(norm, args))
                stack.callback(hook.remove)
            batch.to(device_of(self._teacher), channels_last=True).run(self._teacher)

    def of_all(self, norm: _BatchNorm) -> _Baseline | None:
        """The baseline from all inputs; ``None`` where statistics are taken as they are."""
        return _Baseline(self._all[norm], self._twins[norm]) if norm in self._twins else None

    def of_batch(self, norm: _BatchNorm) -> _Baseline | None:
        """The same from the inputs that were seen last; of a norm with several calls, one after the other."""
        return _Baseline(self._calls[norm].pop(0), self._twins[norm]) if norm in self._twins else None


@dataclass(frozen=True)
class _Baseline:
    """What reaches one batch norm in the teacher, and that batch norm with its own statistics."""

    moments: Moments
    norm: _BatchNorm

    def moved(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's statistics, moved as the student's inputs differ from the teacher's.

        A mean moves less where these inputs excite a channel more than those of the teacher's domain did, but never
        more: the mean of a channel that they hardly excite tells nothing about its scale.
        """
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        own_mean, own_variance = self.norm.running_mean.double(), self.norm.running_var.double()
        seen_mean, seen_variance = self.moments.mean_and_variance()
        ratio = ((variance + self.norm.eps) / (seen_variance + self.norm.eps)).clamp(1 / _MOST, _MOST)
        scale = ((own_variance + self.norm.eps) / (seen_variance + self.norm.eps)).sqrt().clamp(1 / _MOST, 1.0)
        return own_mean + (mean - seen_mean) * scale, own_variance * ratio


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``renormalize``."""
    return {"renormalize": Renormalize}
