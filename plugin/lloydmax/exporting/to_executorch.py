"""An ExecuTorch program (``.pte``): codes as uint8, decoded at every use by the portable kernels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lloydmax.exporting.even_weights import Kind
from lloydmax.exporting.formats import Format
from lloydmax.exporting.subject import Subject, tensors_of
from lloydmax.runtime.quiet import quiet


@dataclass(frozen=True)
class To(Format):
    """For the portable kernels, without a delegate: delegates want dense weights.

    Attributes:
        most: largest number of samples of a dynamic batch; memory is planned for that many.
    """

    packages: ClassVar[tuple[str, ...]] = ("executorch.exir",)
    install: ClassVar[str] = "executorch"
    most: int = 8

    def at_run_time(self, kind: Kind) -> str:
        """Whatever they are, they are decoded."""
        return (
            "they are decoded at every run, slower than float32; ONNX Runtime and OpenVINO multiply by even grids "
            "(quantizer: uniform)"
        )

    def code_bits(self, kind: Kind, needed: int) -> int:
        """Of the integers of a tensor."""
        return next(width for width in (8, 16, 32) if needed <= width)

    def write(self, subject: Subject, path: Path) -> None:
        """Lower to the edge dialect and serialize."""
        from executorch.exir import to_edge

        with quiet():
            path.write_bytes(to_edge(subject.program(self.most)).to_executorch().buffer)

    def run(self, path: Path, subject: Subject) -> list[Tensor]:
        """By ExecuTorch's runtime, on the CPU."""
        with quiet():
            from executorch.runtime import Runtime

            method = Runtime.get().load_program(path).load_method("forward")
        return [tensor.clone() for tensor in tensors_of(method.execute(list(subject.batch.tensors())))]
