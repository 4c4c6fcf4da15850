"""How pictures and sounds are read, as the options of a command say, or the model's own folder or weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from lloydmax.data import Inputs, image_channels, images, inputs_of, own_preparation, sounds
from lloydmax.data.named_sets import PictureRows
from lloydmax.data.own_preparation import fitted, of_transforms
from lloydmax.data.picture_array import are_pictures, opened
from lloydmax.data.preparation import Preparation, preparation
from lloydmax.runtime.modes import evaluating

OPTIONS = ("size", "resize", "crop", "interpolation", "mean", "std", "skip_bad", "rate", "seconds", "tokenizer")
"""Of the commands that read data."""


@dataclass(frozen=True)
class Pictures:
    """The options of a command that say how pictures, sounds and texts are read, and what else tells it."""

    size: str | None = None
    resize: int | None = None
    crop: str | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None
    skip_bad: str | None = None
    rate: int | None = None
    seconds: float | None = None
    tokenizer: str | None = None
    model: str = ""
    model_args: str | None = None
    weights: str | None = None
    tell: bool = True

    @classmethod
    def taken_from(cls, given: dict[str, Any]) -> Pictures:
        """Those among the options of a command, which are taken out."""
        asked = {name: given.pop(name) for name in OPTIONS}
        known = {name: given.get(name) for name in ("model_args", "weights")}
        return cls(**asked, **known, model=given["model"], tell=not (given.get("quiet") or given.get("log_json")))

    @property
    def side(self) -> int:
        """Pixels of an image that is made."""
        size = self._size()
        return size[0] if isinstance(size, tuple) else size or 224

    def read(self, path: Path, model: nn.Module) -> Any:
        """The pictures in a folder or file; said on stderr where the model tells how they are prepared."""
        own = own_preparation(model) or fitted(self._torchvision(), model)
        found = images(
            path, self._size(), image_channels(model), numbers(self.mean), numbers(self.std), self.resize,
            crop=self.crop, interpolation=self.interpolation, own=own, skip_bad=_share(self.skip_bad),
        )  # fmt: skip
        return self._told(found)

    def sounds(self, path: Path, model: nn.Module) -> Any:
        """The sounds in a folder; said likewise."""
        found = sounds(path, self.rate, self.seconds, skip_bad=_share(self.skip_bad))
        return self._told(found.suiting(model, Inputs(model)))

    def of_rows(self, rows: Any, column: str, model: nn.Module) -> Any:
        """The pictures in a column of a set of Hugging Face's ``datasets``, prepared likewise."""
        channels = image_channels(model)
        how = preparation(
            channels, self._size(), self.resize, self.crop, self.interpolation, numbers(self.mean), numbers(self.std),
            own_preparation(model) or fitted(self._torchvision(), model),
        )  # fmt: skip
        return self._told(PictureRows(rows, column, channels, how))

    def are_in(self, path: Path, model: nn.Module) -> bool:
        """Whether a file has pictures in bytes, which the model does not take as they are."""
        array = opened(path) if path.suffix == ".npy" and path.is_file() else None
        if array is None or not are_pictures(array) or image_channels(model) not in (1, 3):
            return False
        with suppress(Exception), evaluating(model):
            few = torch.from_numpy(array[:1].copy())
            inputs_of(few, model).to(next(model.parameters()).device).run(model)
            return False
        return True

    def _told(self, found: Any) -> Any:
        if self.tell:
            click.echo(found.describe(), err=True)
        return found

    def _size(self) -> int | tuple[int, int] | None:
        if self.size is None:
            return None
        sides = self.size.lower().split("x")
        if not all(side.isdecimal() and 0 < int(side) < 10**5 for side in sides) or len(sides) > 2:
            raise click.UsageError(
                f"--size is pixels, such as 224, or height x width, such as 224x320: not {self.size}"
            )
        return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))

    def _torchvision(self) -> Preparation | None:
        """What the weights of a model of torchvision say: those that are named, or else its first ones."""
        module, _, name = self.model.partition(":")
        if not module.startswith("torchvision.models"):
            return None
        from torchvision.models import get_model_weights

        with suppress(ValueError, KeyError, AttributeError, json.JSONDecodeError):
            given: Mapping[str, Any] = json.loads(self.model_args or "{}")
            known = get_model_weights(given["name"] if name == "get_model" else name)
            asked = str(given.get("weights") or "").rpartition(".")[2]
            files = {Path(one.url).name: one for one in known}
            chosen = known[asked] if asked else files.get(Path(self.weights or "").name) or next(iter(known))
            return of_transforms(chosen.transforms(), f"torchvision's {chosen}")
        return None


def numbers(text: str | None) -> tuple[float, ...] | None:
    """The numbers of a comma-separated list; None stays None."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{text!r} is not a comma-separated list of numbers") from None


def _share(text: str | None) -> float:
    """A share, as ``0.05`` or ``5%``."""
    if text is None:
        return 0.01
    with suppress(ValueError):
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
        if 0 <= share <= 1:
            return share
    raise click.UsageError(f"--skip-bad is a share, such as 5% or 0.05, not {text!r}")
