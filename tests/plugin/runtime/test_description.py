"""What counts as the same thing in every process, and what as another one."""

from __future__ import annotations

import array
import collections
import functools
import importlib
import logging
import operator
import os
import random
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lloydmax.runtime.description import Description
from lloydmax.runtime.digest import model_fingerprint
from torch import Tensor, nn

SOURCE = """
import functools, math, torch
from torch import nn

SCALE = 2.0


def helper(x):
    return torch.relu(x) * SCALE


class Inner(nn.Module):
    eps = 1e-5

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.1)
        self.act = lambda x: helper(x) + 0.5
        self.names = {"a", "b", "c", "dd", "eee"}
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def scaled(self, x, by=1.0):
        return by * x + self.eps

    def forward(self, x):
        return self.act(self.scaled(self.norm(self.linear(x))))


class Net(nn.Module):
    def __init__(self, k=3.0):
        super().__init__()
        torch.manual_seed(0)
        self.inner = Inner()
        self.limit = functools.partial(torch.clamp, min=0)
        self.inner.register_forward_hook(lambda module, given, out: out * k)

    def forward(self, x):
        return self.limit(self.inner(x))
"""
EDITS = [
    ("SCALE = 2.0", "SCALE = 2.5"),
    ("torch.relu(x) * SCALE", "torch.relu(x) + SCALE"),
    ("torch.relu(x)", "torch.tanh(x)"),
    ("eps = 1e-5", "eps = 1e-4"),
    ("BatchNorm1d(3)", "BatchNorm1d(3, eps=1e-3)"),
    ("BatchNorm1d(3)", "BatchNorm1d(3, momentum=0.2)"),
    ("Dropout(0.1)", "Dropout(0.2)"),
    ("helper(x) + 0.5", "helper(x) + 0.25"),
    ('"eee"', '"fff"'),
    ("arange(3.0)", "arange(3.0) + 1"),
    ("persistent=False", "persistent=True"),
    ("by=1.0", "by=1.5"),
    ("by * x + self.eps", "by * x - self.eps"),
    ("self.norm(self.linear(x))", "self.linear(self.norm(x))"),
    ("k=3.0", "k=4.0"),
    ("out * k", "out + k"),
    ("register_forward_hook(lambda module, given, out", "register_forward_pre_hook(lambda module, out"),
    ("min=0", "min=1"),
    ("torch.clamp, min=0", "torch.clamp_min, min=0"),
    ("self.limit(self.inner(x))", "self.inner(x)"),
]


def _net(source: str) -> nn.Module:
    module = types.ModuleType("users_code")
    exec(compile(source, "users_code.py", "exec", dont_inherit=True), vars(module))
    net: nn.Module = module.Net()
    return net


def _fingerprint(source: str) -> bytes:
    return model_fingerprint(_net(source))


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_an_edit_of_a_models_code_tells_it_apart(old: str, new: str) -> None:
    assert old in SOURCE
    assert _fingerprint(SOURCE.replace(old, new)) != _fingerprint(SOURCE)


def test_lines_and_comments_do_not() -> None:
    commented = "# a comment\n\n" + SOURCE.replace("def forward", "# why\n    def forward")
    assert _fingerprint(commented) == _fingerprint(SOURCE)


def test_another_process_and_another_file_come_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "moved.py").write_text(SOURCE, encoding="utf-8")
    program = "from moved import Net\nfrom lloydmax.runtime.digest import model_fingerprint\n"
    run = subprocess.run(
        [sys.executable, "-c", program + "print(model_fingerprint(Net()).hex())"], capture_output=True, text=True,
        check=True, env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    assert run.stdout.strip() == _fingerprint(SOURCE).hex()


def _forward(self: Any, x: Tensor) -> Tensor:
    return self.limit(self.inner(x)) + 1


def _on_a_layer(net: Any) -> None:
    net.inner.linear.forward = lambda x: x


def _tied(net: Any) -> None:
    net.inner.norm.bias = net.inner.linear.bias = nn.Parameter(torch.zeros(3))


def _untied(net: Any) -> None:
    net.inner.norm.bias, net.inner.linear.bias = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))


def _in_place(net: Any) -> None:
    net.inner.table[1] = 9


def _in_another_order(net: Any) -> None:
    net.inner.linear.weight.data = net.inner.linear.weight.data.t().contiguous().t()


