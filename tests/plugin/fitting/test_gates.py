"""Gates of recurrent layers matter more or less by far: each has a multiple of one codebook."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.errors import FitError
from lloydmax.network.layers import gates
from lloydmax_strategies.kmeans import KMeans
from torch import Tensor, nn

STATES = 48


class Heard(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.recurrent, self.out = kind(24, STATES, batch_first=True), nn.Linear(STATES, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrent(x)[0][:, -1])


def case(kind: Any) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Heard(kind).eval(), torch.randn(160, 12, 24)
    with torch.no_grad():
        for leaf in ("weight_ih_l0", "weight_hh_l0"):
            weight = model.recurrent.get_parameter(leaf)
            weight[-2 * STATES :] *= 3 if kind is nn.GRU else 1
    return model, x[:96], x[96:]


def test_rows_of_gates() -> None:
    leaves = ("weight_ih_l0", "weight_hh_l0_reverse", "weight_hr_l0", "bias_ih_l0")
    lstm = nn.LSTM(8, 12, proj_size=5, bidirectional=True)
    assert [gates(lstm, leaf) for leaf in leaves] == [4, 4, 0, 0]
    assert gates(nn.GRUCell(8, 12), "weight_ih") == 3
    assert gates(nn.RNN(8, 12), "weight_ih_l0") == 1
    assert gates(nn.Linear(8, 12), "weight") == 0


def test_codebooks_are_multiples_of_one_and_a_bit_has_its_price_in_each() -> None:
    torch.manual_seed(0)
    weight = torch.randn(80, 200)
    options = {"centroids": 256, "granularity": "group:20", "multiples": [1.0, 0.5, 2.0, 4.0], "price": 0.02}
    book = KMeans(KMeans.Options(**options)).fit(weight)
    assert book.granularity == "group:20" and book.centroids.shape[0] == 4
    errors = (book.dequantize() - weight).square().view(4, -1).mean(1)
    assert errors[1] < 0.5 * errors[0] < 0.5 * errors[2] < 0.4 * errors[3]
    prices = book.prices()
    torch.testing.assert_close(prices / prices[0], torch.tensor([1.0, 0.25, 4.0, 16.0]).double(), rtol=0.5, atol=0)
    again = book.reassigned(weight)
    assert float((again.codes != book.codes).double().mean()) < 0.1
    assert again.entropy == pytest.approx(book.entropy, rel=0.05)
    with pytest.raises(FitError, match="3 'multiples' for 4 codebooks"):
        KMeans(KMeans.Options(**(options | {"multiples": [1.0, 2.0, 3.0]}))).fit(weight)


def test_a_single_codebook_has_the_price_itself() -> None:
    book = KMeans(KMeans.Options(centroids=256, price=0.02)).fit(torch.randn(40, 50))
    assert book.prices().tolist() == [book.price]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_files_of_gates(kind: Any, tmp_path: Path) -> None:
    """It is one of the candidates; what it gives is trained, saved and read."""
    model, x, unseen = case(kind)
    recipe = lloydmax.recipe_for(model, bits=4, data=x, effort=0.02)
    result = lloydmax.compress(model, recipe, x, progress=False)
    assert "a codebook for each gate" in [tried.name for tried in result.report.tried]
    result.save(tmp_path / "small.safetensors")
    loaded = lloydmax.load(tmp_path / "small.safetensors", copy.deepcopy(model))
    with torch.no_grad():
        assert torch.equal(loaded(unseen), result.model(unseen))


def test_gates_that_matter_more_get_finer_centroids() -> None:
    model, x, _ = case(nn.LSTM)
    for name in ("recurrent.weight_ih_l0", "recurrent.weight_hh_l0"):
        with torch.no_grad():
            weight = model.get_parameter(name)
            weight[2 * STATES : 3 * STATES] *= 0.2  # candidates, whose curvature is large where they are small
            weight[:STATES] *= 0.02
    recipe = lloydmax.recipe_for(model, bits=4, data=x, effort=0)
    result = lloydmax.compress(model, recipe, x, progress=False)
    kept = [tried.name for tried in result.report.tried if tried.kept and tried.what == "codebooks"]
    assert kept == ["a codebook for each gate"]
    book = lloydmax.codebooks(result.model)["recurrent.weight_ih_l0"]
    assert book.granularity == f"group:{STATES}" and len(set(book.centroids.amax(1).tolist())) == 4
