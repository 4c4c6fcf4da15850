"""Mimicking with adversarial alignment: distillation on foreign data whose low-level features are pulled to those of
the original domain.

Tang, You, Xu, Shi & Xu, "Bringing Giant Neural Networks Down to Earth with Unlabeled Data", arXiv 1907.06065: inputs
from elsewhere carry a dataset bias, which an adversarial loss on low-level features takes out. The paper's formulas,
constants and network of the discriminator could not be found; those below follow common practice in domain adaptation
(Ganin & Lempitsky 2015; Tzeng et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import Agreement, Batch, Outputs, Recovery, Source
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lloydmax_strategies.alignment.discriminator import separability
from lloydmax_strategies.alignment.first_stage import channel_axis, find, first_tensor, record
from lloydmax_strategies.alignment.pull import Adversary, StatisticsGap, check_movable
from lloydmax_strategies.alignment.reference_labels import reference_labels
from lloydmax_strategies.tap import read
from lloydmax_strategies.training.loop import Training, TrainingOptions
from lloydmax_strategies.training.mimic import Mimic

_PROBE_SAMPLES = 256
_PROBE_FLOATS = 2**25
_PROBE_SIZE = 32
"""What tells the domains apart: samples, floats of all their features, positions of a map along an axis."""
_BATCH = 64
"""Samples of one forward pass of those."""


class AlignmentOptions(BaseModel):
    """Options of the alignment, which `distill` takes as a section `align`."""

    model_config = ConfigDict(extra="forbid")

    layer: str | None = Field(
        default=None,
        description="name of the module whose output is aligned; default: the end of the first stage, see "
        "`lloydmax_strategies.alignment.first_stage.first_stage`.",
    )

    adversarial: Literal["reversal", "alternating"] = Field(
        default="reversal",
        description="`reversal`: one backward pass, with the discriminator's gradient reversed on its way into the "
        "student, for both domains; `alternating`: the discriminator learns, then the student learns to make foreign "
        "features look like reference ones. Without reference data neither is used: the statistics of what reaches "
        "each batch norm up to the layer are pulled to those that the teacher keeps there.",
    )

    weight: NonNegativeFloat = Field(
        default=0.1,
        description="of the alignment in the student's loss; it rises from 0 as `2 / (1 + exp(-10 p)) - 1` with the "
        "share `p` of the steps done. 0 leaves distillation on both domains.",
    )

    discriminator_lr: PositiveFloat = Field(default=1e-3, description="learning rate of the discriminator (Adam).")

    discriminator_steps: PositiveInt = Field(default=1, le=1000, description="its steps for each step of the student.")

    reference_share: float = Field(default=0.25, gt=0, lt=1, description="share of each batch that is reference data.")

    reference_held_out: float = Field(
        default=0.25,
        ge=0,
        le=0.5,
        description="share of the reference data (at most 1,000) kept aside to choose the best state.",
    )

    labels: bool = Field(
        default=False,
        description="reference data are `(input, label)` pairs of a dataset or of a loader over one, and the "
        "cross-entropy with their labels joins the loss; else labels are ignored.",
    )


class Align:
    """``distill``, with low-level features pulled towards the original domain (Tang et al. 2019)."""

    needs_data = True

    class Options(TrainingOptions, AlignmentOptions):
        """Options of `align`: those of `TrainingOptions` and of `AlignmentOptions`."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Train every parameter of the student that requires a gradient; returns what was measured."""
        return AlignedTraining("align", self.options, self.options, recovery).run()


