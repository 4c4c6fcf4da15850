"""Ray Tune, as the page of the integrations shows it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lloydmax import Recipe, RecipeError, compress
from torch import nn


def test_ray_draws_from_the_space_of_a_recipe() -> None:
    pytest.importorskip("ray")
    from lloydmax.integrations.ray import search_space

    step = {"step": "distill", "steps": {"low": 8, "high": 20, "step": 4}, "lr": {"low": 1e-4, "high": 1, "log": True}}
    rule = {"layers": "all", "centroids": {"low": 4, "high": 64, "log": True}, "importance": ["fisher", None]}
    choices = {
        "bits": {"low": 2, "high": 2.5},
        "seed": {"low": 0, "high": 9},
        "trainable": {"choices": [["all"], ["norms"]]},
    }
    recipe = Recipe.load({"quantize": [rule], "recover": [step], "storage": {"codes": "entropy"}, **choices})
    space = search_space(recipe)
    assert set(space) == set(recipe.space().named())
    for _ in range(20):
        assert not recipe.resolved({name: domain.sample() for name, domain in space.items()}).choices()
    with pytest.raises(RecipeError, match="no end of values"):
        search_space(recipe, grid=True)


@pytest.mark.slow
def test_ray_tune_with_two_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    import ray
    from lloydmax.integrations.ray import search_space
    from ray import tune

    step = {"step": "distill", "epochs": 1, "batch_size": 16}
    recipe = Recipe.load({"quantize": [{"layers": "all", "centroids": [2, 4, 16]}], "recover": [step]})

    def trainable(config: dict[str, Any]) -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        report = compress(model, recipe.resolved(config), torch.randn(64, 8), progress=False).report
        return {"bytes": report.bytes.file, "agreement": report.agreement.after}

    run_config = getattr(tune, "RunConfig", None) or importlib.import_module("ray.train").RunConfig  # until 2.42
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=search_space(recipe, grid=True),
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=run_config(storage_path=str(tmp_path), verbose=0),
        ).fit()
        assert not results.errors
        sizes = {result.config["quantize[1].centroids"]: result.metrics["bytes"] for result in results}
        assert sizes[2] < sizes[4] < sizes[16]
        best = results.get_best_result("bytes", "min")
        assert recipe.resolved(best.config).quantize[0].options["centroids"] == 2
    finally:
        ray.shutdown()


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
