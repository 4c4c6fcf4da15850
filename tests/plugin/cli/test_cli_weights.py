"""Files of weights as trainers and wrappers write them, and files that are none."""

from __future__ import annotations

import json
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


class Varied(nn.Module):
    """A tied embedding, a batch norm, an integer table, a complex one, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.norm, self.o = nn.Embedding(7, 4), nn.BatchNorm1d(4), nn.Linear(4, 7, bias=False)
        self.o.weight = self.e.weight
        self.register_buffer("index", torch.arange(4))
        self.register_buffer("phase", torch.ones(3, dtype=torch.complex64))
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))


def changed(**values: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {k: values[k.replace(".", "_")](v) if k.replace(".", "_") in values else v
                          for k, v in state.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (changed(norm_weight=Tensor.to_sparse), r"1 of another layout \['norm.weight \(sparse_coo\)'\]"),
        (changed(norm_bias=lambda t: t.to("meta")), r"1 without values \(on the meta device\) \['norm.bias'\]"),
        (changed(e_weight=lambda t: t + 1), r"1 unlike what they are tied to \['o.weight, unlike e.weight'\]"),
        (changed(norm_bias=lambda t: t.int()), r"1 of another dtype \['norm.bias int32, not float32'\]"),
        (changed(norm_bias=lambda t: t.to(torch.complex64)), r"'norm.bias complex64, not float32'"),
        (changed(norm_bias=lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)), "norm.bias qint8"),
        (changed(index=lambda t: t + 0.5), "'index float32, not int64'"),
        (changed(index=lambda t: t.float() * float("nan")), "'index float32, not int64'"),
        (changed(mask=lambda t: t.float()), "'mask float32, not bool'"),
    ],
)
def test_what_a_tensor_cannot_hold_is_named_and_nothing_is_loaded(
    written: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    net, other = Varied(), Varied()
    torch.save(written(other.state_dict()), tmp_path / "weights.pt")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_weights(net, tmp_path / "weights.pt")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "written",
    [
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        changed(e_weight=Tensor.double, norm_bias=Tensor.bfloat16), changed(norm_num_batches_tracked=Tensor.float),
        changed(phase=lambda t: t.real), changed(index=Tensor.int),
        lambda state: {name: value for name, value in state.items() if name != "e.weight"},
    ],
)  # fmt: skip
def test_what_a_tensor_can_hold_is_taken(written: Callable[[State], State], tmp_path: Path) -> None:
    net, other = Varied(), Varied()
    torch.save(written(other.state_dict()), tmp_path / "weights.pt")
    load_weights(net, tmp_path / "weights.pt")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_model_that_refuses_what_fits_is_left_as_it_was(tmp_path: Path) -> None:
    class Refusing(SmallNet):
        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                self.stem.weight.zero_()
            args[-1].append("it is Monday")

    torch.save(SmallNet().state_dict(), tmp_path / "weights.pt")
    net = Refusing()
    before = net.stem.weight.clone()
    with pytest.raises(ModelError, match="for Refusing: it is Monday"):
        load_weights(net, tmp_path / "weights.pt")
    assert torch.equal(net.stem.weight, before) and bool(before.any())


@pytest.mark.parametrize("prefix", ["model.", "net.encoder.", "module.model."])
def test_entries_beside_the_prefix_of_the_model_are_left_out_and_named(
    prefix: str, small_net: SmallNet, tmp_path: Path
) -> None:
    others = {"metric.x": torch.ones(2), "criterion.weight": torch.ones(10), "n_averaged": torch.tensor(3)}
    torch.save({"state_dict": {**others, **prefixed(prefix)(small_net.state_dict())}}, tmp_path / "weights.pt")
    fresh = SmallNet()
    with pytest.warns(
        UserWarning, match=r"'state_dict\.[a-z.]+' in it is taken; left out: metric.x, criterion.weight$"
    ):
        load_weights(fresh, tmp_path / "weights.pt")
    assert all(torch.equal(value, small_net.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_entries_under_the_prefix_that_are_not_the_model_s_are_named_shortly(tmp_path: Path) -> None:
    state = prefixed("model.")(SmallNet().state_dict())
    torch.save({"state_dict": {**state, "model.more": torch.ones(2), "loss.x": torch.ones(2)}}, tmp_path / "weights.pt")
    with pytest.raises(
        ModelError, match=r"\('state_dict.model' in it\) does not fit SmallNet: 1 unexpected \['more'\]$"
    ):
        load_weights(SmallNet(), tmp_path / "weights.pt")


def test_two_prefixes_that_fit_are_refused(tmp_path: Path) -> None:
    state = SmallNet().state_dict()
    torch.save({**prefixed("student.")(state), **prefixed("teacher.")(state)}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="'student' and 'teacher' in it fit SmallNet: save the one"):
        load_weights(SmallNet(), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors", "weights"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 64, b"PK\3\4" + b"\0" * 40, b"\x80\x02.", None])
def test_files_that_are_no_weights_are_refused_in_one_line(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_weights(nn.Linear(3, 4), path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_index_names_the_files_of_the_weights(tmp_path: Path) -> None:
    state = SmallNet().state_dict()
    parts = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    names = {name: f"{number}.safetensors" for number, part in enumerate(parts) for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    load_weights(net := SmallNet(), index)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    index.write_text(json.dumps({"weight_map": {"a": "../secret.pt"}}))
    with pytest.raises(ModelError, match=r"'\.\./secret\.pt', which is not a file beside it"):
        load_weights(SmallNet(), index)


def test_a_pickled_model_is_told_with_the_cure(tmp_path: Path) -> None:
    torch.save(SmallNet(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"whole model.*SmallNet.*torch\.save\(model\.state_dict\(\), path\)$"):
        load_weights(SmallNet(), tmp_path / "net.pt")
