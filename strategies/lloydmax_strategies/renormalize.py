"""Re-normalization: batch-norm statistics re-estimated on the compressed model from unlabelled inputs.

He & Cheng, "Learning Compression from Limited Unlabeled Data", ECCV 2018: clustering shifts the statistics that
batch norm assumes; 1,000 unlabelled images suffice to estimate them anew. Nothing learned is touched.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from lloydmax.batch_norm import Moments
from lloydmax.data import Source, random_order
from lloydmax.errors import RecoveryError
from lloydmax.hookspecs import hookimpl
from lloydmax.strategy import Recovery, device_of, evaluating
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax_strategies.tap import forward_order, read

_LIVE = 3.0
"""Activations alive at once in a forward pass without gradients, in units of the largest layer's input + output."""


_MOST = 16.0
"""How far a channel that the inputs hardly excite may be scaled."""


class Renormalize:
    """Re-estimates the batch-norm statistics on the compressed model (He & Cheng 2018)."""

    needs_data = True

    class Options(BaseModel):
        """Options of ``renormalize``.

        Attributes:
            samples: inputs, drawn at random whatever order they come in.
            mode: ``exact``: the statistics are those of one forward pass of all samples in batch-statistics
                mode, so that each layer sees inputs normalized with the pooled statistics of the layers before
                it. Where that pass does not fit in ``memory`` the layers are estimated one after the other, from
                small batches that run only up to the layer. ``fast``: one pass of small batches, each normalized
                with its own statistics, which are pooled (mean of variances plus variance of means): approximate,
                the more so the smaller the batches.
            batch_size: of small batches.
            memory: GiB that the one pass may take.
            source: ``data``, or ``reference_data`` where there are a few inputs of the original domain.
            relative: for data of another domain: the teacher's own statistics, moved by the difference, and scaled
                by the ratio, that clustering makes on these inputs, so that the domain cancels out. Where the
                inputs are of the teacher's domain it comes to the same.
        """

        model_config = ConfigDict(extra="forbid")

        samples: int = Field(default=1000, ge=2)
        mode: Literal["exact", "fast"] = "exact"
        batch_size: PositiveInt = 64
        memory: PositiveFloat = 2.0
        source: Literal["data", "reference_data"] = "data"
        relative: bool = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self._baseline: dict[_BatchNorm, _Baseline] = {}

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
        order = random_order(len(source), options.samples, recovery.seed)
        with evaluating(student, recovery.teacher):
            calls = forward_order(student, found, source, order[:2])
            norms = list(calls)
            if options.relative:
                self._measure_teacher(recovery, source, order, norms)
            if options.mode == "fast":
                how = "one pass, pooled batch statistics"
                self._one_pass(recovery, source, order, norms, options.batch_size)
            elif max(calls.values()) == 1 and self._fits(student, source, order):
                how = "one batch of all samples"
                self._one_pass(recovery, source, order, norms, len(order))
            else:
                how = "layer by layer"
                self._layer_by_layer(recovery, source, order, calls)
        return {"layers": len(norms), "samples": len(order), "how": how}

    def _one_pass(
        self, recovery: Recovery, source: Source, order: Tensor, norms: list[_BatchNorm], batch_size: int
    ) -> None:
        pooled = {norm: Moments() for norm in norms}

        def normalize_with_batch(module: nn.Module, args: tuple[Tensor]) -> None:
            assert isinstance(module, _BatchNorm)
            batch = Moments()
            batch.add(args[0])
            self._write(module, batch, unbiased=False)
            pooled[module].add(args[0])

        total = -(-len(order) // batch_size)
        with ExitStack() as stack:
            for norm in norms:
                stack.callback(norm.register_forward_pre_hook(normalize_with_batch).remove)
            for index, (_, batch) in enumerate(source.batches(batch_size, order), start=1):
                batch.to(device_of(recovery.student), channels_last=True).run(recovery.student)
                recovery.events.step("renormalize", index, total, {})
        for norm, moments in pooled.items():
            self._write(norm, moments, unbiased=True)

    def _layer_by_layer(self, recovery: Recovery, source: Source, order: Tensor, calls: dict[_BatchNorm, int]) -> None:
        done: list[tuple[_BatchNorm, Moments]] = []
        for index, (norm, count) in enumerate(calls.items(), start=1):
            moments = Moments()
            read(recovery.student, norm, source, order, self.options.batch_size, moments.add, calls=count)
            self._write(norm, moments, unbiased=False)
            done.append((norm, moments))
            recovery.events.step("renormalize", index, len(calls), {})
        for norm, moments in done:
            self._write(norm, moments, unbiased=True)

    def _measure_teacher(self, recovery: Recovery, source: Source, order: Tensor, norms: list[_BatchNorm]) -> None:
        """What reaches each batch norm in the teacher, from the same inputs."""
        teacher = recovery.teacher
        if teacher is recovery.student:
            raise RecoveryError("renormalize with relative: true compares with the original: pass teacher=...")
        names = {module: name for name, module in recovery.student.named_modules()}
        with ExitStack() as stack:
            for norm in norms:
                twin, moments = teacher.get_submodule(names[norm]), Moments()
                assert isinstance(twin, _BatchNorm)
                self._baseline[norm] = _Baseline(moments, twin)
                hook = twin.register_forward_pre_hook(lambda _, args, moments=moments: moments.add(args[0]))
                stack.callback(hook.remove)
            stack.enter_context(recovery.events.stage("teacher", total=len(order)))
            done = 0
            for indices, batch in source.batches(self.options.batch_size, order):
                batch.to(device_of(teacher), channels_last=True).run(teacher)
                done += len(indices)
                recovery.events.step("teacher", done, len(order))

    def _write(self, norm: _BatchNorm, moments: Moments, *, unbiased: bool) -> None:
        """Store into the running statistics; batch norm keeps the unbiased variance, normalizes with the other."""
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = moments.mean_and_variance(unbiased)
        if (baseline := self._baseline.get(norm)) is not None:
            mean, variance = baseline.moved(mean, variance)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

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
            for _, batch in source.batches(len(few), few):
                batch.to(device_of(model)).run(model)
        return _LIVE * largest / len(few) * len(order) <= self.options.memory * 2**30


@dataclass(frozen=True)
class _Baseline:
    """What reaches one batch norm in the teacher, and that batch norm with its own statistics."""

    moments: Moments
    norm: _BatchNorm

    def moved(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's statistics, moved as the student's inputs differ from the teacher's."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        own_mean, own_variance = self.norm.running_mean.double(), self.norm.running_var.double()
        seen_mean, seen_variance = self.moments.mean_and_variance()
        ratio = ((variance + self.norm.eps) / (seen_variance + self.norm.eps)).clamp(1 / _MOST, _MOST)
        scale = ((own_variance + self.norm.eps) / (seen_variance + self.norm.eps)).sqrt().clamp(1 / _MOST, _MOST)
        return own_mean + (mean - seen_mean) * scale, own_variance * ratio


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``renormalize``."""
    return {"renormalize": Renormalize}
