"""What forward methods write, told without running them."""

from __future__ import annotations

import torch
from lloydmax.network.written import written
from torch import Tensor, fx, nn


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.made = torch.zeros(3)
        for name in ("sliced", "filled", "anew", "given", "learned", "read", "part"):
            self.register_buffer(name, torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.sliced[:1] = x
        self.filled.fill_(0.0)
        self.part.narrow(0, 0, 1).copy_(x)
        self.anew, _ = x, x
        torch.add(x, 1, out=self.given)
        if self.training and x.any():
            self.learned.copy_(x)
        return x + self.read


def test_attributes_that_methods_write() -> None:
    assert written(nn.Sequential(Writer())) == {"sliced", "filled", "part", "anew", "given"}


def test_what_graphs_write() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))
            self.register_buffer("read", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(x)
            return x + self.read

    exported = torch.export.export(Counting(), (torch.ones(3),)).module()
    assert written(nn.Sequential(exported)) == {"0.seen"}
    assert written(fx.symbolic_trace(nn.Linear(3, 3))) == set()
