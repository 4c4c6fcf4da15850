"""TensorFlow Lite files of convolutions, pooling, sums and linear layers as torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.network import Missing


class Graph(nn.Module):
    """The steps of the file, one after another: pictures ``(N, channels, height, width)`` or vectors -> its output.

    Args:
        steps: kind of step, numbers of the tensors that it takes, and of that which it gives.
        modules: number of the given tensor -> module of the step.
    """

    def __init__(self, first: int, steps: list[tuple[str, list[int], int]], modules: dict[int, nn.Module]) -> None:
        super().__init__()
        self.first, self.steps = first, steps
        self.layers = nn.ModuleDict({f"layer{number}": module for number, module in modules.items()})

    def forward(self, x: Tensor) -> Tensor:
        found = {self.first: x}
        for kind, taken, given in self.steps:
            if kind == "ADD":
                x = found[taken[0]] + found[taken[1]]
            elif kind == "AVERAGE_POOL_2D":
                x = found[taken[0]].mean((2, 3), keepdim=True)
            elif kind == "RESHAPE":
                x = found[taken[0]].flatten(1)
            elif kind == "SOFTMAX":
                x = found[taken[0]].softmax(1)
            else:
                x = self.layers[f"layer{given}"](found[taken[0]])
            found[given] = x
        return x


class Same(nn.Module):
    """The padding with which a convolution gives every ``stride``-th place."""

    def __init__(self, size: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for length, size, stride in reversed(list(zip(x.shape[2:], self.size, self.stride, strict=True))):
            whole = max(0, (-(-length // stride) - 1) * stride + size - length)
            sides += [whole // 2, whole - whole // 2]
        return F.pad(x, sides)


def network(path: Path) -> Graph:
    """The graph, in evaluation mode."""
    try:
        import tflite
    except ImportError:
        raise Missing("run: pip install tflite") from None
    model: Any = tflite.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    kinds = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
    acts: dict[int, list[nn.Module]] = {
        tflite.ActivationFunctionType.NONE: [],
        tflite.ActivationFunctionType.RELU: [nn.ReLU()],
        tflite.ActivationFunctionType.RELU6: [nn.ReLU6()],
    }
    steps, modules = [], {}
    for index in range(graph.OperatorsLength()):
        step = graph.Operators(index)
        code = model.OperatorCodes(step.OpcodeIndex())
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        taken, given = step.InputsAsNumpy().tolist(), int(step.Outputs(0))
        table = step.BuiltinOptions()
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            options: Any = (tflite.Conv2DOptions if kind == "CONV_2D" else tflite.DepthwiseConv2DOptions)()
            options.Init(table.Bytes, table.Pos)
            weight = _values(model, graph, taken[1]).permute(*((0, 3, 1, 2) if kind == "CONV_2D" else (3, 0, 1, 2)))
            groups = 1 if kind == "CONV_2D" else len(weight)
            size, stride = (weight.shape[2], weight.shape[3]), (options.StrideH(), options.StrideW())
            conv = nn.Conv2d(weight.shape[1] * groups, len(weight), size, stride, groups=groups)
            padding = [Same(size, stride)] if options.Padding() == tflite.Padding.SAME else []
            modules[given] = _filled(conv, weight, _values(model, graph, taken[2]), padding, acts, options)
        elif kind == "FULLY_CONNECTED":
            options = tflite.FullyConnectedOptions()
            options.Init(table.Bytes, table.Pos)
            weight = _values(model, graph, taken[1])
            bias = _values(model, graph, taken[2])
            modules[given] = _filled(nn.Linear(*reversed(weight.shape)), weight, bias, [], acts, options)
        elif kind == "ADD":
            options = tflite.AddOptions()
            options.Init(table.Bytes, table.Pos)
            if options.FusedActivationFunction() == tflite.ActivationFunctionType.RELU:
                steps.append((kind, taken, -given))
                kind, taken, modules[given] = "RELU", [-given], nn.ReLU()
        steps.append((kind, taken, given))
    return Graph(int(graph.Inputs(0)), steps, modules).eval()


def _filled(
    layer: Any, weight: Tensor, bias: Tensor, before: list[nn.Module], acts: dict[int, list[nn.Module]], options: Any
) -> nn.Sequential:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(*before, layer, *acts[options.FusedActivationFunction()])


def _values(model: Any, graph: Any, number: int) -> Tensor:
    """Of a tensor, as float32; those stored in 8 bits by their scales."""
    tensor = graph.Tensors(number)
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy()
    shape, how = tensor.ShapeAsNumpy().tolist(), tensor.Quantization()
    if how is None or not how.ScaleLength():
        return torch.from_numpy(stored.view(np.float32).reshape(shape).copy())
    values = torch.from_numpy(stored.view(np.int8).reshape(shape).astype(np.float32))
    scale = torch.from_numpy(how.ScaleAsNumpy().copy())
    sides = [1] * len(shape)
    sides[how.QuantizedDimension() if len(scale) > 1 else 0] = len(scale)
    return values * scale.reshape(sides)
