"""A ``torch.export`` program (``.pt2``): codes as uint8, decoded at every use. It loads without lloydmax."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lloydmax.exporting.even_weights import Kind
from lloydmax.exporting.formats import Format
from lloydmax.exporting.subject import Subject, tensors_of


@dataclass(frozen=True)
class To(Format):
    """``torch.export.load(path).module()`` runs it."""

    def at_run_time(self, kind: Kind) -> str:
        """Whatever they are, they are decoded."""
        return (
            "they are decoded at every run, slower than float32; "
            "lloydmax.load keeps them decoded, or set_kernel runs from codes"
        )

    def code_bits(self, kind: Kind, needed: int) -> int:
        """Of the integers of a tensor."""
        return next(width for width in (8, 16, 32) if needed <= width)

    def write(self, subject: Subject, path: Path) -> None:
        """Without the example inputs and the traces of source code that torch would put into it."""
        program = subject.program()
        program.example_inputs = None
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        packed = io.BytesIO()  # a file that cannot be written to its end would end the process in torch's writer
        torch.export.save(program, packed)
        path.write_bytes(packed.getbuffer())

    def run(self, path: Path, subject: Subject) -> list[Tensor]:
        """By torch itself."""
        with torch.no_grad():
            return tensors_of(torch.export.load(path).module()(*subject.batch.args, **subject.batch.kwargs))
