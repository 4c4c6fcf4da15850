"""The training loop of every step that learns from the teacher's outputs."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lloydmax.data import Batch, Source
from lloydmax.errors import RecoveryError
from lloydmax.hooks.protocols import Recovery
from lloydmax.network.outputs import AskedOutputs, Outputs, comparable
from lloydmax.recovery.dividing import Division, InTurn, Part, added_up
from lloydmax.recovery.options import LoopSettings
from lloydmax.recovery.pace import Pace
from lloydmax.recovery.still import Still
from lloydmax.runtime import processes
from lloydmax.runtime.modes import evaluation_mode
from lloydmax.teacher.agreement import Agreement, Comparison
from lloydmax.teacher.kept import Targets
from lloydmax.teacher.trial import trial

_BEFORE, _NOW = 0.95, 0.05
"""Shares of the smoothed loss of the step before and of the loss of this one."""


class TrainingLoop:
    """One run of a recovery step that learns from the teacher's outputs on unlabelled inputs.

    The loop divides the inputs into those to train on and those to choose the best state by, shuffles, smooths and
    tells the losses, keeps the best state, loses patience, restores the best state after Ctrl-C or a loss that is not
    finite, goes on after a kill, and shares the batches out to several processes. A subclass says what the loss is and
    how a step is taken::

        class Nudging(TrainingLoop):
            def __init__(self, options, recovery):
                super().__init__("nudge", options, recovery)
                self.optimizer = torch.optim.Adam(self.parameters, lr=options.lr)

            def loss(self, found, wanted):
                return F.smooth_l1_loss(found[0], wanted[0])

    and its step's ``run`` is ``return Nudging(self.options, recovery).run()``. What else a subclass may say stands in
    the methods without underscore; :meth:`losses`, :meth:`step`, :meth:`live` and :meth:`figures` are the next ones to
    look at.

    Args:
        name: of the recovery step, for events and messages.
        options: :class:`lloydmax.recovery.options.LoopOptions`, or others that have the same.
        recovery: what to train, on what.
        student: what runs and is compared in place of ``recovery.student``, if not that itself.
        batch_size: in place of the option.

    Attributes:
        parameters: what learns, see :meth:`trained`.
        order, held_out: indices of the inputs to train on and of those to choose by.
        outputs: how what the models return is read: ``outputs.of(output, inputs)``.
        targets: what the teacher gives for the first.
        comparison: of student and teacher on the second; ``None``: there are none.
        done, total: steps; of a run whose time is limited as many as there is time for.
        generator: draws the order of every epoch; a subclass may draw from it, too.

    Raises:
        RecoveryError: no data, or nothing to train.
    """

    resumable: ClassVar[bool] = True
    """Whether :meth:`live` and :meth:`more_state` are all that a run depends on; else it starts anew after a kill."""
    shared: ClassVar[bool] = True
    """Whether processes share each batch, which takes a :meth:`step` that calls ``backward``; else all do the same."""
    held_out_most: ClassVar[int] = 1000
    """Inputs kept aside at most: the student runs on all of them after every epoch."""
    hint: ClassVar[str] = "a smaller lr"
    """What to try after a loss that is not finite."""

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        name: str,
        options: LoopSettings,
        recovery: Recovery,
        *,
        student: nn.Module | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.name, self.options, self.recovery = name, options, recovery
        self.source, self.device, self.generator = recovery.source(), recovery.device, recovery.generator()
        self.compared = recovery.student if student is None else student
        self.student = self.compared
        self.parameters = self.trained()
        if not self.parameters:
            raise RecoveryError(
                f"{name} has nothing to train: no parameter of the student requires a gradient; "
                "see 'trainable' in the recipe"
            )
        self.batch_size = batch_size or options.batch_size
        count = min(len(self.source), options.samples or len(self.source))
        held_out = min(self.held_out_most, int(options.held_out * count))
        self.order, self.held_out = self.source.split(held_out, recovery.seed)
        self.order = self.order[: max(count - len(self.held_out), 1)]
        self.done, self.total = 0, options.steps or options.epochs * max(1, len(self.order) // self.batch_size)
        among, parts = (recovery.processes, getattr(options, "parts", None)) if self.shared else (1, None)
        self._division = Division(name, self.batch_size, len(self.order), parts, among)
        self._in_turn = InTurn(self.student, self._division, self.generator, self.reseed)
        self._pace = Pace(recovery.limit, self.total, among > 1, self.device)
        self.outputs = self._outputs()
        self.targets = self.targets_of(self.source, self.order)
        self.comparison = self.comparison_on(self.source, self.held_out)
        self.first: Agreement | None = None
        self.best: Agreement | None = None
        self.first_loss: float | None = None
        self._still = Still(recovery.student, self.parameters)
        self._kept: list[Tensor] = []
        self._parts = {"loss": math.nan}
        self._waited, self._stopped = 0, "all steps done"

    # What a subclass may say, from what nearly all do to what hardly any does.

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """The distance of the student's outputs from the teacher's, 0-dim: the mean squared difference,
        without what is infinite in the teacher's."""
        pairs = itertools.starmap(comparable, zip(found, wanted, strict=True))
        return torch.stack([F.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).mean()

    def losses(self, indices: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss for a batch of samples, which are added up; ``loss`` is that of the outputs."""
        inputs = batch.to(self.device, channels_last=True)
        wanted = self.targets.of(indices, inputs)
        return {"loss": self.loss(self.outputs.of(inputs.run(self.student), inputs, wanted), wanted)}

    def step(self, loss: Tensor) -> dict[str, float]:
        """Take a step on this loss, which is finite: by default one of ``self.optimizer``.

        Returns:
            What to tell beside the loss.
        """
        if not hasattr(self, "optimizer"):
            raise RecoveryError(
                f"{self.name}: {type(self).__name__} sets no self.optimizer, and has no step of its own"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {}

    def begin_step(self) -> None:
        """Called before each step."""

    def trained(self) -> list[Any]:
        """What learns, asked for once: the parameters of the student that require a gradient."""
        return [parameter for parameter in self.recovery.student.parameters() if parameter.requires_grad]

    def live(self) -> list[Tensor]:
        """Every tensor that training changes in place, and that goes back to the best state."""
        return [parameter.detach() for parameter in self.parameters]

    def more_state(self) -> dict[str, Any]:
        """What else the rest of a run depends on: the state of ``self.optimizer``."""
        return {"optimizer": self.optimizer.state_dict()} if hasattr(self, "optimizer") else {}

    def load_more_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`more_state` gave in an earlier process."""
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def figures(self) -> dict[str, Any]:
        """What the run measured, for the report; asked for at the end, in the best state."""
        return {
            "steps": self.done,
            "samples": len(self.order),
            "loss_before": self.first_loss,
            **self.last_losses(),
            "held_out_samples": 0 if self.best is None else self.best.samples,
            "mse_before": self.first and self.first.mse,
            "mse": self.best and self.best.mse,
            "agreement_before": self.first and self.first.agreed,
            "agreement": self.best and self.best.agreed,
            "stopped": self._stopped,
        }

    def measure(self) -> Agreement | None:
        """Agreement on the inputs that choose the best state; ``None``: the last state is kept."""
        return None if self.comparison is None else self.comparison.measure(self.compared)

    def distance(self, found: Agreement) -> float:
        """By which the best state is chosen: agreement alone is too coarse on few inputs."""
        return found.mse

    @property
    def repeats(self) -> bool:
        """Whether the teacher gets the same input for a sample in each epoch, so that its outputs can be kept."""
        return True

    @property
    def divides(self) -> bool:
        """Whether the losses of a batch are the means of its samples': one with large outputs then comes in parts."""
        return False

    def reseed(self, seed: int) -> None:
        """Make what is drawn at random go on from here: before each part of a batch that comes in parts, so that these
        draw the same in any process."""
        self.generator.manual_seed(seed)

    def state(self) -> list[Tensor]:
        """A copy of what training changes, for :meth:`load`."""
        return [tensor.clone() for tensor in self.live()]

    def load(self, state: list[Tensor]) -> None:
        """Go back to a state."""
        with torch.no_grad():
            for tensor, value in zip(self.live(), state, strict=True):
                tensor.copy_(value)

    def close(self) -> None:
        """Release what the run needed."""
        self.targets.close()

    # What the loop does.

    def run(self) -> dict[str, Any]:
        """Train; returns what was measured. Both models are left in the mode that they were in."""
        if self.shared:
            processes.take_over(self.live())
        own = self.recovery
        with evaluation_mode(own.teacher, own.student), own.limit.ending(False), closing(self):
            return self.train()

    def train(self) -> dict[str, Any]:
        """All epochs; the best state is kept."""
        self._kept = self.state()
        if not self.resumable or self.recovery.kept(self._go_on) is None:
            self.first = self.best = self._measured()
        self.total = self._pace.total(self.done)
        while self.done < self.total and not self._is_out_of_patience():
            try:
                self._parts = self.epoch()
            except KeyboardInterrupt:
                self.load(self._kept)
                raise
            if not _finite(self._parts):
                worst = next(value for value in self._parts.values() if not math.isfinite(value))
                self._stopped = f"the loss became {worst} at step {self.done}; the best state before was restored"
                warnings.warn(f"{self.name}: {self._stopped}; try {self.hint}", stacklevel=2)
                break
            found = self._measured()
            self._waited += 1
            if self.is_better(found):
                self.best, self._waited, self._kept = found, 0, self.state()
            self._keep()
        self.load(self._kept)
        cut = self._pace.cut(self.done, self.total)
        self._stopped = self._stopped if cut is None else "no time was left"
        return self.figures() | ({} if cut is None else {"cut": cut})

    def _is_out_of_patience(self) -> bool:
        patience = getattr(self.options, "patience", None)
        if patience is None or self._waited < patience:
            return False
        self._stopped = f"no better held-out state for {self._waited} epochs"
        return True

    def epoch(self) -> dict[str, float]:
        """One pass over the inputs, in a new order; the smoothed losses, or those that are not finite."""
        smooth = {"loss": math.nan}
        order = self.order[torch.randperm(len(self.order), generator=self.generator)]
        for batch in self._division.batches(self.source, order, self.batch_size):
            parts, told = self._step(batch)
            if not parts:
                continue
            self.done += 1
            self.total = self._pace.total(self.done)
            if not _finite(parts):
                return parts
            smooth = {
                key: value if math.isnan(smooth.get(key, math.nan)) else _BEFORE * smooth[key] + _NOW * value
                for key, value in parts.items()
            }
            self.recovery.events.step(self.name, self.done, self.total, {**smooth, **told})
            if self.done >= self.total:
                break
        return smooth

    def is_better(self, found: Agreement | None) -> bool:
        """Whether a state is nearer to the teacher than the best so far; any number is better than none."""
        if found is None or self.best is None:
            return True
        distance, least = self.distance(found), self.distance(self.best)
        return distance < least or (math.isnan(least) and not math.isnan(distance))

    def last_losses(self) -> dict[str, float | None]:
        """The smoothed losses at the end; ``None`` where one is not finite."""
        return {key: value if math.isfinite(value) else None for key, value in self._parts.items()}

    def targets_of(self, source: Source, order: Tensor) -> Targets:
        """What the teacher gives for these samples of a source."""
        own = self.recovery
        given: dict[str, Any] = {"workdir": own.workdir, "cache": own.cache, "events": own.events}
        return Targets(own.teacher, source, order, self.outputs, keep=self.repeats, **given)

    def comparison_on(self, source: Source, held_out: Tensor) -> Comparison | None:
        """The comparison of student and teacher on these samples; ``None`` where there are none."""
        own = self.recovery
        compared = (own.teacher, source, held_out)
        return Comparison(*compared, key=self.outputs, cache=own.cache) if len(held_out) else None

    def _outputs(self) -> Outputs:
        """As the run has tried them; those that the step's own option names are tried anew."""
        known, output = self.recovery.outputs, self.options.output
        if known is not None and output in (None, known.asked.output):
            return known
        asked = AskedOutputs() if known is None else known.asked
        return trial(self.recovery.teacher, self.source, replace(asked, output=output, at=str), self.recovery.cache)

    def _step(self, parts_of: Sequence[Part]) -> tuple[dict[str, float], dict[str, float]]:
        """The losses of a batch, none if it has no sample that can be used, and what the step told."""
        self.begin_step()
        losses = self._in_turn(self._losses_of, parts_of, self.parameters, (self.recovery.seed, self.done))
        if not losses:
            return {}, {}
        values = torch.stack([part.detach() for part in losses.values()]).tolist()
        parts = dict(zip(losses, values, strict=True))
        if self.first_loss is None:
            self.first_loss = parts["loss"]
        told = self.step(reduce(add, losses.values())) if _finite(parts) else {}
        self._still.restore()
        return parts, told

    def _measured(self) -> Agreement | None:
        began, found = self._pace.passed, self.measure()
        self._pace.measured(self._pace.passed - began)
        if found is not None and found.agreed is not None:
            self.recovery.events.step(self.name, self.done, self.total, {"agreement": found.agreed})
        return found

    def _losses_of(self, indices: Tensor, batch: Batch) -> dict[str, Tensor]:
        pieces = [*self.outputs.parts(indices, batch)] if self.divides else [(indices, batch)]
        losses = added_up(self.losses, pieces, self.parameters)
        for key, shape in ((key, tuple(part.shape)) for key, part in losses.items() if part.dim()):
            raise RecoveryError(f"{self.name}: the loss {key!r} has shape {shape}; it has to be one number")
        return losses

    def _keep(self) -> None:
        """Keep all that the rest of the run depends on, after an epoch."""
        if self.recovery.part is not None and self.resumable:
            self.recovery.keep(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "first": self.first and asdict(self.first),
            "best": self.best and asdict(self.best),
            "first_loss": self.first_loss,
            "parts": self._parts,
            "waited": self._waited,
            "done": self.done,
            "live": self.live(),
            "kept": self._kept,
            "generator": self.generator.get_state(),
            "more": self.more_state(),
        }

    def _go_on(self, part: dict[str, Any]) -> None:
        """Go on where an earlier process was killed; all is as before where it kept something else."""
        before = copy.deepcopy(self._state())
        try:
            if not 0 <= part["done"] <= self.total or part["waited"] < 0:
                raise ValueError(f"there are {self.total} steps, not {part['done']}")
            self._set(part)
        except BaseException:
            self._set(before)
            raise

    def _set(self, part: dict[str, Any]) -> None:
        for name, ours in (("kept", self._kept), ("live", self.live())):
            for tensor, value in zip(ours, part[name], strict=True):
                if (tensor.shape, tensor.dtype) != (value.shape, value.dtype):
                    raise ValueError(f"a tensor of shape {tuple(value.shape)} in place of {tuple(tensor.shape)}")
        self.load(part["kept"])
        self._kept = self.state()
        self.load(part["live"])
        self.generator.set_state(part["generator"])
        self.first, self.best = (part[key] and Agreement.read(part[key]) for key in ("first", "best"))
        self.first_loss, self._waited, self.done = part["first_loss"], part["waited"], part["done"]
        self._parts = {name: float(value) for name, value in part["parts"].items()}
        self.load_more_state(part["more"])


def _finite(parts: dict[str, float]) -> bool:
    return all(map(math.isfinite, parts.values()))
