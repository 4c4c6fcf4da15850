"""How the pictures were prepared that a model was trained on, as the model itself says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.data.preparation import INTERPOLATIONS, Preparation
from lloydmax.errors import DataError

PROCESSOR = "preprocessor_config.json"
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_BYTE = 255.0
_SMALL, _SHARE = 384, 224 / 256
"""Sides from which on ConvNeXt's processor cuts nothing off, and how much it does below."""


def own_preparation(model: nn.Module) -> Preparation | None:
    """What a model says, or the first module in it that says anything; ``None``: nothing.

    Models of timm have a ``pretrained_cfg``, and those of transformers may come from a folder with the configuration of
    their processor. Models of torchvision do not know which weights they have: :func:`of_transforms`.
    """
    for module in model.modules():
        if isinstance(config := getattr(module, "pretrained_cfg", None), Mapping) and (found := of_timm(config)):
            return fitted(found, model)
        if isinstance(name := getattr(module, "name_or_path", None), str) and name:
            return fitted(of_processor(Path(name) / PROCESSOR), model)
    return None


def fitted(own: Preparation | None, model: nn.Module) -> Preparation | None:
    """The same in the size that a model asks for, if it was built for another one."""
    for module in model.modules():
        said = (getattr(module, name, None) for name in ("image_size", "img_size"))
        side = next((one for one in said if isinstance(one, (int, tuple, list))), None)
        if own is None or side is None:
            continue
        size = (side, side) if isinstance(side, int) else tuple(side)
        if size != own.size and len(size) == len(own.size) and all(isinstance(one, int) and one > 0 for one in size):
            around = (
                max(ours, round(ours * wide / old)) for ours, wide, old in zip(size, own.resize, own.size, strict=True)
            )
            return replace(own, size=size, resize=tuple(around), origin=f"{own.origin}, in the size of its layers,")
        break
    return own


def of_timm(config: Mapping[str, Any]) -> Preparation | None:
    """What timm's ``pretrained_cfg`` says; ``None``: nothing that can be understood."""
    try:
        channels, height, width = config["input_size"]
        share, by = float(config.get("crop_pct") or 1), str(config.get("interpolation") or "bicubic")
        return Preparation(
            (height, width), (int(height / share), int(width / share)), by if by in INTERPOLATIONS else "bilinear",
            _each(config["mean"], channels), _each(config["std"], channels), config.get("crop_mode") != "squash",
            "the model's own configuration (timm)",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, DataError):
        return None


def of_processor(file: Path) -> Preparation | None:
    """What the configuration of an image processor of transformers says; ``None``: there is none, or nothing that can
    be understood."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        size, cut = config.get("size"), config.get("crop_size") if config.get("do_center_crop") else None
        shorter = size.get("shortest_edge") if isinstance(size, Mapping) else None
        if shorter is not None and cut is None:  # ConvNeXt's own, or sides that differ from picture to picture
            share = float(config.get("crop_pct") or _SHARE) if "crop_pct" in config and shorter < _SMALL else 1.0
            wanted, around, crop = (
                (shorter, shorter),
                (int(shorter / share),) * 2,
                not ("crop_pct" in config and share == 1),
            )
        else:
            wanted = _sides(size if cut is None else cut)
            around, crop = ((shorter, shorter), True) if shorter is not None else (_sides(size), False)
        factor = _BYTE * float(config.get("rescale_factor") or 1 / _BYTE) if config.get("do_rescale", True) else _BYTE
        normal = config.get("do_normalize", True)
        mean = _each(config["image_mean"] if normal else 0.0, 3)
        std = _each(config["image_std"] if normal else 1.0, 3)
        return Preparation(
            wanted, around, _PILLOW[int(config.get("resample", 2))], tuple(value / factor for value in mean),
            tuple(value / factor for value in std), crop, f"the processor of the model ({file.name})",
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, AttributeError, DataError):
        return None


def of_transforms(made: Any, origin: str) -> Preparation | None:
    """What ``weights.transforms()`` of torchvision does; ``None``: it does not cut squares for a classifier."""
    try:
        size, around = made.crop_size, made.resize_size
        return Preparation(
            (size[0],) * 2, (around[0],) * 2, str(made.interpolation.value), tuple(made.mean), tuple(made.std), True,
            origin,
        )  # fmt: skip
    except (AttributeError, TypeError, IndexError, DataError):
        return None


def _each(value: Any, channels: int) -> tuple[float, ...]:
    """A number for each channel, given as one or as several."""
    values = tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),)
    return values * channels if len(values) == 1 else values[:channels]


def _sides(size: Any) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (int(size), int(size))
