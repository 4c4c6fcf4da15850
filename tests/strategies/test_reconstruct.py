"""Reconstruction: outputs stay, entropy too, what cannot be done is named."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import PaddedConv, SmallNet, TextNet
from lloydmax import demo, hookimpl
from lloydmax.student.attachment import attach
from lloydmax_strategies.reconstruction.feedback import Factors, feedback, output_errors, refitted
from lloydmax_strategies.reconstruction.gram import LayerGram
from torch import Tensor, nn

STEP = {"step": "reconstruct", "samples": 96, "batch_size": 40}
torch.manual_seed(0)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(24, 16), (50, 24)),
    "linear over tokens": (nn.Linear(24, 16, bias=False), (10, 7, 24)),
    "conv1d": (nn.Conv1d(6, 8, 5, stride=2, padding=3), (10, 6, 21)),
    "conv2d": (nn.Conv2d(6, 8, 3, padding=1), (10, 6, 9, 8)),
    "dilated, reflecting": (nn.Conv2d(6, 8, 3, padding=2, dilation=2, padding_mode="reflect"), (10, 6, 9, 8)),
    "uneven, same": (nn.Conv2d(6, 8, (3, 5), padding="same"), (10, 6, 9, 8)),
    "grouped": (nn.Conv2d(6, 8, 3, stride=2, groups=2), (10, 6, 9, 8)),
    "depthwise": (nn.Conv2d(6, 12, 5, groups=6, bias=False), (10, 6, 9, 8)),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=(0, 1, 2)), (5, 2, 5, 4, 6)),
    "padding by itself": (PaddedConv(6, 8, 3), (10, 6, 9, 8)),
}


def correlated(shape: tuple[int, ...]) -> Tensor:
    """Positive inputs whose neighbours are alike, as those of real layers."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return torch.relu(x + x.roll(1, 1) + x.roll(1, -1) + x.mean(1, keepdim=True) + 0.5)


