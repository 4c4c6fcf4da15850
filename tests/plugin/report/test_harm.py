"""Warnings of stages that moved the outputs away."""

from __future__ import annotations

import warnings
from dataclasses import replace

import lloydmax
import pytest
from lloydmax.report.figures import Stage
from lloydmax.report.harm import warn_of_harm, warn_of_size
from lloydmax.teacher import Agreement
from torch import nn

STAGES = [Stage(name, Agreement(0.9, None, mse, 100), None) for name, mse in (("compressed", 1.0), ("step", 2.0))]


def test_steps_that_a_judge_kept_are_not_told() -> None:
    with pytest.warns(UserWarning, match="'step' moved the outputs away"):
        warn_of_harm(STAGES, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_harm(STAGES, None, judged=True)
    with pytest.warns(UserWarning, match="conversion to int8 moved the outputs away"):
        warn_of_harm(STAGES, "step", judged=True)


def test_a_file_that_is_larger_than_its_bits_is_told() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    plan = lloydmax.plan(model, lloydmax.recipe_for(model, 6))
    with pytest.warns(UserWarning, match=rf"bits: the file takes {plan.predicted_bytes + 1} bytes.*6 bits a weight"):
        warn_of_size(plan.predicted_bytes + 1, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_size(plan.predicted_bytes, plan)
        warn_of_size(10**9, replace(plan, recipe=lloydmax.Recipe.load({"quantize": [{"layers": "all"}]})))
