"""Parameters that a module computes from others become ordinary ones in the student, and the caller's stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lloydmax
import pytest
import torch
from lloydmax import IntegrationError
from lloydmax.integrations.computed import refuse_computed
from lloydmax.network.baking import computed, copied
from lloydmax.network.private import private
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune


class Symmetric(nn.Module):
    """A parametrization of the user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.mT) / 2


class New(nn.Module):
    """Parametrizations; (N, 8, 9) -> (N, 16)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = parametrizations.weight_norm(nn.Conv1d(8, 16, 3))
        self.b = parametrizations.spectral_norm(nn.Conv1d(16, 16, 3))
        self.c, self.d = parametrizations.orthogonal(nn.Linear(16, 16)), nn.Linear(16, 16, bias=False)
        parametrize.register_parametrization(self.d, "weight", Symmetric())
        self.rnn = parametrizations.weight_norm(nn.LSTM(16, 16, batch_first=True), "weight_hh_l0")

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.d(self.c(self.b(self.a(x).relu()).relu().mT)))[0][:, -1]


class Old(nn.Module):
    """Hooks that compute weights; a masked one of a norm, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.utils.weight_norm(nn.Conv1d(8, 16, 3)), nn.utils.spectral_norm(nn.Conv1d(16, 16, 3))
        self.c, self.d = nn.Linear(16, 16), nn.utils.weight_norm(nn.Linear(16, 16, bias=False))
        for module, leaf in ((self.c, "weight"), (self.c, "weight"), (self.c, "bias"), (self.d, "weight_v")):
            prune.random_unstructured(module, leaf, 0.4)
        self.rnn = nn.utils.weight_norm(nn.LSTM(16, 16, batch_first=True), "weight_hh_l0")

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.d(self.c(self.b(self.a(x).relu()).relu().mT)))[0][:, -1]


NETS = pytest.mark.parametrize("kind", [New, Old])
WEIGHTS = ("a.weight", "b.weight", "c.weight", "d.weight", "rnn.weight_hh_l0")
RECIPE = {
    "quantize": [{"layers": "all", "centroids": 8}, {"layers": "rnn", "parameter": "weight_hh_l0", "centroids": 8}],
    "trainable": ["all"],
    "recover": [{"step": "distill", "steps": 4, "batch_size": 16, "codes": "learn"}],
}


def trained(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """A network after a step of training, whose modules keep what they computed with its history."""
    torch.manual_seed(0)
    net, x = kind(), torch.randn(48, 8, 9)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(x).square().sum().backward()
    optimizer.step()
    net(x)
    return net, x


@NETS
def test_the_same_outputs_from_ordinary_parameters(kind: type[nn.Module]) -> None:
    net, x = trained(kind)
    net.c.requires_grad_(False)
    assert set(WEIGHTS) <= set(computed(net))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    kinds = [type(module) for module in net.modules()]
    expected = net.eval()(x)
    net.train()
    baked = private(net)
    parameters = dict(baked.named_parameters())
    assert not computed(baked) and set(WEIGHTS) <= set(parameters)
    assert parameters["a.weight"].requires_grad and not parameters["c.weight"].requires_grad
    assert torch.equal(baked.eval()(x), expected) and baked.rnn.bias_ih_l0.data_ptr() == net.rnn.bias_ih_l0.data_ptr()
    assert net.training and [type(module) for module in net.modules()] == kinds
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(net.eval()(x), expected) and private(baked) is baked


@NETS
def test_a_copy_has_tensors_of_its_own(kind: type[nn.Module]) -> None:
    net, x = trained(kind)
    expected = net.eval()(x)
    twin = copied(net).eval()
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        [p.zero_() for p in twin.parameters()]
    assert torch.equal(net(x), expected)


@NETS
def test_compressed_and_loaded_into_the_original_architecture(kind: type[nn.Module], tmp_path: Path) -> None:
    net, x = trained(kind)
    plan = lloydmax.plan(net, RECIPE)
    assert set(plan.parameters) == set(WEIGHTS) and any("a.weight (WeightNorm)" in note for note in plan.notes)
    result = lloydmax.compress(net, RECIPE, x, progress=False)
    result.save(tmp_path / "net.safetensors")
    for fresh in (kind(), private(kind())):
        loaded = lloydmax.load(tmp_path / "net.safetensors", fresh)
        assert set(lloydmax.codebooks(loaded)) == set(WEIGHTS) and torch.equal(loaded(x), result.model(x))
    assert computed(net) == computed(kind())


def test_recipe_search_and_folding_see_ordinary_parameters() -> None:
    net, x = trained(Old)
    named = {name for rule in lloydmax.recipe_for(net, 8).quantize for name in rule.selectors}
    assert named == {"all", "rnn"}
    recipe = {"quantize": [{"layers": "all", "centroids": [2, 4]}]}
    found = lloydmax.search(net, recipe, x, {"bits": 1.5}).recipe
    assert set(lloydmax.plan(net, found).parameters) == set(WEIGHTS[:4])
    normed = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(8, 8, 3)), nn.BatchNorm1d(8)).eval()
    recipe = {"quantize": [{"layers": "all", "centroids": 2}], "recover": [{"step": "fold_batch_norm"}]}
    assert isinstance(lloydmax.compress(normed, recipe, progress=False).model[1], nn.Identity)


@pytest.mark.parametrize(
    ("made", "cure"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), r"remove_parametrizations\(model.0, 'weight'\)"),
        (lambda: nn.utils.weight_norm(nn.Linear(4, 4)), r"remove_weight_norm\(model.0\)"),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), r"remove_spectral_norm\(model.0\)"),
        (lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), r"prune.remove\(model.0, 'weight'\)"),
    ],
)
def test_a_host_is_told_how_to_bake(made: Callable[[], nn.Module], cure: str) -> None:
    net = nn.Sequential(made(), nn.Linear(4, 4))
    plan = lloydmax.plan(net, {"quantize": [{"layers": "all", "centroids": 4}]})
    with pytest.raises(IntegrationError, match=rf"0\.weight is computed by .*{cure}"):
        refuse_computed(net, plan, "torchao")
    refuse_computed(net, lloydmax.plan(net, {"quantize": [{"layers": "1", "centroids": 4}]}), "torchao")
