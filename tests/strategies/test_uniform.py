"""The quantizer ``uniform``: its codebook is torch's affine quantization, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lloydmax import Codebook
from lloydmax.extend import even
from lloydmax.hooks import registry
from lloydmax_strategies.uniform import Uniform
from torch import Tensor


def fit(weight: Tensor, importance: Tensor | None = None, axis: int = 0, **options: Any) -> Codebook:
    return Uniform(Uniform.Options(**options)).fit(weight, importance=importance, axis=axis)


def torch_values(weight: Tensor, bits: int, scheme: str, channel: bool) -> Tensor:
    """By torch's own min-max observer and fake quantization."""
    half = 2 ** (bits - 1)
    low = -half + (scheme == "symmetric")
    rows = weight.flatten(1) if channel else weight.reshape(1, -1)
    least, most = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    if scheme == "symmetric":
        scale = torch.maximum(-least, most) / (half - 1)
        zero = torch.zeros(len(rows), dtype=torch.int32)
    else:
        scale = (most - least) / (2 * half - 1)
        zero = (low - (least / scale).round()).int()
    if channel:
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, low, half - 1)
    return torch.fake_quantize_per_tensor_affine(weight, scale[0], zero[0], low, half - 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_equals_torchs_affine_quantization(bits: int, scheme: str, granularity: str) -> None:
    weight = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(bits)) + 0.3
    codebook = fit(weight, bits=bits, scheme=scheme, granularity=granularity)
    options: Any = {"bits": bits, "scheme": scheme}
    assert torch.equal(codebook.dequantize(), torch_values(weight, bits, scheme, granularity == "channel"))
    assert codebook.k == 2**bits - (scheme == "symmetric") == Uniform.Options(**options).centroids
    assert codebook.centroids.shape == ((codebook.k,) if granularity == "tensor" else (7, codebook.k))
    assert bool((codebook.centroids.reshape(-1, codebook.k) == 0).any(1).all()), "zero is always a level"
    assert bool((codebook.centroids.diff() > 0).all()) and codebook.codes.dtype == torch.uint8


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    scheme=st.sampled_from(["symmetric", "asymmetric"]),
    exponent=st.integers(-30, 30),
    offset=st.floats(-5, 5),
)
def test_no_weight_is_further_than_half_a_step(seed: int, bits: int, scheme: str, exponent: int, offset: float) -> None:
    weight = (torch.randn(40, generator=torch.Generator().manual_seed(seed)) + offset) * 10.0**exponent
    codebook = fit(weight, bits=bits, scheme=scheme)
    step = float(codebook.centroids.diff().max())
    slack = 1.02 if scheme == "asymmetric" else 1.0  # the rounded zero point moves the ends by up to half a step
    limit = (1.0 if scheme == "asymmetric" else 0.5) * step * slack + 1e-6 * float(weight.abs().max())
    assert float((codebook.dequantize() - weight).abs().max()) <= limit
    assert float((codebook.reassigned(weight).dequantize() - weight).abs().max()) <= limit


@pytest.mark.parametrize("axis", [0, 1])
def test_groups_share_a_scale(axis: int) -> None:
    weight = torch.randn(5, 5, 4, generator=torch.Generator().manual_seed(0))
    weight.select(axis, 4).mul_(10)
    codebook = fit(weight, axis=axis, bits=4, granularity="group:2")
    assert codebook.centroids.shape == (3, 15)
    largest = weight.abs().movedim(axis, 0).flatten(1).amax(1)
    wanted = torch.stack([largest[:2].max(), largest[2:4].max(), largest[4]])
    assert torch.allclose(codebook.centroids[:, -1], wanted)
    assert float((codebook.dequantize() - weight).abs().movedim(axis, 0)[:4].max()) < float(wanted[:2].max()) / 13


