"""Parameters that a module computes from others: a host changes the layers that it finds, so they are baked first."""

from __future__ import annotations

from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.network.baking import computed
from lloydmax.plan.plan import Plan

_CURES = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm({layer})",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm({layer})",
}


def refuse_computed(model: nn.Module, plan: Plan, host: str) -> None:
    """Refuse to compress a parameter that is computed from others.

    Raises:
        IntegrationError: names it, and how it becomes an ordinary one.
    """
    for name, how in computed(model).items():
        if name not in plan.parameters:
            continue
        layer, _, leaf = name.rpartition(".")
        raise _refusal(model.get_submodule(layer), f"model.{layer}" if layer else "model", name, leaf, how, host)


def refuse_computed_in(module: nn.Module, leaf: str, host: str) -> None:
    """The same of a module whose name is not known.

    Raises:
        IntegrationError: see :func:`refuse_computed`.
    """
    if (how := computed(module).get(leaf)) is not None:
        raise _refusal(module, "layer", f"the {leaf} of a {type(module).__name__}", leaf, how, host)


def _refusal(module: nn.Module, where: str, name: str, leaf: str, how: str, host: str) -> IntegrationError:
    if hasattr(module, "parametrizations"):
        cure = f"torch.nn.utils.parametrize.remove_parametrizations({where}, {leaf!r})"
    else:
        cure = _CURES.get(how, f"torch.nn.utils.prune.remove({{layer}}, {leaf!r})").format(layer=where)
    return IntegrationError(
        f"{name} is computed by {how}, and {host} needs an ordinary parameter: call {cure} first, or use "
        "lloydmax.compress, which bakes it"
    )
