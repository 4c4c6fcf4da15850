"""Axes: round numbers as marks, whole ones where values are whole, and no mark beyond the ends."""

from __future__ import annotations

import math

import pytest
from lloydmax.report.axes import linear, logarithmic, span
from lloydmax.report.svg import Drawing


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 2), (0, 15), (0, 3), (0, 222), (0, 1e6), (0, 7e9), (3, 4), (-5, 12345)]
)
def test_whole_numbers_are_marked_by_whole_numbers(low: float, high: float) -> None:
    axis = linear(low, high, str, whole=True)
    assert all(float(mark).is_integer() and low <= mark <= high for mark in axis.marks)
    assert 2 <= len(axis.marks) <= 7 and len(set(axis.marks)) == len(axis.marks)


@pytest.mark.parametrize(("low", "high"), [(0.8642, 0.9402), (0, 1e-9), (-3e300, 1e300), (5, 5), (0, 0), (-0.1, 0.137)])
def test_an_axis_holds_its_values_and_has_marks(low: float, high: float) -> None:
    axis = linear(low, high, str)
    assert axis.low <= low and axis.high >= high and 2 <= len(axis.marks) <= 12
    assert 0 <= axis.at(low) <= axis.at(high) <= 1


@pytest.mark.parametrize(("low", "high"), [(20, 600), (1, 1), (1e-300, 1e300), (1e-9, 5.0), (3, 4), (3.2, 3.4)])
def test_factors_are_marked_by_round_numbers(low: float, high: float) -> None:
    axis = logarithmic(low, high, str)
    assert axis.marks and all(axis.low <= mark <= axis.high for mark in axis.marks) and len(axis.marks) <= 9
    assert axis.at(axis.low) == 0 and axis.at(axis.high) == 1
    assert axis.at(math.sqrt(axis.low) * math.sqrt(axis.high)) == pytest.approx(0.5)


def test_what_is_not_finite_has_no_place() -> None:
    assert span([None, math.nan, math.inf, 2.0, -1.0]) == (-1.0, 2.0)
    assert span([None, math.nan]) is None


def test_a_drawing_tells_what_it_shows_and_holds_foreign_text_as_text() -> None:
    drawing = Drawing("a<b", "1 & 2", 50, x=linear(0, 1, str))
    drawing.words(0.5, 10, "<script>", "middle")
    text = str(drawing)
    assert 'role="img" aria-label="a&lt;b"' in text and "<desc>1 &amp; 2</desc>" in text and "<script>" not in text
