"""What a network returns: a tree of tensors, the ones that count in it, and where their samples and classes are."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from torch import Tensor

from lloydmax.data.batch import REAL, Batch
from lloydmax.data.padding import real_positions
from lloydmax.errors import RecoveryError
from lloydmax.network.kinds import IN_WORDS, Kind, Named, Place, as_written, named
from lloydmax.network.trees import Path, child, real, written

if TYPE_CHECKING:
    from lloydmax.data import Source

Auto = Literal["auto"]
OutputPath = Annotated[str | int, BeforeValidator(as_written)]
"""Names an output, or a part of the tree of outputs: ``logits``, ``heads.cls``, ``1.0``, or a position."""
_PATH: TypeAdapter[str | int | None] = TypeAdapter(OutputPath | None)


_LEAST_PROBABILITY = 1e-8
_SOUND = "input_values"
"""What sounds are called in transformers, whose mask has more steps than the outputs."""
_ENCODER = "encoder_"
"""How the outputs of an encoder begin, where a decoder has some, too."""
MOST_VALUES = 1 << 23
"""Of the outputs of one forward pass, nearly: batches whose outputs are larger come in parts."""
FEWEST = 16
"""Samples by which anything is estimated, however much each tells."""
_LARGE = 1 << 20
"""Values of an output beyond which what is made of it is made part by part."""


@dataclass(frozen=True)
class AskedOutputs:
    """What a recipe says about the outputs of a model.

    Attributes:
        output: path of what counts; ``None``: ``logits`` where there are such at the top, else every floating tensor.
        classes: axis of the classes, as the model returns them; ``None``: there are no classes; ``"auto"``: see
            :func:`class_axis`.
        mask: name of the input ``(N, T)`` that tells padding, see :func:`~lloydmax.data.padding.real_positions`;
            ``None``: all positions count; ``"auto"``: one with a usual name, ``attention_mask`` for example, of models
            with a decoder ``decoder_attention_mask``, or what the labels tell.
        kinds: what outputs tell: a word for all, words by place, or ``None``: their values tell; see
            :func:`~lloydmax.network.kinds.named`, which is what this attribute then holds.
        at: where one of these stands, for messages.

    Raises:
        RecoveryError: ``output`` is not a path, ``classes`` not an axis, ``mask`` not a name, ``kinds`` not words.
    """

    output: str | int | None = None
    classes: int | Auto | None = "auto"
    mask: str | Auto | None = "auto"
    kinds: Any = None
    at: Callable[[str], str] = field(default=str, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "output", _PATH.validate_python(self.output))
        except ValidationError:
            raise RecoveryError(
                f"output is a path such as 'logits', 'heads.cls' or '1.0', or a position, not {self.output!r}"
            ) from None
        whole = isinstance(self.classes, int) and not isinstance(self.classes, bool)
        if not (whole or self.classes is None or self.classes == "auto"):
            raise RecoveryError(f"classes is the number of an axis, 'auto' or None, not {self.classes!r}")
        if not (self.mask is None or isinstance(self.mask, str)):
            raise RecoveryError(f"mask is the name of an input, 'auto' or None, not {self.mask!r}")
        try:
            object.__setattr__(self, "kinds", named(self.kinds))
        except ValueError as error:
            raise RecoveryError(f"{self.at('kinds')}: {error}") from None

    @property
    def named(self) -> tuple[Named, ...]:
        """What it says of the kinds of outputs, place by place."""
        return named(self.kinds)


@dataclass(frozen=True)
class Leaf:
    """One tensor that counts in an output.

    Attributes:
        path: to it.
        samples: the axis of the samples, as the model returns it; ``None``: it is not one entry a sample.
        classes: the axis of the classes likewise; ``None``: there are none; ``"auto"``: see :func:`class_axis`.
        axes: how many the tensor has for several samples; ``None``: not known.
        part: ``(axis, first, end)`` of the slice that counts, samples along the first axis; ``None``: all of it.
        kind: what it tells, see :data:`~lloydmax.network.kinds.Kind`.
        normal: whether classes and scores come as probabilities, else as numbers before a softmax or sigmoid.
        spread: standard deviation of what it tells, by which differences are divided where outputs add up.
        high: the probability from which an independent score says yes.
        blank: the class of a text that stands for nothing, between equal letters for example; ``None``: there is none,
            and letters that are repeated are several.
    """

    path: Path
    samples: int | None = 0
    classes: int | Auto | None = "auto"
    axes: int | None = field(default=None, compare=False)
    part: tuple[int, int, int] | None = None
    kind: Kind = field(default="unclear", compare=False)
    normal: bool = field(default=False, compare=False)
    spread: float = field(default=1.0, compare=False)
    high: float = field(default=0.5, compare=False)
    blank: int | None = field(default=None, compare=False)

    @property
    def place(self) -> str:
        """Where it is, as recipes have it: ``heads.cls``, ``0[:, 4:22]``."""
        return str(Place(written(self.path), self.part))

    def __str__(self) -> str:
        return f"{self.place} {IN_WORDS[self.kind]}"

    @property
    def decides(self) -> bool:
        """Whether one of several classes is meant, at every place."""
        return self.kind in ("classes", "text")

    def logits(self, tensor: Tensor) -> Tensor:
        """Classes as scores before a softmax; float32."""
        return tensor.float().clamp(min=_LEAST_PROBABILITY).log() if self.normal else tensor.float()

    def probabilities(self, tensor: Tensor) -> Tensor:
        """Independent scores as probabilities; float32."""
        return tensor.float() if self.normal else tensor.float().sigmoid()

    def read(self, output: Any, one: bool = False) -> Tensor:
        """The tensor with the samples along its first axis, and the classes where :func:`class_axis` has them; complex
        numbers as pairs of real ones, along a last axis of length 2.

        Args:
            output: what a model returned.
            one: whether it was given one sample: then the axis of the samples may be missing (``squeeze()``).
        """
        tensor = self._taken(output)
        if one and self.samples is not None and tensor.dim() + 1 == self.axes:
            tensor = tensor.unsqueeze(self.samples)
        tensor = real(tensor)
        if self.samples:
            tensor = tensor.movedim(self.samples, 0)
        if self.part is not None:
            axis, first, end = self.part
            tensor = tensor.narrow(axis, first, end - first)
        if not isinstance(self.classes, int):
            return tensor
        now = self.classes + (self.classes < (self.samples or 0))
        return tensor.movedim(now, _usual_axis(tensor))

    def _taken(self, output: Any) -> Tensor:
        for key in self.path:
            output = child(output, key)
        if not isinstance(output, Tensor):
            raise RecoveryError(f"the model gave no tensor {written(self.path)!r} this time, though it did at first")
        return output


@dataclass(frozen=True)
class Outputs:
    """How the outputs of a model, and of its students, are read; as a trial found.

    Attributes:
        leaves: what counts, in order.
        repeat: whether a sample has the same outputs whatever else is in its batch, so that they can be kept.
        mask: the input that tells padding, or what is known beside the inputs: a name, or a position; ``None``: there
            is none.
        mask_name: how the input is called, where it has a position.
        asked: what was asked for.
        growth: values of the outputs for each value of the inputs, nearly; 0: not known.
        places: at which a sample has an output of its own (tokens, pixels, anchors), where it has fewest.
        at_most: samples that a model may be run on at once, for want of memory; ``None``: it is not limited.
    """

    leaves: tuple[Leaf, ...]
    repeat: bool = True
    mask: str | int | None = None
    asked: AskedOutputs = AskedOutputs()
    mask_name: str = ""
    growth: float = field(default=0.0, compare=False)
    places: int = field(default=1, compare=False)
    at_most: int | None = field(default=None, compare=False)

    @property
    def classify(self) -> bool:
        """Whether one output counts, and it has classes."""
        return len(self.leaves) == 1 and self.leaves[0].decides

    def enough(self, order: Tensor, positions: int) -> Tensor:
        """The first samples of an order whose outputs have so many places altogether, but at least :data:`FEWEST`:
        what is estimated over all places needs no more, and neighbours are alike."""
        return order[: max(FEWEST, -(-positions // self.places))]

    def batches(self, source: Source, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Batch]]:
        """What :meth:`Source.batches` gives; batches whose outputs would have more than :data:`MOST_VALUES` come in
        parts, where a sample has the same outputs alone.

        Args:
            source: of the inputs.
            size: samples of a batch.
            order: see there.
        """
        for indices, batch in source.batches(size, order):
            yield from self.parts(indices, batch)

    def parts(self, indices: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
        """A batch, or its parts, see :meth:`batches`.

        Args:
            indices: of its samples.
            batch: that was read.
        """
        most = self.at_once(batch)
        if len(batch) <= most or batch.whole or not self.repeat:
            yield indices, batch
        else:
            for rows in torch.arange(len(batch)).split(most):
                yield indices[rows], batch[rows]

    def at_once(self, batch: Batch) -> int:
        """Samples like these whose outputs are not too large together, as far as that is known; at least 1."""
        each = self.growth * sum(tensor.numel() for tensor in batch.tensors()) / max(1, len(batch))
        return min(max(1, int(MOST_VALUES / each)) if each else sys.maxsize, self.at_most or sys.maxsize)

    def read(self, output: Any, inputs: Batch | None = None) -> list[Tensor]:
        """All that counts in what a model returned for these inputs; samples first, see :meth:`Leaf.read`.

        Raises:
            RecoveryError: something is missing.
        """
        one = inputs is not None and not inputs.whole and len(inputs) == 1
        return [leaf.read(output, one) for leaf in self.leaves]

    def of(self, output: Any, inputs: Batch, like: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The same for the inputs that it came from: without padding, see :meth:`unpadded`.

        Args:
            output: what a model returned.
            inputs: that it was given.
            like: what another model gave for them.

        Raises:
            RecoveryError: something is missing, or the shapes are not those of ``like``.
        """
        found = self.unpadded(self.read(output, inputs), inputs)
        for ours, theirs in zip(found, found if like is None else like, strict=True):
            if ours.shape != theirs.shape:
                raise RecoveryError(
                    f"for the same inputs the original gives {tuple(theirs.shape)} and the student "
                    f"{tuple(ours.shape)}: outputs whose number depends on the weights (detections after a selection) "
                    "cannot be compared; name raw ones by 'output', or let the model return them"
                )
        return found

    def unpadded(self, tensors: list[Tensor], inputs: Batch) -> list[Tensor]:
        """Outputs ``(N, T, C)`` as ``(positions, C)`` without those that the mask ``(N, T)`` of the inputs leaves out;
        others, and all where no position is padding, as they are."""
        found = []
        for leaf, tensor in zip(self.leaves, tensors, strict=True):
            real = self.real(inputs, leaf)
            if real is not None and self._is_slower(tensor, real, inputs):
                real = _slower(real, tensor.shape[1])
            fits = real is not None and _fits(real, tensor)
            found.append(tensor[real.to(tensor.device)] if real is not None and fits else tensor)
        return found

    def _is_slower(self, tensor: Tensor, real: Tensor, inputs: Batch) -> bool:
        """Whether an output has fewer steps than the sound, or the sequence with a length, that it was made of."""
        sound = inputs.kwargs.get(_SOUND)
        told = self.mask == REAL or (isinstance(sound, Tensor) and sound.shape == real.shape)
        return told and tensor.dim() == 3 and len(tensor) == len(real) and tensor.shape[1] < real.shape[1]

    def real(self, inputs: Batch, leaf: Leaf | None = None) -> Tensor | None:
        """Which positions of an output are no padding, bool ``(N, T)``; ``None``: nothing tells, so all of them."""
        mask = self._mask_of(inputs, leaf)
        return mask if mask is not None and bool(mask.any()) and not bool(mask.all()) else None

    def check_mask(self, output: Any, inputs: Batch) -> None:
        """Refuse a mask that was named and says nothing about what a model returned; ``attention_mask``, which is taken
        by itself, may do so.

        Raises:
            RecoveryError: it is not one value for each position of an output.
        """
        named, tensors = self.asked.mask, self.read(output, inputs)
        if self.mask is None or named == "auto" or any(_fits(self._mask_of(inputs), tensor) for tensor in tensors):
            return
        given = self._given_mask(inputs)
        what = f"has shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"is of type {type(given).__name__}"
        if isinstance(given, Tensor) and bool((given < 0).any()):
            what += " and negative values"
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise RecoveryError(
            f"{self.asked.at('mask')}: {named!r} {what}, and the outputs that count are {shapes}, samples first: a "
            "mask is (N, T), 0 where an output (N, T, C) is padding; name such an input, or leave 'mask' out"
        )

    def blanked(self, tensor: Tensor, inputs: Batch) -> Tensor:
        """An output of :meth:`read` with zeros in place of padding; a sample that is all padding as it is."""
        mask = self._mask_of(inputs)
        if mask is None or not _fits(mask, tensor):
            return tensor
        mask = mask | ~mask.any(1, keepdim=True)
        return tensor.masked_fill(~mask.to(tensor.device)[:, :, None], 0)

    def class_axes(self, tensors: Sequence[Tensor]) -> list[int | None]:
        """The axis of the classes of each of these outputs, as :meth:`of` gives them; ``None`` where there are none."""
        pairs = zip(self.leaves, tensors, strict=True)
        return [None if leaf.classes is None else class_axis(tensor) for leaf, tensor in pairs]

    def scores(self, tensors: Sequence[Tensor]) -> tuple[int, int] | None:
        """Which of these outputs has classes, the first one, and along which axis; where none does, the first that may
        have some. ``None``: none of either."""
        axes = self.class_axes(tensors)
        known = [place for place, leaf in enumerate(self.leaves) if leaf.decides]
        maybe = [place for place, leaf in enumerate(self.leaves) if leaf.kind == "unclear"]
        return next(((place, axis) for place in [*known, *maybe] if (axis := axes[place]) is not None), None)

    def _mask_of(self, inputs: Batch, leaf: Leaf | None = None) -> Tensor | None:
        """Of an encoder's output beside a decoder's, those of what the encoder read."""
        if leaf is not None and self.mask is not None and written(leaf.path).startswith(_ENCODER):
            return inputs.beside.get(REAL)
        return real_positions(self._given_mask(inputs), self.mask if isinstance(self.mask, str) else self.mask_name)

    def _given_mask(self, inputs: Batch) -> Any:
        if self.mask is None:
            return None
        if isinstance(self.mask, str):
            return inputs.kwargs.get(self.mask, inputs.beside.get(self.mask))
        return inputs.args[self.mask] if self.mask < len(inputs.args) else None


