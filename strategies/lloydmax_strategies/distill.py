"""Distillation without labels: the student learns to give the teacher's outputs on unlabelled inputs.

The setting is that of Thonglek et al. (IJCNN 2020): the same input goes through both models, the loss is taken
between the two output vectors, and only what the recipe leaves trainable learns.
"""

from __future__ import annotations

from typing import Any

from lloydmax import hookimpl
from lloydmax.extend import Recovery
from pydantic import Field

from lloydmax_strategies.align import AlignedTraining, AlignmentOptions
from lloydmax_strategies.training.loop import Training, TrainingOptions


class Distill:
    """Trains what is trainable to give the original's outputs (Thonglek et al. 2020)."""

    needs_data = True

    class Options(TrainingOptions):
        """Options of `distill`: those of `TrainingOptions`, and one more."""

        align: AlignmentOptions | None = Field(
            default=None,
            description="options of the alignment of low-level features, see the step `align`; default: no alignment.",
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Train every parameter of the student that requires a gradient; returns what was measured."""
        if self.options.align is not None:
            return AlignedTraining("distill", self.options, self.options.align, recovery).run()
        return Training("distill", self.options, recovery).run()


@hookimpl
def lloydmax_recovery_steps() -> dict[str, type]:
    """Register ``distill``."""
    return {"distill": Distill}
