"""Tied parameters and modules: stored once, tied again when loaded, contradictions refused."""

import copy

import pytest
import torch
from coded import TEXT, TOKENS, compressed
from conftest import TextNet
from lloydmax import checkpoint
from lloydmax.checkpoint import contents, load, save
from lloydmax.errors import CheckpointError
from torch import nn


def test_ties_attention_and_recurrence(text_net, tmp_path):
    model = compressed(text_net, TEXT)
    path = tmp_path / "text.safetensors"
    save(model, path)
    assert checkpoint.inspect(path).tied == {"out.weight": "embed.weight"}
    loaded = load(path, TextNet().eval())
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert contents(loaded)[1] == {"out.weight": "embed.weight"}
    save(loaded, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_ties_of_uncompressed_parameters_and_of_whole_modules(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.bias = self.a.bias
            self.again = self.c

        def forward(self, x):
            return self.again(self.b(self.c(self.a(x))))

    model = compressed(Net(), {"a.weight": (4, "tensor"), "c.weight": (3, "tensor")})
    path = tmp_path / "net.safetensors"
    save(model, path)
    found = checkpoint.inspect(path)
    ties = {"b.bias": "a.bias", "again.weight": "c.weight", "again.bias": "c.bias"}
    assert found.tied == ties and [item.name for item in found.tensors] == ["a.bias", "b.weight", "c.bias"]
    loaded = load(path, Net())
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), model(x)) and contents(loaded)[1] == ties


def test_a_tie_between_a_module_that_is_replaced_and_one_that_is_not(tmp_path):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    def net():
        model = nn.Sequential(nn.Linear(4, 4), Own(4, 4))
        model[1].weight = model[0].weight
        return model

    model = compressed(net(), {"0.weight": (3, "tensor")})
    save(model, tmp_path / "a.safetensors")
    assert checkpoint.inspect(tmp_path / "a.safetensors").tied == {"1.weight": "0.weight"}
    apart = copy.deepcopy(model)
    apart[1].parametrizations.weight[0].codes = apart[1].parametrizations.weight[0].codes.clone()
    save(apart, tmp_path / "b.safetensors")
    assert checkpoint.inspect(tmp_path / "b.safetensors").tied == {}
    x = torch.randn(5, 4)
    for name in ("a", "b"):
        assert torch.equal(load(tmp_path / f"{name}.safetensors", net())(x), model(x))


def test_a_file_with_ties_loads_into_a_model_without(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    model = compressed(model, {"0.weight": (3, "tensor")})
    save(model, tmp_path / "a.safetensors")
    x = torch.randn(5, 4)
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert torch.equal(load(tmp_path / "a.safetensors", fresh)(x), model(x))


def test_a_model_with_ties_that_the_file_contradicts(tmp_path):
    for names in ({"0.weight": (3, "tensor")}, {"0.bias": (3, "tensor"), "1.bias": (2, "tensor")}):
        model = compressed(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), names)
        save(model, tmp_path / "a.safetensors")
        fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        fresh[1].weight, fresh[1].bias = fresh[0].weight, fresh[0].bias
        with pytest.raises(CheckpointError, match=r"1.weight and 0.weight are one in the model"):
            load(tmp_path / "a.safetensors", fresh)
