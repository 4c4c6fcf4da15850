"""Folders of sounds, as waveforms of one length."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lloydmax.data.inputs import Inputs
from lloydmax.data.left_out import MOST
from lloydmax.data.own_preparation import PROCESSOR
from lloydmax.data.picture_files import SUFFIXES as PICTURES
from lloydmax.errors import DataError
from lloydmax.runtime.arguments import number, whole
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import counted, printable

Array = np.ndarray[Any, np.dtype[np.float32]]
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
_SECONDS = 3.0
_TINY = 1e-7
_EXTRA = 'pip install "lloydmax[sounds]"'
_CURE = f"soxr resamples: {_EXTRA}; or convert them, as in ffmpeg -i IN -ar {{}} OUT"


class Sounds(Dataset[Tensor]):
    """The sounds below a folder; see :func:`sounds`."""

    def __init__(
        self,
        path: Path,
        rate: int | None,
        seconds: float | None,
        flat: bool | None,
        normalize: bool | None,
        skip_bad: float = MOST,
    ) -> None:
        self.path, self.asked, self.seconds = path, rate, seconds
        self.flat, self.normalize, self.skip_bad = flat, normalize, skip_bad
        self.files = sound_files(path)

    def suiting(self, model: nn.Module, inputs: Inputs) -> Sounds:
        """The same as a model takes them: what was not asked as the folder says that the model comes from."""
        name = getattr(model, "name_or_path", None)
        try:
            said: Any = json.loads((Path(name or "") / PROCESSOR).read_text(encoding="utf-8")) if name else {}
        except (OSError, ValueError):
            said = {}
        rate = said.get("sampling_rate") if isinstance(said, dict) else None
        own = rate if isinstance(rate, int) else None
        found = Sounds(
            self.path,
            self.asked or own,
            self.seconds,
            "input_values" in inputs.names if self.flat is None else self.flat,
            bool(own and said.get("do_normalize")) if self.normalize is None else self.normalize,
            self.skip_bad,
        )
        if found.others and find_spec("soxr") is None:
            raise DataError(
                f"{found.others:,} of the {len(found):,} sounds in {shown(found.path)} have another rate than "
                f"{found.rate:,} Hz. {_CURE.format(found.rate)}"
            )
        return found

    @cached_property
    def rates(self) -> Counter[int]:
        """How many files have which rate, told from their headers; files that cannot be read are not counted."""
        found: Counter[int] = Counter()
        for file in self.files:
            try:
                found[int(_reading(file, lambda soundfile, path: soundfile.info(path)).samplerate)] += 1
            except DataError as error:
                if isinstance(error.__cause__, ImportError):
                    raise
        return found

    @cached_property
    def rate(self) -> int:
        """Samples in a second of every input.

        Raises:
            DataError: the files have several rates, and nothing says which one is wanted; or none can be read.
        """
        if self.asked is not None or len(self.rates) == 1:
            return self.asked or next(iter(self.rates))
        if not self.rates:
            raise DataError(f"none of the {len(self):,} sounds in {shown(self.path)} can be read")
        several = ", ".join(f"{count:,} of {rate:,} Hz" for rate, count in self.rates.most_common(5))
        raise DataError(
            f"the sounds in {shown(self.path)} have several rates ({several}): say which one the model was trained on: "
            "--rate HZ on the command line, lloydmax.sounds(path, rate=HZ) in Python; the others are resampled"
        )

    @property
    def others(self) -> int:
        """Files that are resampled."""
        return self.rates.total() - self.rates[self.rate]

    @property
    def length(self) -> int:
        """Samples of every input."""
        return max(1, int((_SECONDS if self.seconds is None else self.seconds) * self.rate))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Sound ``index``, float32 ``(length,)`` or ``(1, length)``.

        Raises:
            DataError: it cannot be read, is empty, or has another rate and nothing is there that resamples it.
        """
        file = self.files[index]
        values = _read(file, self.rate, self.length)
        if not len(values):
            raise DataError(f"{shown(file)} is empty")
        wave = torch.from_numpy(np.resize(values, self.length))
        if self.normalize:
            wave = (wave - wave.mean()) / (wave.var(correction=0) + _TINY).sqrt()
        return wave if self.flat else wave[None]

    def describe(self) -> str:
        """One line for people: how many sounds, from where, how they are cut, and how many are resampled."""
        told = f" ({self.others:,} of other rates resampled)" if self.others else ""
        return (
            f"{counted(len(self), 'sounds')} from {self.path}, {self.length / self.rate:g} s at {self.rate:,} Hz{told}"
        )


