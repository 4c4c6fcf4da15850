"""ONNX: codes in as many bits as they need, centroids, and standard operators that decode them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lloydmax.errors import ExportError
from lloydmax.exporting.even_weights import EvenWeight, Kind
from lloydmax.exporting.formats import Format
from lloydmax.exporting.subject import Subject
from lloydmax.runtime.quiet import quiet

ACTIVATIONS = ("float32", "int8")
"""What products with even weights may compute in."""
OFF = 0.1
"""How far outputs may be off in int8, of the largest."""
FIRST_EVEN = 21
"""The first opset whose ``DequantizeLinear`` knows integers of 4 bits."""
BLOCK = 16
"""The fewest integers of one scale that a product takes; others are multiples of it."""
_OPSETS = range(18, 26)


@dataclass(frozen=True)
class To(Format):
    """Runs in any runtime that knows the opset.

    Attributes:
        opset: of the graph: 18, the first with the operators that unpack codes, to 25.
        fold_at_load: the runtime decodes the weights when it loads the file, instead of at every run. An optimized
            model that it saves is then dense.
        standard: even grids, too, by operators of the standard alone, for other runtimes than onnxruntime; decoded at
            every run.
        activations: of products with even weights: ``"float32"``, or ``"int8"``, rounded for each block of inputs,
            which is faster and 0.7 to 0.9 % off.
    """

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    opset: int = _OPSETS[-1]
    fold_at_load: bool = False
    standard: bool = False
    activations: str = "float32"

    def at_run_time(self, kind: Kind) -> str:
        """Free centroids are decoded, and even grids that no product takes."""
        if self.fold_at_load:
            return ""
        fold = "fold_at_load=True decodes them once, for the time and the memory of float32"
        slow = f"they are decoded at every run, slower than float32; {fold}"
        if not kind.bits:
            return f"{slow}; an even grid (quantizer: uniform) runs as integers"
        if self.opset < FIRST_EVEN:
            return f"{slow}; opset={FIRST_EVEN} has integers"
        if not kind.matrix:
            return slow
        if self.standard:
            return f"{slow}; standard=False multiplies by integers"
        if kind.run % BLOCK:
            return f"{slow}; weights:N with a multiple of {BLOCK} for N multiplies by integers"
        if kind.bits == 8 and self.activations != "int8":
            return f"{slow}; activations='int8' multiplies by integers"
        return ""

    def code_bits(self, kind: Kind, needed: int) -> int:
        """Those of integers of even grids."""
        if not kind.bits or self.opset < FIRST_EVEN:
            return needed
        products = self.activations == "int8" and kind.matrix and not self.standard
        return kind.bits if products else max(4, kind.bits)

    @property
    def tolerance(self) -> float:
        """Wide where activations are rounded: the error of each product adds to those before it."""
        return OFF if self.activations == "int8" else super().tolerance

    def refuse(self, subject: Subject) -> None:
        """bfloat16, which onnxruntime does not run on the CPU; an unknown opset."""
        refuse_activations(self.activations)
        if self.opset not in _OPSETS:
            raise ExportError(f"opset is {_OPSETS[0]} to {_OPSETS[-1]}, not {self.opset!r}")
        subject.refuse_dtypes(torch.bfloat16, name="onnxruntime")

    def write(self, subject: Subject, path: Path) -> None:
        """Checked by the ONNX checker, shapes inferred."""
        import onnx
        import onnx_ir

        from lloydmax.exporting.even_operators import EvenOperators

        takes = (lambda _: True) if self.opset >= FIRST_EVEN else None
        model, evens = graph(subject, self.opset, self.fold_at_load, elementwise=True, takes=takes)
        int8, plain = self.activations == "int8", self.standard or self.fold_at_load
        operators = EvenOperators(model, plain, int8, self.fold_at_load)
        for name, weight in evens.items():
            operators.put(name, weight)
        onnx_ir.save(model, path)
        onnx.checker.check_model(path, full_check=True)

    def run(self, path: Path, subject: Subject) -> list[Tensor]:
        """In onnxruntime, on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        feeds = {name: tensor.numpy() for name, tensor in zip(names, subject.batch.tensors(), strict=True)}
        return [torch.from_numpy(found) for found in session.run(None, feeds)]


def refuse_activations(asked: str) -> None:
    """Refuse what activations of products cannot be.

    Raises:
        ExportError: it is something else.
    """
    if asked not in ACTIVATIONS:
        raise ExportError(f"activations is {' or '.join(map(repr, ACTIVATIONS))}, not {asked!r}")


def graph(
    subject: Subject,
    opset: int = _OPSETS[-1],
    fold_at_load: bool = False,
    elementwise: bool = False,
    takes: Callable[[EvenWeight], bool] | None = None,
) -> tuple[Any, dict[str, EvenWeight]]:
    """The ``onnx_ir.Model``, and even weights that are inputs of it, by their names.

    Args:
        subject: what to export.
        opset: as in :class:`To`.
        fold_at_load: as in :class:`To`.
        elementwise: pick centroids by ``GatherElements``, four times as fast in onnxruntime as ``Gather``.
        takes: which even weights to leave to others: each of these becomes an input, after those of the model, without
            a value.
    """
    import onnxscript.optimizer

    from lloydmax.exporting.packed_codes import Unpacking

    evens: dict[str, EvenWeight] = {}
    if takes is not None:
        subject, evens = subject.laid_bare(takes)
    with quiet():
        exported = torch.onnx.export(
            subject.program(), dynamo=True, optimize=False, verbose=False, opset_version=opset, external_data=False
        )
    assert exported is not None
    model = exported.model
    evens = {name: weight for name, weight in evens.items() if name in model.graph.initializers}
    for name in evens:
        value: Any = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)
    unpacking = Unpacking(model.graph)
    for name, holder in subject.holders().items():
        if (value := model.graph.initializers.pop(f"{name}.codes", None)) is not None:
            value.replace_all_uses_with(unpacking.value(f"{name}.codes", holder.codes.numpy()))
    unpacking.insert()
    if elementwise:
        _gather_elements(model.graph)
    with quiet():
        onnxscript.optimizer.optimize(model)
    if fold_at_load:
        unpacking.release()
    _strip(model)
    return model, evens


def _gather_elements(graph: Any) -> None:
    """Single centroids by ``GatherElements``, with int32 indices."""
    import onnx_ir

    for node in list(graph):
        if node.op_type != "Gather":
            continue
        table, index = node.inputs
        cast = index.producer()
        if cast is None or cast.op_type != "Cast" or table.shape is None or len(table.shape) != 1:
            continue
        narrow = cast.inputs[0]
        origin = narrow
        while origin.producer() is not None and origin.producer().op_type == "Reshape":
            origin = origin.producer().inputs[0]
        if origin.dtype != onnx_ir.DataType.INT32 or node.outputs[0].shape is None or len(node.outputs[0].shape) != 1:
            continue
        made = onnx_ir.Node("", "GatherElements", [table, narrow], attributes=[onnx_ir.AttrInt64("axis", 0)])
        made.outputs[0].shape, made.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, made)
        node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _strip(model: Any) -> None:
    """Drop what only debuggers read: traces of the export, and the shapes of intermediate values."""
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.type = value.shape = None
    for holder in (model, model.graph, *model.graph.inputs, *model.graph.initializers.values()):
        holder.metadata_props.clear()
