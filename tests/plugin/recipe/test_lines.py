"""Where a value of a recipe stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from lloydmax import RecipeError
from lloydmax.recipe.lines import LinedData, field_name
from lloydmax.recipe.reading import read_lined
from lloydmax.recipe.sections import Activations


def test_a_value_without_a_line_has_that_of_what_encloses_it() -> None:
    lines = {("quantize",): 2, ("quantize", 0): 3, ("quantize", 0, "layers"): 4}
    found = LinedData({}, "mine.yaml", lines)
    assert found.at(("quantize", 0, "layers")) == "mine.yaml:4: quantize[1].layers"
    assert found.at(("quantize", 0, "centroids", 1, "x")) == "mine.yaml:3: quantize[1].centroids[2].x"
    assert found.at(("quantize", 7)) == "mine.yaml:2: quantize[8]"
    assert found.at(("storage",)) == "mine.yaml: storage" and field_name(()) == "the whole document"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RecipeError, match=r"weights.yaml: larger than \d{1,2} MiB, so surely not a recipe"):
        read_lined(path)


def test_activations_have_8_bits() -> None:
    assert Activations().bits == 8
