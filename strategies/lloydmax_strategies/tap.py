"""Reading what reaches a layer, without running the rest of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, TypeVar

from lloydmax.extend import Batch, Source, device_of
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)
What = Literal["input", "output", "call"]
"""What is read of a module: its first argument, what it returns, or all its arguments as a ``Batch``."""


class _Enough(Exception):
    pass


def forward_order(model: nn.Module, modules: Sequence[Layer], source: Source, order: Tensor) -> dict[Layer, int]:
    """The modules that a forward pass calls, in the order of their first call, and how often each is called.

    Args:
        model: in evaluation mode.
        modules: the ones to look for.
        source: inputs.
        order: int64 indices of the inputs to use; two are enough.
    """
    calls: dict[Layer, int] = {}

    def count(module: Any, _: Any) -> None:
        calls[module] = calls.get(module, 0) + 1

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(count).remove)
        next(source.through(model, len(order), order))
    return calls


def read(
    model: nn.Module,
    module: nn.Module,
    source: Source,
    order: Tensor,
    batch_size: int,
    *,
    what: What = "input",
    calls: int = 1,
) -> Iterator[Any]:
    """What is read of one module, call by call; each forward pass ends there.

    Args:
        model: run on the samples ``order`` of ``source``.
        module: a module of it.
        source: inputs.
        order: int64 indices.
        batch_size: samples of one pass.
        what: is read.
        calls: how often one forward pass calls the module.
    """
    seen: list[Any] = []

    def look(_: nn.Module, args: Any, kwargs: Any, result: Any = None) -> None:
        value = (
            result
            if what == "output"
            else Batch(args, kwargs)
            if what == "call"
            else next(iter((*args, *kwargs.values())))
        )
        seen.append(copied(value) if calls > 1 else value)
        if len(seen) == calls:
            raise _Enough

    hook = (
        module.register_forward_hook(look, with_kwargs=True)
        if what == "output"
        else module.register_forward_pre_hook(look, with_kwargs=True)
    )
    try:
        for _, batch in source.batches(batch_size, order):
            with suppress(_Enough):
                batch.to(device_of(model), channels_last=True).run(model)
            yield from seen
            seen.clear()
    finally:
        hook.remove()


def given(what: What, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is read of the arguments of a call."""
    return Batch(args, kwargs) if what == "call" else next(iter((*args, *kwargs.values())))


def copied(value: Any) -> Any:
    """A copy: what follows may write to it."""
    if isinstance(value, Tensor):
        return value.clone()
    return value.map(Tensor.clone) if isinstance(value, Batch) else value
