"""Importances: the curvature of the distillation loss, and the second moments of inputs."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import RecoveryError
from lloydmax.data import unlabelled
from lloydmax.teacher.trial import trial
from lloydmax_strategies.importances import Fisher, Inputs
from torch import Tensor, nn


def measured(kind: type, model: nn.Module, names: list[str], data: Tensor, **options: int) -> dict[str, Tensor]:
    """What an importance measures."""
    return kind(kind.Options(**options)).measure(model, names, unlabelled(data, model))


def test_fisher_is_the_curvature_of_the_distillation_loss() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 4, bias=False)), torch.randn(4000, 6)
    found = measured(Fisher, model, ["0.weight"], data, samples=4000)["0.weight"]
    share = model(data).softmax(1).detach()
    exact = (share * (1 - share)).T @ data.square() / len(data)
    assert torch.allclose(found, exact, rtol=0.25)
    assert torch.allclose(found.mean(), exact.mean(), rtol=0.05)


def test_fisher_of_outputs_without_classes_is_that_of_the_squared_difference() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 1, bias=False)), torch.randn(3000, 6) * torch.arange(1.0, 7.0)
    found = measured(Fisher, model, ["0.weight"], data, samples=3000)["0.weight"]
    assert torch.allclose(found, data.square().mean(0)[None], rtol=0.25)


def test_fisher_passes_over_samples_without_a_derivative() -> None:
    class Size(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layer(x).square().sum(1, keepdim=True).sqrt()
            return found

    torch.manual_seed(0)
    model, data = Size(), torch.randn(24, 4)
    silent = torch.cat([data, torch.zeros(8, 4)])
    found, usual = (measured(Fisher, model, ["layer.weight"], x, batch_size=1)["layer.weight"] for x in (silent, data))
    assert bool(found.isfinite().all()) and torch.allclose(found.mean() * 32, usual.mean() * 24, rtol=0.2)


def test_fisher_leaves_the_model_as_it_was(small_net: SmallNet, pictures: Tensor) -> None:
    before = copy.deepcopy(small_net.state_dict())
    small_net.stem.weight.requires_grad_(False)
    names = ["stem.weight", "depthwise.weight", "head.2.weight"]
    found = measured(Fisher, small_net, names, pictures)
    again = measured(Fisher, small_net, names, pictures)
    assert all(torch.equal(found[name], again[name]) for name in names)
    assert not small_net.stem.weight.requires_grad and small_net.head[2].weight.requires_grad
    assert all(p.grad is None for p in small_net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in small_net.state_dict().items())


def test_fisher_without_a_gradient_is_refused(pictures: Tensor) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.mean((1, 2))).detach()

    with pytest.raises(RecoveryError, match="no gradient reaches the parameters"):
        measured(Fisher, Rounded(), ["layer.weight"], pictures)


def test_a_model_without_a_backward_pass_is_told() -> None:
    class Writes(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            z = y.exp()
            z += 1
            return z

    with pytest.raises(RecoveryError, match="no backward pass .*modified by an inplace operation.* 'inputs'") as caught:
        measured(Fisher, Writes(nn.Linear(5, 3)), ["0.weight"], torch.randn(8, 5))
    assert "\n" not in str(caught.value)


def test_inputs_are_the_second_moments() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(5, 3)), torch.randn(500, 5) * torch.tensor([1.0, 2, 3, 4, 5])
    found = measured(Inputs, model, ["0.weight"], data, samples=500)["0.weight"]
    assert torch.allclose(found, data.square().mean(0).expand(3, 5), rtol=1e-4)


def test_inputs_of_grouped_and_transposed_convolutions() -> None:
    torch.manual_seed(0)
    data = torch.randn(64, 4, 6, 6) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1)
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 2, 3))
    found = measured(Inputs, model, ["0.weight", "1.weight", "2.weight"], data)
    moment = data.square().mean((0, 2, 3))
    assert torch.allclose(found["0.weight"][:2, :, 0, 0], moment[:2].expand(2, 2), rtol=1e-4)
    assert torch.allclose(found["0.weight"][2:, :, 0, 0], moment[2:].expand(2, 2), rtol=1e-4)
    assert found["1.weight"].shape == (4, 1, 3, 3) and found["2.weight"].shape == (4, 2, 3, 3)
    ahead = model[1](model[0](data)).square().mean((0, 2, 3)).detach()
    assert torch.allclose(found["2.weight"][:, 0, 1, 1], ahead, rtol=1e-3)


@pytest.mark.parametrize("kind", ["fisher", "inputs"])
def test_a_recipe_names_them(kind: str, text_net: TextNet) -> None:
    tokens = torch.randint(0, 50, (64, 7), generator=torch.Generator().manual_seed(0))
    rules = [
        {"layers": "out", "centroids": 8, "importance": kind},
        {"layers": "lstm", "parameter": "weight_*", "centroids": 8, "importance": kind},
    ]
    plain = [{key: value for key, value in rule.items() if key != "importance"} for rule in rules]
    weighed = lloydmax.compress(text_net, {"version": 1, "quantize": rules}, tokens, progress=False)
    other = lloydmax.compress(text_net, {"version": 1, "quantize": plain}, tokens, progress=False)
    books = [lloydmax.codebooks(result.model) for result in (weighed, other)]
    changed = {name for name in books[0] if not torch.equal(books[0][name].centroids, books[1][name].centroids)}
    assert changed == (set(books[0]) if kind == "fisher" else {"out.weight", "embed.weight"})


def test_fisher_looks_at_fewer_samples_where_outputs_have_many_places() -> None:
    torch.manual_seed(0)
    model, data = nn.Conv2d(1, 2, 3, padding=1), torch.randn(40, 1, 32, 32)
    source, seen = unlabelled(data, model), []
    outputs = trial(model, source)
    model.register_forward_hook(lambda *call: seen.append(len(call[2])))
    Fisher(Fisher.Options()).measure(model, ["weight"], source, outputs)
    assert seen == [8, 8]
