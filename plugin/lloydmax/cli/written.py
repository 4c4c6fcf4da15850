"""What ``compress`` writes: one file, or beside a model's folder one that its host opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lloydmax.cli.inputs import check_apart, check_outputs
from lloydmax.cli.models import folder_of
from lloydmax.compress import Result
from lloydmax.format.folder import IN_FOLDER
from lloydmax.integrations.folders import ModelFolder
from lloydmax.report.report import Report
from lloydmax.runtime.files import check_room, check_writable
from lloydmax.runtime.folders import check_new_folder, new_folder

REPORT = "lloydmax-report.json"
"""The report in a folder."""
_FILE = ".safetensors"
_OTHERS = {".pt", ".pth", ".pt2", ".bin", ".ckpt", ".onnx", ".xml", ".mlpackage", ".pte", ".tflite", ".gguf", ".h5"}
"""Endings of what others write, and of what ``lloydmax export`` writes."""


@dataclass(frozen=True)
class Written:
    """A path to write a compressed model to.

    Attributes:
        out: a file; a folder where the model is in one and the path has not the ending of a file.
        source: the folder of the model then.
    """

    out: str
    source: ModelFolder | None

    def check(self, report: str | None, inputs: Mapping[str, str | None]) -> None:
        """Refuse a path that cannot be written, or that would replace an input, before any work is done."""
        if self.source is None:
            check_outputs({"--out": self.out, "--report": report}, inputs)
            self._check_ending()
            return
        check_apart({"--out": self.out, "--report": report}, inputs)
        check_new_folder(self.out)
        if report is not None:
            check_writable(report)

    def _check_ending(self) -> None:
        if Path(self.out).suffix in _OTHERS:
            raise click.UsageError(
                f"--out {self.out}: compress writes a .safetensors file, which lloydmax.load reads; lloydmax export "
                "makes others of it"
            )

    def check_room(self, needed: int) -> None:
        """Refuse a disk without room for so many bytes."""
        place = Path(self.out).absolute()
        while not place.parent.is_dir():
            place = place.parent
        check_room(place, needed)

    def write(self, result: Result, asked: Mapping[str, Any]) -> None:
        """Write the model; into a folder also its report and all that the original has beside its weights."""
        if self.source is None:
            result.save(self.out)
            return
        with new_folder(self.out) as folder:
            (folder / self.source.within).mkdir(parents=True, exist_ok=True)
            result.save(folder / self.source.within / IN_FOLDER)
            result.report.to_json(folder / REPORT)
            self.source.complete(folder, asked)


def written(model: str, out: str) -> Written:
    """Where a model, named as on the command line, is written."""
    return Written(out, None if out.endswith(_FILE) else folder_of(model))


def report_of(path: str) -> Report:
    """A report, from its file or the folder in which ``compress`` left it."""
    inside = Path(path) / REPORT
    return Report.from_json(inside if Path(path).is_dir() else path)
