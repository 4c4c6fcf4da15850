"""Search methods: within the budget always, the optimum where they say so."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from lloydmax import BudgetError
from lloydmax.hooks.registry import find, make
from lloydmax.hooks.units import Option, Unit, total_bytes, total_damage


def problem(seed: int) -> list[Unit]:
    """A few units; damage that falls with the bytes, or not, and sizes that tie."""
    r = np.random.default_rng(seed)
    units = []
    for number in range(r.integers(1, 6)):
        weights = int(r.integers(1, 100))
        damage = r.exponential(size=4)
        if seed % 3:
            damage = np.sort(damage)[::-1]
        size = [weights * bits for bits in range(1, 5)] if seed % 2 else r.integers(1, 50, size=4)
        options = [Option(2 ** (n + 1), int(size[n]), float(damage[n])) for n in range(4)]
        units.append(Unit(f"u{number}", (f"u{number}.weight",), weights, tuple(options)))
    return units


def choices(units: list[Unit]) -> list[dict[str, int]]:
    numbers = itertools.product(*([o.centroids for o in unit.options] for unit in units))
    return [dict(zip([unit.name for unit in units], picked, strict=True)) for picked in numbers]


@pytest.mark.parametrize("seed", range(60))
def test_lagrangian_finds_the_optimum_and_greedy_keeps_the_budget(seed: int) -> None:
    units = problem(seed)
    every = choices(units)
    sizes = sorted({total_bytes(units, choice) for choice in every})
    for budget in (sizes[0], sizes[len(sizes) // 2], sizes[-1]):
        best = min(total_damage(units, c) for c in every if total_bytes(units, c) <= budget)
        exact = make("search method", "lagrangian", {})
        choice = exact.choose(units, budget)
        assert exact.proven
        assert total_bytes(units, choice) <= budget
        assert total_damage(units, choice) == pytest.approx(best, abs=1e-12)
        greedy = make("search method", "greedy", {}).choose(units, budget)
        assert total_bytes(units, greedy) <= budget
        assert total_damage(units, greedy) >= best - 1e-12


def large(count: int = 161) -> list[Unit]:
    r = np.random.default_rng(0)
    units = []
    for number, weights in enumerate(r.integers(1_000, 3_000_000, size=count)):
        sensitivity = r.lognormal(0, 2)
        options = [Option(2**b, int(weights) * b // 8 + 4 * 2**b, sensitivity * 4.0**-b) for b in range(1, 9)]
        units.append(Unit(f"u{number}", (), int(weights), tuple(options)))
    return units


def test_a_deep_network_is_solved_exactly_and_uses_the_budget() -> None:
    units = large()
    exact = make("search method", "lagrangian", {})
    for bits in (1.7, 3, 4.3):
        budget = int(sum(unit.weights for unit in units) * bits / 8)
        choice = exact.choose(units, budget)
        assert exact.proven
        assert 0.9999 * budget < total_bytes(units, choice) <= budget
        greedy = make("search method", "greedy", {}).choose(units, budget)
        assert total_damage(units, choice) <= total_damage(units, greedy) < 1.01 * total_damage(units, choice)


def test_few_states_are_enough_for_a_good_choice_but_not_for_a_proof() -> None:
    units = large(40)
    budget = int(sum(unit.weights for unit in units) * 3 / 8)
    exact, hurried = make("search method", "lagrangian", {}), make("search method", "lagrangian", {"states": 1})
    optimum = total_damage(units, exact.choose(units, budget))
    choice = hurried.choose(units, budget)
    assert not hurried.proven and total_bytes(units, choice) <= budget
    assert optimum <= total_damage(units, choice) < 1.02 * optimum


@pytest.mark.parametrize("method", ["lagrangian", "greedy"])
def test_an_impossible_budget_says_what_is_needed(method: str) -> None:
    units = problem(1)
    needed = sum(min(o.bytes for o in unit.options) for unit in units)
    with pytest.raises(BudgetError, match=f"{needed - 1:,} bytes .* they take {needed:,}"):
        make("search method", method, {}).choose(units, needed - 1)


@pytest.mark.parametrize("method", ["lagrangian", "greedy"])
def test_negative_damages_and_single_options(method: str) -> None:
    units = [
        Unit("fixed", (), 1, (Option(16, 10, 5.0),)),
        Unit("free", (), 1, (Option(2, 1, 0.0), Option(4, 2, -3.0), Option(8, 3, -2.0))),
    ]
    assert make("search method", method, {}).choose(units, 100) == {"fixed": 16, "free": 4}


def test_options_are_checked() -> None:
    options: Any = find("search method", "lagrangian").options
    with pytest.raises(ValueError, match="stats"):
        options.model_validate({"stats": 3})
