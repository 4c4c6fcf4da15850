"""The formats: what each of them is called, needs, and can do."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lloydmax.errors import ExportError
from lloydmax.exporting.even_weights import Kind
from lloydmax.exporting.subject import Subject
from lloydmax.hooks.registry import spelling_hint
from lloydmax.runtime.files import shown
from lloydmax.runtime.quiet import quiet

FORMATS = {
    "torch": ".pt2",
    "onnx": ".onnx",
    "openvino": ".xml",
    "coreml": ".mlpackage",
    "executorch": ".pte",
}
"""Suffix by name; the module ``to_<name>`` of this package has the class ``To``."""


class Format(ABC):
    """One kind of file. Subclasses are dataclasses; their fields are the options of :func:`lloydmax.export`.

    Attributes:
        packages: what must be installed.
        install: what pip is told to install them.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = '"lloydmax[export]"'

    def at_run_time(self, kind: Kind) -> str:
        """What the runtime does with weights that a person may not expect, and what to choose instead; empty: nothing.

        Args:
            kind: of the weights.
        """
        return ""

    def code_bits(self, kind: Kind, needed: int) -> int:
        """Bits that a code takes in the file.

        Args:
            kind: of the weight.
            needed: of a code of fixed width.
        """
        return needed

    @property
    def tolerance(self) -> float:
        """How far the outputs may be off, of their largest magnitude, in float32."""
        return 1e-3

    def refuse(self, subject: Subject) -> None:  # noqa: B027
        """Refuse what the format cannot hold, before any work.

        Raises:
            ExportError: names what it is.
        """

    @abstractmethod
    def write(self, subject: Subject, path: Path) -> None:
        """Write the file, and any companions of it into the same folder.

        Raises:
            ExportError: the model cannot be converted.
        """

    def run(self, path: Path, subject: Subject) -> list[Tensor] | None:
        """The outputs of the written file for the example inputs; ``None`` where it cannot run on this machine."""
        return None


def name_for(path: Path, name: str | None) -> str:
    """The format that a path and an optional name ask for.

    Raises:
        ExportError: an unknown format, or a suffix that is not its own.
    """
    known = {suffix: key for key, suffix in FORMATS.items()}
    if name is None:
        if path.suffix not in known:
            endings = ", ".join(f"{suffix} ({key})" for suffix, key in known.items())
            raise ExportError(f"the ending of {shown(path.name)} does not name a format; known: {endings}")
        return known[path.suffix]
    if not isinstance(name, str) or name not in FORMATS:
        raise ExportError(f"there is no export format {name!r}{spelling_hint(str(name), list(FORMATS))}")
    if path.suffix != FORMATS[name]:
        raise ExportError(f"a file of format {name} ends in {FORMATS[name]}: {shown(path.name)}")
    return name


def load(name: str, options: dict[str, Any]) -> Format:
    """The format with its options; only now are its packages imported.

    Raises:
        ExportError: a package is not installed, or an option is unknown.
    """
    made: type[Any] = importlib.import_module(f"lloydmax.exporting.to_{name}").To
    for package in made.packages:
        try:
            with quiet(bars=False):
                importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f"exporting to {name} needs {package} ({error}); run: pip install {made.install}"
            ) from error
    known = [field.name for field in fields(made)]
    for option in options:
        if option not in known:
            raise ExportError(f"exporting to {name} has no option {option!r}{spelling_hint(option, known)}")
    chosen: Format = made(**options)
    return chosen
