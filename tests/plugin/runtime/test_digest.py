"""What tells two models, and two states of the same data, apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from lloydmax.data import unlabelled
from lloydmax.data.sources import ArraySource
from lloydmax.recovery.steps import open_source
from lloydmax.runtime import code
from lloydmax.runtime.description import Description
from lloydmax.runtime.digest import model_fingerprint
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Net(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.k = 2.0
        self.linear, self.act, self.out = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.k * self.out(self.act(self.linear(x)))


OTHERS = [
    {"k": -2.0}, {"act": nn.Tanh()}, {"act": nn.ReLU6()}, {"k": 2}, {"sizes": (1, [2, {"a": 3}])},
    {"sizes": (1, [2, {"a": 4}])}, {"f": F.relu}, {"f": torch.tanh}, {"k": torch.tensor(3.0)},
    {"k": torch.tensor(4.0)}, {"table": np.arange(3)}, {"table": np.arange(1, 4)}, {"names": {"a", "b"}},
    {"config": SimpleNamespace(k=1)}, {"config": SimpleNamespace(k=2)}, {"dtype": torch.float16}, {"none": None},
]  # fmt: skip


def test_attributes_and_types_of_modules_tell_models_apart() -> None:
    found = [model_fingerprint(Net(**others)) for others in [{}, *OTHERS]]
    assert len(set(found)) == len(found)
    assert found == [model_fingerprint(Net(**others)) for others in [{}, *OTHERS]]


def test_modes_and_lists_of_own_weights_do_not() -> None:
    assert model_fingerprint(Net().eval()) == model_fingerprint(Net().train().requires_grad_(False))
    loop: list[Any] = [1]
    loop.append(loop)
    assert model_fingerprint(Net(loop=loop)) != model_fingerprint(Net())


@pytest.mark.parametrize("others", [{"k": -2.0}, {"act": nn.Tanh()}], ids=["attribute", "type"])
def test_models_that_share_a_cache_have_outputs_of_their_own(others: dict[str, Any]) -> None:
    recipe = {
        "quantize": [{"layers": "all", "centroids": 4}], "trainable": ["codebooks"],
        "recover": [{"step": "distill", "steps": 5, "batch_size": 16}],
    }  # fmt: skip
    x, cache = torch.randn(32, 8, generator=torch.Generator().manual_seed(1)), lloydmax.Cache()
    lloydmax.compress(Net().eval(), recipe, x, progress=False, cache=cache)
    shared = lloydmax.compress(Net(**others).eval(), recipe, x, progress=False, cache=cache).model
    alone = lloydmax.compress(Net(**others).eval(), recipe, x, progress=False).model
    assert torch.equal(shared(x), alone(x))


def _tensor(made: Callable[[Tensor], Any]) -> Callable[[], tuple[Any, Callable[[], object]]]:
    def opened() -> tuple[Any, Callable[[], object]]:
        tensor = torch.ones(6, 8)
        return made(tensor), lambda: tensor.zero_()

    return opened


def _array(made: Callable[[Any], Any]) -> Callable[[], tuple[Any, Callable[[], object]]]:
    def opened() -> tuple[Any, Callable[[], object]]:
        array = np.ones((6, 8), np.float32)
        return made(array), lambda: array.fill(0)

    return opened


@torch.inference_mode()
def _inference() -> tuple[Any, Callable[[], object]]:
    tensor = torch.ones(6, 8)
    return tensor, torch.inference_mode()(lambda: tensor.zero_())


def _alias() -> tuple[Any, Callable[[], object]]:
    array = np.ones((6, 8), np.float32)
    return torch.from_numpy(array), lambda: array.fill(0)


def _swapped() -> tuple[Any, Callable[[], object]]:
    tensor = torch.ones(6, 8)
    return tensor, lambda: setattr(tensor, "data", torch.zeros(6, 8))


class Scaled(Dataset[Tensor]):
    def __init__(self) -> None:
        self.k = 1.0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return torch.ones(8) * self.k * SCALE[0]


SCALE = [1.0]


def _attribute() -> tuple[Any, Callable[[], object]]:
    data = Scaled()
    return data, lambda: setattr(data, "k", 0.0)


def _own() -> tuple[Any, Callable[[], object]]:
    data = Scaled()
    return unlabelled(data, Net()), lambda: setattr(data, "k", 0.0)


def _iterable() -> tuple[Any, Callable[[], object]]:
    tensor = torch.ones(6, 8)

    class Batches:
        def __iter__(self) -> Iterator[Tensor]:
            yield from tensor.split(3)

    return Batches(), lambda: tensor.zero_()


@pytest.mark.parametrize(
    "opened",
    [
        _alias, _swapped, _attribute, _own, _iterable, _tensor(lambda t: [{"x": t}]),
        _tensor(lambda t: t), _tensor(lambda t: {"x": t}), _tensor(lambda t: [t]), _tensor(lambda t: [(t,)]),
        _tensor(TensorDataset), _tensor(lambda t: DataLoader(TensorDataset(t))), _inference,
        _array(lambda a: a), _array(lambda a: {"x": a}), _array(lambda a: [a]), _array(lambda a: [{"x": a}]),
    ],
)  # fmt: skip
def test_data_that_is_written_to_is_opened_again(opened: Callable[[], tuple[Any, Callable[[], object]]]) -> None:
    net, cache, (data, write) = Net().eval(), lloydmax.Cache(), opened()

    def read() -> Any:
        return open_source(data, net, None, 0, cache)

    first = read()
    assert read() is first and float(next(first.first(2).tensors()).sum()) == 16
    write()
    assert read() is not first and float(next(read().first(2).tensors()).sum()) == 0
    assert read() is read()


@pytest.mark.parametrize("own", [False, True])
def test_a_global_or_a_file_that_changes_is_seen(own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, cache, file = Net().eval(), lloydmax.Cache(), tmp_path / "x.npy"
    np.save(file, np.ones((6, 8), np.float32))
    data: Any = Scaled() if own else file
    first = open_source(data, net, None, 0, cache)
    assert open_source(data, net, None, 0, cache) is first
    monkeypatch.setattr(sys.modules[__name__], "SCALE", [0.0])
    np.save(file, np.zeros((6, 8), np.float32))
    source: Any = open_source(data, net, None, 0, cache)
    assert source is not first and float(next(source.first(2).tensors()).sum()) == 0


def test_what_can_be_read_once_only_is_shared_as_it_was_read() -> None:
    net, cache, data = Net().eval(), lloydmax.Cache(), iter([torch.ones(6, 8)])
    assert open_source(data, net, None, 0, cache) is open_source(data, net, None, 0, cache)


def test_contents_are_made_once_in_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, contents = [], ArraySource.contents
    monkeypatch.setattr(ArraySource, "contents", lambda source: made.append(1) or contents(source))
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [{"step": "correct_bias"}]}
    for calls, cache in ((1, None), (2, lloydmax.Cache())):
        lloydmax.compress(Net().eval(), recipe, torch.ones(6, 8), progress=False, workdir=tmp_path, cache=cache)
        assert len(made) == calls


def test_a_traced_model_is_known_by_its_code_and_weights_wherever_torch_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {"purelib": "/elsewhere", "platlib": "/elsewhere"}  # torch of another environment on the path
    monkeypatch.setattr(code.sysconfig, "get_path", lambda kind: elsewhere[kind])
    code.library.cache_clear()
    looked_into: list[object] = []
    complex_ = Description._complex
    monkeypatch.setattr(
        Description, "_complex", lambda found, value: looked_into.append(value) or complex_(found, value)
    )
    try:
        first = model_fingerprint(symbolic_trace(Net()))
        assert len(looked_into) < 1000  # not into torch itself
        assert model_fingerprint(symbolic_trace(Net())) == first
        other, weights = symbolic_trace(Net()), symbolic_trace(Net())
        node = next(node for node in other.graph.nodes if node.op == "call_function")
        node.target = torch.add
        other.recompile()
        with torch.no_grad():
            weights.get_parameter("out.bias")[0] += 1
        assert len({first, model_fingerprint(other), model_fingerprint(weights)}) == 3
    finally:
        code.library.cache_clear()
