"""Plans with codebooks of their own for the gates of recurrent layers, which may matter more or less by far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lloydmax.network.layers import gates
from lloydmax.plan.plan import Plan, PlannedParameter

_POWER = 1 / 3
"""Of the importance, with which the distance of centroids falls: one half would suit small errors."""


def by_gate(model: nn.Module, plan: Plan, importances: Mapping[str, Tensor]) -> Plan | None:
    """The plan with a codebook for each gate, all multiples of one; ``None``: it has no gates, or of none it is known
    how much it matters.

    Args:
        model: the original.
        plan: of a recipe with ``bits``.
        importances: of the weights, by parameter name.
    """
    found: dict[str, PlannedParameter] = {}
    for name, p in plan.parameters.items():
        prefix, _, leaf = name.rpartition(".")
        count, importance = gates(model.get_submodule(prefix), leaf), importances.get(name)
        options = type(p.options).model_fields
        able = "multiples" in options and p.granularity == "tensor" and getattr(p.options, "zeros", None) != "keep"
        if count < 2 or importance is None or not able:
            continue
        means = importance.double().reshape(count, -1).mean(1)
        multiples = ((means.mean() / means.clamp(min=1e-6 * means.mean())) ** _POWER).tolist()
        granularity = f"group:{p.shape[0] // count}"
        chosen = p.options.model_copy(update={"granularity": granularity, "multiples": multiples})
        found[name] = replace(p, layout=replace(p.layout, granularity=granularity), options=chosen)
    return replace(plan, parameters={**plan.parameters, **found}) if found else None