class AlignedTraining(Training):
    """Distillation on foreign and reference inputs, with low-level features aligned.

    Args:
        name: of the recovery step.
        options: of the training.
        alignment: of the alignment.
        recovery: what to do it on.

    Raises:
        RecoveryError: no such layer; neither reference data nor a batch norm up to it; labels that cannot be had.
    """

    resumable: ClassVar[bool] = False

    def __init__(self, name: str, options: TrainingOptions, alignment: AlignmentOptions, recovery: Recovery) -> None:
        if recovery.processes > 1:
            raise RecoveryError(f"{name}: the alignment of features runs in one process, not in {recovery.processes}")
        if options.parts is not None:
            raise RecoveryError(f"{name}: the alignment of features takes whole batches: leave 'parts' out")
        self.alignment, student, source = alignment, recovery.student, recovery.source()
        calls = record(student, source)
        self.tap = find(student, calls, alignment.layer)
        self.axis = channel_axis(calls, self.tap)
        below = [call for call in calls if call.end <= self.tap.end]
        check_movable(name, below, self.tap)
        self.statistics: StatisticsGap | None = None
        self.reference: _Reference | None = None
        if recovery.reference_data is None:
            self.statistics = StatisticsGap(below, recovery.teacher, self.tap.name)
            if alignment.labels:
                raise RecoveryError("labels: true is about reference data: pass reference_data=..., pairs of a dataset")
        elif options.batch_size < 2:
            raise RecoveryError("batch_size must be at least 2 where foreign and reference inputs share a batch")
        count = min(max(1, round(alignment.reference_share * options.batch_size)), options.batch_size - 1)
        super().__init__(name, options, recovery, options.batch_size - (0 if self.statistics else count))
        self.adversary = Adversary(alignment, recovery.seed)
        if recovery.reference_data is not None:
            self.reference = _Reference(self, recovery.reference_data, count)
        self._features: Tensor | None = None

    def train(self) -> dict[str, Any]:
        """The loop, with the alignment measured before and after."""
        with ExitStack() as stack:
            hook = self.recovery.student.get_submodule(self.tap.name).register_forward_hook(self._take)
            stack.callback(hook.remove)
            if self.statistics is not None:
                stack.enter_context(self.statistics)
            before = self._domains()
            measured = super().train()
            after = self._domains()
        method = "statistics of batch norm" if self.reference is None else self.alignment.adversarial
        return {
            **measured,
            "agreement_on": "reference_data" if self._chooses_on_reference() else "data",
            "reference_samples": 0 if self.reference is None else len(self.reference.order),
            "layer": self.tap.name,
            "alignment": method,
            **{f"{key}_before": value for key, value in before.items()},
            **after,
        }

    def losses(self, indices: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Distance to the teacher's outputs, of the alignment, and of the discriminator."""
        self._features = None
        mine, _ = self.mimic.run(self.student, indices, batch)
        weight = self.alignment.weight * ramp(self.done / self.total)
        if self.statistics is not None:
            return {**mine, "loss_alignment": self.statistics.loss(weight)}
        assert self.reference is not None
        foreign, self._features = self._taken(), None
        indices, inputs = self.reference.next()
        other, found = self.reference.mimic.run(self.student, indices, inputs)
        share = len(indices) / (len(indices) + len(batch))
        parts = {part: (1 - share) * mine[part] + share * other[part] for part in mine}
        if self.reference.labels is not None:
            parts["loss_labels"] = _cross_entropy(found, self.reference.labels[indices], self.outputs)
        if self.alignment.weight:
            parts |= self.adversary.losses(self._taken(), foreign, weight)
        return parts

    def step(self, loss: Tensor) -> dict[str, float]:
        """One step of the student, and one of the discriminator."""
        told = super().step(loss)
        self.adversary.step()
        return told

    def measure(self) -> Agreement | None:
        """On held-out reference inputs where there are any, else on held-out foreign ones."""
        if self.reference is not None and self.reference.comparison is not None:
            return self.reference.comparison.measure(self.recovery.student)
        return super().measure()

    def close(self) -> None:
        """Release what the run needed."""
        super().close()
        if self.reference is not None:
            self.reference.close()

    def _chooses_on_reference(self) -> bool:
        return self.reference is not None and self.reference.comparison is not None

    def _take(self, _: nn.Module, __: Any, output: Any) -> None:
        if self._features is None and torch.is_grad_enabled():
            self._features = first_tensor(output)

    def _taken(self) -> Tensor:
        assert self._features is not None
        return self._features.float().movedim(self.axis, 1)

    def _domains(self) -> dict[str, float | None]:
        """Agreement on both domains, and how far apart their features are."""
        student = self.recovery.student
        found: dict[str, float | None] = {}
        if self.comparison is not None:
            found["foreign_agreement"] = self.comparison.measure(student).agreed
        if self.statistics is not None:
            if len(self.held_out):
                found["statistics_gap"] = self.statistics.measure(student, self.source, self.held_out)
            return found
        assert self.reference is not None
        if self.reference.comparison is not None:
            found["reference_agreement"] = self.reference.comparison.measure(student).agreed
            if self.comparison is not None:
                reference, foreign = (self.reference.source, self.source)
                found["discriminator_accuracy"] = separability(
                    (self._pooled(reference, self.reference.order), self._pooled(foreign, self.order)),
                    (self._pooled(reference, self.reference.held_out), self._pooled(foreign, self.held_out)),
                    self.recovery.seed,
                )
        return found

    def _pooled(self, source: Source, order: Tensor) -> Tensor:
        """Features ``(n, C, *)`` of some samples, their maps averaged to at most 32 positions an axis."""
        shape = list(self.tap.shape)
        channels = shape.pop(self.axis)
        sizes = [min(size, _PROBE_SIZE) for size in shape[1:]]
        most = max(16, min(_PROBE_SAMPLES, _PROBE_FLOATS // (channels * math.prod(sizes))))
        pool: Any = {0: None, 1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(sizes)]

        def taken(output: Any) -> Tensor:
            features = first_tensor(output).float().movedim(self.axis, 1)
            return features if pool is None else pool(features, sizes)

        student = self.recovery.student
        module = student.get_submodule(self.tap.name)
        with torch.no_grad():
            return torch.cat([taken(x) for x in read(student, module, source, order[:most], _BATCH, what="output")])


class _Reference:
    """The reference inputs of a run: an endless stream of shuffled batches, targets, labels, held-out ones."""

    def __init__(self, training: AlignedTraining, source: Source, batch_size: int) -> None:
        recovery, options, share = training.recovery, training.options, training.alignment.reference_held_out
        self.source, self.batch_size = source, batch_size
        self.labels: Tensor | None = None
        if training.alignment.labels:
            if options.mixup or options.cutmix:
                raise RecoveryError("labels: true does not go with mixup or cutmix: set one of them aside")
            self.labels = reference_labels(source).to(recovery.device)
        held_out = min(training.held_out_most, int(share * len(source)))
        self.order, self.held_out = source.split(held_out, recovery.seed)
        self.targets = training.targets_of(source, self.order)
        self.mimic = Mimic(options, recovery, self.targets, training.views, training.precision)
        self.comparison = training.comparison_on(source, self.held_out)
        self._generator = torch.Generator().manual_seed((recovery.seed + 1) % 2**63)
        self._stream = self._batches()

    def next(self) -> tuple[Tensor, Batch]:
        """The next batch, and the indices of its samples."""
        return next(self._stream)

    def close(self) -> None:
        """Release what the run needed."""
        self.targets.close()
        self.mimic.close()

    def _batches(self) -> Iterator[tuple[Tensor, Batch]]:
        rounds = -(-self.batch_size // len(self.order))
        while True:
            orders = [self.order[torch.randperm(len(self.order), generator=self._generator)] for _ in range(rounds)]
            yield from self.source.batches(self.batch_size, torch.cat(orders), drop_last=True)


def ramp(progress: float) -> float:
    """0 at the start, 1 at the end: ``2 / (1 + exp(-10 p)) - 1`` (Ganin & Lempitsky 2015, section 4)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def _cross_entropy(found: list[Tensor], labels: Tensor, outputs: Outputs) -> Tensor:
    place, axis = outputs.scores(found) or (0, None)
    scores = found[place]
    if axis is None or scores.dim() != labels.dim() + 1:
        raise RecoveryError(
            f"labels of shape {tuple(labels.shape)} do not fit the output of shape {tuple(scores.shape)}"
        )
    if int(labels.max()) >= scores.shape[axis]:
        raise RecoveryError(f"label {int(labels.max())} is not one of the {scores.shape[axis]} classes of the output")
    return F.cross_entropy(scores.float().movedim(axis, 1), labels)


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``align``."""
    return {"align": Align}
