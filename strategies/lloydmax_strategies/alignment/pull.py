"""What pulls low-level features of foreign inputs to those of the original domain."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from lloydmax import RecoveryError
from lloydmax.extend import Source, statistics_gap
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from lloydmax_strategies.alignment.discriminator import Discriminator, reversed_gradient, told_apart
from lloydmax_strategies.alignment.first_stage import Call

_BATCH = 64


class AdversaryOptions(Protocol):
    """The options that matter here; see :class:`lloydmax_strategies.align.AlignmentOptions`."""

    adversarial: Literal["reversal", "alternating"]
    discriminator_lr: float
    discriminator_steps: int


class Adversary:
    """A discriminator between the student's features of reference and foreign inputs, and the loss it makes.

    ``L_D = -E log D(reference) - E log(1 - D(foreign))``, ``L_adv = -E log D(foreign)``.

    Args:
        options: reversal or alternating; learning rate and steps of the discriminator.
        seed: of its initial weights.
    """

    def __init__(self, options: AdversaryOptions, seed: int) -> None:
        self.options = options
        self.generator = torch.Generator().manual_seed((seed + 2) % 2**63)
        self.model: Discriminator | None = None

    def losses(self, reference: Tensor, foreign: Tensor, weight: float) -> dict[str, Tensor]:
        """What to add to the student's loss; the discriminator has its gradients, or has learned, afterwards.

        Args:
            reference: features ``(N, C, *)``, float32.
            foreign: likewise.
            weight: of the gradient that reaches the features.

        Returns:
            ``loss_alignment`` (``L_adv``) and ``loss_discriminator`` (``L_D``), both unweighted, 0-dim.
        """
        model = self._discriminator(reference, foreign)
        reversal = self.options.adversarial == "reversal"
        still, moving = reference.detach(), foreign.detach()
        for _ in range(self.options.discriminator_steps - int(reversal)):
            self._optimizer.zero_grad(set_to_none=True)
            told_apart(model(still), model(moving)).backward()
            self._optimizer.step()
        if reversal:
            self._optimizer.zero_grad(set_to_none=True)
            logits = model(reversed_gradient(foreign, weight))
            loss = told_apart(model(reversed_gradient(reference, weight)), logits)
            return {"loss_alignment": F.softplus(-logits.detach()).mean(), "loss_discriminator": loss}
        model.requires_grad_(False)
        logits = model(foreign)
        with torch.no_grad():
            apart = told_apart(model(still), logits)
        model.requires_grad_(True)
        pull = reversed_gradient(F.softplus(-logits).mean(), -weight)
        return {"loss_alignment": pull, "loss_discriminator": apart}

    def step(self) -> None:
        """After the backward pass of the sum of all losses."""
        if self.model is not None and self.options.adversarial == "reversal":
            self._optimizer.step()

    def _discriminator(self, reference: Tensor, foreign: Tensor) -> Discriminator:
        if self.model is None:
            alike = reference.shape[2:] == foreign.shape[2:]
            self.model = Discriminator(torch.cat([reference, foreign]) if alike else foreign, self.generator)
            self._optimizer = torch.optim.Adam(self.model.parameters(), lr=self.options.discriminator_lr)
        return self.model


class StatisticsGap:
    """How far the inputs of the student's first batch norms are from the statistics that the teacher keeps.

    The mean of :func:`lloydmax.extend.statistics_gap` over batch norms. A context manager: it listens while it is
    entered.

    Args:
        calls: modules of the student to look at.
        teacher: has the same batch norms.
        layer: for the message.

    Raises:
        RecoveryError: none of the modules is a batch norm with running statistics.
    """

    def __init__(self, calls: Sequence[Call], teacher: nn.Module, layer: str) -> None:
        theirs = dict(teacher.named_modules())
        pairs = [(call.module, theirs.get(call.name)) for call in calls]
        self.norms = {
            ours: twin
            for ours, twin in pairs
            if isinstance(ours, _BatchNorm) and isinstance(twin, _BatchNorm) and twin.running_mean is not None
        }
        if not self.norms:
            raise RecoveryError(
                f"there is nothing to align to: no reference data, and no batch norm up to layer {layer!r} whose "
                "statistics could stand in for them; pass reference_data=... (a few unlabelled inputs of the "
                "original domain), or name a later 'layer' after a batch norm"
            )
        self._seen: dict[nn.Module, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> StatisticsGap:
        self._hooks = [norm.register_forward_pre_hook(self._look) for norm in self.norms]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._seen.clear()

    def loss(self, weight: float) -> Tensor:
        """The gap in the last forward pass, 0-dim; its gradient is multiplied by ``weight``."""
        return reversed_gradient(torch.stack(list(self._seen.values())).mean(), -weight)

    def measure(self, student: nn.Module, source: Source, order: Tensor) -> float:
        """The mean gap over batches of 64 of some samples, while listening; the student in evaluation mode."""
        total = 0.0
        with torch.no_grad():
            for indices, _ in source.through(student, _BATCH, order):
                total += float(self.loss(1.0)) * len(indices)
        return total / len(order)

    def _look(self, norm: nn.Module, args: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        self._seen[norm] = statistics_gap(args[0], self.norms[norm])


def check_movable(step: str, below: Sequence[Call], tap: Call) -> None:
    """Warn where nothing up to the aligned layer is trainable, and say what to write in the recipe."""
    if any(p.requires_grad for call in below for p in call.module.parameters()):
        return
    modules = [call for call in below if any(True for _ in call.module.parameters())]
    outer = [call for call in modules if not any(o is not call and call.name.startswith(f"{o.name}.") for o in modules)]
    held = [call for call in below if parametrize.is_parametrized(call.module)]
    names = [call.name for call in sorted(outer, key=lambda call: call.start) if _has_plain(call.module)]
    words = [*(["codebooks"] if held else []), *names[:4]]
    warnings.warn(
        f"{step}: nothing up to layer {tap.name!r} is trainable, so its features cannot be aligned; add it in the "
        f"recipe: trainable: [..., {', '.join(words)}]",
        stacklevel=2,
    )


def _has_plain(module: nn.Module) -> bool:
    return any("parametrizations" not in name for name, _ in module.named_parameters())
