"""Files of weights as trainers and wrappers write them, and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallNet
from lloydmax.cli.weights import ModelError, load_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

State = dict[str, Any]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def averaged(state: State) -> State:
    net = SmallNet()
    net.load_state_dict(state)
    return {"epoch": 3, "ema": AveragedModel(net).state_dict()}


@pytest.mark.parametrize(
    "written",
    [
        prefixed(""), prefixed("module."), prefixed("_orig_mod."), prefixed("module._orig_mod."), prefixed("model."),
        prefixed("_orig_mod.model.module."), prefixed("encoder.net."), averaged,
        lambda state: {"state_dict": prefixed("model.")(state), "epoch": 7, "optimizer": {"state": {}, "lr": 0.1}},
        lambda state: {"model": prefixed("module.")(state), "args": {"lr": 0.1}},
        lambda state: {"model_state_dict": state}, lambda state: {"net": state, "acc": 0.9},
        lambda state: {"checkpoint": 1, "model": {"state_dict": state}},
        lambda state: {name.replace("head.", "head.module."): value for name, value in state.items()},
    ],
)  # fmt: skip
def test_what_fits_exactly_is_loaded(written: Callable[[State], State], small_net: SmallNet, tmp_path: Path) -> None:
    torch.save(written(small_net.state_dict()), tmp_path / "weights.pt")
    fresh = SmallNet()
    load_weights(fresh, tmp_path / "weights.pt")
    assert all(torch.equal(value, small_net.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_names_that_begin_like_a_prefix_stay(tmp_path: Path) -> None:
    net = nn.ModuleDict({"model": nn.Linear(3, 4), "module_": nn.Linear(3, 3)})
    inside = nn.Sequential(net)
    for state in (net.state_dict(), prefixed("0.")(net.state_dict())):
        save_file(state, tmp_path / "weights.safetensors")
        load_weights(net, tmp_path / "weights.safetensors")
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"does not fit Sequential: 4 missing .*4 unexpected"):
        load_weights(inside, tmp_path / "weights.safetensors")


def test_a_wrapped_model_takes_bare_names(small_net: SmallNet, tmp_path: Path) -> None:
    torch.save(small_net.state_dict(), tmp_path / "weights.pt")
    wrapped = nn.DataParallel(SmallNet())
    load_weights(wrapped, tmp_path / "weights.pt")
    assert torch.equal(wrapped.module.stem.weight, small_net.stem.weight)


def test_of_two_that_fit_the_first_is_taken_and_told(small_net: SmallNet, tmp_path: Path) -> None:
    torch.save({"ema": SmallNet().state_dict(), "model": small_net.state_dict()}, tmp_path / "weights.pt")
    fresh = SmallNet()
    with pytest.warns(UserWarning, match="'model' and 'ema' in it fit; 'model' is taken"):
        load_weights(fresh, tmp_path / "weights.pt")
    assert torch.equal(fresh.stem.weight, small_net.stem.weight)


def test_tied_parameters_need_one_name(tmp_path: Path) -> None:
    def net() -> nn.Module:
        made = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
        made[1].weight = made[0].weight
        return made

    save_file({"0.weight": torch.ones(7, 4)}, tmp_path / "weights.safetensors")
    made = net()
    load_weights(made, tmp_path / "weights.safetensors")
    assert bool((made[1].weight == 1).all())


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"weight": torch.ones(4, 3), "bias": torch.ones(5)}, r"1 of another shape \['bias \(5,\), not \(4,\)'\]"),
        ({"state_dict": {"weight": torch.ones(4, 3)}}, r"\('state_dict' in it\) does not fit Linear: 1 missing"),
        ({"x.weight": torch.ones(4, 3), "y.bias": torch.ones(4)}, r"2 missing .* 2 unexpected"),
        ({"a": {"b": 1}}, "holds no state dict"),
        ([torch.ones(3)], "holds no state dict"),
        ({}, "holds no state dict"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_loaded(held: Any, message: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "weights.pt")
    net = nn.Linear(3, 4)
    before: list[Tensor] = [p.clone() for p in net.parameters()]
    with pytest.raises(ModelError, match=message) as error:
        load_weights(net, tmp_path / "weights.pt")
    assert "weights.pt" in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors", "weights"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 64, b"PK\3\4" + b"\0" * 40, b"\x80\x02.", None])
def test_files_that_are_no_weights_are_refused_in_one_line(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_weights(nn.Linear(3, 4), path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
