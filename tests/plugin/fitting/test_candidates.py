"""Ways to spend the bits are compared, and none of them ends behind another one that it was compared with."""

from __future__ import annotations

import copy
from pathlib import Path

import lloydmax
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="module")
def uneven() -> nn.Module:
    """Channels of very different sizes: a codebook for all of them starves most."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))
    with torch.no_grad():
        for here, there in ((model[0], model[2]), (model[2], model[4])):
            sizes = 10 ** (4 * torch.rand(96) - 2)
            here.weight *= sizes[:, None]
            here.bias *= sizes
            there.weight /= sizes
    return model.eval()


@pytest.mark.parametrize(
    ("bits", "data", "spared"),
    [(6, torch.randn(96, 64, generator=torch.Generator().manual_seed(1)), True), (8, None, False)],
)
def test_recovery_never_ends_behind_codebooks_that_it_cannot_change(
    uneven: nn.Module, bits: int, data: Tensor | None, spared: bool, tmp_path: Path
) -> None:
    recipe = lloydmax.recipe_for(uneven, bits, data, effort=0)
    result = lloydmax.compress(uneven, recipe, data, progress=False)
    tried = result.report.tried
    even, steps = next(one for one in tried if "even" in one.name), [one for one in tried if one.what == "step"]
    others = [one.damage for one in tried if one.what == "codebooks" and one is not even]
    assert (even.damage < min(others)) == (data is not None), "made inputs judge the others after the steps"
    assert [one.kept for one in tried if one.what == "codebooks"].count(True) == 1
    left = min([one.damage for one in steps if one.kept], default=even.damage)
    assert left <= even.damage
    assert spared == even.kept == all(not one.kept for one in steps)
    assert [one.get("kept") for one in result.report.recovery] == [one.kept for one in steps]
    assert result.report.bytes.file <= bits / 8 * sum(p.numel() for p in uneven.parameters())
    assert lloydmax.verify_plan(result.plan, result.model) is None
    result.save(tmp_path / "a.safetensors")
    loaded = lloydmax.load(tmp_path / "a.safetensors", copy.deepcopy(uneven))
    shown = torch.randn(8, 64)
    assert torch.equal(loaded(shown), result.model(shown))
