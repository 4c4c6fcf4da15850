"""OpenVINO IR (``.xml`` and ``.bin``), by OpenVINO's own converter from the ONNX graph."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lloydmax.exporting.even_weights import Array, EvenWeight, Kind, packed
from lloydmax.exporting.formats import Format
from lloydmax.exporting.subject import Subject
from lloydmax.exporting.to_onnx import OFF, graph, refuse_activations

_LEAST = 16
"""The fewest weights for each scale."""


@dataclass(frozen=True)
class To(Format):
    """Codes take as many bits as in ONNX, and are decoded at every run.

    (Folded by the CPU plugin instead, the packed codes of 2026.4 come out wrong.) Even grids are compressed weights of
    2, 4 or 8 bits, which OpenVINO multiplies by as they are.

    Attributes:
        activations: of products with even weights: ``"float32"``, written into the file, or ``"int8"``: as OpenVINO
            chooses, which on many processors rounds them in groups, faster and 0.7 to 0.9 % off.
    """

    packages: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")
    activations: str = "float32"

    def at_run_time(self, kind: Kind) -> str:
        """Free centroids are decoded."""
        slow = "they are decoded at every run, several times slower than float32"
        if kind.bits:
            return "" if _right(kind.run) else f"{slow}; weights:32 runs as integers"
        return f"{slow}; an even grid (quantizer: uniform) runs as integers"

    def code_bits(self, kind: Kind, needed: int) -> int:
        """Those of integers of even grids."""
        return kind.bits if kind.bits and _right(kind.run) else needed

    @property
    def tolerance(self) -> float:
        """Wide where activations are rounded: the error of each product adds to those before it."""
        return OFF if self.activations == "int8" else super().tolerance

    def refuse(self, subject: Subject) -> None:
        """bfloat16, which the ONNX graph in between does not decode; activations that there are not."""
        refuse_activations(self.activations)
        subject.refuse_dtypes(torch.bfloat16, name="openvino")

    def write(self, subject: Subject, path: Path) -> None:
        """Weights stay in the dtypes of the model; floats are not rounded to float16."""
        import onnx_ir
        import openvino

        with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
            between = Path(folder) / "model.onnx"
            made, evens = graph(subject, takes=lambda weight: weight.runs == 1 or _right(weight.run))
            onnx_ir.save(made, between)
            model = openvino.convert_model(between)
            for name, weight in evens.items():
                _put(model, name, weight)
            if self.activations == "float32":
                model.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
            openvino.save_model(model, path, compress_to_fp16=False)

    def run(self, path: Path, subject: Subject) -> list[Tensor]:
        """On the CPU, in float32."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        found = compiled([tensor.numpy() for tensor in subject.batch.tensors()])
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]


def _right(run: int) -> bool:
    """Whether products with integers of so many weights for each scale are right; with others, 40 for example, those
    of 2026.4 are wrong.

    Args:
        run: 0 for a scale for each row.
    """
    return run == _LEAST or run % (2 * _LEAST) == 0


def _put(model: Any, name: str, weight: EvenWeight) -> None:
    """Give every use of the parameter ``name`` an even weight, and remove the parameter."""
    import openvino
    import openvino.opset13 as operators

    bits = weight.bits
    centred = weight.centred(bits)
    middle = 1 << (bits - 1)
    signed = bits > 2 and not (centred.zero != middle).any()  # there is no signed type of 2 bits
    rows, length = weight.integers.shape
    blocks = weight.scale.shape[1]
    filled, scale, zero = centred.in_blocks(weight.run)
    shape = [rows, blocks, weight.run] if blocks > 1 else [rows, weight.run]

    def constant(integers: Array) -> Any:
        kind = getattr(openvino.Type, f"{'i' if signed else 'u'}{bits}")
        tensor = openvino.Tensor(kind, openvino.Shape(integers.shape))
        values = packed((integers ^ np.uint8(middle if signed else 0)).reshape(-1), bits)
        tensor.data.reshape(-1)[:] = values.view(tensor.data.dtype)
        return operators.constant(tensor)

    def sizes(*values: int) -> Any:
        return operators.constant(np.array(values, np.int64))

    wide = openvino.Type(weight.scale.dtype)
    integers = constant(filled.reshape(shape))
    found = operators.convert(integers, wide.to_string())
    if not signed:
        found = operators.subtract(found, operators.convert(constant(zero.reshape(*shape[:-1], 1)), wide.to_string()))
    found = operators.multiply(found, operators.constant(scale.reshape(*shape[:-1], 1)))
    if blocks * weight.run > length:
        found = operators.reshape(found, sizes(rows, -1), False)
        found = operators.slice(found, sizes(0), sizes(length), sizes(1), sizes(1))
        shape = [rows, length]
    if list(weight.moved) != shape:
        found = operators.reshape(found, sizes(*weight.moved), False)
    if weight.axis:
        found = operators.transpose(found, sizes(*weight.back))
    parameter = next(one for one in model.get_parameters() if one.friendly_name == name)
    parameter.output(0).replace(found.output(0))
    model.remove_parameter(parameter)