def _fits(mask: Tensor | None, tensor: Tensor) -> bool:
    return mask is not None and tensor.dim() == 3 and tensor.shape[:2] == mask.shape


def _slower(real: Tensor, steps: int) -> Tensor:
    """Which of fewer steps are real, bool ``(N, steps)``, where what is real stands in front."""
    lengths = (real.sum(1, keepdim=True) * steps / real.shape[1]).ceil()
    return torch.arange(steps, device=real.device) < lengths


def comparable(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both outputs with 0 where the teacher's is infinite (a class that is masked out): such values do not count in a
    difference. Themselves where none is."""
    infinite = torch.isinf(teacher.detach())
    if not bool(infinite.any()):
        return student, teacher
    return student.masked_fill(infinite, 0), teacher.masked_fill(infinite, 0)


def in_parts(leaf: Leaf, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Outputs of one shape, samples first, in parts of some samples or positions where they are large; what is one
    decision, or one text, stays together, and axes keep their meaning.

    Args:
        leaf: what they tell.
        tensors: of one shape each.
    """
    first = tensors[0]
    if first.numel() <= _LARGE or first.dim() < 2:
        yield tensors
        return
    if first.dim() == 3 and leaf.kind != "text":
        tensors = tuple(tensor.reshape(-1, tensor.shape[2]) for tensor in tensors)
    rows = max(1, _LARGE // tensors[0][0].numel())
    yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def places_in(tensor: Tensor) -> int:
    """At how many places a sample has an output, whichever axis the classes have: 1 of ``(N, C)``, at most T of
    ``(N, T, C)``, H W of ``(N, C, H, W)``."""
    if tensor.dim() < 3:
        return 1
    return min(tensor.shape[1:]) if tensor.dim() == 3 else math.prod(tensor.shape[2:])


def class_axis(tensor: Tensor) -> int | None:
    """The axis of the classes: 1 for ``(N, C)`` and ``(N, C, H, W)``, the last for ``(N, T, C)``; ``None`` where
    there are none to choose from."""
    if tensor.dim() < 2:
        return None
    axis = _usual_axis(tensor)
    return axis if tensor.shape[axis] > 1 else None


def _usual_axis(tensor: Tensor) -> int:
    return 2 if tensor.dim() == 3 else 1
