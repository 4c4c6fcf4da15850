"""The law by which a sweep predicts the agreement of what it did not measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from lloydmax import sweep
from lloydmax.choosing.sweeping import _agreement_law
from lloydmax.teacher.agreement import Agreement
from torch import nn

KS = [2, 3, 4, 6, 8, 12, 16, 24, 32]


def law(*points: tuple[float | None, float | None]) -> Callable[[float], float]:
    """From measured pairs of divergence and agreement."""
    return _agreement_law([Agreement(top1, kl, 1.0, 100) for kl, top1 in points])


def on(c: float, b: float, divergences: Sequence[float]) -> list[tuple[float, float]]:
    """Measurements that follow ``1 - c KL^b``."""
    return [(kl, 1 - c * kl**b) for kl in divergences]


@pytest.mark.parametrize(("c", "b"), [(0.4, 0.5), (0.7, 0.35), (0.2, 0.9)])
def test_three_measurements_far_apart_give_the_power_and_the_factor(c: float, b: float) -> None:
    found = law(*on(c, b, [1e-4, 1e-2, 0.5]))
    for kl in (1e-6, 3e-3, 0.2, 1.0):
        assert found(kl) == pytest.approx(1 - c * kl**b, abs=1e-9)


@pytest.mark.parametrize("divergences", [[0.02], [1e-4, 0.5], [0.1, 0.15, 0.2]], ids=["one", "two", "alike"])
def test_few_or_like_measurements_give_the_factor_of_a_root(divergences: list[float]) -> None:
    found = law(*on(0.3, 0.9, divergences))
    factors = [(1 - found(kl)) / math.sqrt(kl) for kl in (1e-3, 1e-2, 0.1)]
    assert factors == pytest.approx(factors[:1] * 3)
    middle = math.exp(sum(map(math.log, divergences)) / len(divergences))
    assert found(middle) == pytest.approx(1 - 0.3 * middle**0.9), "the measurements are met on average"


@pytest.mark.parametrize(("steep", "used"), [(2.0, 1.0), (0.05, 0.3)])
def test_a_power_that_no_network_has_is_not_believed(steep: float, used: float) -> None:
    found = law(*on(0.1, steep, [1e-3, 1e-2, 0.1]))
    assert math.log((1 - found(1e-2)) / (1 - found(1e-4))) / math.log(100) == pytest.approx(used)


def test_what_has_no_logarithm_does_not_count() -> None:
    found = law(*on(0.4, 0.5, [1e-4, 1e-2, 0.5]), (0.3, 1.0), (0.0, 0.9), (None, None), (0.1, None))
    assert found(0.04) == pytest.approx(1 - 0.4 * 0.2)
    assert law()(5.0) == law((0.1, 1.0))(5.0) == 1.0, "where no decision flipped, none is expected to"


def test_agreement_is_a_share() -> None:
    found = law(*on(0.4, 0.5, [1e-4, 1e-2, 0.5]))
    assert found(1e6) == 0.0 and found(0.0) == found(-1e-9) == 1.0


def test_a_sweep_predicts_by_the_law_of_what_it_measured() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)]
    model, data = nn.Sequential(*layers), torch.randn(1024, 16)
    rows, wanted = (sweep(model, {"quantize": [{"layers": "all"}]}, data, KS, estimate=e).rows for e in (True, False))
    measured, predicted = (
        np.array([(math.log(r.kl), math.log(1 - r.agreement)) for r in rows if r.measured == kind]).T
        for kind in (True, False)
    )
    assert measured.shape[1] >= 3 and predicted.shape[1] > 15
    slope, start = np.polyfit(*predicted, 1)
    assert np.ptp(predicted[1] - slope * predicted[0]) < 1e-6, "one law for all"
    assert 0.3 < slope < 1 and slope == pytest.approx(np.polyfit(*measured, 1)[0])
    assert float((measured[1] - slope * measured[0]).mean()) == pytest.approx(start, abs=1e-6)
    apart = [abs(r.agreement - w.agreement) for r, w in zip(rows, wanted, strict=True)]
    assert float(np.mean(apart)) < 0.02 and max(apart) < 0.1