CHANGES: list[Callable[[Any], object]] = [
    lambda net: setattr(net, "forward", types.MethodType(_forward, net)),
    _on_a_layer,
    _in_place,
    _tied,
    _untied,
    lambda net: net.inner.linear.register_forward_pre_hook(lambda *_: None),
    lambda net: net.inner._forward_hooks.clear(),
    lambda net: setattr(net.inner, "drop", nn.Identity()),
    lambda net: setattr(net, "limit", torch.relu),
    lambda net: setattr(net, "limit", functools.partial(torch.clamp, min=0.0)),
    lambda net: setattr(net, "pattern", collections.OrderedDict(a=1)),
    lambda net: setattr(net, "pattern", random.Random(1)),
    lambda net: setattr(net, "pattern", random.Random(2)),
    lambda net: setattr(net, "pattern", torch.Generator().manual_seed(1)),
    lambda net: setattr(net, "pattern", np.random.default_rng(1)),
    lambda net: setattr(net, "pattern", (1, [2, {"x": np.arange(3)}])),
    lambda net: net.inner.linear.weight.data.mul_(1.0000001),
    _in_another_order,
    lambda net: net.inner.double(),
]  # fmt: skip


def test_changes_of_an_instance_tell_it_apart() -> None:
    found = [_fingerprint(SOURCE)]
    for change in CHANGES:
        net = _net(SOURCE)
        change(net)
        found.append(model_fingerprint(net))
    assert len(set(found)) == len(found)


def test_what_belongs_to_a_process_does_not() -> None:
    net = _net(SOURCE)
    net.lock, net.logger, net.training = threading.Lock(), logging.getLogger("users"), False
    before = model_fingerprint(net)
    net.logger.setLevel(logging.DEBUG)
    net.lock = threading.Lock()
    assert model_fingerprint(net.eval()) == before


LAYERS = {
    "net/__init__.py": "",
    "net/layers.py": "from net.consts import SCALE\nfrom net import consts\nLIMIT = 1.0\n\n"
    "def act(x): return x * SCALE + consts.MORE\n",
    "net/consts.py": "SCALE, MORE = 2.0, 1.0\n",
}
READS = [
    "import net.layers\ndef f(x): return net.layers.act(x) + net.layers.LIMIT",
    "import net.layers as n\ndef f(x): return n.act(x) + n.LIMIT",
    "def f(x):\n    from net import layers\n    return layers.act(x) + layers.LIMIT",
    "def f(x):\n    from net.layers import act, LIMIT\n    return act(x) + LIMIT",
    "def f(x):\n    import net.layers\n    return net.layers.act(x) + net.layers.LIMIT",
    "__package__ = 'net'\ndef f(x):\n    from .layers import act, LIMIT\n    return act(x) + LIMIT",
    "__package__ = 'net'\ndef f(x):\n    from . import layers\n    return layers.act(x) + layers.LIMIT",
]


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("edit", ["LIMIT = 1", "x * SCALE", "SCALE, MORE = 2", "MORE = 2.0, 1"])
def test_modules_that_code_reaches_count(
    reads: str, loaded: bool, edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, new in enumerate((edit, edit, edit + "5")):
        folder = tmp_path / str(number)
        (folder / "net").mkdir(parents=True)
        for name, text in LAYERS.items():
            (folder / name).write_text(text.replace(edit, new), encoding="utf-8")
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder)
            for name in [name for name in sys.modules if name.partition(".")[0] == "net"]:
                patched.delitem(sys.modules, name)
            if loaded:
                importlib.import_module("net.layers")
            users: dict[str, Any] = {"__name__": "users_code"}
            exec(reads, users)
            before = set(sys.modules)
            found.append(Description().of(users["f"]))
            assert {name for name in set(sys.modules) - before if name.startswith("net")} == set(), "nothing is run"
            for name in [name for name in sys.modules if name.partition(".")[0] == "net"]:
                del sys.modules[name]
    assert found[0] == found[1] != found[2]


class Meta(type):
    k = property(lambda cls: 1.0)


class Getter:
    def __init__(self, value: float) -> None:
        self.value = value

    def __get__(self, *_: object) -> float:
        return self.value


