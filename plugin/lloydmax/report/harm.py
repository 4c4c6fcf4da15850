"""Warnings of what a run did that nobody asked for: outputs that moved away, files that became too large."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

from lloydmax.plan.plan import Plan
from lloydmax.report.figures import Stage
from lloydmax.teacher.agreement import Agreement

_HARM, _KL_SLACK = 1.1, 1e-3
"""Factor, and nats beside it, from which a step did harm."""


def warn_of_size(size: int, plan: Plan) -> None:
    """Warn of a file that is larger than the recipe's ``bits`` say."""
    if plan.recipe.bits is not None and size > plan.predicted_bytes:
        warnings.warn(
            f"{plan.recipe.at('bits')}: the file takes {size} bytes, more than the {plan.predicted_bytes} that "
            f"{plan.recipe.bits:g} bits a weight are: recovery changed the codes too much, or no price of a bit gives "
            "so small a file; ask for fewer bits, or for more recovery steps",
            stacklevel=4,
        )


def warn_of_harm(stages: Sequence[Stage], converted: str | None, judged: bool = False) -> None:
    """Warn of each stage that moved the outputs away from the original's.

    Args:
        stages: from the compressed model on.
        converted: the name of the stage that converts to int8, or ``None``.
        judged: whether steps that did harm were undone; then only the conversion can have done any.
    """
    for before, after in pairwise(stages):
        if before.agreement is None or after.agreement is None or (judged and after.name != converted):
            continue
        if harm := _harm(before.agreement, after.agreement):
            what = f"recovery step {after.name!r}"
            advice = (
                "leave it out or change its options; renormalize and correct_bias have 'relative: true', for data of "
                "another domain and for few centroids"
            )
            if after.name == converted:
                what, advice = (
                    "conversion to int8",
                    "the kernels of this machine compute something else than was trained",
                )
            warnings.warn(
                f"{what} moved the outputs away from the original's on this data ({harm}): {advice}",
                stacklevel=4,
            )


def _harm(before: Agreement, after: Agreement) -> str | None:
    if before.kl is not None and after.kl is not None and after.kl < before.kl:
        return None
    for name, old, new, slack in (
        ("mean squared difference", before.mse, after.mse, 0.0),
        ("KL divergence", before.kl, after.kl, _KL_SLACK),
    ):
        if old is not None and new is not None and not new <= _HARM * old + slack:
            return f"{name} {old:.3g} -> {new:.3g}"
    return None
