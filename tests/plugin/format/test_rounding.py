"""Narrower floating-point numbers: where they fit, and what stays wide."""

import copy

import torch
from coded import SMALL, compressed
from conftest import SmallNet
from lloydmax.checkpoint import fits, load, round_floats, save
from safetensors.torch import load_file


def test_fits():
    half, brain = torch.float16, torch.bfloat16
    assert fits(torch.randn(100), half) and fits(torch.randn(100), brain)
    assert fits(torch.zeros(3), half) and fits(torch.zeros(0), half)
    assert not fits(torch.tensor([7e4, 1.0]), half) and fits(torch.tensor([7e4, 1.0]), brain)
    assert not fits(torch.tensor([1e-7, 1.0]), half), "a small variance would change by more than a thousandth"
    assert fits(torch.tensor([1e-7, -1.0]), half), "against the largest magnitude the error is nothing"
    assert not fits(torch.tensor([1e-7, -2e-7]), half)
    assert not fits(torch.tensor([1.0, float("nan")]), half) and not fits(torch.tensor([float("inf")]), half)


def test_rounding_keeps_what_does_not_fit(small_net, tmp_path):
    with torch.no_grad():
        small_net.bn1.running_var.fill_(1e-7)
        small_net.bn2.bias[0] = 1e6
    model = compressed(small_net, SMALL, {"floats": "float16"})
    save(model, tmp_path / "a.safetensors", storage={"floats": "float16"})
    stored = load_file(tmp_path / "a.safetensors")
    assert stored["bn1.running_var"].dtype == stored["bn2.bias"].dtype == torch.float32
    assert stored["bn1.weight"].dtype == stored["stem.weight.codebook"].dtype == torch.float16


def test_saving_never_rounds(small_net, tmp_path, pictures):
    model = compressed(small_net, SMALL)
    with torch.no_grad():
        model.bn1.weight[0] = 1.0 + 2**-20
    save(model, tmp_path / "a.safetensors", storage={"floats": "float16"})
    assert torch.equal(load(tmp_path / "a.safetensors", SmallNet().eval())(pictures), model(pictures))


def test_rounding_refreshes_what_was_decoded(small_net, pictures):
    model = compressed(small_net, SMALL)
    before = model(pictures)
    round_floats(model, {"floats": "float16"})
    after = model(pictures)
    assert not torch.equal(before, after)
    assert torch.equal(after, copy.deepcopy(model)(pictures))
