"""Trained thresholds: values, gradients, saturation, fixed parameters, state."""

from __future__ import annotations

import copy
import io
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.student.thresholds import TrainedThreshold
from torch import Tensor


class Threshold(TrainedThreshold):
    """With a host's flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))


def values(*shape: int, seed: int = 0, shift: float = 0.3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + shift


def observed(x: Tensor, *args: Any, **kwargs: Any) -> Threshold:
    threshold = Threshold(*args, **kwargs)
    threshold(x)
    threshold.observer_enabled[0] = 0
    return threshold


def torchs(threshold: Threshold, x: Tensor) -> Tensor:
    """By torch's own fake quantization with the parameters that the threshold gives."""
    scale, zero = threshold.calculate_qparams()
    limits = (threshold.quant_min, threshold.quant_max)
    if threshold.granularity == "channel":
        return torch.fake_quantize_per_channel_affine(x, scale, zero, threshold.axis, *limits)
    return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), *limits)


def gradients(threshold: Threshold) -> list[float]:
    return [factor.grad.sum().item() for factor in threshold.factors() if factor.grad is not None]


KINDS = [(True, "tensor"), (True, "channel"), (False, "tensor")]


@pytest.mark.parametrize(("weights", "granularity"), KINDS)
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("learns", [True, False])
def test_values_equal_torchs(weights: bool, granularity: str, scheme: str, bits: int, learns: bool) -> None:
    x = values(6, 5, 4)
    threshold = observed(x, bits, scheme, granularity, weights=weights)
    with torch.no_grad():
        for factor in threshold.factors():
            factor.add_(-0.3 * torch.rand(factor.shape, generator=torch.Generator().manual_seed(1)))
    with torch.set_grad_enabled(learns):
        found = threshold(2 * x)
    assert torch.equal(found, torchs(threshold, 2 * x)) and found.requires_grad == learns
    assert found.unique().numel() <= 2**bits * (6 if granularity == "channel" else 1)


def test_published_formulas() -> None:
    x = torch.tensor([-1.0, 0.5, 3.0])
    threshold = observed(x, 8, "symmetric")
    threshold.width.data.fill_(0.7)
    assert float(threshold.calculate_qparams()[0]) == pytest.approx(0.7 * 3 / 127)
    threshold.width.data.fill_(0.2)
    assert float(threshold.calculate_qparams()[0]) == pytest.approx(0.5 * 3 / 127), "clipped at a half"
    threshold = observed(x, 8, "asymmetric", weights=False)
    threshold.width.data.fill_(0.8)
    assert threshold.shift is not None
    threshold.shift.data.fill_(0.1)
    scale, zero = threshold.calculate_qparams()
    assert float(scale) == pytest.approx(0.8 * 4 / 255) and int(zero) == round(0.6 / float(scale))
    threshold.shift.data.fill_(-0.5)
    assert int(threshold.calculate_qparams()[1]) == round((1 + 0.2 * 4) / float(scale)), "shift clipped at -0.2"


def test_activations_use_the_whole_unsigned_range_where_nothing_is_negative() -> None:
    positive, signed = values(100).relu(), values(100)
    for scheme in ("symmetric", "asymmetric"):
        scale, zero = observed(positive, 8, scheme, weights=False).calculate_qparams()
        assert int(zero) == 0 and float(scale) == pytest.approx(float(positive.max()) / 255)
    scale, zero = observed(signed, 8, "symmetric", weights=False).calculate_qparams()
    assert int(zero) == 128 and float(scale) == pytest.approx(float(signed.abs().max()) / 127)
    assert int(observed(signed, 4, "symmetric", weights=False).calculate_qparams()[1]) == 8


def test_activations_widen_and_weights_are_looked_at_anew() -> None:
    for weights, wanted in ((False, 5.0), (True, 2.0)):
        threshold = Threshold(weights=weights)
        for top in (1.0, 5.0, 2.0):
            threshold(torch.tensor([-0.5, top]))
        assert float(threshold.max_val) == wanted


