"""No step may leave a model with NaN or infinities that it did not have: the samples that are to blame, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data import Source
from lloydmax.data.batch import Batch
from lloydmax.errors import LloydmaxError, RecoveryError
from lloydmax.hooks.protocols import Recovery
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.modes import device_of, evaluating
from lloydmax.runtime.seeding import seeded
from lloydmax.teacher.finite import HUGE

_BATCH, _NAMED = 16, 20


@contextmanager
def kept_sound(name: str, recovery: Recovery) -> Iterator[None]:
    """Refuse what the step ``name`` does inside, if parameters or buffers of the student stop being finite.

    A student that is its own teacher is then as it was before.

    Raises:
        RecoveryError: they did. It names the samples for which the teacher's activations are not finite, if any.
    """
    before = not_finite(recovery.student)
    own = recovery.teacher is recovery.student
    state = {key: tensor.detach().clone() for key, tensor in _named(recovery.student).items()} if own else {}
    yield
    if new := not_finite(recovery.student) - before:
        with torch.no_grad():
            for key, tensor in state.items():
                _named(recovery.student)[key].copy_(tensor)
        sources = {"data": recovery.data, "reference_data": recovery.reference_data}
        found = [
            f"sample{'s' * (len(odd) > 1)} {', '.join(map(str, odd[:_NAMED]))} of {which}"
            for which, source in sources.items()
            if source is not None and (odd := odd_samples(recovery.teacher, source))
        ]
        cure = "leave the step out or change its options"
        if found:
            cure = (
                f"the original itself has NaN, infinities or values above {HUGE:.0e} inside for {' and '.join(found)}: "
                "repair them or take them out of the data"
            )
        raise RecoveryError(
            f"recovery step {name!r} made {', '.join(sorted(new)[:3])}{' ...' * (len(new) > 3)} NaN or infinite; {cure}"
        )


def not_finite(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers that hold NaN or infinities."""
    named = _named(model).items()
    return {name for name, tensor in named if _floats(tensor) and not bool(torch.isfinite(tensor.detach()).all())}


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def odd_samples(model: nn.Module, source: Source) -> list[int]:
    """The samples for which something in a model is NaN, infinite or too large to be squared; it is run on all of them
    one by one where a batch has such a value."""
    found: list[int] = []
    heard: list[bool] = []

    def hear(_: nn.Module, __: Any, output: Any) -> None:
        heard.extend(_odd(tensor) for tensor in Batch((output,)).tensors() if _floats(tensor))

    def odd(batch: Batch) -> bool:
        heard.clear()
        hear(model, (), batch.to(device_of(model), channels_last=True).run(model))
        return any(heard)

    with seeded(0, model), evaluating(model):
        for inside in ([], list(model.modules())):  # hooks keep layers off their fast paths, which may be to blame
            with ExitStack() as stack:
                for module in inside:
                    stack.callback(module.register_forward_hook(hear).remove)
                for indices, batch in source.batches(_BATCH):
                    if odd(batch):
                        found += _each(indices, batch, odd)
    return sorted(set(found))


def _each(indices: Tensor, batch: Batch, odd: Callable[[Batch], bool]) -> list[int]:
    if batch.whole:
        return [int(index) for index in indices]
    try:
        return [int(index) for row, index in enumerate(indices) if odd(batch[torch.tensor([row])])]
    except (RuntimeError, ValueError, IndexError, LloydmaxError):  # a model that takes no single samples
        return [int(index) for index in indices]


def _odd(tensor: Tensor) -> bool:
    return not bool(torch.linalg.vector_norm(tensor.detach().float()) < HUGE)


def _floats(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and not_dense(tensor) is None  # not another toolkit's
    return plain and tensor.is_floating_point()
