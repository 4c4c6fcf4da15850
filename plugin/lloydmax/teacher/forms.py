"""What the first layers of a network would take, as forms of inputs to be tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lloydmax.data.natural import PICTURE_CHANNELS, Form

_SIDES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 299, 320, 352, 384, 416, 448, 512, 640)
_GREY = 28
"""A side that pictures in colour do not have."""
_STRIPS = ((32, 100), (48, 192), (48, 320), (49, 10), (98, 40), (101, 64), (64, 128), (128, 64), (240, 320), (480, 640))
_MAPS, _LENGTHS = (1, 4, 8, 16), (16, 32, 64, 100, 128, 160, 256, 512, 1000, 3000)
_WAVES = (256, 512, 1000, 1024, 2000, 4000, 8000, 16000, 32000)
_STEPS = (32, 64, 16, 50, 8, 100, 128, 10, 160, 256, 512, 4, 2)
_TEXTS, _FRAMES = (1024, 2048, 4096), (64, *_STEPS)
_FIRST = 3
"""Layers that are asked, of different kinds."""
BYTES = 256
"""Whole numbers that a model without tables is tried with are less."""


def channels(model: nn.Module, shape: Sequence[int]) -> int | None:
    """The axis of the channels in one sample of an input."""
    if len(shape) == 1:
        wide = {m.in_features for m in model.modules() if isinstance(m, nn.Linear)}
        return 0 if shape[0] in wide or shape[0] < _WAVES[0] else None
    if len(shape) == 2:
        return 0 if shape[0] < _MAPS[-1] else None
    last = len(shape) - 1
    return last if len(shape) > 2 and shape[-1] in PICTURE_CHANNELS and shape[0] not in PICTURE_CHANNELS else 0


def forms(model: nn.Module) -> Iterator[list[Form]]:
    """What the first layers of each kind would take."""
    kinds: set[type] = set()
    attends = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    for module in model.modules():
        found = _of_layer(module, attends, tables)
        if found and type(module) not in kinds:
            kinds.add(type(module))
            yield from found
        if len(kinds) == _FIRST:
            break
    if not tables:
        lengths = (*_STEPS, *_TEXTS)
        for dtype in (torch.int64, torch.int32):
            yield [replace(numbered(BYTES, (length,)), dtype=dtype) for length in lengths]


def _of_layer(module: nn.Module, attends: bool, tables: Sequence[int]) -> list[list[Form]]:
    if isinstance(module, _ConvNd):
        return _of_convolution(module)
    if isinstance(module, nn.Embedding):
        return [[numbered(min(tables), (length,)) for length in _STEPS], [numbered(min(tables), ())]]
    if isinstance(module, nn.RNNBase):
        return [[Form((length, module.input_size), None) for length in _FRAMES]]
    width = getattr(module, "in_features", None) if isinstance(module, nn.Linear) else None
    if isinstance(module, _BatchNorm) and not hasattr(module, "in_features"):
        width = module.num_features
    if isinstance(module, nn.LayerNorm):
        width = module.normalized_shape[-1]
    if width is None:
        return []
    rows, vectors = [Form((length, width), None) for length in _STEPS], [Form((width,))]
    return [rows, vectors] if attends else [vectors, rows]


def _of_convolution(module: _ConvNd) -> list[list[Form]]:
    width, axes = module.in_channels, len(module.kernel_size)
    if axes == 2:
        sides = _MAPS if isinstance(module, _ConvTransposeNd) else _SIDES
        squares = [Form((width, side, side)) for side in sides if side != _GREY or width == 1]
        flat = [Form(form.shape[1:], None) for form in squares] if width == 1 else []
        strips = [Form((width, height, length)) for height, length in _STRIPS]
        sounds = [Form((length,), None) for length in _WAVES] if width == 1 else []
        tall, wide = module.kernel_size
        oblong = not isinstance(module, _ConvTransposeNd) and min(tall, wide) > 1 and tall != wide
        return [found for found in (*((strips, squares) if oblong else (squares,)), flat, strips, sounds) if found]
    if axes == 1 and width == 1:
        return [[Form((1, length)) for length in _WAVES], [Form((length,), None) for length in _WAVES]]
    if axes == 1:
        return [[Form((width, length), None) for length in _LENGTHS]]
    return [[Form((width, depth, side, side)) for depth, side in ((4, 16), (8, 32), (16, 64), (16, 112), (32, 128))]]


def numbered(below: int, shape: tuple[int, ...]) -> Form:
    """Whole numbers less than this."""
    return Form(shape, None, torch.tensor(below), torch.int64)
