"""Inputs out of nothing: noise with the statistics of pictures, sounds and texts.

Pictures are dead leaves (Lee, Mumford & Huang 2001, "Occlusion models for natural images"): things of every size in
front of each other, whose edges and flat regions noise of the same spectrum does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from lloydmax.data.profile import Profile

PICTURE_CHANNELS = (1, 3, 4)
_SHAPES = 80
"""Things in a picture."""
_FEW, _LIT, _SLOW = 24, 0.5, 2.0
"""Things in the other kind of pictures; how much the light changes, and the power of its spectrum."""
_TEXTURE, _LEVELS, _STEEP = 0.4, 6, 1.3
"""Noise on top, in deviations of what lies below; regions, and the power of the spectrum of their noise."""
_FEWEST = 8
"""Length of the sides of a picture, from which on there are things in it."""
_HARMONICS, _FIRST = 12, (0.002, 0.06)
"""Of a sound; the range of its pitch, in cycles a value."""
_ZIPF, _NEW = 1.0, 0.7
"""Power of the frequencies of words; share of places that do not repeat a word of the same text."""
_RANK = 4
"""Features for each one that they have in common."""


@dataclass(frozen=True, eq=False)
class Form:
    """One input of a model.

    Attributes:
        shape: of one sample.
        channels: the axis of the channels in a sample; ``None``: all of it is one picture, or one sound.
        below: whole numbers, less than this (int64, of the shape, or 0-dim); ``None``: real numbers.
        dtype: of the values.
        mean, deviation: of real numbers, where known.
        profile: of real numbers, where known, in place of these.
        without: whole numbers that are left out, where all have one bound: tokens that are no words.
    """

    shape: tuple[int, ...]
    channels: int | None = 0
    below: Tensor | None = None
    dtype: torch.dtype = torch.float32
    mean: float | None = None
    deviation: float | None = None
    profile: Profile | None = None
    without: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """The number of channels."""
        return 1 if self.channels is None else self.shape[self.channels]

    @property
    def pictures(self) -> bool:
        """Whether the channels may be colours, over two axes."""
        return self.channels is not None and len(self.shape) == 3 and self.width in PICTURE_CHANNELS

    def split(self, values: Tensor) -> Tensor:
        """``(N, *shape)`` as ``(N, channels, *rest)``."""
        return values[:, None] if self.channels is None else values.movedim(self.channels + 1, 1)

    def joined(self, values: Tensor) -> Tensor:
        """The reverse of :meth:`split`."""
        return values[:, 0] if self.channels is None else values.movedim(1, self.channels + 1)


def values_of(form: Form, samples: int, generator: Generator, *, structured: bool) -> Tensor:
    """Values for one input: ``(samples, *form.shape)``; real numbers have mean 0 and deviation 1 in each channel.

    Args:
        form: the input.
        samples: how many.
        generator: on the CPU.
        structured: pictures of things, sounds with harmonics, features that depend on each other, and words as often as
            in texts; else the other kind: few things on regions, noise with the spectrum of sounds, and independent
            features and words.
    """
    if form.below is not None:
        made = _numbers((form.below - len(form.without)).expand(form.shape), samples, generator, structured)
        for one in sorted(form.without):
            made += made >= one
        return made.to(form.dtype)
    rest = [length for axis, length in enumerate(form.shape) if axis != form.channels]
    shape = (samples, form.width, *rest)
    axes = [length for length in rest if length > 1]
    make: Callable[[Sequence[int], Generator], Tensor]
    if not axes:
        make = _features if structured else _independent
    elif len(axes) == 2 and min(axes) >= _FEWEST:
        make = _things if structured else _scenes
    else:
        make = _sounds if structured and len(axes) == 1 else coloured
    made = _standard(make((samples, form.width, *axes), generator)).reshape(shape)
    return form.joined(made).to(form.dtype)


def coloured(shape: Sequence[int], generator: Generator, power: float = 1.0) -> Tensor:
    """Noise whose amplitudes fall with the frequency, as in pictures and sounds: ``(N, C, *space)``, mean 0, deviation
    1 in each channel.

    Args:
        shape: of the noise.
        generator: on the CPU.
        power: of the frequency; 0: white.
    """
    space = tuple(range(2, len(shape)))
    noise = torch.randn(*shape, generator=generator)
    squares = torch.zeros(())
    for place, axis in enumerate(space):
        frequency = torch.fft.rfftfreq if axis == space[-1] else torch.fft.fftfreq
        found = frequency(shape[axis]).square()
        squares = squares + found.reshape(-1, *(1,) * (len(space) - 1 - place))
    least = 0.5 / max(shape[axis] for axis in space)
    spectrum = torch.fft.rfftn(noise, dim=space) * squares.sqrt().clamp(min=least) ** -power
    return _standard(torch.fft.irfftn(spectrum, s=[shape[axis] for axis in space], dim=space))


def _standard(values: Tensor) -> Tensor:
    """Mean 0 and deviation 1 in each channel."""
    axes = [axis for axis in range(values.dim()) if axis != 1]
    deviation, mean = torch.std_mean(values, axes, keepdim=True, correction=0)
    return (values - mean) / deviation.clamp(min=1e-12)


def _independent(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _features(shape: Sequence[int], generator: Generator) -> Tensor:
    """Features that depend on fewer ones, some of them far out."""
    samples, width = shape
    common = max(1, width // _RANK)
    mix = torch.randn(common, width, generator=generator) / math.sqrt(common)
    own, shared = (torch.randn(samples, size, generator=generator) for size in (width, common))
    far = torch.randn(samples, width, generator=generator).abs().clamp(min=0.5)
    return (shared @ mix + 0.5 * own) * far


def _things(shape: Sequence[int], generator: Generator) -> Tensor:
    """Discs and bars of every size, one in front of the other, each of one colour, and noise on them."""
    return _coloured_in(_seen(shape, _SHAPES, generator), _SHAPES + 1, shape, generator)


def _scenes(shape: Sequence[int], generator: Generator) -> Tensor:
    """Few things in front of a ground of regions, lit from somewhere."""
    samples, _, *space = shape
    field = 1.5 * coloured((1, samples, *space), generator, _STEEP)[0]
    first = torch.rand(samples, 1, 1, generator=generator) * _LEVELS
    ground = ((field + first) % _LEVELS).long().clamp(max=_LEVELS - 1)
    things = _seen(shape, _FEW, generator)
    numbers = torch.where(things > 0, things + _LEVELS - 1, ground)
    light = coloured((samples, 1, *space), generator, _SLOW)
    return _coloured_in(numbers, _LEVELS + _FEW, shape, generator) + _LIT * light


def _seen(shape: Sequence[int], count: int, generator: Generator) -> Tensor:
    """The numbers of the things that are seen, 1 for the farthest; 0: none."""
    samples, _, *space = shape
    places = torch.rand(samples, count, 4, generator=generator, dtype=torch.float64)
    small, large = max(0.5, min(space) / 64), min(space) / 1.5
    sizes = (1 / (1 / small - (1 / small - 1 / large) * places[..., 0])).sort(1, descending=True).values
    return torch.stack([_shown(one.numpy(), at.numpy(), space) for one, at in zip(sizes, places, strict=True)])


def _shown(sizes: NDArray[np.float64], places: NDArray[np.float64], space: Sequence[int]) -> Tensor:
    """The number of the thing that is seen at each place, int64 of shape ``space``; 0: none."""
    seen = np.zeros(space, np.int64)
    rows, columns = (np.arange(float(side)) for side in space)
    for number, (size, (_, y, x, turn)) in enumerate(zip(sizes, places, strict=True), start=1):
        y, x, turn = y * space[0], x * space[1], 2 * math.pi * turn
        top, left = max(0, int(y - size)), max(0, int(x - size))
        window = slice(top, int(y + size) + 1), slice(left, int(x + size) + 1)
        down, along = (rows[window[0]] - y)[:, None], columns[window[1]] - x
        if number % 2:
            inside = down * down + along * along < size * size
        else:
            across = down * math.cos(turn) + along * math.sin(turn)
            inside = (abs(across) < 0.7 * size) & (abs(along * math.cos(turn) - down * math.sin(turn)) < 0.5 * size)
        seen[window][inside] = number
    return torch.from_numpy(seen)


def _coloured_in(numbers: Tensor, count: int, shape: Sequence[int], generator: Generator) -> Tensor:
    """A colour for each number in each sample, and noise on it."""
    samples, width, *space = shape
    colours = torch.randn(samples, count, width, generator=generator)
    made = colours.gather(1, numbers.flatten(1)[..., None].expand(-1, -1, width)).transpose(1, 2)
    return _standard(made.reshape(samples, width, *space)) + _TEXTURE * coloured(shape, generator)


def _sounds(shape: Sequence[int], generator: Generator) -> Tensor:
    """Harmonics of a pitch that drifts, that come and go, and noise."""
    samples, width = shape[:2]
    low, high = (math.log(pitch) for pitch in _FIRST)
    pitch = (low + (high - low) * torch.rand(samples, width, 1, generator=generator)).exp()
    drift, loud = (coloured(shape, generator, 2.0) for _ in range(2))
    phase = 2 * math.pi * (pitch * (1 + 0.02 * drift)).cumsum(2)
    made = torch.zeros(*shape)
    for harmonic in range(1, _HARMONICS + 1):
        share = torch.rand(samples, width, 1, generator=generator) / harmonic
        start = 2 * math.pi * torch.rand(samples, width, 1, generator=generator)
        made += share * torch.sin(harmonic * phase + start)
    return _standard(made * loud.exp()) + _TEXTURE * coloured(shape, generator)


def _numbers(below: Tensor, samples: int, generator: Generator, structured: bool) -> Tensor:
    """Whole numbers, each as likely as the others, or some of them often and again in the same sample."""
    shape = (samples, *below.shape)
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    if structured:
        share = (below.double() + 1) ** share - 1  # the cumulated frequencies of Zipf's law are about logarithmic
        ranks = share.floor().clamp(min=0)
        turn = 1 + (0.618 * below.double()).floor()
        found = (ranks * turn) % below  # the most frequent are not the first ones
        again = (torch.rand(shape, generator=generator) > _NEW) & (below == below.max())
        if len(shape) == 2 and shape[1] > 1:
            where = torch.randint(shape[1], shape, generator=generator)
            same = bool((below == below.flatten()[0]).all())
            found = torch.where(again, found.gather(1, where), found) if same else found
        return torch.minimum(found.long(), below - 1)
    return torch.minimum((share * below).long(), below - 1)
