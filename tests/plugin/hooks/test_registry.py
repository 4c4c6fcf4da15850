"""Plugins: third parties register like the built-in strategies; mistakes are told."""

from __future__ import annotations

import lloydmax
import pytest
import torch
from lloydmax import PluginError, hookimpl
from lloydmax.hooks import registry
from pydantic import BaseModel


class Signs:
    """A one-bit quantizer, as a third party would write it."""

    class Options(BaseModel):
        centroids: int = 2
        granularity: str = "tensor"

    def __init__(self, options: Options) -> None:
        self.options = options

    def fit(self, weight: torch.Tensor, *, importance: object = None, axis: int = 0) -> lloydmax.Codebook:
        scale = weight.abs().mean()
        return lloydmax.Codebook(torch.stack([-scale, scale]), (weight > 0).to(torch.uint8))


class ThirdParty:
    @hookimpl
    def lloydmax_quantizers(self) -> dict[str, type]:
        return {"signs": Signs}


def test_a_third_partys_quantizer_works_in_a_recipe(small_net: torch.nn.Module) -> None:
    plugin = ThirdParty()
    registry.register(plugin, "third-party")
    try:
        result = lloydmax.compress(
            small_net, {"quantize": [{"layers": "head.*", "quantizer": "signs"}]}, progress=False
        )
        assert lloydmax.codebooks(result.model)["head.0.weight"].k == 2
        assert ("quantizer", "signs") in {(s.kind, s.name) for s in registry.strategies()}
    finally:
        registry.unregister(plugin)
    with pytest.raises(lloydmax.RecipeError, match="signs"):
        lloydmax.Recipe.load({"quantize": [{"layers": "all", "quantizer": "signs"}]})


def test_a_name_registered_twice_names_both_plugins() -> None:
    class Again:
        @hookimpl
        def lloydmax_quantizers(self) -> dict[str, type]:
            return {"kmeans": Signs}

    with pytest.raises(PluginError, match="'kmeans'.*'kmeans'.*'again'|'kmeans'.*'again'.*'kmeans'"):
        registry.register(Again(), "again")
    registry.find("quantizer", "kmeans")


def test_a_misspelt_hook_is_an_error() -> None:
    class Typo:
        @hookimpl
        def lloydmax_quantisers(self) -> dict[str, type]:
            return {}

    with pytest.raises(PluginError, match="lloydmax_quantisers"):
        registry.register(Typo(), "typo")
    registry.manager().check_pending()


def test_a_class_without_options_is_an_error() -> None:
    class Bare:
        @hookimpl
        def lloydmax_recovery_steps(self) -> dict[str, type]:
            return {"bare": object}

    with pytest.raises(PluginError, match="Options"):
        registry.register(Bare(), "bare")


def test_builtin_strategies_come_from_entry_points() -> None:
    found = {(s.kind, s.name): s.distribution for s in registry.strategies()}
    for key in (("quantizer", "kmeans"), ("step", "distill"), ("step", "renormalize"), ("step", "correct_bias")):
        assert found[key] == "lloydmax"


def test_a_plugin_is_registered_once_and_removed_once() -> None:
    plugin = ThirdParty()
    registry.register(plugin, "third-party")
    try:
        for again, name in ((plugin, "third-party"), (plugin, None), (ThirdParty(), "third-party")):
            with pytest.raises(PluginError, match="'third-party' is registered already; remove that one first") as told:
                registry.register(again, name)
            assert len(str(told.value)) < 200
        registry.find("quantizer", "signs")
    finally:
        registry.unregister(plugin)
    with pytest.raises(PluginError, match="is not registered"):
        registry.unregister(plugin)
