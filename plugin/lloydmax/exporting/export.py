"""Write a compressed model for another runtime, and prove that it gives the same there."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lloydmax.errors import ExportError
from lloydmax.exporting.formats import Format, load, name_for
from lloydmax.exporting.notes import notes
from lloydmax.exporting.subject import Subject, UntraceableError, difference, first_line, subject
from lloydmax.network.tracing import forget_graphs
from lloydmax.runtime.apart import apart
from lloydmax.runtime.files import path_of, refusal, shown, telling
from lloydmax.runtime.modes import own_modes
from lloydmax.runtime.temporary import sweep

_OF_HALVES = 2e-2
"""How far outputs of 16 bits may be off, of the largest."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file, or for Core ML the folder.
        format: its name.
        bytes: of everything that was written.
        difference: largest absolute difference of the outputs for the example inputs; ``None`` where the format
            cannot run on this machine.
        notes: lines for a person: what the runtime does with the weights that may surprise, and why the file is
            larger than the lloydmax file, with what to choose instead.
    """

    path: str
    format: str
    bytes: int
    difference: float | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        checked = "not run here" if self.difference is None else f"outputs differ by at most {self.difference:.2g}"
        lines = f"{self.path}: {self.format}, {self.bytes:,} bytes, {checked}", *(f"- {note}" for note in self.notes)
        return "\n".join(lines)


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    example_inputs: Any,
    dynamic_batch: bool = True,
    **options: Any,
) -> Export:
    """Write a compressed model for another runtime; its weights stay codes and centroids in the file.

    The file is run on the example inputs and compared with the model before it appears; it appears complete or not
    at all.

    Args:
        model: with at least one codebook; not changed.
        path: the file to write; replaced if it exists. Its ending tells the format: ``.pt2``, ``.onnx``, ``.xml``
            (OpenVINO, with a ``.bin`` beside it), ``.mlpackage`` (Core ML, a folder), ``.pte`` (ExecuTorch).
        format: ``"torch"``, ``"onnx"``, ``"openvino"``, ``"coreml"`` or ``"executorch"``; absent, that of the ending.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments; samples along the
            first axis. Two samples are used, or one twice.
        dynamic_batch: any number of samples, or only as many as in the example inputs; where the model can be traced
            only so, it is so, with a warning.
        options: of the format. ``fold_at_load`` (onnx; default ``False``): let the runtime decode the
            weights once, when it loads the file, for speed and dense memory, instead of at every run. ``opset`` (onnx;
            default 25): 18 to 25. ``standard`` (onnx; default ``False``): even grids, too, by operators of the
            standard alone. ``activations`` (onnx, openvino): of products with even grids, ``"float32"`` (default) or
            ``"int8"``, faster and 0.7 to 0.9 % off. ``precision`` (coreml): ``"float16"`` (default) or ``"float32"``.
            ``most`` (coreml, executorch): largest number of samples.

    Returns:
        An :class:`Export`.

    Raises:
        ExportError: the format cannot hold something in the model, which is named; a package is not installed; the
            model cannot be converted; the written file gives other outputs; or it cannot be written, as on a full disk.
        ModelError: it is not a network.
    """
    name, chosen = asked_for(path, format, options)
    target = Path(os.path.realpath(path_of(path)))
    with own_modes():
        prepared = subject(model, example_inputs, dynamic_batch)
        chosen.refuse(prepared)
        sweep(target.parent)
        beside = partial(tempfile.TemporaryDirectory, prefix=".lloydmax-", suffix=".tmp", dir=target.parent)
        with telling(path, ExportError), beside(ignore_cleanup_errors=True) as folder:
            made = Path(folder) / "made" / target.name
            made.parent.mkdir()
            try:
                gap = _made(name, chosen, prepared, made)
            finally:
                forget_graphs()
            size = _publish(made, target, Path(folder))
        return Export(str(path_of(path)), name, size, gap, tuple(notes(prepared.origin, chosen, size)))


def asked_for(path: str | os.PathLike[str], format: str | None, options: dict[str, Any]) -> tuple[str, Format]:
    """The name of a format and the format; see :func:`export` for the arguments.

    Raises:
        ExportError: an unknown format or option, a missing package, or a path that cannot be written.
    """
    place = path_of(path, ExportError)
    name = name_for(place, format)
    with telling(path, ExportError):
        package = (place / "Manifest.json").is_file()
    if reason := refusal(path, folder=package):
        raise ExportError(f"{shown(path)}: {reason}")
    return name, load(name, options)


def _made(name: str, chosen: Format, prepared: Subject, made: Path) -> float | None:
    """Write, with a fixed batch where the model can be traced only so, and compare the outputs."""
    try:
        return apart(lambda: _written(name, chosen, prepared, made))
    except UntraceableError as error:
        if not prepared.dynamic:
            raise
        gap = apart(lambda: _written(name, chosen, prepared.fixed(), made))
        warnings.warn(
            f"{shown(made.name)} takes {len(prepared.given)} samples at a time, as many as example_inputs has: for any "
            f"number of them {str(error).removeprefix(f'{name}: ')}",
            stacklevel=3,
        )
        return gap


def _written(name: str, chosen: Format, prepared: Subject, made: Path) -> float | None:
    """Write, and compare the outputs."""
    try:
        chosen.write(prepared, made)
        return _compared(chosen, made, prepared)
    except ExportError as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:
        if isinstance(error, shutil.Error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        what = type(prepared.model).__name__
        raise ExportError(f"{name}: cannot convert {what}: {first_line(error)}") from error


def _compared(chosen: Format, made: Path, prepared: Subject) -> float | None:
    """Largest difference of outputs, for the example inputs and, where the batch is dynamic, for one sample."""
    worst = 0.0
    for one in [prepared, prepared.first()] if prepared.dynamic else [prepared]:
        found = chosen.run(made, one)
        if found is None:
            return None
        wanted = one.outputs()
        gap, scale = difference(found, wanted)
        narrowest = min((tensor.itemsize for tensor in wanted if tensor.is_floating_point()), default=4)
        allowed = max(chosen.tolerance, _OF_HALVES if narrowest == 2 else 0.0)
        if gap > allowed * max(scale, 1e-3):
            raise ExportError(f"the written file gives outputs that differ by {gap:.3g} (largest: {scale:.3g})")
        worst = max(worst, gap)
    return worst


def _publish(made: Path, target: Path, folder: Path) -> int:
    """Move everything that was made into place, or nothing, the file itself last; the bytes of it."""
    size = 0
    for file in sorted(made.parent.rglob("*")):
        if file.is_file():
            size += file.stat().st_size
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    with ExitStack() as back:
        for item in sorted(made.parent.iterdir(), key=lambda item: item == made):
            place, before = target.with_name(item.name), folder / f"replaced-{item.name}"
            if place.is_dir():
                place.rename(before)
            elif place.exists():
                with suppress(OSError):  # a file system without links: then nothing is put back
                    os.link(place, before)
            back.callback(_put_back, place, before if before.exists() else None)
            item.replace(place)
        back.pop_all()
    return size


def _put_back(place: Path, before: Path | None) -> None:
    """Undo one move: what was there before comes back."""
    with suppress(OSError):
        if place.is_dir():
            shutil.rmtree(place)
        if before is not None:
            before.replace(place)
