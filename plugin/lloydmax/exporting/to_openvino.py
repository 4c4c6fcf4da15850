"""OpenVINO IR (``.xml`` and ``.bin``), by OpenVINO's own converter from the ONNX graph."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lloydmax.exporting.formats import Format
from lloydmax.exporting.subject import Subject
from lloydmax.exporting.to_onnx import graph


@dataclass(frozen=True)
class To(Format):
    """Codes take as many bits as in ONNX, and are decoded at every run.

    (Folded by the CPU plugin instead, the packed codes of 2026.4 come out wrong.)
    """

    packages: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")

    def refuse(self, subject: Subject) -> None:
        """bfloat16, which the ONNX graph in between does not decode."""
        subject.refuse_dtypes(torch.bfloat16, name="openvino")

    def write(self, subject: Subject, path: Path) -> None:
        """Weights stay in the dtypes of the model; floats are not rounded to float16."""
        import onnx_ir
        import openvino

        with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
            between = Path(folder) / "model.onnx"
            onnx_ir.save(graph(subject), between)
            model = openvino.convert_model(between)
            openvino.save_model(model, path, compress_to_fp16=False)

    def run(self, path: Path, subject: Subject) -> list[Tensor]:
        """On the CPU, in float32."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        found = compiled([tensor.numpy() for tensor in subject.batch.tensors()])
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]
