"""Merged norms: the same function in two numbers a channel."""

import copy

import pytest
import torch
from lloydmax.codebook.codebook import Codebook
from lloydmax.network.merging import merge_norms, mergeable
from lloydmax.student.attachment import attach
from torch import nn


def test_merged_norms_compute_the_same(small_net, pictures):
    with torch.no_grad():
        for norm in (small_net.bn1, small_net.bn2):
            norm.weight.uniform_(-2, 2), norm.bias.normal_()
    merged = copy.deepcopy(small_net)
    merge_norms(merged)
    assert torch.allclose(merged(pictures), small_net(pictures), atol=1e-6)
    assert not merged.bn1.running_mean.any() and (merged.bn1.running_var == 1).all()
    state = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    merge_norms(merged)
    assert all(torch.equal(tensor, state[name]) for name, tensor in merged.state_dict().items())


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.1, 2.0])
def test_a_merged_norm_computes_the_same_whatever_its_epsilon(eps):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=eps).eval()
    with torch.no_grad():
        norm.weight.uniform_(-2, 2), norm.bias.normal_()
        norm.running_mean.normal_(), norm.running_var.uniform_(0.1, 3)
    model, x = nn.Sequential(norm), torch.randn(5, 6, 4, 4)
    wanted = norm(x)
    merge_norms(model)
    assert (norm.running_var == 1).all() and norm.eps == eps
    torch.testing.assert_close(norm(x), wanted, rtol=1e-5, atol=1e-6)


def test_norms_that_stay_as_they_are():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + self.running_mean[:, None, None]

    model = nn.ModuleDict(
        {
            "plain": nn.BatchNorm2d(4, affine=False),
            "batch": nn.BatchNorm2d(4, track_running_stats=False),
            "own": Own(4),
            "coded": nn.BatchNorm2d(4),
            "tied": nn.BatchNorm2d(4),
            "other": nn.BatchNorm2d(4),
            "tiny": nn.BatchNorm2d(4, eps=0.0),
            "good": nn.BatchNorm1d(4),
        }
    )
    model["tied"].weight = model["other"].weight
    for norm in model.values():
        if norm.running_mean is not None:
            norm.running_mean.normal_()
    model["tiny"].running_var.fill_(0), model["good"].running_var.fill_(2)
    attach(model, "coded.weight", Codebook(torch.tensor([1.0]), torch.zeros(4, dtype=torch.uint8)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_norms(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"good.running_mean", "good.running_var", "good.weight", "good.bias"}
    assert set(mergeable(model)) == {"tiny", "good"}
