"""Pictures moved until a teacher's batch norms get the statistics that they keep of its training data.

ZeroQ (Cai et al., CVPR 2020) matches them from noise. DeepInversion (Yin et al., CVPR 2020) flips and shifts the
pictures between two steps, so that they are matched by things, not by one pattern of pixels. Pictures that start as
things in the colours of the first batch norm are so near that a few large steps will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax.data.batch import Batch
from lloydmax.network.batch_norm import listening, statistics_gap
from lloydmax.network.outputs import class_axis
from lloydmax.network.trees import output_tensors
from lloydmax.runtime.modes import device_of
from lloydmax.teacher.cost import kept_between

_BETAS = (0.5, 0.9)
"""Of Adam, for few steps."""

_TOGETHER, _FEWEST, _ROOM = 32, 8, 1 << 31
"""Pictures whose statistics are matched together: fewer where they would take more bytes than this, but some."""

Call = Callable[[Tensor], Batch]
Tell = Callable[[int, float], None]


@dataclass(frozen=True)
class Matching:
    """How pictures are moved.

    Attributes:
        steps: of Adam: each costs a forward and a backward pass.
        lr: peak learning rate, in deviations of the pictures; it falls to zero as a cosine.
        classes: weight of the cross-entropy towards a random class for each picture.
        total_variation: weight of the mean absolute difference between neighbouring pixels.
        output: path of the output that has the classes; ``None``: the first with classes.
    """

    steps: int = 8
    lr: float = 0.15
    classes: float = 0.0
    total_variation: float = 0.0
    output: str | int | None = None


def together(model: nn.Module, picture: Tensor, call: Call) -> int:
    """How many pictures like this ``(1, channels, height, width)`` are matched together; the model is run once. 0: what
    reaches its batch norms has no gradients, or nothing does."""
    one = picture.detach().to(device_of(model)).requires_grad_()
    try:
        with torch.enable_grad(), kept_between(model) as kept:
            torch.autograd.grad(passed(model, call(one), None)[0], one)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return 0
    return min(_TOGETHER, max(_FEWEST, _ROOM // max(1, sum(kept.values()))))


def matched(
    model: nn.Module,
    start: Tensor,
    call: Call,
    how: Matching,
    generator: Generator,
    tell: Tell,
    enough: Callable[[], bool] = lambda: False,
) -> Tensor:
    """One batch of pictures ``(N, channels, height, width)``, moved together; on the CPU. Those that it starts with
    where numbers become infinite.

    Args:
        model: the teacher, in evaluation mode; must have batch norms with running statistics.
        start: the same, some tens at least.
        call: gives the arguments for such pictures.
        how: they are moved.
        generator: of flips, shifts and classes.
        tell: hears every step, and how far the statistics are off.
        enough: asked before every step: whether to end there.
    """
    images = start.detach().to(device_of(model), memory_format=torch.channels_last).requires_grad_()
    wanted = torch.rand(len(start), generator=generator).to(images.device)
    optimizer = torch.optim.Adam([images], how.lr * float(start.std(correction=0)), _BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    for step in takewhile(lambda _: not enough(), range(1, how.steps + 1)):
        gap, scores = passed(model, call(_moved(images, generator)), how.output)
        loss = gap + how.total_variation * _roughness(images) if how.total_variation else gap
        if how.classes and scores is not None:
            loss = loss + how.classes * F.cross_entropy(scores, (wanted * scores.shape[1]).long())
        (images.grad,) = torch.autograd.grad(loss, images)
        optimizer.step()
        schedule.step()
        tell(step, float(gap.detach()))
    found = images.detach().cpu()
    return found if bool(found.isfinite().all()) else start


def passed(model: nn.Module, batch: Batch, output: str | int | None) -> tuple[Tensor, Tensor | None]:
    """One forward pass: the mean gap of the batch norms, 0-dim, and the scores of classes ``(N, C)``, if any."""
    gaps: list[Tensor] = []

    def hear(name: str, norm: _BatchNorm, inputs: Tensor) -> None:
        gaps.append(statistics_gap(inputs, norm))

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    batch = batch.map(lambda t: t.to(dtype) if t.is_floating_point() and dtype is not None else t)
    with listening(model, hear):
        anew = model.register_forward_pre_hook(lambda *_: gaps.clear())
        outputs = output_tensors(batch.run(model), output)
        anew.remove()
    scores = next((found.float() for found in outputs if found.dim() == 2 and class_axis(found) is not None), None)
    return torch.stack(gaps).mean(), scores


def _moved(images: Tensor, generator: Generator) -> Tensor:
    """The batch, rolled by up to an eighth of its sides, and half of the times flipped, but grey oblongs, which may be
    sounds."""
    flip, *where = torch.rand(3, generator=generator).tolist()
    shifts = []
    for length, share in zip(images.shape[-2:], where, strict=True):
        most = length // 8
        shifts.append(int(share * (2 * most + 1)) - most)
    sounds = images.shape[1] == 1 and images.shape[2] != images.shape[3]
    return torch.roll(images.flip(-1) if flip < 0.5 and not sounds else images, shifts, (-2, -1))


def _roughness(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels, 0-dim; 0 where there are no neighbours."""
    differences = [torch.diff(images, dim=axis).abs() for axis in (-2, -1) if images.shape[axis] > 1]
    return torch.stack([difference.mean() for difference in differences]).sum() if differences else images.new_zeros(())
