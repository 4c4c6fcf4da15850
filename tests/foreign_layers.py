"""Layers with weights that PyTorch's own layers do not have, made small: transposed, stacked, in buffers, bare."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv1D(nn.Module):
    """GPT-2's linear layer: its weight is (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.1), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class OwnLinear(nn.Module):
    """A linear layer that somebody wrote: its weight is (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs) * 0.1), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Experts(nn.Module):
    """Stacked experts, all of them weighted by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 24) * 0.1), nn.Parameter(torch.randn(4, 24, 16) * 0.1)
        self.gate = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("btd,edf->btef", x, self.up).relu()
        return torch.einsum("btef,efd,bte->btd", hidden, self.down, self.gate(x).softmax(-1))


class Classifier(nn.Module):
    """A little vision transformer's odds and ends: class token, positions, a bare projection; 8 tokens of 16 -> 10."""

    def __init__(self) -> None:
        super().__init__()
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 9, 16))
        self.attention, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.proj = nn.Parameter(torch.randn(16, 10) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(x), 1, 16), x], 1) + self.positions
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0])[:, 0] @ self.proj


class InBuffers(nn.Module):
    """Most weights in buffers, as importers of ONNX leave them, one of them twice; 12 x 16 -> 30."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv1d(12, 40, 3), nn.Module()
        self.inner.register_buffer("w", torch.randn(40, 80) * 0.2)
        self.inner.register_buffer("again", self.inner.w)
        self.register_buffer("mask", torch.full((40, 40), float("-inf")).triu(1))
        self.register_buffer("out", torch.randn(80, 30) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).amax(-1) @ self.inner.w + self.conv(x).mean(-1) @ self.inner.again) @ self.out
