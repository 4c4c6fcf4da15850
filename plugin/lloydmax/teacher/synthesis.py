"""Images out of nothing but a teacher: inputs that give its batch norms the statistics that they keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lloydmax.data.batch import Batch
from lloydmax.data.image_folder import image_channels
from lloydmax.data.natural import Form, values_of
from lloydmax.errors import DataError, LloydmaxError
from lloydmax.hooks.events import Events
from lloydmax.network.batch_norm import tracked
from lloydmax.network.given import network
from lloydmax.network.guard import guarded
from lloydmax.network.outputs import AskedOutputs
from lloydmax.network.private import private
from lloydmax.runtime.arguments import number, whole
from lloydmax.runtime.modes import device_of, own_modes
from lloydmax.runtime.seeding import check_seed, seeded
from lloydmax.runtime.text import size as size_of
from lloydmax.teacher.matched import Matching, matched, passed
from lloydmax.teacher.refusal import refusal
from lloydmax.teacher.scaling import scaled

_USUAL = Matching()


def synthesize(
    model: nn.Module,
    count: int,
    size: int | None = None,
    *,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    steps: int = _USUAL.steps,
    batch_size: int = 100,
    lr: float = _USUAL.lr,
    classes: float = _USUAL.classes,
    total_variation: float = _USUAL.total_variation,
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
    how = Matching(steps, lr, classes, total_variation, output)
    model = private(model)
    generator, device = torch.Generator().manual_seed(seed), device_of(model)
    parts = torch.arange(count).tensor_split(-(-count // batch_size))
    events = Events(listeners)
    with own_modes(), seeded(seed, model), events.stage("synthesize", total=len(parts) * steps):
        with torch.no_grad():
            guarded(model, lambda: _first(model, torch.zeros(2, *shape, device=device), output))
        for place, part in enumerate(parts):
            start = scaled(model, form, values_of(form, len(part), generator, structured=True), _called, alone=True)

            def told(step: int, gap: float, before: int = place * steps) -> None:
                events.step("synthesize", before + step, len(parts) * steps, {"gap": gap})

            made[part] = matched(model, start, _called, how, generator, told)
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
        passed(model, _called(images), output)
    except (LloydmaxError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise refusal(model, Batch((images,)), error) from error
