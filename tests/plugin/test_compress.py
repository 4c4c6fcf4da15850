"""The pipeline: results, determinism, the teacher's integrity, events, errors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import DataError, RecipeError, RecoveryError, hookimpl
from lloydmax.network.folding import Folded
from lloydmax.report.harm import _harm
from lloydmax.teacher.agreement import Agreement
from torch import Tensor, nn

RECIPE = {
    "name": "small",
    "quantize": [{"layers": "all", "centroids": 4}],
    "trainable": ["all"],
    "recover": [
        {"step": "renormalize", "samples": 96},
        {"step": "distill", "epochs": 3, "batch_size": 16, "lr": 0.01, "precision": "float32"},
    ],
}


def same_state(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_whole_job(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    before = copy.deepcopy(small_net)
    small_net.train()
    result = lloydmax.compress(small_net, RECIPE, data=pictures, evaluate=lambda m: float(m(pictures).mean()))
    assert small_net.training and same_state(small_net, before), "the teacher must not change"
    report = result.report
    assert report.stages[-1].agreement.mse < report.stages[1].agreement.mse
    assert [stage.name for stage in report.stages] == ["original", "compressed", "renormalize", "distill"]
    assert report.agreement.after is not None and report.kl.before is not None
    size = result.save(tmp_path / "model.safetensors")
    assert size == (tmp_path / "model.safetensors").stat().st_size == report.bytes.file
    assert abs(result.plan.predicted_bytes - size) <= 0.01 * size
    assert report.reduction == 1 - size / report.bytes.original
    model = lloydmax.load(tmp_path / "model.safetensors", SmallNet())
    with torch.no_grad():
        assert torch.equal(model(pictures), result.model(pictures))
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["bytes"]["file"] == size and len(data["layers"]) == 5 and data["seconds"]["distill"] > 0
    assert "head.0.weight" in str(report) and "agreement" in str(report)


def test_same_recipe_data_and_seed_give_the_same_bytes(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name) % 1000)
        lloydmax.compress(small_net, RECIPE, data=pictures, seed=seed, progress=False).save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


def test_global_random_state_is_left_alone(small_net: SmallNet, pictures: Tensor) -> None:
    before = torch.get_rng_state()
    lloydmax.compress(small_net, RECIPE, data=pictures, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_step_that_does_harm_is_told(small_net: SmallNet, pictures: Tensor) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 64}], "recover": [{"step": "renormalize"}]}
    with pytest.warns(UserWarning, match="'renormalize' moved the outputs away .*relative: true"):
        lloydmax.compress(small_net, recipe, data=5 * pictures + 9, progress=False)


def test_a_step_that_lowers_the_divergence_does_no_harm() -> None:
    before = Agreement(top1=0.9, kl=0.02, mse=1.0, samples=100)
    assert _harm(before, Agreement(top1=0.9, kl=0.01, mse=1.5, samples=100)) is None
    assert _harm(before, Agreement(top1=0.9, kl=0.02, mse=1.5, samples=100)) is not None
    assert _harm(Agreement(None, None, 1.0, 100), Agreement(None, None, 1.5, 100)) is not None


def test_without_data_and_recovery(small_net: SmallNet) -> None:
    result = lloydmax.compress(small_net, {"quantize": [{"layers": "all", "centroids": 16}]}, progress=False)
    assert result.report.agreement.before is None and result.report.stages[-1].name == "finished"
    assert all(layer.snr > 15 for layer in result.report.layers)


def test_frozen_codebooks_stay_and_the_rest_learns(small_net: SmallNet, pictures: Tensor) -> None:
    recipe = RECIPE | {"quantize": [{"layers": "head.*", "centroids": 4}], "trainable": ["unquantized"]}
    result = lloydmax.compress(small_net, recipe, data=pictures, progress=False)
    fitted = lloydmax.fit_codebook(small_net.head[0].weight, 4)
    held = lloydmax.codebooks(result.model)["head.0.weight"]
    assert torch.equal(held.centroids, fitted.centroids) and torch.equal(held.codes, fitted.codes)
    assert not torch.equal(result.model.stem.weight, small_net.stem.weight)
    assert all(p.requires_grad for name, p in result.model.named_parameters() if "bn" in name)


def test_text_models_with_tied_and_recurrent_weights(text_net: TextNet, tmp_path: Path) -> None:
    tokens = torch.randint(0, 50, (48, 6), generator=torch.Generator().manual_seed(0))
    recipe = {
        "quantize": [{"layers": "*", "parameter": "*weight*", "centroids": 8}],
        "trainable": ["codebooks"],
        "recover": [{"step": "distill", "loss": "kl", "epochs": 2, "batch_size": 16}],
    }
    result = lloydmax.compress(text_net, recipe, data=tokens, progress=False)
    assert len(result.plan.parameters) == 5
    result.save(tmp_path / "text.safetensors")
    loaded = lloydmax.load(tmp_path / "text.safetensors", TextNet()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens), result.model(tokens))
    assert loaded.out.weight is loaded.embed.weight or torch.equal(loaded.out.weight, loaded.embed.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(small_net: SmallNet, dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_net.to(dtype)
    result = lloydmax.compress(model, {"quantize": [{"layers": "all", "centroids": 8}]}, progress=False)
    assert result.model.stem.weight.dtype == dtype
    result.save(tmp_path / "half.safetensors")
    loaded = lloydmax.load(tmp_path / "half.safetensors", SmallNet().to(dtype))
    x = torch.randn(2, 3, 12, 12).to(dtype)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), result.model(x))


def test_errors_come_before_work(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match="renormalize.*data="):
        lloydmax.compress(small_net, RECIPE)
    with pytest.raises(DataError):
        lloydmax.compress(small_net, RECIPE, data=tmp_path / "nowhere")
    with pytest.raises(DataError):
        lloydmax.compress(small_net, RECIPE, data=pictures[:0])
    with torch.no_grad():
        small_net.head[0].weight[0, 0] = float("nan")
    named = {**RECIPE, "quantize": [{"layers": "head.0", "centroids": 4}]}
    with pytest.raises(RecipeError, match=r"head\.0\.weight: 1 of its 512 values are NaN"):
        lloydmax.compress(small_net, named, data=pictures, progress=False)


def test_a_third_partys_importance_reaches_the_fit(small_net: SmallNet, pictures: Tensor) -> None:
    from lloydmax.hooks import registry
    from pydantic import BaseModel

    class FirstRow:
        class Options(BaseModel):
            pass

        def __init__(self, options: Options) -> None: ...

        def measure(self, model: nn.Module, names: list[str], data: object) -> dict[str, Tensor]:
            weights = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
            for weight in weights.values():
                weight[0] = 1
            return weights

    class Plugin:
        @hookimpl
        def lloydmax_importances(self) -> dict[str, type]:
            return {"first_row": FirstRow}

    plugin = Plugin()
    registry.register(plugin, "importance-test")
    try:
        rule = {"layers": "head.0", "centroids": 16, "importance": "first_row"}
        result = lloydmax.compress(small_net, {"quantize": [rule]}, data=pictures, progress=False)
        held = lloydmax.codebooks(result.model)["head.0.weight"].dequantize()
        assert torch.allclose(held[0], small_net.head[0].weight[0]), "16 centroids keep the 16 important weights"
        assert not torch.allclose(held[1], small_net.head[0].weight[1])
        with pytest.raises(RecoveryError, match="first_row"):
            lloydmax.compress(small_net, {"quantize": [rule]}, progress=False)
    finally:
        registry.unregister(plugin)


def test_runs_that_share_a_cache_share_codebooks_inputs_and_the_teachers_outputs(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path
) -> None:
    cache, files = lloydmax.Cache(), []
    calls: list[bool] = []
    small_net.register_forward_hook(lambda module, *_: calls.append(module is small_net))
    for name, kept in (("alone", None), ("first", cache), ("second", cache)):
        calls.clear()
        lloydmax.compress(small_net, RECIPE, data=pictures, progress=False, cache=kept).save(tmp_path / name)
        files.append(((tmp_path / name).read_bytes(), sum(calls)))
    assert files[0] == files[1] and files[1][0] == files[2][0]
    assert files[2][1] == 0 and cache.hits >= 5, "the second run asked the teacher again"


def test_a_folded_float_model_has_a_file_of_its_own(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 32}], "recover": [{"step": "fold_batch_norm"}]}
    assert "stem.bias" in lloydmax.plan(small_net, recipe).trainable
    result = lloydmax.compress(small_net, recipe, progress=False)
    assert isinstance(result.model.bn1, Folded)
    result.save(tmp_path / "m.safetensors")
    loaded = lloydmax.load(tmp_path / "m.safetensors", SmallNet())
    assert isinstance(loaded.bn1, Folded)
    with torch.no_grad():
        assert torch.equal(loaded(pictures), result.model(pictures))


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_seeds_that_no_generator_takes(small_net: SmallNet, pictures: Tensor, seed: int) -> None:
    choices = {"quantize": [{"layers": "all", "centroids": [2, 4]}]}
    for run in (
        lambda: lloydmax.compress(small_net, RECIPE, pictures, seed=seed, progress=False),
        lambda: lloydmax.run_step("renormalize", copy.deepcopy(small_net), small_net, pictures, seed=seed),
        lambda: lloydmax.search(small_net, choices, pictures, {"bits": 3}, seed=seed, progress=False),
        lambda: lloydmax.synthesize(small_net, 2, 12, seed=seed),
    ):
        with pytest.raises(lloydmax.RecipeError, match=f"seed is {seed}"):
            run()
