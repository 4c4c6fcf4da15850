"""The budget search: budgets are kept by real files, the answer is an ordinary recipe and better than uniform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallNet
from lloydmax import BudgetError, Cache, Recipe, RecipeError, compress, demo, hookimpl, plan, search
from lloydmax.hooks.registry import register, unregister
from lloydmax.hooks.units import Unit
from pydantic import BaseModel
from torch import Tensor, nn

KS = [2, 4, 8, 16, 64]
ALL = {"quantize": [{"layers": "all"}]}


@pytest.fixture
def sharp_net(small_net: SmallNet) -> SmallNet:
    """With decided answers, so that divergences are far above rounding."""
    with torch.no_grad():
        small_net.head[2].weight *= 100
    return small_net


@pytest.mark.parametrize("budget", [{"bits": 3}, {"bytes": 9_000}, {"reduction": 0.55}, {"agreement": 0.97}])
@pytest.mark.parametrize("codes", ["packed", "entropy"])
def test_budgets_are_kept_by_the_file_and_measured_is_what_compress_measures(
    sharp_net: SmallNet, pictures: Tensor, tmp_path: Path, budget: dict[str, float], codes: str
) -> None:
    recipe = ALL | {"storage": {"codes": codes}, "trainable": ["all"], "name": "n", "search": {"centroids": KS}}
    found = search(sharp_net, recipe, pictures, budget)
    found.recipe.save(tmp_path / "recipe.yaml")
    again = Recipe.load(tmp_path / "recipe.yaml")
    assert again.search is None and again.data() == found.recipe.data() and not again.choices()
    result = compress(sharp_net, again, pictures, progress=False)
    size = result.save(tmp_path / "model.safetensors")
    assert found.measured.kl == pytest.approx(result.report.kl.before, rel=1e-5)
    assert found.measured.top1 == result.report.agreement.before
    assert found.found.file_bytes == pytest.approx(size, abs=0 if codes == "packed" else 16)
    if codes == "packed":
        assert plan(sharp_net, again).predicted_bytes == size
    assert set(result.plan.parameters) == set(found.found.choice)
    if "bits" in budget:
        coded = sum(row.bytes for row in found.sweep.rows if found.found.choice[row.unit] == row.centroids)
        assert coded * 8 <= budget["bits"] * sum(p.weights for p in result.plan.parameters.values())
    elif "bytes" in budget:
        assert size <= budget["bytes"]
    elif "reduction" in budget:
        assert result.report.reduction >= budget["reduction"]
    else:
        assert result.report.agreement.before >= budget["agreement"]  # type: ignore[operator]
    assert found.uniform is not None
    if "agreement" in budget:
        assert found.found.file_bytes <= found.uniform.file_bytes
    else:
        assert found.found.damage <= found.uniform.damage


@pytest.mark.parametrize("method", ["lagrangian", "greedy"])
def test_better_than_uniform_at_the_same_bytes(sharp_net: SmallNet, pictures: Tensor, method: str) -> None:
    ready = search(sharp_net, ALL, pictures, {"bits": 5.3}, centroids=KS)
    assert ready.uniform is not None and set(ready.uniform.choice.values()) == {16}
    found = search(sharp_net, ALL, pictures, {"bits": ready.uniform.bits}, method, centroids=KS)
    assert found.found.bits <= ready.uniform.bits
    assert found.found.damage < 0.5 * ready.uniform.damage


def test_the_whole_model_corrects_the_choice(sharp_net: SmallNet, pictures: Tensor) -> None:
    recipe = ALL | {"kinds": "classes"}
    plain, corrected = (search(sharp_net, recipe, pictures, {"bits": 3}, centroids=KS, corrections=n) for n in (0, 4))
    assert corrected.tried > plain.tried
    assert corrected.found.damage <= plain.found.damage


def test_everything_measured(sharp_net: SmallNet, pictures: Tensor) -> None:
    found = search(sharp_net, ALL, pictures, {"bits": 3}, centroids=[2, 8, 16], estimate=False)
    assert found.uniform is None or found.found.damage <= found.uniform.damage
    assert all(row.measured for row in found.sweep.rows)


def test_outputs_without_classes(pictures: Tensor) -> None:
    torch.manual_seed(0)
    regression = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.Linear(16, 1))
    found = search(regression, ALL, pictures, {"bits": 3.1}, centroids=KS)
    assert found.measured.kl is None and found.uniform is not None
    assert found.found.damage <= found.uniform.damage
    near, nearer = (search(regression, ALL, pictures, {"agreement": share}, centroids=KS) for share in (0.9, 0.99))
    assert near.measured.top1 is None and near.measured.agreed >= 0.9 and nearer.measured.agreed >= 0.99
    assert near.found.file_bytes < nearer.found.file_bytes


def test_a_single_layer_as_model_and_fixed_rules() -> None:
    torch.manual_seed(0)
    data = torch.randn(64, 20)
    found = search(nn.Linear(20, 5), {"quantize": [{"layers": "all", "centroids": [2, 4, 8]}]}, data, {"bits": 3.5})
    assert found.found.choice == {"weight": 4}
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5))
    recipe = {
        "quantize": [
            {"layers": "all", "centroids": [2, 4, 8, 16]},
            {"layers": ["2"], "centroids": 8, "granularity": "channel"},
            {"layers": "all", "parameter": "bias", "quantizer": "none"},
        ],
        "recover": [{"step": "renormalize"}],
    }
    found = search(model, recipe, data, {"bits": 5})
    assert found.found.choice["2.weight"] == 8
    rules = found.recipe.data()["quantize"]
    assert {"layers": ["2"], "centroids": 8, "granularity": "channel"} in rules
    assert set(plan(model, found.recipe).parameters) == {"0.weight", "2.weight"}
    assert found.recipe.recover[0].step == "renormalize"


class Interrupt:
    """Ctrl-C in the middle of a measurement: a quantizer's plugin hears how many passes were made."""

    @hookimpl
    def lloydmax_step(self, step: str, index: int, total: int) -> None:
        if step == "sweep" and index == total:
            raise KeyboardInterrupt