def recipe(rule: dict[str, Any] | None = None, *later: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Few centroids for all layers, reconstructed."""
    rules = [{"layers": "all", "centroids": 4, **(rule or {})}]
    return {"version": 1, "quantize": rules, "trainable": ["all"], "recover": [{**STEP, **options}, *later]}


def mse(result: lloydmax.Result, stage: int = -1) -> float:
    agreement = result.report.stages[stage].agreement
    assert agreement is not None
    return agreement.mse


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_the_moments_tell_the_output_error(kind: str) -> None:
    layer, shape = LAYERS[kind]
    x, weight = correlated(shape), layer.get_parameter("weight")
    gram = LayerGram(layer, weight)
    for part in x.split(3):
        gram.add(part)
    groups = getattr(layer, "groups", 1)
    nearest = lloydmax.fit_codebook(weight, 3).dequantize()
    error = (weight - nearest).view(groups, weight.shape[0] // groups, -1)
    other = copy.deepcopy(layer)
    other.get_parameter("weight").copy_(nearest)
    axis = 1 if weight.dim() > 2 else -1
    expected = (layer(x) - other(x)).movedim(axis, 0).flatten(1)
    moments, means = gram.moments()
    assert float(output_errors(error, moments).sum()) == pytest.approx(float(expected.square().mean(1).sum()), rel=1e-4)
    shift = (error @ means.float()[:, :, None]).flatten()
    assert torch.allclose(shift, expected.mean(1), atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:3"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_come_closer_than_with_the_nearest_centroids(kind: str, granularity: str, bias: bool) -> None:
    layer, shape = LAYERS[kind]
    model, x = nn.Sequential(copy.deepcopy(layer)).eval(), correlated(shape)
    made = recipe({"granularity": granularity}, bias=bias)
    result = lloydmax.compress(model, made, x, progress=False)
    said = result.report.recovery[-1]
    assert said["layers"] == 1 and said["skipped"] == [] and said["codes_changed"] > 0
    assert said["error"] < said["error_before"] and mse(result) < mse(result, 1)
    fitted = lloydmax.codebooks(lloydmax.compress(model, made | {"recover": []}, progress=False).model)["0.weight"]
    assert torch.equal(lloydmax.codebooks(result.model)["0.weight"].centroids, fitted.centroids)


def test_without_correlations_every_weight_takes_the_nearest() -> None:
    weight = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(0))
    table = torch.linspace(-2, 2, 5)
    factors = Factors(torch.eye(40).double().expand(2, 40, 40) * torch.arange(1, 41), 0.01)
    nearest = (weight[..., None] - table).abs().argmin(-1)
    assert torch.equal(feedback(weight, factors, table).long(), nearest)


def test_moments_are_let_go_of_without_a_search_for_garbage() -> None:
    factors = Factors(torch.eye(12).double()[None], 0.01)
    held = weakref.ref(factors.upper)
    gc.collect()
    gc.disable()
    try:
        feedback(torch.randn(1, 8, 12), factors, torch.linspace(-2, 2, 5))
        del factors
        assert held() is None
    finally:
        gc.enable()


def test_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(500, 40, generator=generator).double().cumsum(1),
        torch.randn(1, 30, 40, generator=generator),
    )
    factors, table = Factors((x.T @ x)[None] / 500, 0.01), torch.linspace(-2, 2, 5)
    whole = feedback(weight, factors, table)
    monkeypatch.setattr("lloydmax_strategies.reconstruction.feedback._FLOATS", 11)
    assert (feedback(weight, factors, table) == whole).float().mean() > 0.99


def test_refitted_centroids_are_those_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(99, 12, generator=generator).cumsum(1), torch.randn(1, 10, 12, generator=generator)
    book = lloydmax.fit_codebook(weight[0], 4)
    slots = book.codes.long().flatten()
    found = refitted(
        book.centroids,
        weight,
        (x.T @ x)[None].double() / 99,
        lambda centroids: centroids[slots].view(weight.shape),
        lambda values: torch.zeros(4).index_add_(0, slots, values.flatten()),
    )
    members = nn.functional.one_hot(slots, 4).float().view(10, 12, 4)
    design, wanted = (x @ members).flatten(0, 1), (weight[0] @ x.T).flatten()
    assert torch.allclose(found, torch.linalg.lstsq(design, wanted).solution, atol=1e-3)


class Watcher:
    """Keeps what the codebooks were fitted to be."""

    def __init__(self) -> None:
        self.fitted: dict[str, tuple[Tensor, float]] = {}

    @hookimpl
    def lloydmax_parameter_fitted(self, name: str, codebook: lloydmax.Codebook) -> None:
        self.fitted[name] = codebook.centroids.clone(), codebook.entropy


def test_a_real_network_comes_closer_at_the_same_entropy() -> None:
    model, data, watcher = demo.network(), demo.silhouettes()[:64], Watcher()
    made = recipe({"centroids": 64}, samples=64, batch_size=64)
    made |= {"bits": 2.5, "storage": {"floats": "float16", "codes": "entropy"}}
    result = lloydmax.compress(model, made, data, progress=False, listeners=[watcher])
    assert mse(result) < 0.6 * mse(result, 1)
    assert result.report.recovery[-1]["codes_changed"] > 0.1
    found = lloydmax.codebooks(result.model)
    fitted = {name: entropy for name, (_, entropy) in watcher.fitted.items()}
    assert all(found[name].entropy <= entropy for name, entropy in fitted.items())
    bits = [sum(one[name] * found[name].codes.numel() for name in found) for one in
            (fitted, {name: book.entropy for name, book in found.items()})]  # fmt: skip
    assert bits[1] > 0.98 * bits[0]  # a layer with hardly more weights than centroids cannot have all of them
    allowed = 2.5 / 8 * sum(parameter.numel() for parameter in model.parameters())
    assert abs(result.report.bytes.file / allowed - 1) < 0.02


def test_frozen_centroids_stay_and_are_named(pictures: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.ReLU(), nn.Linear(32, 64)).eval()
    pictures = pictures + pictures.roll(1, 3) + pictures.roll(1, 2)
    made = recipe({"centroids": 64}, refit=True) | {"bits": 3.0, "storage": {"codes": "entropy"}}
    trained = lloydmax.compress(model, made, pictures, progress=False)
    made["trainable"] = ["biases"]
    watcher = Watcher()
    frozen = lloydmax.compress(model, made, pictures, progress=False, listeners=[watcher])
    assert trained.report.recovery[-1]["frozen"] == []
    assert frozen.report.recovery[-1]["frozen"] == list(watcher.fitted)
    for name, book in lloydmax.codebooks(frozen.model).items():
        assert torch.equal(book.centroids, watcher.fitted[name][0])
        assert book.entropy <= watcher.fitted[name][1]
    assert mse(trained) < mse(frozen) < mse(frozen, 1)


def test_a_share_of_the_positions_is_enough(pictures: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    every, some, hardly = (
        lloydmax.compress(model, recipe(rows=rows), pictures, progress=False) for rows in (None, 1000, 3)
    )
    assert mse(some) < 1.1 * mse(every) < mse(every, 1)
    assert mse(hardly) > mse(some)


def test_what_cannot_be_done_is_named(small_net: SmallNet, text_net: TextNet, pictures: Tensor) -> None:
    made = recipe()
    made["quantize"].append({"layers": ["stem"], "block": 3})
    result = lloydmax.compress(small_net, made, pictures, progress=False)
    said = result.report.recovery[-1]
    assert said["skipped"] == ["stem.weight"] and said["layers"] == 4
    fitted = lloydmax.codebooks(lloydmax.compress(small_net, made | {"recover": []}, progress=False).model)
    for name in said["skipped"]:
        assert torch.equal(lloydmax.codebooks(result.model)[name].codes, fitted[name].codes)
    made = recipe()
    made["quantize"] += [{"layers": ["lstm"], "parameter": "weight_hh_l0", "centroids": 4}]
    made["quantize"] += [{"layers": ["attention"], "parameter": "in_proj_weight", "centroids": 4}]
    tokens = torch.randint(0, 50, (40, 6), generator=torch.Generator().manual_seed(0))
    said = lloydmax.compress(text_net, made, tokens, progress=False).report.recovery[-1]
    assert said["layers"] == 3 and said["skipped"] == [
        "attention.out_proj.weight"
    ]  # of the embedding, which is tied, both uses count
    transposed = nn.Sequential(nn.ConvTranspose2d(3, 4, 3)).eval()
    with pytest.warns(UserWarning, match="reconstruct: nothing could be done: 0.weight"):
        lloydmax.compress(transposed, recipe(), pictures, progress=False)


@pytest.mark.parametrize("bits", [None, 5.0])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_are_reconstructed_layer_by_layer(kind: Any, bits: float | None) -> None:
    class Heard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = kind(24, 32, 2, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(x)[0]

    torch.manual_seed(0)
    model, x = Heard().eval(), correlated((96, 11, 24))
    leaves = [leaf for leaf, weight in model.recurrent.named_parameters() if weight.dim() > 1]
    made = recipe() | {"quantize": [{"layers": ["recurrent"], "parameter": leaf, "centroids": 4} for leaf in leaves]}
    if bits:
        made |= {"bits": bits, "storage": {"codes": "entropy"}}
        made["quantize"] = [rule | {"centroids": 64} for rule in made["quantize"]]
    result = lloydmax.compress(model, made, x, progress=False)
    said = result.report.recovery[-1]
    assert said["layers"] == len(leaves) == 8 and said["skipped"] == []
    assert said["error"] < 0.8 * said["error_before"] and mse(result) < 0.8 * mse(result, 1)


def test_a_weight_that_is_not_used_as_it_is_stays() -> None:
    class Standardized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)

    model = nn.Sequential(Standardized(24, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    said = lloydmax.compress(model, recipe(), correlated((50, 24)), progress=False).report.recovery[-1]
    assert said["layers"] == 1 and said["skipped"] == ["0.weight"]


def test_the_same_run_gives_the_same_bytes_and_goes_on_to_train(
    small_net: SmallNet, pictures: Tensor, tmp_path: Path
) -> None:
    distill = {"step": "distill", "epochs": 2, "batch_size": 32, "codes": "learn", "optimizer": "adam"}
    made = recipe(None, distill, refit=True)
    for file in ("a", "b"):
        result = lloydmax.compress(small_net, made, pictures, progress=False)
        result.save(tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert mse(result) < mse(result, 1) and mse(result, 2) < mse(result, 1)
    loaded = lloydmax.load(tmp_path / "a", copy.deepcopy(small_net))
    assert torch.equal(loaded(pictures), result.model(pictures))


def test_a_host_without_the_original_keeps_its_codes(pictures: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    student = copy.deepcopy(model)
    attach(student, "1.weight", lloydmax.fit_codebook(student.get_parameter("1.weight"), 4))
    before = student(pictures)
    said = lloydmax.run_step("reconstruct", student, model, pictures)
    assert said["layers"] == 1 and said["error_before"] == said["error"] == said["codes_changed"] == 0.0
    assert torch.equal(student(pictures), before)
