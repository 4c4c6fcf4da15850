"""Which layers are routers: they choose the experts that a token goes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from lloydmax.network.products import Along

_CALLED = ("router", "gate", "gating")
Uses = Mapping[int, Mapping[str, Along]]


def routers(model: nn.Module, uses: Uses) -> set[nn.Module]:
    """Modules within a model whose class is called router, what is in them, and layers beside experts that have an
    output for each of these: of modules around the experts, those that are called gate, router or the like.

    Experts are a stack of matrices, or modules in a list or dict that is called so.

    Args:
        model: any.
        uses: how modules use their weights, by identity, see :func:`~lloydmax.network.products.products`.
    """
    found: set[nn.Module] = set()
    for name, module in model.named_modules():
        if name and "router" in type(module).__name__.lower():
            found.update(module.modules())
        experts = _stacks(module, uses)
        found.update(layer for layer in module.children() if _outputs(layer) in experts)
        for called, child in module.named_children():
            listed = _listed(called, child)
            experts = {listed} if listed else _stacks(child, uses)
            if experts:
                found.update(layer for layer in _beside(module, child, listed > 0) if _outputs(layer) in experts)
    return found


def _stacks(module: nn.Module, uses: Uses) -> set[int]:
    """How many experts there are in the stacks that a module holds itself."""
    return {one.matrices for one in uses.get(id(module), {}).values()} - {1}


def _listed(name: str, child: nn.Module) -> int:
    """How many experts a list of them has; 0: it is none."""
    several = isinstance(child, (nn.ModuleList, nn.ModuleDict)) and len(child) > 1 and "expert" in name.lower()
    return len(child) if several else 0  # type: ignore[arg-type]


def _beside(module: nn.Module, experts: nn.Module, listed: bool) -> Iterator[nn.Module]:
    inside = set(experts.modules())
    for name, layer in module.named_modules():
        called = any(word in f"{name}.{type(layer).__name__}".lower() for word in _CALLED)
        if layer not in inside and (called or (listed and "." not in name)):
            yield layer


def _outputs(layer: nn.Module) -> int:
    """How many outputs a layer with a matrix ``weight`` has; 0: it has none."""
    weight = layer._parameters.get("weight")
    if weight is None or nn.parameter.is_lazy(weight) or weight.dim() != 2:
        return 0
    return int(weight.shape[0])