def sounds(
    path: str | os.PathLike[str],
    rate: int | None = None,
    seconds: float | None = None,
    *,
    flat: bool | None = None,
    normalize: bool | None = None,
    skip_bad: float = MOST,
) -> Sounds:
    """The sounds in a folder, at any depth, sorted by path: their beginnings, as one channel; short ones are repeated,
    and those of other rates resampled (soxr).

    Args:
        path: the folder.
        rate: samples in a second that the model takes; ``None``: what its folder says, else that of the files, which
            must be one.
        seconds: of each; ``None``: 3.
        flat: whether an input is ``(length,)``, not ``(1, length)``; ``None``: as the model takes it.
        normalize: whether each gets mean 0 and variance 1; ``None``: what the folder of the model says.
        skip_bad: share of the files that may be left out because they cannot be read; one may be in any case.

    Raises:
        DataError: there is no sound, or an argument is out of range.
    """
    rate = None if rate is None else whole("rate", rate, DataError)
    seconds = None if seconds is None else number("seconds", seconds, DataError, above=True)
    skip_bad = number("skip_bad", skip_bad, DataError, most=1.0)
    return Sounds(Path(path), rate, seconds, flat, normalize, skip_bad)


def are_sounds(path: Path) -> bool:
    """Whether a folder holds sounds, by all that lies below it, and no pictures."""
    kinds = {file.suffix.lower() for file in _below(path)} if path.is_dir() else set()
    return bool(kinds & set(SUFFIXES)) and not kinds & PICTURES


def sound_files(path: Path) -> list[Path]:
    """The sounds below a folder, sorted by path.

    Raises:
        DataError: there is none.
    """
    found = sorted(file for file in _below(path) if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if not found:
        raise DataError(f"no sounds in {shown(path)} or below it; looked for {' '.join(SUFFIXES)}")
    return found


def _below(folder: Path) -> list[Path]:
    return [
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and "/." not in str(Path(root).relative_to(folder))
    ]


def _read(file: Path, rate: int, length: int) -> Array:
    """Its first ``length`` samples at this rate, if it has so many, all channels as one, float32 ``(samples,)``."""

    def opened(soundfile: Any, path: Path) -> tuple[Array, int]:
        with soundfile.SoundFile(path) as sound:
            frames = math.ceil(length * sound.samplerate / rate)
            return sound.read(frames, dtype="float32", always_2d=True).mean(1), int(sound.samplerate)

    values, own = _reading(file, opened)
    return values if own == rate or not len(values) else _resampled(file, values, own, rate)


def _resampled(file: Path, values: Array, own: int, rate: int) -> Array:
    try:
        import soxr
    except ImportError as error:
        raise DataError(f"{shown(file)} has {own:,} Hz, and {rate:,} are wanted. {_CURE.format(rate)}") from error
    found: Array = soxr.resample(values, own, rate)
    return found


def _reading(file: Path, read: Callable[[Any, Path], Any]) -> Any:
    """What a function gives for soundfile and a file.

    Raises:
        DataError: soundfile is missing, or the file cannot be read.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f"{shown(file)}: sounds are read by soundfile: {_EXTRA}") from error
    try:
        return read(soundfile, file)
    except Exception as error:
        raise DataError(f"{shown(file)} cannot be read as a sound: {printable(str(error), 200)}") from error