@pytest.mark.parametrize(("weights", "granularity"), KINDS)
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_gradients_are_those_of_the_formulas(weights: bool, granularity: str, scheme: str) -> None:
    """x inside: g; outside: 0. Scale: g * (round(x / s) - x / s) inside, the end of the range outside."""
    x = values(4, 50, shift=-0.1).requires_grad_()
    threshold = observed(x, 4, scheme, granularity, weights=weights)
    with torch.no_grad():
        threshold.width.fill_(0.6)
        if threshold.shift is not None:
            threshold.shift.fill_(0.05)
    g = values(4, 50, seed=1, shift=0.0)
    threshold(x).backward(g)
    scale, zero = (p.double().view(-1, 1) for p in threshold.calculate_qparams())
    q = (x.detach().double() / scale).round() + zero
    low, high = q < threshold.quant_min, q > threshold.quant_max
    inside = ~(low | high)
    assert bool(low.any() or high.any())
    assert x.grad is not None and torch.equal(x.grad, g * inside)
    extent = torch.where(
        torch.tensor(scheme == "symmetric"),
        torch.maximum(threshold.min_val.abs(), threshold.max_val.abs()),
        threshold.max_val.clamp(min=0) - threshold.min_val.clamp(max=0),
    ).double()
    levels = threshold.quant_max - threshold.quant_min
    if scheme == "symmetric":
        levels = threshold.quant_max if weights else threshold.quant_max // 2
    end = torch.where(low, threshold.quant_min - zero, threshold.quant_max - zero)
    if threshold.shift is not None:  # the zero point moves with the scale
        end += (threshold.min_val.clamp(max=0).double() + 0.05 * extent).view(-1, 1) / -scale
    rounding = (x.detach().double() / scale).round() - x.detach().double() / scale
    terms = g.double() * torch.where(inside, rounding, end)
    per = (lambda t: t.sum(1)) if granularity == "channel" else (lambda t: t.sum().view(1))
    assert threshold.width.grad is not None
    assert torch.allclose(threshold.width.grad.double(), per(terms) * extent / levels, rtol=1e-3, atol=1e-3)
    if threshold.shift is not None:
        assert threshold.shift.grad is not None
        wanted = per(g.double() * ~inside) * extent
        assert torch.allclose(threshold.shift.grad.double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_gradients_against_finite_differences(scheme: str) -> None:
    """Of the clipped values: rounding hardly matters with 8 bits, and far more values are clipped than not."""
    x = 20 * values(2000)
    threshold = observed(x / 12, 8, scheme)
    with torch.no_grad():
        threshold.width.fill_(0.75)
    threshold(x).sum().backward()
    for factor in threshold.factors():
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(threshold)
            twin = next(f for f, g in zip(moved.factors(), threshold.factors(), strict=True) if g is factor)
            with torch.no_grad():
                twin.add_(sign * 0.05)
                ends.append(float(moved(x).sum()))
        assert factor.grad is not None
        assert float(factor.grad) == pytest.approx((ends[0] - ends[1]) / 0.1, rel=0.05)


def test_a_saturated_factor_gets_no_gradient_and_projection_frees_it() -> None:
    x = values(100)
    threshold = observed(x, 4, "asymmetric")
    assert threshold.saturated() == 0 and threshold.shift is not None
    for width, shift in ((1.1, 0.5), (0.4, 0.5)):
        with torch.no_grad():
            threshold.width.fill_(width)
            threshold.shift.fill_(shift)
        threshold.zero_grad()
        threshold(x).sum().backward()
        assert gradients(threshold) == [0.0, 0.0]
        assert threshold.saturated() == 2
        before = threshold.calculate_qparams()
        threshold.project()
        assert all(map(torch.equal, before, threshold.calculate_qparams()))
        threshold(x).sum().backward()
        assert all(gradients(threshold))


def test_the_shift_of_unsigned_values_cannot_leave_zero() -> None:
    threshold = observed(values(100).relu(), 8, "asymmetric", weights=False)
    assert threshold.shift is not None
    for shift in (-0.1, 0.3):
        with torch.no_grad():
            threshold.shift.fill_(shift)
        assert int(threshold.calculate_qparams()[1]) == 0
        assert threshold(torch.zeros(1)).item() == 0.0


def test_the_upper_limit_of_the_code() -> None:
    threshold = observed(values(100), 8, widest=1.3)
    threshold.width.data.fill_(2.0)
    plain = observed(values(100), 8)
    assert float(threshold.calculate_qparams()[0] / plain.calculate_qparams()[0]) == pytest.approx(1.3)


def test_one_far_value_is_cut_off_by_training() -> None:
    x = values(1000, shift=0.0)
    x[0] = 9.0
    threshold = observed(x, 4, "symmetric")
    optimizer = torch.optim.Adam(threshold.factors(), 0.02)
    losses = []
    for _ in range(60):
        loss = (threshold(x) - x)[1:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        threshold.project()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0] and float(threshold.width.detach()) == pytest.approx(0.5, abs=0.03)


def test_fixed_parameters_are_returned_bit_for_bit() -> None:
    x = values(5, 8)
    for granularity, count in (("tensor", 1), ("channel", 5)):
        threshold = Threshold(8, "asymmetric", granularity)
        scale = torch.rand(count, generator=torch.Generator().manual_seed(2)) / 50 + 1e-3
        zero = torch.arange(count, dtype=torch.int32) - 2
        threshold.fix(scale, zero)
        assert not threshold.observer_enabled[0] and threshold.factors() == [] and threshold.saturated() == 0
        threshold.observer_enabled[0] = 1
        found = threshold(x)
        assert all(map(torch.equal, threshold.calculate_qparams(), (scale, zero)))
        assert torch.equal(found, torchs(threshold, x)) and not found.requires_grad
        again = Threshold(8, "asymmetric", granularity)
        again.load_state_dict(threshold.state_dict())
        assert all(map(torch.equal, again.calculate_qparams(), (scale, zero)))
        assert torch.equal(copy.deepcopy(threshold)(x), found)


@pytest.mark.parametrize(
    ("scale", "zero"), [([0.0], [0]), ([0.1], [200]), ([0.1, 0.2], [0, 0]), ([float("nan")], [0]), ([0.1], [0, 0])]
)
def test_impossible_parameters_are_refused(scale: list[float], zero: list[int]) -> None:
    with pytest.raises(lloydmax.IntegrationError):
        Threshold().fix(torch.tensor(scale), torch.tensor(zero))


def test_a_state_dict_reloads_into_a_fresh_one() -> None:
    x = values(6, 10)
    threshold = observed(x, 4, "asymmetric", "channel")
    with torch.no_grad():
        for factor in threshold.factors():
            factor.add_(torch.linspace(-0.3, 0, 6))
    file = io.BytesIO()
    torch.save(threshold.state_dict(), file)
    file.seek(0)
    fresh = Threshold(4, "asymmetric", "channel")
    factors = fresh.factors()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), threshold(x))
    assert all(old is new for old, new in zip(factors, fresh.factors(), strict=True)), "an optimizer keeps its grip"


