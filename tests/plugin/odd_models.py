"""What people pass where a model is meant, and models that cannot be compressed: by what it is, how it is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def with_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()


class Subclass(Tensor):
    pass


class Uninitialized(nn.Module):
    def __init__(self) -> None:
        pass


class Callable_:
    def __call__(self, x: Tensor) -> Tensor:
        return x


class Trainer:
    def __init__(self) -> None:
        self.model = net()


NOT_MODULES: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "None, not a network"),
    "number": (lambda: 3, "of type int"),
    "class": (lambda: nn.Linear, r"the class Linear, not a network: make one of it, as in Linear\(...\)"),
    "function": (lambda: net, "if it makes one, pass what it gives"),
    "lambda": (lambda: lambda x: x, "not a network: pass an nn.Module"),
    "callable": (Callable_, "pass an nn.Module"),
    "partial": (lambda: partial(net(), 3), "pass an nn.Module"),
    "method": (lambda: net().forward, "the method forward of Sequential, not a network: pass Sequential itself"),
    "state dict": (lambda: net().state_dict(), "a state dict, not a network: make the network, call its load_state_"),
    "path": (lambda: "model.pt", "the path 'model.pt', not a network"),
    "Path": (lambda: Path("model.pt"), "the path 'model.pt', not a network"),
    "list": (lambda: [net()], r"a list, not a network: pass one nn.Module, such as torch.nn.Sequential\(\*layers\)"),
    "holder": (Trainer, "of type Trainer, not a network: pass its .model"),
    "tensor": (lambda: torch.ones(2, 2), "of type Tensor, not a network"),
    "parameter": (lambda: net()[0].weight, "of type Parameter, not a network"),
    "optimizer": (lambda: torch.optim.SGD(net().parameters(), 1.0), "of type SGD, not a network"),
}
"""Made, and what is said of it."""


def within_itself() -> nn.Module:
    model = net()
    model.add_module("me", model)
    return model


def deep(levels: int = 400) -> nn.Module:
    model: nn.Module = nn.Linear(8, 4)
    for _ in range(levels):
        model = nn.Sequential(model)
    return model


NO_TREES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "within itself": (within_itself, "me is the network itself, which lies in itself: take it out"),
    "deep": (deep, "too deep for Python to copy them"),
    "uninitialized": (Uninitialized, r"was not initialized: its __init__ has to call super\(\).__init__\(\)"),
    "uninitialized inside": (lambda: nn.Sequential(nn.Linear(8, 4), Uninitialized()), "1: Uninitialized was not init"),
}


def with_weight(make: Callable[[Tensor], Tensor], gradients: bool = False) -> nn.Module:
    model = net()
    model[0]._parameters["weight"] = nn.Parameter(make(model[0].weight.detach()), gradients)
    return model


def with_statistics(leaf: str, value: float) -> nn.Module:
    model = with_norm()
    getattr(model[1], leaf)[3] = value
    return model


def fake() -> nn.Module:
    with FakeTensorMode():
        return net()


def with_buffer(buffer: Tensor) -> nn.Module:
    model = net()
    model.register_buffer("extra", buffer)
    return model


UNFIT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "coo": (lambda: with_weight(Tensor.to_sparse), "0.weight is a sparse_coo tensor, .* tensor.to_dense"),
    "csr": (lambda: with_weight(Tensor.to_sparse_csr), "0.weight is a sparse_csr tensor"),
    "mkldnn": (lambda: with_weight(Tensor.to_mkldnn), "0.weight is a mkldnn tensor"),
    "quantized": (
        lambda: with_weight(lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
        "0.weight is a quantized tensor, .* tensor.dequantize",
    ),
    "nested buffer": (lambda: with_buffer(nested()), "'extra' is not an ordinary tensor, but a nested tensor"),
    "sparse buffer": (lambda: with_buffer(torch.eye(3).to_sparse()), "'extra' is not an ordinary tensor, but a sparse"),
    "meta": (lambda: net().to("meta"), "0.weight is on the meta device"),
    "fake": (fake, "0.weight is a FakeTensor"),
    "subclass": (lambda: with_weight(lambda w: w.as_subclass(Subclass)), "0.weight is a Subclass"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "is lazy"),
    "variance": (lambda: with_statistics("running_var", torch.nan), "1.running_var is NaN, .* in 1 of its 16 channels"),
    "negative": (lambda: with_statistics("running_var", -1.0), "1.running_var is NaN, .*renormalize"),
    "mean": (lambda: with_statistics("running_mean", torch.inf), "1.running_mean is NaN"),
    "no parameters": (lambda: nn.Sequential(nn.ReLU()), "has no parameters: nothing to compress"),
    "float64": (lambda: net().double(), "nothing to compress: 2.weight: it is float64"),
}


def nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)], layout=torch.strided)
