"""Saving and loading refuse what cannot be: the model, the place and the old file stay as they were."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from coded import SMALL, compressed
from conftest import SmallNet
from lloydmax import checkpoint
from lloydmax.checkpoint import accountings, load, save
from lloydmax.errors import CheckpointError
from safetensors import safe_open
from torch import nn


@pytest.fixture
def saved(small_net, tmp_path):
    path = tmp_path / "small.safetensors"
    save(compressed(small_net, SMALL), path)
    return path


def refuse(path, model, *words):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(CheckpointError) as caught:
        load(path, model)
    assert all(word in str(caught.value) for word in (str(path), *words)), caught.value
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert kinds == [type(module) for module in model.modules()]


def test_another_model(saved):
    wider = SmallNet()
    wider.head[2] = nn.Linear(32, 7)
    refuse(saved, wider, "head.2.bias is (5,) in the file, (7,) in the model", "head.2.weight")
    extra = SmallNet()
    extra.more = nn.Linear(2, 2)
    refuse(saved, extra, "the file lacks more.bias, more.weight")
    fewer = SmallNet()
    fewer.head = fewer.head[:2]
    refuse(saved, fewer, "the model lacks head.2.bias, head.2.weight")
    refuse(saved, nn.Linear(2, 2), "the model lacks bn1.bias", "and 14 more")


def test_models_that_cannot_be_filled(saved, small_net):
    refuse(saved, compressed(small_net, SMALL), "already holds codebooks")
    refuse(saved, SmallNet().double(), "float32 in the file, torch.float64 in the model", "model.to(torch.float32)")
    lazy = SmallNet()
    lazy.stem = nn.LazyConv2d(8, 3, bias=False)
    with pytest.raises(CheckpointError, match="lazy"):
        load(saved, lazy)


def test_models_that_no_file_can_hold(small_net, tmp_path):
    path = tmp_path / "a"
    with pytest.raises(CheckpointError, match="no codebooks"):
        save(small_net, path)
    with pytest.raises(CheckpointError, match="no codebooks"):
        accountings(small_net)
    model = compressed(small_net, SMALL)
    odd = {
        "not an ordinary tensor": torch.zeros(2, 2).to_sparse(),
        "complex128": torch.zeros(2, dtype=torch.complex128),
        "meta device": torch.zeros(2, device="meta"),
    }
    for reason, tensor in odd.items():
        model.register_buffer("odd", tensor)
        with pytest.raises(CheckpointError, match=reason):
            save(model, path)
        del model.odd

    class Stateful(nn.Module):
        def get_extra_state(self):
            return {"count": 3}

    model.extra = Stateful()
    with pytest.raises(CheckpointError, match="Stateful.*extra_state"):
        save(model, path)
    del model.extra
    tensors = model.stem.codebooks["weight"]
    tensors.centroids[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'stem.weight' has NaN"):
        save(model, path)
    tensors.centroids[0] = 0
    tensors.codes.view(-1)[3] = 200
    with pytest.raises(CheckpointError, match=r"'stem.weight' has codes 0 .. 200 for 5"):
        save(model, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", [{"x": float("nan")}, {"x": {1, 2}}, {"x": object()}])
def test_a_recipe_that_is_no_json(small_net, tmp_path, recipe):
    with pytest.raises(CheckpointError, match="not plain JSON"):
        save(compressed(small_net, SMALL), tmp_path / "a", recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", [{"floats": "int8"}, {"codes": "zip"}, {"flots": "float16"}])
def test_unknown_storage(small_net, tmp_path, storage):
    with pytest.raises(CheckpointError, match="storage"):
        save(compressed(small_net, SMALL), tmp_path / "a", None, storage)


def test_places_where_nothing_can_be_written(small_net, tmp_path):
    model = compressed(small_net, SMALL)
    (tmp_path / "file").write_bytes(b"")
    for path, reason in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "a", "folder .* does not exist"),
        (tmp_path / "file" / "a", "does not exist"),
        (tmp_path / ("a" * 300), "too long"),
    ):
        with pytest.raises(CheckpointError, match=reason) as caught:
            save(model, path)
        assert str(caught.value).startswith(str(path))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_failed_save_leaves_the_old_file(small_net, saved, monkeypatch):
    before = saved.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(compressed(small_net, {"stem.weight": (2, "tensor")}), saved)
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(compressed(small_net, {"stem.weight": (2, "tensor")}), saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_full_disk(tmp_path):
    script = """
import resource, sys, torch
from torch import nn
from lloydmax import checkpoint
from lloydmax.codebook.codebook import Codebook
from lloydmax.student.attachment import attach
model = nn.Sequential(nn.Linear(9, 9), nn.Linear(500, 500))
attach(model, "0.weight", Codebook(torch.zeros(2), torch.zeros(9, 9, dtype=torch.uint8)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(model, sys.argv[1])
except checkpoint.CheckpointError as error:
    print(error)
"""
    path = tmp_path / "a.safetensors"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(path)) and "too large" in done.stdout.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folded", "baked", "int8"])
@pytest.mark.parametrize("part", [".codes", ".codebook", "bias"])
def test_a_damaged_file_leaves_the_architecture_as_it_is(kind: str, part: str, tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        first = nn.Conv1d(3, 8, 3)
        first = nn.utils.parametrizations.weight_norm(first) if kind == "baked" else first
        made = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 1))
        made[1].running_mean.normal_()
        return made.eval()

    x, path = torch.randn(32, 3, 9), tmp_path / "net.safetensors"
    recipe: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 4}]}
    recipe |= {"recover": [{"step": "fold_batch_norm"}]} if kind != "int8" else {"activations": {"bits": 8}}
    lloydmax.compress(net(), recipe, x, progress=False).save(path)
    with safe_open(path, "pt") as file:
        name = max(key for key in file.keys() if key.endswith(part))  # noqa: SIM118
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    start = json.loads(raw[8 : 8 + length])[name]["data_offsets"][0]
    raw[8 + length + start] ^= 1
    path.write_bytes(raw)
    model = net().train()
    before, kinds = {n: v.clone() for n, v in model.state_dict().items()}, [type(m) for m in model.modules()]
    with pytest.raises(CheckpointError, match="damaged"):
        lloydmax.load(path, model)
    assert [type(m) for m in model.modules()] == kinds and model.training
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