class Odds(metaclass=Meta):
    getter: Any = Getter(1.0)
    part: Any = functools.partialmethod(print, 1)
    single: Any = functools.singledispatchmethod(lambda self, x: x)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (Meta, "k", property(lambda cls: 0.5)),
        (Odds, "getter", Getter(2.0)),
        (Odds, "part", functools.partialmethod(print, 2)),
        (Odds, "single", functools.singledispatchmethod(lambda self, x: -x)),
    ],
)
def test_members_of_every_kind_count(cls: type, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Description().of(Odds())
    assert Description().of(Odds()) == before
    monkeypatch.setattr(cls, name, value)
    assert Description().of(Odds()) != before


class Slotted:
    __slots__ = ("__hidden", "shown")

    def __init__(self, hidden: int, shown: int) -> None:
        self.__hidden, self.shown = hidden, shown


class Odd:
    def __init__(self) -> None:
        self.itself, self.missing = self, Slotted.__new__(Slotted)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("nothing is asked of it")


VALUES: list[Any] = [
    slice(3), ..., 1, 1.0, True, "1", b"1", None, 1j, float("nan"), (1,), [1], {1}, frozenset({1}), {1: 2}, {2: 1},
    torch.float16, np.float32(1), np.array(1), torch.tensor(1), torch.tensor(1.0), torch.ones(2), torch.ones(1, 2),
    torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr(), torch.ones(2, device="meta"), torch.ones(2).bfloat16(),
    torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8), torch.complex(torch.ones(2), torch.ones(2)).conj(),
    torch.complex(torch.ones(2), torch.ones(2)), Slotted(1, 2), Slotted(2, 2), Slotted(1, 3), Odd(), int, Slotted, len,
    torch.relu, nn.functional.relu, [].append, collections.deque([1]), types.SimpleNamespace(a=1), Path("a"), os.path,
    functools.partial(len), np.array(["a"], dtype=object), np.array(["b"], dtype=object), nn.ReLU(),
    nn.Linear(1, 1, bias=False), range(3), operator.itemgetter(0), operator.itemgetter(1), operator.attrgetter("a"),
    operator.methodcaller("relu"), operator.methodcaller("tanh"), operator.methodcaller("sum", dim=1), iter([1]),
    iter([2]), array.array("d", [1.0]), array.array("d", [2.0]), array.array("f", [1.0]), memoryview(b"1"),
    memoryview(b"2"), np.random.RandomState(1), np.random.RandomState(2), np.random.PCG64(1), np.random.PCG64(2),
]  # fmt: skip


def test_any_values_are_told_apart_and_known_again() -> None:
    found = [Description().of(value) for value in VALUES]
    assert len(set(found)) == len(found)
    assert [Description().of(value) for value in VALUES] == found


def test_deep_wide_and_circular_data_take_little_time() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep, deep]
    circle: dict[str, Any] = {}
    circle["itself"] = [circle]
    wide = [(str(n), n) for n in range(300_000)]
    for value in (deep, circle, wide, list(range(1_000_000))):
        assert Description().of(value) == Description().of(value)
    assert Description().of([*wide[:-1], ("x", 0)]) != Description().of(wide)


def test_much_data_is_known_by_pieces_its_length_and_its_file(tmp_path: Path) -> None:
    def told(value: Any) -> bytes:
        return Description(1 << 16, files=True, settings=False).of(value)

    large = torch.zeros(1 << 18)
    assert told(large) == told(large.clone()) != told(torch.zeros((1 << 18) + 1))
    assert told(large) != told(torch.cat([large[:-1], torch.ones(1)])) != told(torch.ones(1 << 18))
    file = tmp_path / "x.npy"
    np.save(file, large.numpy())
    before = told(np.load(file, mmap_mode="r"))
    os.utime(file, ns=(1, 1))
    assert told(np.load(file, mmap_mode="r")) != before
    text = tmp_path / "x.txt"
    text.write_text("a", encoding="utf-8")
    known = [told([str(text), 1]), told([str(text), 2])]
    text.write_text("ab", encoding="utf-8")
    assert known[0] == known[1] != told([str(text), 1])


def test_every_item_of_a_long_list_counts(tmp_path: Path) -> None:
    def told(value: Any, settings: bool = False) -> bytes:
        return Description(1 << 30, files=True, settings=settings).of(value)

    rows = [*torch.zeros(20_000, 2)]
    changed = [*rows[:10_001], torch.ones(2), *rows[10_002:]]
    assert told(rows) != told(changed)
    file = tmp_path / "x"
    file.write_bytes(b"1")
    names = ["none"] * 10_001 + [str(file)] + ["none"] * 9_999
    before = [told(names, settings) for settings in (False, True)]
    file.write_bytes(b"12")
    assert told(names) != before[0] and told(names, True) != before[1]
