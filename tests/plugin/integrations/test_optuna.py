"""Tuning loops that people have: a plain loop, Optuna, Ray Tune; each example is what the README shows."""

from __future__ import annotations

import builtins
import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallNet
from lloydmax import Cache, IntegrationError, Recipe, RecipeError, compress
from torch import Tensor, nn

RECIPE = """\
name: tuned
quantize:
  - {layers: all, centroids: [2, 4, 16]}
  - {layers: ["head.*"], centroids: 8, granularity: [tensor, channel]}
recover:
  - {step: distill, epochs: 3, batch_size: 16, lr: [1.0e-3, 1.0e-2]}
"""
PLACES = ["quantize[1].centroids", "quantize[2].granularity", "recover[1].lr"]


class Fixed:
    """A trial that always takes the last value."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Any]] = {}

    def suggest_categorical(self, name: str, values: list[Any]) -> Any:
        self.asked[name] = list(values)
        return values[-1]


def test_every_list_becomes_a_parameter() -> None:
    recipe, trial = Recipe.load(RECIPE), Fixed()
    resolved = recipe.suggest(trial)
    assert trial.asked == dict(zip(PLACES, [[2, 4, 16], ["tensor", "channel"], [1e-3, 1e-2]], strict=True))
    assert not resolved.choices() and resolved.quantize[0].options["centroids"] == 16
    assert resolved.recover[0].options["lr"] == 1e-2
    assert recipe.choices(), "the recipe itself is left alone"
    assert resolved.data() == recipe.resolved({where: values[-1] for where, values in recipe.choices().items()}).data()


def test_resolved_checks() -> None:
    recipe = Recipe.load(RECIPE)
    with pytest.raises(RecipeError, match=r"did you mean 'quantize\[1\].centroids'"):
        recipe.resolved({"quantize[1].centroid": 4})
    with pytest.raises(RecipeError, match=r"5 is not one of \[2, 4, 16\]"):
        recipe.resolved({"quantize[1].centroids": 5})
    part = recipe.resolved({"recover[1].lr": 1e-3})
    assert set(part.choices()) == {("quantize", 0, "centroids"), ("quantize", 1, "granularity")}
    with pytest.raises(RecipeError, match="nothing to tune"):
        Recipe.load({"quantize": [{"layers": "all"}]}).suggest(Fixed())


def test_values_that_optuna_cannot_hold_travel_as_json() -> None:
    recipe = Recipe.load({"quantize": [{"layers": "all"}], "recover": [{"step": "distill", "steps": [None, 5]}]})
    assert recipe.suggest(Fixed()).recover[0].options["steps"] == 5


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
    with pytest.raises(IntegrationError, match=rf"pip install 'lloydmax\[{extra}\]'"):
        PruneTrial(None) if module == "optuna" else search_space(Recipe.load(RECIPE))


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

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=search_space(recipe, grid=True),
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
        assert not results.errors
        sizes = {result.config["quantize[1].centroids"]: result.metrics["bytes"] for result in results}
        assert sizes[2] < sizes[4] < sizes[16]
        best = results.get_best_result("bytes", "min")
        assert recipe.resolved(best.config).quantize[0].options["centroids"] == 2
    finally:
        ray.shutdown()


def test_a_plain_loop_fits_the_second_time_from_the_cache() -> None:
    torch.manual_seed(0)
    model, data, cache = (
        nn.Sequential(nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 10)),
        torch.randn(32, 800),
        Cache(),
    )
    recipe = {"quantize": [{"layers": "all", "centroids": 64}]}
    first, second = (compress(model, recipe, data, cache=cache, progress=False) for _ in range(2))
    assert first.report.seconds["fit"] > 5 * second.report.seconds["fit"]
    assert first.report.kl == second.report.kl


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 5)).eval()


def test_two_threads_give_the_bytes_of_one_after_the_other(tmp_path: Path) -> None:
    data = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    step = {"step": "distill", "epochs": 4, "batch_size": 16, "mixup": 0.5}
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [step], "trainable": ["all"]}

    def run(number: int, folder: Path, errors: list[BaseException]) -> None:
        try:
            compress(_models[number], recipe, data, progress=False, seed=number).save(folder / f"{number}.safetensors")
        except BaseException as error:
            errors.append(error)

    _models = [_model(0), _model(1)]
    before, random = copy.deepcopy([m.state_dict() for m in _models]), torch.get_rng_state()
    errors: list[BaseException] = []
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    for number in (0, 1):
        run(number, tmp_path / "alone", errors)
    for _ in range(3):
        threads = [threading.Thread(target=run, args=(n, tmp_path / "together", errors)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for name in ("0.safetensors", "1.safetensors"):
            assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert torch.equal(torch.get_rng_state(), random), "no global state is left behind"
    for model, state in zip(_models, before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
