"""Warnings of stages that moved the outputs away."""

from __future__ import annotations

import warnings

import pytest
from lloydmax.report.figures import Stage
from lloydmax.report.harm import warn_of_harm
from lloydmax.teacher import Agreement

STAGES = [Stage(name, Agreement(0.9, None, mse, 100), None) for name, mse in (("compressed", 1.0), ("step", 2.0))]


def test_steps_that_a_judge_kept_are_not_told() -> None:
    with pytest.warns(UserWarning, match="'step' moved the outputs away"):
        warn_of_harm(STAGES, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_harm(STAGES, None, judged=True)
    with pytest.warns(UserWarning, match="conversion to int8 moved the outputs away"):
        warn_of_harm(STAGES, "step", judged=True)
