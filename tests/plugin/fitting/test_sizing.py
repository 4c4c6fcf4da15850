"""At every size: the file keeps it and fills it, and no layer is worse than zeros."""

from __future__ import annotations

from collections.abc import Callable

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import BudgetError, demo
from lloydmax.fitting.sizing import _varied
from lloydmax.network.private import private
from torch import Tensor, nn


class Words(nn.Module):
    """An embedding that is the output layer, too, and a recurrent layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.between = nn.Embedding(200, 32), nn.GRU(32, 32, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next word at each place."""
        scores: Tensor = self.between(self.words(tokens))[0] @ self.words.weight.T
        return scores


def tower() -> nn.Module:
    """Weights from an even distribution, whose sizes jump."""
    convolutions = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 200))


def normed() -> nn.Module:
    """Statistics that are constant until they are estimated, and then take bytes."""
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 32, 3), nn.BatchNorm2d(32))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "small": (SmallNet, lambda: torch.randn(12, 3, 16, 16)),
    "text": (TextNet, lambda: torch.randint(0, 50, (12, 7))),
    "words": (Words, lambda: torch.randint(0, 200, (12, 5))),
    "tower": (tower, lambda: torch.randn(12, 3, 16, 16)),
    "normed": (normed, lambda: torch.randn(12, 3, 8, 8)),
}


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("bits", [1, 1.5, 2, 3, 4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_keeps_its_size_and_no_layer_is_worse_than_zeros(name: str, bits: float, with_data: bool) -> None:
    torch.manual_seed(0)
    model, data = NETWORKS[name][0]().eval(), NETWORKS[name][1]() if with_data else None
    try:
        recipe = lloydmax.recipe_for(model, bits, data, effort=0)
        result = lloydmax.compress(model, recipe, data, progress=False)
    except BudgetError:  # what is not compressed fills so small a file alone
        assert bits < 5
        return
    asked = bits / 8 * sum(p.numel() for p in model.parameters())
    assert result.report.bytes.file <= asked
    for layer, book in lloydmax.codebooks(result.model).items():
        exact = model.get_parameter(layer).detach()
        assert (book.dequantize() - exact).square().sum() <= exact.square().sum(), layer
    if bits >= 2 and name in ("words", "tower"):
        assert result.report.bytes.file >= 0.97 * asked


def test_a_file_that_training_made_too_large_is_brought_back(text_net: TextNet) -> None:
    tokens = torch.randint(0, 50, (64, 7), generator=torch.Generator().manual_seed(0))
    made = lloydmax.recipe_for(text_net, 5, tokens, effort=0.02).data() | {"keep": "all"}
    made["recover"][-1]["codes_lr"] = 0.05
    result = lloydmax.compress(text_net, made, tokens, progress=False)
    assert 0.8 * 2560 < result.report.bytes.file <= 2560


def test_a_model_is_varied_without_memory_for_what_gets_codebooks() -> None:
    model = private(nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30)))
    plan = lloydmax.plan(model, {"quantize": [{"layers": "all", "centroids": 4}]})
    varied = _varied(model, plan)
    assert varied[0].weight.data_ptr() == model[0].weight.data_ptr()
    assert varied[1].weight.data_ptr() != model[1].weight.data_ptr() and len(varied[1].weight.unique()) == 2
    assert len(model[1].weight.unique()) == 1


def test_new_statistics_of_batch_norms_are_counted_in_all_channels() -> None:
    model = private(normed())
    varied = _varied(model, lloydmax.plan(model, {"quantize": [{"layers": "all", "centroids": 4}]}))
    assert len(varied[1].weight.unique()) == 64 and len(varied[4].bias.unique()) == 32


def test_what_reconstruction_makes_too_large_gives_way_before_the_next_step() -> None:
    """The demo's network at 2 bits: its codes lose some of what contexts spared when they are chosen anew."""
    data = demo.silhouettes()[:96]
    recipe = lloydmax.recipe_for(demo.network(), 2, data, effort=0)
    result = lloydmax.compress(demo.network(), recipe, data, progress=False)
    divergence = {stage.name: stage.agreement.kl for stage in result.report.stages if stage.agreement}
    assert divergence["renormalize"] is not None and divergence["compressed"] is not None
    assert divergence["renormalize"] < 0.5 * divergence["compressed"]
    asked = 2 / 8 * sum(p.numel() for p in demo.network().parameters())
    assert 0.97 * asked < result.report.bytes.file <= asked