def test_a_killed_search_ends_in_the_same_recipe(
    sharp_net: SmallNet, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS).recipe.save(tmp_path / "whole.yaml")
    with pytest.raises(KeyboardInterrupt):
        search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS, workdir=tmp_path, listeners=[Interrupt()])
    from lloydmax.choosing import damage

    real, calls = damage.Bench._measured, []

    def killed(bench: Any, choice: Any) -> Any:
        calls.append(choice)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(bench, choice)

    monkeypatch.setattr(damage.Bench, "_measured", killed)
    with pytest.raises(KeyboardInterrupt):
        search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS, workdir=tmp_path)
    assert calls and all(len(choice) == 5 for choice in calls), "the sweep was not measured again"
    again = search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS, workdir=tmp_path)
    again.recipe.save(tmp_path / "resumed.yaml")
    assert (tmp_path / "resumed.yaml").read_bytes() == (tmp_path / "whole.yaml").read_bytes()


def test_a_cache_spares_the_fits(sharp_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloydmax_strategies.kmeans import KMeans

    cache = Cache()
    first = search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS, cache=cache)
    monkeypatch.setattr(KMeans, "fit_many", lambda *_, **__: pytest.fail("fitted again"))
    second = search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS, cache=cache)
    assert first.recipe.data() == second.recipe.data()


