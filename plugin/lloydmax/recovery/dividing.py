"""A batch whose outputs are too large to be there at once, in parts whose gradients add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lloydmax.data import Batch

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
