"""ONNX files as torch modules, through onnx2torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from zoo.network import Missing

OPSET = 13


def network(path: Path, reshape: Callable[[list[int]], list[int]] | None = None) -> nn.Module:
    """The graph, in evaluation mode. Constants are weights, as onnx2torch takes them.

    Args:
        path: of the file.
        reshape: changes the shapes that the graph gives its tensors, for graphs of one input at a time.
    """
    try:
        import onnx
        import onnx2torch
        from onnx import TensorProto, helper, numpy_helper, version_converter
    except ImportError:
        raise Missing("run: pip install onnx; pip install --no-deps onnx2torch") from None
    model = onnx.load(path)
    graph = model.graph
    nodes = list(graph.node)
    for node in nodes:
        if node.op_type == "Constant":
            value = node.attribute[0].t
            value.name = node.output[0]
            graph.initializer.append(value)
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.op_type != "Constant")
    given = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in given]
    del graph.input[:]
    graph.input.extend(inputs)
    if reshape is not None:
        shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
        for weight in graph.initializer:
            if weight.name in shapes:
                changed = numpy_helper.to_array(weight).copy()
                changed[:] = reshape(changed.tolist())
                weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    if model.opset_import[0].version < OPSET:
        model = version_converter.convert_version(model, OPSET)
    sides = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    del model.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type == "Conv":  # whose number of sides a batch norm after it asks for
            unknown = [None] * sides[node.input[1]]
            model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, unknown))
        if node.op_type == "GlobalMaxPool":
            node.op_type = "ReduceMax"
            node.attribute.extend([helper.make_attribute("axes", [2]), helper.make_attribute("keepdims", 1)])
    return onnx2torch.convert(model).eval()
