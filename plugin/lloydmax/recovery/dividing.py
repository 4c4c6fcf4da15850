"""A batch in parts: those of several processes, and those of what is too large to be there at once, whose gradients
add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lloydmax.data import Batch
from lloydmax.errors import RecoveryError

Losses = Callable[[Tensor, Batch], dict[str, Tensor]]


def added_up(losses: Losses, parts: Sequence[tuple[Tensor, Batch]], parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """The losses of a batch, each the mean over its samples, as if it had come at once.

    Args:
        losses: of some samples, 0-dim, the means over them.
        parts: of the batch: indices and inputs.
        parameters: that learn.

    Returns:
        The losses; the gradients of all of them together are those of their sum.
    """
    if len(parts) == 1:
        return losses(*parts[0])
    samples = sum(len(indices) for indices, _ in parts)
    found: dict[str, Tensor] = {}
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for indices, batch in parts:
        share = len(indices) / samples
        now = {name: share * loss for name, loss in losses(indices, batch).items()}
        total = torch.stack([*now.values()]).sum()
        for kept, gradient in zip(gradients, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                kept += gradient
        for name, loss in now.items():
            found[name] = found[name] + loss.detach() if name in found else loss.detach()
    carrier = torch.stack([(p * g).sum().float() for p, g in zip(parameters, gradients, strict=True)]).sum()
    first = next(iter(found))
    return found | {first: found[first] + carrier - carrier.detach()}


def share_of_a_batch(name: str, batch_size: int, samples: int, processes: int) -> int:
    """Samples of one step of ``name`` in one of these processes, where there are so many samples altogether.

    Raises:
        RecoveryError: a batch cannot be shared equally.
    """
    if processes == 1:
        return batch_size
    samples = min(batch_size, samples)
    if batch_size % processes or samples < processes:
        raise RecoveryError(
            f"{name}: a batch_size of {batch_size} ({samples} samples) cannot be shared equally by {processes} "
            f"processes; write a multiple of {processes}"
        )
    return samples // processes
