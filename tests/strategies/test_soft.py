"""Soft weights: mixtures that become the hard choice, gradients on both sides, the promises of `codes: learn`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import RecoveryError, demo
from lloydmax.student.attachment import CodebookWeight
from lloydmax_strategies.training.soft import Annealed, neighbours
from test_latent import last, recipe
from torch import Tensor, nn

LAYOUTS = [
    ("tensor", 4, 0),
    ("channel", 4, 0),
    ("group:3", 5, 0),
    ("channel", 4, 1),
    ("tensor", 1, 0),
    ("channel", 2, 0),
]


def weights() -> Tensor:
    """A weight of a convolution."""
    return torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(3))


def fitted(granularity: str, k: int, axis: int) -> lloydmax.Codebook:
    """A codebook of that weight, its centroids in no order."""
    moved = weights().movedim(axis, 0)
    found = lloydmax.fit_codebook(moved, k, granularity=granularity)
    centroids = found.centroids.flip(-1)
    codes = torch.zeros(weights().shape, dtype=torch.uint8)
    return lloydmax.Codebook(centroids, codes, granularity, axis).reassigned(weights())


def held(codebook: lloydmax.Codebook) -> tuple[CodebookWeight, nn.Parameter, Annealed]:
    """The two parametrizations of a weight, and the centroids."""
    holder, centroids = CodebookWeight(codebook), nn.Parameter(codebook.centroids.clone())
    return holder, centroids, Annealed(weights(), holder, centroids)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_neighbours_enclose_the_weight(layout: tuple[str, int, int]) -> None:
    codebook = fitted(*layout)
    low, high = (replace(codebook, codes=codes).dequantize() for codes in neighbours(codebook, weights()))
    table = codebook.centroids.reshape(-1, codebook.k)
    inside = torch.stack(
        [replace(codebook, codes=torch.full_like(codebook.codes, c)).dequantize() for c in range(codebook.k)]
    )
    assert bool((low <= high).all()) and (codebook.k == 1 or bool((low < high).all()))
    between = (inside > low) & (inside < high)
    assert not between.any()
    enclosed = (inside.amin(0) <= weights()) & (weights() <= inside.amax(0))
    assert torch.equal((low <= weights()) & (weights() <= high), enclosed)
    assert bool(enclosed.any()) or table.shape[1] == 1


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_hard_choice_is_the_nearest_centroid(layout: tuple[str, int, int]) -> None:
    codebook = fitted(*layout)
    _, _, through = held(codebook)
    with torch.no_grad():
        assert torch.equal(through.chosen(codebook).codes, codebook.codes)


def test_the_annealed_choice_is_the_cheapest_where_bits_have_a_price() -> None:
    codebook = lloydmax.fit_codebook(weights(), 32, price=0.02)
    _, _, through = held(codebook)
    with torch.no_grad():
        chosen = through.chosen(codebook)
    plain = replace(codebook, price=0.0).reassigned(weights())
    assert torch.equal(chosen.codes, codebook.reassigned(weights()).codes)
    assert not torch.equal(chosen.codes, plain.codes)


def test_the_annealed_mixture_is_the_softmax_of_the_squared_distances() -> None:
    codebook = fitted("tensor", 2, 0)
    holder, centroids, through = held(codebook)
    low, high = codebook.centroids.sort().values
    distances = (weights()[..., None] - torch.stack([low, high])).square() / (0.5 * (high - low) ** 2)
    wanted = (torch.softmax(-distances, -1) * torch.stack([low, high])).sum(-1)
    assert torch.allclose(through(holder(centroids)), wanted, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_annealing_ends_at_the_hard_weight(layout: tuple[str, int, int]) -> None:
    codebook = fitted(*layout)
    holder, centroids, through = held(codebook)
    apart = []
    for progress in (0.0, 0.3, 0.6, 0.849, 0.85):
        through.begin_step(progress)
        apart.append(float((through(holder(centroids)).detach() - codebook.dequantize()).abs().mean()))
    assert apart == sorted(apart, reverse=True) and apart[-1] == 0
    assert codebook.k == 1 or apart[3] < 0.1 * apart[0]
    through.begin_step(0.0)
    with torch.no_grad():
        assert torch.equal(through(holder(centroids)), codebook.dequantize())


@pytest.mark.parametrize("layout", LAYOUTS[:4], ids=str)
def test_gradients_reach_latent_weights_and_centroids(layout: tuple[str, int, int]) -> None:
    codebook = fitted(*layout)
    holder, centroids, through = held(codebook)
    slope = torch.randn(weights().shape, generator=torch.Generator().manual_seed(4))
    (through(holder(centroids)) * slope).sum().backward()
    assert through.latent.grad is not None and centroids.grad is not None
    assert bool((centroids.grad != 0).all())
    moving = through.latent.grad != 0
    assert torch.equal(through.latent.grad.sign()[moving], slope.sign()[moving]) and moving.float().mean() > 0.5
    plain = nn.Parameter(codebook.centroids.clone())
    (holder(plain) * slope).sum().backward()
    assert plain.grad is not None
    assert 0.2 < float(centroids.grad.norm() / plain.grad.norm()) < 5


@pytest.mark.parametrize("rule", [{}, {"granularity": "channel"}, {"granularity": "group:3"}], ids=str)
def test_the_outputs_come_closer_and_the_file_holds_them(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path, rule: dict[str, Any]
) -> None:
    made = recipe("anneal", rule, codes_lr=3e-2, epochs=20, held_out=0.0)
    before = lloydmax.compress(small_net, made | {"recover": []}, pictures, progress=False)
    result = lloydmax.compress(small_net, made, pictures, progress=False)
    assert last(result) < 0.7 * last(before)
    assert 0 < result.report.recovery[-1]["codes_changed"] < 1
    result.save(tmp_path / "a")
    assert torch.equal(lloydmax.load(tmp_path / "a", copy.deepcopy(small_net))(pictures), result.model(pictures))


def test_the_entropy_stays_where_bits_have_a_price() -> None:
    model, data = demo.network(), demo.silhouettes()[:96]
    made = recipe("anneal", {"centroids": 64}, epochs=4, codes_lr=2e-2, held_out=0.0)
    made |= {"bits": 2.5, "storage": {"floats": "float16", "codes": "entropy"}}
    before = lloydmax.compress(model, made | {"recover": []}, data, progress=False)
    after = lloydmax.compress(model, made, data, progress=False)
    assert after.report.recovery[-1]["codes_changed"] > 0.01
    sizes = [result.report.bytes.file for result in (before, after)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02


def test_vectors_are_refused(small_net: SmallNet, pictures: Tensor) -> None:
    made = recipe("anneal", {"layers": ["padded", "head.*"], "block": 2, "centroids": 16})
    with pytest.raises(RecoveryError, match="'codes: anneal' needs codebooks of single weights, and padded.weight"):
        lloydmax.compress(small_net, made, pictures, progress=False)


def test_without_an_original_annealing_starts_from_the_decoded_weights(pictures: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 4))
    student = copy.deepcopy(model)
    for name in ("1.weight", "3.weight"):
        lloydmax.student.attachment.attach(student, name, lloydmax.fit_codebook(student.get_parameter(name), 4))
    found = lloydmax.distill(student, model, pictures, codes="anneal", codes_lr=5e-2, epochs=6, batch_size=16)
    assert found["codes_changed"] > 0
