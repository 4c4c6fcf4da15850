"""Fitting all codebooks of a plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lloydmax import FitError, PluginError, RecoveryError, hookimpl, plan
from lloydmax.data.opening import unlabelled
from lloydmax.fitting import fit as fit_module
from lloydmax.fitting.fit import fit
from lloydmax.hooks.events import Events
from lloydmax.hooks.registry import register, unregister
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.runtime.cache import Cache
from pydantic import BaseModel
from torch import nn
from torch.utils.data import Dataset


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 20))


def test_a_parameter_that_cannot_be_fitted_is_named() -> None:
    model = net()
    made = plan(model, {"quantize": [{"layers": "all", "centroids": 4}]})
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(FitError, match=r"2\.weight: 1 of 800 weights are NaN"):
        fit(model, made)


def test_a_cache_keeps_what_was_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, checked = [], fit_module.check_weight
    monkeypatch.setattr(fit_module, "check_weight", lambda *given: (fitted.append(1), checked(*given)))
    model, cache = net(), Cache()
    made = plan(model, {"quantize": [{"layers": "all", "centroids": 4}]})
    first = fit(model, made, cache=cache)
    again = fit(model, made, cache=cache)
    assert list(first) == ["0.weight", "2.weight"] and len(fitted) == 2
    without = fit(model, made)
    assert len(fitted) == 4
    for name, found in first.items():
        for other in (again[name], without[name]):
            assert torch.equal(other.centroids, found.centroids) and torch.equal(other.codes, found.codes)


def test_importance_needs_data() -> None:
    model = net()
    made = plan(model, {"quantize": [{"layers": "all", "centroids": 4, "importance": "inputs"}]})
    with pytest.raises(RecoveryError, match="data"):
        fit(model, made)
    found = fit(model, made, unlabelled(torch.randn(32, 6), model))
    assert list(found) == ["0.weight", "2.weight"]


class Silent:
    """An importance that measures nothing of what it is asked for."""

    class Options(BaseModel):
        pass

    def __init__(self, options: Options) -> None:
        self.options = options

    def measure(self, model: nn.Module, names: list[str], source: object) -> dict[str, torch.Tensor]:
        return {names[0]: torch.ones_like(model.get_parameter(names[0]))}


class Third:
    @hookimpl
    def lloydmax_importances(self) -> dict[str, type]:
        return {"silent": Silent}


def test_an_importance_gives_all_that_it_is_asked_for() -> None:
    plugin, model = Third(), net()
    register(plugin)
    try:
        made = plan(model, {"quantize": [{"layers": "all", "centroids": 4, "importance": "silent"}]})
        with pytest.raises(PluginError, match=r"importance 'silent' measured nothing for '2.weight'"):
            fit(model, made, unlabelled(torch.randn(32, 6), model))
    finally:
        unregister(plugin)


class Noisy(Dataset):
    """Another sample each time."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(6)


@pytest.mark.parametrize(("data", "expected"), [(torch.randn(40, 6), True), (Noisy(), False)])
def test_an_importance_is_told_whether_inputs_stay_the_same(data: Any, expected: bool) -> None:
    source = unlabelled(data, net())
    told: list[tuple[int, int]] = []

    class Ear:
        @hookimpl
        def lloydmax_step(self, step: str, index: int, total: int) -> None:
            told.append((index, total))

    heard = fit_module._Heard(source, "importance", Events([Ear()]), TimeLimit())
    assert heard.deterministic is source.deterministic is expected and len(heard) == 40
    assert sum(len(indices) for indices, _ in heard.batches(16)) == 40 and told == [(16, 40), (32, 40), (40, 40)]


def test_an_importance_that_was_changed_in_place_is_another_one() -> None:
    """A plugin may give the same tensor each time, with new values."""
    model, cache, importance = net(), Cache(), torch.ones(40, 6)

    class Kept:
        """Gives what it holds."""

        class Options(BaseModel):
            """None."""

        def __init__(self, options: Options) -> None: ...

        def measure(self, model: nn.Module, names: Any, data: Any) -> dict[str, torch.Tensor]:
            """The same tensor."""
            return dict.fromkeys(names, importance)

    class Plugin:
        """Registers it."""

        @hookimpl
        def lloydmax_importances(self) -> dict[str, type]:
            """One kind."""
            return {"kept": Kept}

    plugin = Plugin()
    register(plugin)
    try:
        made = plan(model, {"quantize": [{"layers": ["0"], "centroids": 4, "importance": "kept"}]})
        first = fit(model, made, unlabelled(torch.randn(8, 6), model), cache=cache)["0.weight"]
        importance[:, :3] = 1000
        source = unlabelled(torch.randn(8, 6), model)
        again, alone = (fit(model, made, source, cache=one)["0.weight"] for one in (cache, None))
    finally:
        unregister(plugin)
    assert torch.equal(again.codes, alone.codes) and not torch.equal(first.codes, again.codes)