@pytest.mark.parametrize(("shape", "axis"), [((5, 24), 0), ((21, 6), 1), ((4, 3, 3, 3), 0), ((3,), 0)])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_runs_of_weights_share_a_grid(shape: tuple[int, ...], axis: int, scheme: str, dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = fit(weight, axis=axis, bits=4, scheme=scheme, granularity="weights:8", threshold="mse")
    rows = weight.movedim(axis, 0).reshape(shape[axis], -1)
    error = torch.zeros(())
    for start in range(0, rows.shape[1], 8):
        part = rows[:, start : start + 8].contiguous()
        alone = fit(part, bits=4, scheme=scheme, granularity="channel", threshold="mse")
        error = error + (alone.dequantize().float() - part.float()).square().sum()
    assert found.mse(weight) * weight.numel() <= 1.02 * float(error) + 1e-4 * float(weight.float().square().sum())
    assert even(found) is not None and bool(found.still().all()), "a run keeps its grid"
    scale = even(found)[:, 0]  # type: ignore[index]
    assert torch.equal(scale, scale.to(dtype if dtype == torch.bfloat16 else torch.float16).float())


def test_runs_stay_even_in_recovery_and_in_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(20, 40), torch.nn.Flatten(), torch.nn.Linear(200, 10)).eval()
    tokens = torch.randint(0, 20, (64, 5))
    rule = {"layers": ["0", "2"], "quantizer": "uniform", "bits": 4, "granularity": "weights:32", "zeros": "keep"}
    steps = [{"step": "match_moments"}, {"step": "reconstruct"}, {"step": "distill", "epochs": 1}]
    result = lloydmax.compress(
        net, {"quantize": [rule], "trainable": ["all"], "recover": steps}, tokens, progress=False
    )
    assert all(even(codebook) is not None for codebook in lloydmax.codebooks(result.model).values())
    lloydmax.save(result.model, tmp_path / "runs.safetensors")
    assert (tmp_path / "runs.safetensors").stat().st_size == result.report.bytes.file
    loaded = lloydmax.load(tmp_path / "runs.safetensors", net)
    assert torch.equal(loaded(tokens), result.model(tokens))
    assert torch.allclose(lloydmax.set_cache(loaded, False)(tokens), result.model(tokens), atol=1e-5)
    with pytest.raises(lloydmax.RecipeError, match=r"granularity 'weights:32' is for even grids, quantizer 'uniform'"):
        lloydmax.plan(net, {"quantize": [{"layers": "all", "granularity": "weights:32"}]})


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_constant_weights_are_kept(scheme: str, value: float) -> None:
    codebook = fit(torch.full((3, 4), value), bits=4, scheme=scheme, granularity="channel")
    assert torch.allclose(codebook.dequantize(), torch.full((3, 4), value), atol=1e-6)
    assert bool(torch.isfinite(codebook.centroids).all())


def test_a_channel_of_zeros_beside_others() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    codebook = fit(weight, granularity="channel")
    assert not codebook.dequantize()[2].any() and codebook.mse(weight) < 1e-4


def test_narrowing_the_range_lowers_the_error_and_minds_importance() -> None:
    weight = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    weight[:, 0] = 12.0
    plain, narrow = (fit(weight, bits=4, granularity="channel", threshold=t) for t in ("max", "mse"))
    assert narrow.mse(weight) < 0.6 * plain.mse(weight)
    importance = torch.ones_like(weight)
    importance[:, 0] = 1e5
    minded = fit(weight, importance, bits=4, granularity="channel", threshold="mse")
    assert minded.mse(weight, importance) < 0.1 * narrow.mse(weight, importance)
    assert float((minded.dequantize()[:, 0] - 12).abs().max()) < 0.2


def test_the_search_finds_nearly_the_best_range() -> None:
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(1))
    found = fit(weight, bits=3, threshold="mse").mse(weight)
    top = float(weight.abs().max())
    best = min(
        float((torch.fake_quantize_per_tensor_affine(weight, r * top / 3 / 1000, 0, -3, 3) - weight).square().mean())
        for r in range(50, 1001, 5)
    )
    assert found <= 1.01 * best


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_scalars(dtype: torch.dtype) -> None:
    codebook = fit(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).to(dtype), bits=4)
    assert codebook.centroids.dtype == dtype
    assert fit(torch.tensor(0.3), granularity="channel").dequantize().item() == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"scheme": "signed"}, {"granularity": "row"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(lloydmax.FitError, match=next(iter(options))):
        registry.make("quantizer", "uniform", options, lloydmax.FitError)


def test_in_a_recipe(small_net: torch.nn.Module) -> None:
    rule = {"layers": "all", "quantizer": "uniform", "bits": 4, "granularity": "channel"}
    result = lloydmax.compress(small_net, {"quantize": [rule]}, progress=False)
    assert {codebook.k for codebook in lloydmax.codebooks(result.model).values()} == {15}
