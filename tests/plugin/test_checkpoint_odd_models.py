"""Files of models that are legal, but not as models usually are."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import pytest
import torch
from file_anatomy import mutant
from golden_models import CASES
from lloydmax import CheckpointError
from lloydmax.student import attachment
from torch import Tensor, nn
from torch.nn.utils import parametrizations

RECIPE = {"version": 1, "quantize": [{"layers": "all", "centroids": 2}]}


def test_the_whole_model_is_looked_through_once_for_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    for name in ("owners", "promote"):
        found = getattr(attachment, name)
        monkeypatch.setattr(attachment, name, lambda *given, f=found, n=name: (looked.append(n), f(*given))[1])
    net, path = nn.Sequential(*[nn.Linear(3, 3) for _ in range(20)]), tmp_path / "deep.safetensors"
    lloydmax.compress(net, RECIPE, progress=False).save(path)
    assert sorted(looked) == ["owners", "promote"]
    lloydmax.load(path, net)
    assert sorted(looked) == ["owners", "owners", "promote", "promote"]


def test_a_spectral_norm_in_training_mode_is_left_alone_by_a_refused_file(tmp_path: Path) -> None:
    path, name = tmp_path / "folded.safetensors", "0.weight"
    path.write_bytes(mutant({"seed": "folded", "steps": [["delete", ["parameters", name]]], "raw": []}))
    model = CASES["folded"].fresh()
    parametrizations.spectral_norm(model.get_submodule("0"))
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with pytest.raises(CheckpointError):
        lloydmax.load(path, model)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.named_buffers())


class Expanded(nn.Module):
    """A buffer whose elements are all in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(1).expand(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


def test_a_buffer_whose_elements_share_memory(tmp_path: Path) -> None:
    path, x = tmp_path / "a.safetensors", torch.randn(2, 4)
    model = lloydmax.compress(Expanded().eval(), RECIPE, progress=False).model
    model.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    lloydmax.save(model, path)
    assert torch.equal(lloydmax.load(path, Expanded())(x), model(x))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    target = Expanded()
    with pytest.raises(CheckpointError):
        lloydmax.load(path, target)
    assert target.scale.stride() == (0,)


def test_a_layer_with_modules_inside_keeps_them(tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        net[0].add_module("inside", nn.BatchNorm1d(8))
        return net.eval()

    model, path, x = lloydmax.compress(network(), RECIPE, progress=False).model, tmp_path / "a", torch.randn(2, 8)
    assert "0.inside.running_mean" in model.state_dict()
    lloydmax.save(model, path)
    assert torch.equal(lloydmax.load(path, network())(x), model(x))


def test_the_name_that_safetensors_keeps_for_itself() -> None:
    net = nn.Sequential(nn.Linear(8, 8))
    net.register_buffer("__metadata__", torch.arange(3.0))
    with pytest.raises(CheckpointError, match="'__metadata__' is a name that .* keeps for itself: rename the tensor"):
        lloydmax.compress(net, RECIPE, progress=False)


def test_an_int8_file_of_0_1_whose_recipe_has_numbers_in_quotes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x, path = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(16, 8), tmp_path / "a.safetensors"
    rule = {"layers": "all", "quantizer": "uniform"}
    recipe = {"version": 1, "quantize": [rule], "activations": {"samples": 8}}
    model = lloydmax.compress(net, recipe, x, progress=False).model
    old = recipe | {"name": "a\tb", "quantize": [rule | {"bits": "8"}], "activations": {"samples": "8"}, "seed": "3"}
    lloydmax.save(model, path, recipe=old)
    loaded = lloydmax.load(path, net)
    assert torch.equal(loaded(x), model(x))
    lloydmax.save(loaded, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()
