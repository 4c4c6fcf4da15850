"""Optuna, as the page of the integrations shows it."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallNet
from lloydmax import Cache, IntegrationError, Recipe, compress
from torch import Tensor

RECIPE = """\
name: tuned
quantize:
  - {layers: all, centroids: [2, 4, 16]}
  - {layers: ["head.*"], centroids: 8, granularity: [tensor, channel]}
recover:
  - {step: distill, epochs: 3, batch_size: 16, lr: [1.0e-3, 1.0e-2]}
"""
PLACES = ["quantize[1].centroids", "quantize[2].granularity", "recover[1].lr"]


def test_optuna_several_objectives(small_net: SmallNet, pictures: Tensor) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recipe, cache = Recipe.load(RECIPE), Cache()

    def objective(trial: Any) -> tuple[float, float]:
        report = compress(small_net, recipe.suggest(trial), pictures, cache=cache, progress=False).report
        assert report.agreement.after is not None
        return report.bytes.file, report.agreement.after

    study = optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=4)
    assert [sorted(trial.params) for trial in study.trials] == [PLACES] * 4
    assert study.best_trials and cache.hits > 0
    best = recipe.resolved(study.best_trials[0].params)
    assert compress(small_net, best, pictures, progress=False).report.bytes.file == study.best_trials[0].values[0]


def test_optuna_pruning_through_events(small_net: SmallNet, pictures: Tensor) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    from lloydmax.integrations.optuna import PruneTrial

    def objective(trial: Any) -> float:
        recipe = Recipe.load(RECIPE).suggest(trial)
        report = compress(small_net, recipe, pictures, listeners=[PruneTrial(trial)], progress=False).report
        return float(report.agreement.after or 0)

    pruner = optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    assert list(study.trials[0].intermediate_values) == [0, 1, 2], "before training, and after two of three epochs"
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state.name == "COMPLETE"
    several = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(IntegrationError, match="one objective"):
        PruneTrial(several.ask())


def test_optuna_resumes_from_storage_after_a_kill(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recipe, storage = Recipe.load(RECIPE).resolved({"recover[1].lr": 1e-3}), f"sqlite:///{tmp_path}/study.db"

    def objective(trial: Any) -> float:
        if trial.number == 2 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise KeyboardInterrupt
        return compress(small_net, recipe.suggest(trial), pictures, progress=False).report.bytes.file

    def run() -> Any:
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        study.optimize(objective, n_trials=4 - len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])))
        return study

    with pytest.raises(KeyboardInterrupt):
        run()
    study = run()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 2
    assert recipe.resolved(study.best_params).choices() == {}


@pytest.mark.parametrize(("module", "extra"), [("optuna", "optuna"), ("ray", "ray")])
def test_an_absent_extra_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lloydmax.integrations.optuna import PruneTrial
    from lloydmax.integrations.ray import search_space

    real = builtins.__import__

    def absent(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(IntegrationError, match=rf'pip install "lloydmax\[{extra}\]"'):
        PruneTrial(None) if module == "optuna" else search_space(Recipe.load(RECIPE))


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
