"""Which operations of a traced network are quantized, and how: the rules of FX graph mode, from which files depend.

A file holds the scale and zero point of every quantized activation in the order of the graph, so that these rules stay
as they are: they place what ``torch.ao.quantization`` places by its native configuration.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_aten = torch.ops.aten
RELU: set[Any] = {nn.ReLU, F.relu, _aten.relu.default, _aten.relu_.default}
"""What belongs to the layer or norm before it, if nothing else uses that."""
RELU_OF_SUM: set[Any] = {torch.relu, *RELU}
"""What belongs to the sum or product before it, if nothing else uses that."""
FUSED: set[Any] = {
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm3d),
    *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default, _aten.linear.default),
    *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
}
SUMS: set[Any] = {
    operator.add,
    torch.add,
    operator.mul,
    torch.mul,
    *(getattr(_aten, name).Tensor for name in ("add", "add_", "mul", "mul_")),
}
MANY: set[Any] = {torch.matmul, _aten.matmul.default, *SUMS}
"""What computes with two tensors; of everything else only the first argument is quantized."""
COMPUTES: set[Any] = {
    *(nn.ELU, nn.LeakyReLU, nn.Hardswish, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.Dropout),
    *(F.elu, F.hardswish, F.leaky_relu, F.dropout, F.group_norm, F.instance_norm, F.layer_norm),
    *(nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, _aten.elu.default, _aten.hardswish.default, *MANY),
    *(_aten.hardswish_.default, _aten.leaky_relu.default, _aten.leaky_relu_.default),
}
"""What has inputs on a grid, and a grid of its own for the output."""
BOUNDED: dict[Any, tuple[float, int]] = dict.fromkeys(
    [nn.Hardsigmoid, F.hardsigmoid, "hardsigmoid", "hardsigmoid_", nn.Sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"]
    + [nn.Softmax, _aten.hardsigmoid.default, _aten.sigmoid.default],
    (1 / 256, 0),
) | dict.fromkeys([nn.Tanh, torch.tanh, "tanh", "tanh_", _aten.tanh.default], (1 / 128, 128))
"""What has a range of outputs that is known: their scale and zero point."""
PASSES: set[Any] = {
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.Hardtanh, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.ReLU, nn.ReLU6, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.hardtanh),
    *(F.hardtanh_, F.interpolate, F.max_pool1d, F.max_pool2d, F.max_pool3d, F.pixel_shuffle, F.pixel_unshuffle),
    *(F.relu, F.relu6, torch.avg_pool1d, torch._C._nn.avg_pool2d, torch._C._nn.avg_pool3d, torch.clamp, torch.flatten),
    *(torch.mean, torch.narrow, torch.repeat_interleave, torch.transpose, torch.squeeze, torch.stack, torch.cat),
    *(torch.unsqueeze, operator.floordiv),
    *(_aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default, _aten.adaptive_avg_pool3d.default),
    *(_aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default, _aten.max_pool1d.default),
    *(_aten.max_pool2d.default, _aten.max_pool3d.default, _aten.hardtanh.default, _aten.hardtanh_.default),
    *(_aten.relu6.default, _aten.relu6_.default, _aten.relu.default, _aten.relu_.default, _aten.clamp.default),
    *(_aten.flatten.using_ints, _aten.mean.default, _aten.mean.dim, _aten.permute.default, _aten.reshape.default),
    *(_aten.view.default, _aten.transpose.int, _aten.squeeze.dim, _aten.unsqueeze.default, _aten.cat.default),
    *(_aten.contiguous.default, _aten.pixel_shuffle.default, _aten.stack.default, _aten.upsample_nearest2d.vec),
    *("contiguous", "clamp", "detach", "detach_", "mean", "permute", "repeat", "repeat_interleave", "reshape"),
    *("resize_", "relu", "relu_", "squeeze", "squeeze_", "transpose", "unsqueeze", "unsqueeze_", "view"),
}
"""What chooses or moves values, so that the output has the grid of the input."""
ADDS: set[Any] = {operator.add, torch.add}
CLAMPS: dict[Any, tuple[float, float]] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu", "relu_"), (0.0, math.inf)),
    **dict.fromkeys((nn.ReLU6, F.relu6), (0.0, 6.0)),
}
"""What cuts off values beyond its limits."""
JOINS: set[Any] = {torch.cat, torch.stack}
MOVES: set[Any] = {
    *(nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.Flatten, F.pixel_shuffle, F.pixel_unshuffle, torch.flatten),
    *(torch.narrow, torch.transpose, torch.squeeze, torch.unsqueeze, *JOINS, "contiguous", "permute", "repeat"),
    *("reshape", "squeeze", "transpose", "unsqueeze", "view"),
}
"""What is done with integers as with floats."""
