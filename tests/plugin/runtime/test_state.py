"""State files: what is written comes back exactly, nothing else is believed, nothing in them runs."""

from __future__ import annotations

import os
import pickle
import random
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lloydmax.errors import OutputError, RecoveryError
from lloydmax.runtime import state
from torch import nn


class Level(IntEnum):
    LOW = 1


def _optimizer() -> dict[str, Any]:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, betas=(0.9, 0.99))
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def _state() -> dict[str, Any]:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(3))
    return {
        "tensors": [
            torch.randn(3, 4).t(), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.tensor(3),
            torch.tensor([True, False]), torch.randn(4).bfloat16(), torch.randn(4).half(), torch.randn(2).double(),
            torch.randn(2, dtype=torch.complex128).conj(), torch.randn(2, dtype=torch.complex64), torch.zeros(0, 3),
            torch.randn(4).to(torch.float8_e4m3fn), torch.tensor([1], dtype=torch.uint16), torch.ones(3).expand(2, 3),
            torch.arange(10)[::2], torch.tensor([float("nan"), -0.0, float("inf")]), torch.tensor([2**62 + 1]),
        ],
        "tied": (parameter, parameter.detach()),
        "numbers": [1, -0.0, 0.1, 2**80, float("inf"), -float("inf"), 5e-324, True, None, Level.LOW],
        "text": ["", "ü\n\ud800", b"\x00\xff"],
        "nested": ((1, (2,)), [[]], {}, {1: "a", None: "b", ("x", 2): "c", "1": "d"}),
        "numpy": [np.random.get_state(), np.float64(0.1), np.zeros((0, 2)), np.array(["ab"]),
                  np.arange(6).reshape(2, 3).T],
        "python": random.getstate(),
        "optimizer": _optimizer(),
        "ordered": OrderedDict(a=1),
        "dtype": torch.bfloat16,
    }  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        plain = [t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).tolist() for t in (one, other)]
        return plain[0] == plain[1] and (one.dtype, one.shape) == (other.dtype, other.shape)
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, dict):
        return isinstance(other, dict) and _same([*one.items()], [*other.items()])
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return repr(one) == repr(other) or (isinstance(one, IntEnum) and one == other)


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    given = _state()
    state.write(tmp_path / "a.state", given)
    found = state.read(tmp_path / "a.state")
    assert _same(given, found)
    assert found["tied"][0] is found["tied"][1]
    assert found["tensors"][1].is_contiguous(memory_format=torch.channels_last)
    assert _same(given, state.loads(state.dumps(given)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]
    state.write(tmp_path / "b.state", given)
    state.write(tmp_path / "b.state", _state())
    assert (tmp_path / "b.state").read_bytes()[90:] == (tmp_path / "a.state").read_bytes()[90:]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    state.write(path, {"x": 1})
    for odd in ({"x": object()}, [torch.ones(2, device="meta")], {"deep": torch.eye(2).to_sparse()}):
        with pytest.raises(RecoveryError, match=r"a\.state.*cannot be kept in a state"):
            state.write(path, odd)
    assert state.read(path) == {"x": 1}
    with pytest.raises(OutputError, match="the state of the run cannot be kept"):
        state.write(tmp_path / "missing" / "a.state", {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.state"]


def test_every_flipped_bit_and_every_cut_is_told_and_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    state.write(path, {"x": torch.arange(5.0), "y": [0.5, None]})
    whole = path.read_bytes()
    damaged = [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))]
    for content in (*damaged, *(whole[:n] for n in range(0, len(whole), 5)), whole + b"\0", b"", b"\n" * 99):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"a\.state: .*set aside as a\.state\.damaged, and the work is done again"):
            assert state.read(path) is None
        assert not path.exists() and (tmp_path / "a.state.damaged").read_bytes() == content


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("kind", ["pickle", "torch", "old", "moved", "folder", "pipe", "nowhere"])
def test_what_is_no_state_of_ours_is_never_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.state"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind in ("torch", "old"):
        torch.save(Bomb() if kind == "torch" else {"x": torch.ones(2)}, path)
    elif kind == "moved":
        state.write(tmp_path / "b.state", {"x": 1})
        (tmp_path / "b.state").rename(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("there are no pipes in folders here")
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.warns(UserWarning, match="set aside"):
        assert state.read(path) is None
    assert not os.path.lexists(path) and not (tmp_path / "exploded").exists()
    assert state.read(path) is None and state.read(None) is None


def test_a_forged_state_costs_no_more_than_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    for line in (
        b'["tensor","torch.float32",[1099511627776],[1],0]', b'["tensor","torch.float32",[2],[4611686018427387904],0]',
        b'["tensor","torch.float32",[2],[1],9]', b'["tensor","torch.nothing",[2],[1],0]', b"[" * 100_000, b"{}", b"x",
        b'["tensor","torch.int8",[-2],[1],0]', b'["dict",[[["list",[]],1]]]', b"0.5", b"NaN",
        b'["array","|O8",[1],["tensor","torch.uint8",[8],[1],0]]', b'["float","0x1p99999"]',
        b'["array","<f4",[1],"x"]', b'["tensor","torch.float32",[2],[1,1],0]', b'["tensor","torch.float32",[],[1],0]',
        b'["tensor","torch.float32",[1.5],[1],0]', b'["array","((((",[1],["tensor","torch.uint8",[4],[1],0]]',
    ):  # fmt: skip
        digest = state._digest(path)
        digest.update(line + b"\n" + b"\0" * 8)
        path.write_bytes(state._FORMAT + digest.hexdigest().encode() + b"\n" + line + b"\n" + b"\0" * 8)
        with pytest.warns(UserWarning, match="set aside"):
            assert state.read(path) is None
