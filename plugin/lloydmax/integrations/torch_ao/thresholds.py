"""Trained thresholds of a model that ``prepare_qat_fx`` or ``prepare_fx`` prepared."""

from __future__ import annotations

from typing import Any

from torch import nn

from lloydmax.recovery.steps import run_step
from lloydmax.student.int8.fx.fake_quantizers import ThresholdFakeQuantize
from lloydmax.student.int8.fx.host import forget_models
from lloydmax.student.int8.fx.qconfigs import threshold_qconfig, threshold_qconfig_mapping

__all__ = ["ThresholdFakeQuantize", "threshold_qconfig", "threshold_qconfig_mapping", "train_thresholds"]


def train_thresholds(prepared: nn.Module, teacher: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    """Train the thresholds of a prepared model to give the teacher's outputs on unlabelled data, in place.

    Nothing else is trained. After ``prepare_qat_fx`` the thresholds of weights and activations are there; after
    ``prepare_fx`` only those of activations, for it observes weights at conversion. Batch norms that are not folded
    use their running statistics. Observers are left disabled, so ``convert_fx`` takes exactly what was trained.

    Args:
        prepared: from ``prepare_qat_fx`` or ``prepare_fx`` with :func:`threshold_qconfig_mapping` or single
            :func:`threshold_qconfig` entries; left in evaluation mode.
        teacher: the float model; never changed.
        data: anything that :func:`lloydmax.compress` takes.
        options: of the recovery step ``train_thresholds``, and those of :func:`lloydmax.run_step`.

    Returns:
        What was measured: loss and agreement before and after, steps, thresholds, how many are saturated.

    Raises:
        RecoveryError: the model has no trained thresholds, wrong options. DataError: unusable data.
    """
    try:
        measured = run_step("train_thresholds", prepared, teacher, data, **options)
    finally:
        forget_models()
    prepared.eval()
    return measured