class Middle:
    """A third party's search method: the middle option of everything, then fewer until it fits."""

    class Options(BaseModel):
        """None."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def choose(self, units: list[Unit], budget: int) -> dict[str, int]:
        return {unit.name: unit.options[0].centroids for unit in units}


class Plugin:
    @hookimpl
    def lloydmax_search_methods(self) -> dict[str, type]:
        return {"middle": Middle}


def test_a_plugin_adds_a_method(sharp_net: SmallNet, pictures: Tensor) -> None:
    plugin = Plugin()
    register(plugin, "middle-plugin")
    try:
        found = search(sharp_net, ALL, pictures, {"bits": 3}, "middle", centroids=KS, corrections=0)
        assert found.method == "middle"
    finally:
        unregister(plugin)


def test_refusals(sharp_net: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(RecipeError, match="needs a budget"):
        search(sharp_net, ALL, pictures)
    for budget in ({}, {"bits": 3, "bytes": 5}, {"reduction": 1.5}, {"bit": 3}, {"agreement": 0}):
        with pytest.raises(RecipeError, match="budget"):
            search(sharp_net, ALL, pictures, budget)
    with pytest.raises(RecipeError, match="did you mean 'lagrangian'"):
        search(sharp_net, ALL, pictures, {"bits": 3}, "lagrangean")
    with pytest.raises(RecipeError, match=r"search\.method.*lagrangian"):
        Recipe.load(ALL | {"search": {"budget": {"bits": 3}, "method": "lagrangean"}})
    with pytest.raises(RecipeError, match="exactly one"):
        Recipe.load(ALL | {"search": {"budget": {"bits": 3, "bytes": 4}}})
    with pytest.raises(RecipeError, match=r"search.*states"):
        Recipe.load(ALL | {"search": {"budget": {"bits": 3}, "states": 0}})
    for impossible in ({"bytes": 100}, {"reduction": 0.99}, {"bits": 0.5}):
        with pytest.raises(BudgetError, match="bytes"):
            search(sharp_net, ALL, pictures, impossible, centroids=KS)
    with pytest.raises(BudgetError, match="no choice reaches"):
        search(sharp_net, ALL, pictures, {"agreement": 1.0}, centroids=[1])


def test_what_a_recipe_asks_in_vain_is_told_with_its_line(sharp_net: SmallNet, pictures: Tensor) -> None:
    text = "name: x\nquantize:\n- layers: all\nsearch:\n  centroids: [2, 4]\n  budget: {bytes: 100}\n"
    with pytest.raises(BudgetError, match=r"^recipe:6: search\.budget: the budget bytes 100 allows"):
        search(sharp_net, text, pictures)
    with pytest.raises(BudgetError, match=r"^the budget bytes 99 allows"):
        search(sharp_net, text, pictures, {"bytes": 99})
    with pytest.raises(RecipeError, match=r"^recipe:3: quantize\[1\]\.layers: 'no' matches no layer"):
        search(sharp_net, text.replace("all", "'no'"), pictures)
    for budget in ({"bits": float("inf")}, {"bits": 1e308}, {"bits": "3"}, {"bits": True}, {"reduction": float("nan")}):
        with pytest.raises(RecipeError, match="^budget: must be"):
            search(sharp_net, text, pictures, budget)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4])
def test_the_demo_network_keeps_its_answers(bits: int) -> None:
    images = demo.test_set()[0]
    found = search(demo.network(), ALL, images[:256], {"bits": bits + 0.02}, centroids=[2, 4, 8, 16, 32, 64])
    assert found.uniform is not None and found.uniform.bits > bits
    held_out = [
        compress(demo.network(), recipe, images[1000:1500], progress=False).report.kl.before
        for recipe in (found.recipe, {"quantize": [{"layers": "all", "centroids": 2**bits}]})
    ]
    assert held_out[0] < 0.5 * held_out[1], "on pictures that the search did not see"  # type: ignore[operator]


def test_quantizers_without_fit_many_are_called_once_for_each_number(sharp_net: SmallNet, pictures: Tensor) -> None:
    from lloydmax_strategies.kmeans import KMeans

    calls: list[int] = []

    class Plain:
        Options = KMeans.Options

        def __init__(self, options: Any) -> None:
            self.inner = KMeans(options)

        def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> Any:
            calls.append(self.inner.options.centroids)
            return self.inner.fit(weight, importance=importance, axis=axis)

    class Plugin:
        @hookimpl
        def lloydmax_quantizers(self) -> dict[str, type]:
            return {"plain": Plain}

    plugin = Plugin()
    register(plugin, "plain-plugin")
    try:
        recipe = {"quantize": [{"layers": "all", "quantizer": "plain"}]}
        found = search(sharp_net, recipe, pictures, {"bits": 3}, centroids=KS)
    finally:
        unregister(plugin)
    kmeans = search(sharp_net, ALL, pictures, {"bits": 3}, centroids=KS)
    assert found.found.choice == kmeans.found.choice
    assert sorted(calls) == sorted(KS * 5)


@pytest.mark.parametrize("step", ["fold_batch_norm", "equalize"])
def test_steps_before_the_fit_are_taken_before_the_search(sharp_net: SmallNet, pictures: Tensor, step: str) -> None:
    found = search(sharp_net, ALL | {"recover": [{"step": step}]}, pictures, {"bits": 4}, centroids=[2, 4, 8, 16])
    report = compress(sharp_net, found.recipe, pictures, progress=False).report
    compressed = next(stage.agreement for stage in report.stages if stage.name == "compressed")
    assert compressed is not None and compressed.kl == pytest.approx(found.measured.kl, rel=1e-4)
    assert report.bytes.file == found.found.file_bytes


def test_half_precision_models(pictures: Tensor, sharp_net: SmallNet) -> None:
    found = search(sharp_net.bfloat16(), ALL, pictures.bfloat16(), {"bits": 4}, centroids=[2, 4, 8, 16])
    report = compress(sharp_net, found.recipe, pictures.bfloat16(), progress=False).report
    assert report.kl.before == pytest.approx(found.measured.kl, rel=1e-4)
    assert report.bytes.file == found.found.file_bytes
