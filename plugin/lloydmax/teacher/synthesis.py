"""Images out of nothing but a teacher: inputs that give its batch norms the statistics that they keep.

ZeroQ (Cai et al., CVPR 2020) starts from noise and matches the statistics. DeepInversion (Yin et al., CVPR 2020) adds a
class for every image to be of, total variation, and random flips and shifts, so that the statistics are matched by
pictures, not by one pattern of pixels. Images that start as things in the colours of the first batch norm are so near
that a tenth of the steps will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lloydmax.data.batch import Batch
from lloydmax.data.image_folder import image_channels
from lloydmax.data.natural import Form, values_of
from lloydmax.errors import DataError, LloydmaxError
from lloydmax.hooks.events import Events
from lloydmax.network.batch_norm import listening, statistics_gap, tracked
from lloydmax.network.given import network
from lloydmax.network.guard import guarded
from lloydmax.network.outputs import AskedOutputs, class_axis
from lloydmax.network.private import private
from lloydmax.network.trees import output_tensors
from lloydmax.runtime.arguments import number, whole
from lloydmax.runtime.modes import device_of, own_modes
from lloydmax.runtime.seeding import check_seed, drawn, seeded
from lloydmax.runtime.text import size as size_of
from lloydmax.teacher.refusal import refusal
from lloydmax.teacher.scaling import scaled

_BETAS = (0.5, 0.9)
"""Of Adam, for few steps."""


def synthesize(
    model: nn.Module,
    count: int,
    size: int | None = None,
    *,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    steps: int = 20,
    batch_size: int = 100,
    lr: float = 0.05,
    classes: float = 0.1,
    total_variation: float = 0.01,
    output: str | int | None = None,
    listeners: Sequence[object] = (),
) -> Tensor:
    """Unlabelled images for recovery where there are none, made from the statistics in a teacher's batch norms.

    Every image starts as things of all sizes in front of each other, in the colours of the first batch norm, and Adam
    moves its values until batches of them give every batch norm about the mean and deviation that it keeps of the
    training data.

    Args:
        model: the trained teacher with batch norms; run in evaluation mode, never changed.
        count: images to make.
        size: height and width; the channels are those of the model's first convolution.
        shape: ``(channels, height, width)`` instead of ``size``, where these do not fit.
        seed: of noise, classes, flips and shifts.
        steps: of Adam, for every batch: each costs a forward and a backward pass.
        batch_size: images whose statistics are matched together; some tens at least.
        lr: peak learning rate, in deviations of the images; it falls to zero as a cosine.
        classes: weight of the cross-entropy towards a random class for each image; 0: none. Nothing is added where the
            model has no classes.
        total_variation: weight of the mean absolute difference between neighbouring pixels; 0: none.
        output: path of the output that has the classes, as a recipe's ``output``; default: the first with classes.
        listeners: plugin objects whose event hooks hear the steps.

    Returns:
        float32 ``(count, channels, height, width)`` on the CPU, in the normalized range of the model's inputs: the same
        for the same arguments on the same machine.

    Raises:
        DataError: the model has no batch norm with running statistics; no ``size`` or ``shape``, or one that does not
            fit; a number out of range; no memory for the images. ModelError: no network. RecipeError: see
            :func:`lloydmax.runtime.seeding.check_seed`.
    """
    if not tracked(network(model)):
        raise DataError(
            f"{type(model).__name__} has no batch norm with running statistics, of which images could be made: "
            "give real data, of any domain"
        )
    given = {"count": count, "steps": steps, "batch_size": batch_size}
    count, steps, batch_size = (whole(name, value, DataError, least=None) for name, value in given.items())
    if count < 1 or steps < 1 or batch_size < 2:
        raise DataError(f"count and steps must be at least 1, batch_size 2: not {count}, {steps}, {batch_size}")
    lr = number("lr", lr, DataError, above=True)
    classes, total_variation = (
        number(name, value, DataError) for name, value in (("classes", classes), ("total_variation", total_variation))
    )
    output = AskedOutputs(output).output
    if shape is None:
        if size is None:
            raise DataError(
                "synthesize needs the size of the images: pass size=224, or shape=(channels, height, width)"
            )
        shape = (image_channels(model), size, size)
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        raise DataError(f"shape must be (channels, height, width), not {shape!r}")
    shape = [whole("size" if size is not None else "shape", length, DataError) for length in shape]
    seed = check_seed(seed)
    made, form = _room(count, shape), Form(tuple(shape))
    model = private(model)
    generator, device = torch.Generator().manual_seed(seed), device_of(model)
    parts = torch.arange(count).tensor_split(-(-count // batch_size))
    events = Events(listeners)
    with own_modes(), seeded(seed, model), events.stage("synthesize", total=len(parts) * steps):
        with torch.no_grad():
            guarded(model, lambda: _first(model, torch.zeros(2, *shape, device=device), output))
        for place, part in enumerate(parts):
            start = scaled(model, form, values_of(form, len(part), generator, structured=True), _called, alone=True)
            images = start.to(device, memory_format=torch.channels_last).requires_grad_()
            wanted = torch.rand(len(part), generator=generator).to(device)
            optimizer = torch.optim.Adam([images], lr * float(start.std(correction=0)), _BETAS)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for step in range(1, steps + 1):
                gap, scores = _passed(model, _moved(images, generator), output)
                loss = gap + total_variation * _roughness(images)
                if classes and scores is not None:
                    loss = loss + classes * F.cross_entropy(scores, (wanted * scores.shape[1]).long())
                (images.grad,) = torch.autograd.grad(loss, images)
                optimizer.step()
                schedule.step()
                events.step("synthesize", place * steps + step, len(parts) * steps, {"gap": float(gap.detach())})
            made[part] = images.detach().cpu()
    return made


def _called(images: Tensor) -> Batch:
    return Batch((images,))


def _room(count: int, shape: Sequence[int]) -> Tensor:
    """Memory for the images."""
    try:
        return torch.empty(count, *shape)
    except RuntimeError as error:
        what = f"{count:,} images of shape {tuple(shape)}"
        raise DataError(
            f"no memory for {what}, {size_of(4 * count * math.prod(shape))}: make fewer or smaller"
        ) from error


def _first(model: nn.Module, images: Tensor, output: str | int | None) -> None:
    """See whether a model can take images.

    Raises:
        DataError: it says what the model said.
    """
    try:
        _passed(model, images, output)
    except (LloydmaxError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise refusal(model, Batch((images,)), error) from error


def _passed(model: nn.Module, images: Tensor, output: str | int | None) -> tuple[Tensor, Tensor | None]:
    """One forward pass: the mean gap of the batch norms, 0-dim, and the scores of classes ``(N, C)``, if any."""
    gaps: list[Tensor] = []

    def hear(name: str, norm: _BatchNorm, inputs: Tensor) -> None:
        gaps.append(statistics_gap(inputs, norm))

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)

    def call() -> Any:
        gaps.clear()
        return model(images.to(dtype))

    with listening(model, hear):
        outputs = output_tensors(drawn(call), output)
    scores = next((found.float() for found in outputs if found.dim() == 2 and class_axis(found) is not None), None)
    return torch.stack(gaps).mean(), scores


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch, half of the times flipped, and rolled by up to an eighth of its sides."""
    flip, *where = torch.rand(3, generator=generator).tolist()
    shifts = []
    for length, share in zip(images.shape[-2:], where, strict=True):
        most = length // 8
        shifts.append(int(share * (2 * most + 1)) - most)
    return torch.roll(images.flip(-1) if flip < 0.5 else images, shifts, (-2, -1))


def _roughness(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels, 0-dim; 0 where there are no neighbours."""
    differences = [torch.diff(images, dim=axis).abs() for axis in (-2, -1) if images.shape[axis] > 1]
    return torch.stack([difference.mean() for difference in differences]).sum() if differences else images.new_zeros(())