def test_flags() -> None:
    x = values(10)
    threshold = Threshold()
    threshold.fake_quant_enabled[0] = 0
    assert threshold(x) is x and threshold.observed
    unseen = Threshold()
    unseen.observer_enabled[0] = 0
    with pytest.raises(lloydmax.IntegrationError, match="seen no values"):
        unseen(x)
    with pytest.raises(lloydmax.IntegrationError, match="seen no values"):
        unseen.calculate_qparams()
    broken = observed(torch.tensor([1.0, float("nan")]))
    with pytest.raises(lloydmax.IntegrationError, match="NaN"):
        broken.calculate_qparams()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_kept(dtype: torch.dtype) -> None:
    x = values(20).to(dtype)
    assert observed(x, 8)(x).dtype == dtype


def test_zeros_and_empty_values() -> None:
    threshold = observed(torch.zeros(3, 4), 8, "asymmetric", "channel")
    assert not threshold(torch.zeros(3, 4)).any() and not torch.isnan(threshold(values(3, 4))).any()
    unseen = Threshold()
    unseen.observe(torch.empty(0))
    assert not unseen.observed


def test_observed_in_inference_mode_and_trained_later() -> None:
    x = values(4, 9)
    threshold = Threshold(4, "asymmetric", "channel")
    with torch.inference_mode():
        threshold(x.clone())
    threshold(x).sum().backward()
    assert threshold.width.grad is not None and threshold.width.grad.shape == (4,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits is 1"),
        ({"bits": 9}, "bits is 9"),
        ({"scheme": "affine"}, "scheme is 'affine'"),
        ({"granularity": "group:2"}, "granularity is 'group:2'"),
        ({"granularity": "channel", "weights": False}, "one threshold"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(lloydmax.FitError, match=message):
        Threshold(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("weights", "granularity"), KINDS)
def test_the_same_on_a_gpu(weights: bool, granularity: str) -> None:
    x = values(6, 40)
    threshold = observed(x, 4, "asymmetric", granularity, weights=weights)
    there = copy.deepcopy(threshold).cuda()
    for one, given in ((threshold, x), (there, x.cuda())):
        one(given).square().sum().backward()
    off = (there(x.cuda()).cpu() - threshold(x)).abs() > 1e-4
    assert off.float().mean() < 0.02  # values halfway between two levels may go either way
    assert gradients(there) == pytest.approx(gradients(threshold), rel=1e-4, abs=1e-4)
