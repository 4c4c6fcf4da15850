"""Batch norm folded into the layers before it, so that codebooks and thresholds see the weights that are run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lloydmax import RecoveryError, hookimpl
from lloydmax.extend import Batch, Recovery, evaluating, fold_batch_norms, output_tensors
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_SAMPLES = 8
"""Inputs by which it is told whether the outputs changed."""
_ROUNDING = 0.05
"""Change of an output, relative to the largest, that rounding can make in deep networks of 16-bit floats."""


class FoldBatchNorm:
    """Before the fit: merges batch norms into the layers before them."""

    needs_data = False
    before_fit = True

    class Options(BaseModel):
        """`fold_batch_norm` has no options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, options: Options) -> None:
        self.options = options

    def restructure(self, model: nn.Module) -> None:
        """Fold in place; see :func:`lloydmax.extend.fold_batch_norms`.

        Raises:
            RecoveryError: nothing can be folded, or the model cannot be traced.
        """
        self._fold(model)

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Fold every batch norm of the student that can be folded; returns how many there were and are left."""
        with check_unchanged(recovery, "fold_batch_norm") as measured:
            measured["folded"] = self._fold(recovery.student)
            measured["left"] = _norms(recovery.student)
        return measured

    @staticmethod
    def _fold(model: nn.Module) -> int:
        pairs = fold_batch_norms(model)
        if not pairs:
            count = _norms(model)
            reason = (
                f"none of its {count} batch norms is the only consumer of a convolution or linear layer of its own, "
                "with running statistics"
                if count
                else "it has no batch norm"
            )
            raise RecoveryError(f"nothing to fold in {type(model).__name__}: {reason}; leave fold_batch_norm out")
        return len(pairs)


@contextmanager
def check_unchanged(recovery: Recovery, step: str) -> Iterator[dict[str, Any]]:
    """What happens inside must not change what the student computes; told from a few inputs, where there are any.

    Yields:
        A dict, which gets ``difference``: the largest change of an output relative to the largest output.

    Raises:
        RecoveryError: the outputs changed by more than rounding can.
    """
    measured: dict[str, Any] = {}
    batch = _few(recovery)
    before = [] if batch is None else _outputs(recovery.student, batch)
    yield measured
    if batch is None:
        return
    changes = [
        float((new.double() - old.double()).abs().max() / old.double().abs().max().clamp(min=1e-30))
        for new, old in zip(_outputs(recovery.student, batch), before, strict=True)
    ]
    measured["difference"] = max(changes)
    if not max(changes) <= _ROUNDING and all(bool(torch.isfinite(old).all()) for old in before):
        raise RecoveryError(
            f"{step} changed the outputs of {type(recovery.student).__name__} by {max(changes):.2g} of the largest "
            "one, though it must not: the forward pass does something that tracing does not see; leave the step out"
        )


def _few(recovery: Recovery) -> Batch | None:
    source = recovery.data or recovery.reference_data
    if source is None:
        return None
    return source.first(_SAMPLES).to(recovery.device)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    with evaluating(model):
        return output_tensors(batch.run(model))


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``fold_batch_norm``."""
    return {"fold_batch_norm": FoldBatchNorm}
