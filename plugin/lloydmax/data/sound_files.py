"""Folders of sounds, as waveforms of one length."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lloydmax.data.own_preparation import PROCESSOR
from lloydmax.data.picture_files import SUFFIXES as PICTURES
from lloydmax.errors import DataError
from lloydmax.runtime.arguments import number, whole
from lloydmax.runtime.files import shown
from lloydmax.runtime.text import printable

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
_SECONDS = 3.0
_TINY = 1e-7


class Sounds(Dataset[Tensor]):
    """The sounds below a folder; see :func:`sounds`."""

    def __init__(self, path: Path, rate: int, length: int, flat: bool, normalize: bool) -> None:
        self.path, self.rate, self.length, self.flat, self.normalize = path, rate, length, flat, normalize
        self.files = sound_files(path)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Sound ``index``, float32 ``(length,)`` or ``(1, length)``.

        Raises:
            DataError: it cannot be read, is empty, or has another rate.
        """
        file = self.files[index]
        values, rate = _read(file)
        if rate != self.rate:
            raise DataError(
                f"{shown(file)} has {rate:,} Hz, and {self.rate:,} are wanted: convert it, as in "
                f"ffmpeg -i IN -ar {self.rate} OUT"
            )
        if not len(values):
            raise DataError(f"{shown(file)} is empty")
        wave = torch.from_numpy(np.resize(values, self.length))
        if self.normalize:
            wave = (wave - wave.mean()) / (wave.var(correction=0) + _TINY).sqrt()
        return wave if self.flat else wave[None]

    def describe(self) -> str:
        """One line for people: how many sounds, from where, and how they are cut."""
        return f"{len(self):,} sounds from {self.path}, {self.length / self.rate:g} s at {self.rate:,} Hz"


def sounds(
    path: str | os.PathLike[str],
    rate: int | None = None,
    seconds: float | None = None,
    *,
    flat: bool = False,
    normalize: bool = False,
) -> Sounds:
    """The sounds in a folder, at any depth, sorted by path: their beginnings, as one channel; short ones are repeated.

    Args:
        path: the folder.
        rate: samples in a second that all files have; ``None``: that of the first.
        seconds: of each; ``None``: 3.
        flat: whether an input is ``(length,)``, as models of transformers take it, not ``(1, length)``.
        normalize: whether each gets mean 0 and variance 1.

    Raises:
        DataError: soundfile is missing, there is no sound, or an argument is out of range.
    """
    rate = _read(sound_files(Path(path))[0])[1] if rate is None else whole("rate", rate, DataError)
    length = int(number("seconds", _SECONDS if seconds is None else seconds, DataError, above=True) * rate)
    return Sounds(Path(path), rate, max(1, length), flat, normalize)


def sounds_for(path: Path, model: nn.Module, flat: bool) -> Sounds:
    """The same as a model takes them: with the rate, and the scaling, that the folder which it comes from says."""
    name = getattr(model, "name_or_path", None)
    try:
        said: Any = json.loads((Path(name or "") / PROCESSOR).read_text(encoding="utf-8")) if name else {}
    except (OSError, ValueError):
        said = {}
    rate = said.get("sampling_rate") if isinstance(said, dict) else None
    return sounds(
        path, rate if isinstance(rate, int) else None, flat=flat, normalize=bool(rate and said.get("do_normalize"))
    )


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


def _read(file: Path) -> tuple[np.ndarray[Any, Any], int]:
    """All channels as one, float32 ``(samples,)``, and the samples in a second."""
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f'{shown(file)}: sounds are read by soundfile: pip install "lloydmax[sounds]"') from error
    try:
        values, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except Exception as error:
        raise DataError(f"{shown(file)} cannot be read as a sound: {printable(str(error), 200)}") from error
    return values.mean(1), int(rate)
