"""What a recipe says of the kinds of outputs."""

from __future__ import annotations

from typing import Any

import lloydmax
import pytest
from lloydmax import RecipeError, RecoveryError
from lloydmax.network.kinds import Named, Place, named
from lloydmax.network.outputs import AskedOutputs

RULES = "quantize: [{layers: all, centroids: 16}]\n"


@pytest.mark.parametrize("text", ["logits", "heads.cls", "0[:, 4:22]", "a[b].c[:, :, 0:4]"])
def test_places_are_read_as_they_are_written(text: str) -> None:
    assert str(Place.read(text)) == text


def test_what_a_place_covers() -> None:
    assert all(Place("heads").covers(path) for path in ("heads", "heads.cls"))
    assert not any(Place("heads").covers(path) for path in ("headsets", "a.heads", ""))
    assert Place("").covers("anything") and Place("output").covers("") and Place.read("[:, 0:4]").covers("")
    assert Place.read(" 0 [ :,:, 4 : 22 ]").part == (2, 4, 22)


def test_words_for_all_or_by_place() -> None:
    assert named("values") == (Named(Place(""), "values"),) and named(None) == ()
    found = named({0: "classes", 1.0: "ignore", "2[:, 0:4]": "scores"})
    assert [(str(one.place), one.word) for one in found] == [
        ("0", "classes"), ("1.0", "ignore"), ("2[:, 0:4]", "scores")
    ]  # fmt: skip
    assert named(found) == found and hash(AskedOutputs(kinds={"a": "text"})) == hash(AskedOutputs(kinds={"a": "text"}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("boxes", "must be 'classes'"),
        ({"a": "boxes"}, "a: must be 'classes'"),
        (["values"], "must be 'classes'"),
        ({}, "name 1 to 1,000"),
        ({"a[0:4]": "values"}, r"as in '0\[:, 4:22\]'"),
        ({"a[:, 4:4]": "values"}, "4:4 is empty"),
        ({"a[:, 0:4]": "values", "a[:, 3:6]": "scores"}, "beside each other"),
        ({"a[:, 0:4]": "values", "a[:, :, 4:6]": "scores"}, "along one axis"),
    ],
)
def test_what_is_no_word_or_place_is_refused(given: Any, said: str) -> None:
    with pytest.raises(RecoveryError, match=said):
        AskedOutputs(kinds=given)


def test_recipes_name_the_line() -> None:
    with pytest.raises(RecipeError, match=r"recipe:4: kinds\.b: must be 'classes'.*got 'sores'"):
        lloydmax.Recipe.load(RULES + "kinds:\n  a: values\n  b: sores\n")
    recipe = lloydmax.Recipe.load(RULES + "kinds: {a: values, '0[:, 4:22]': scores, 1.0: ignore}")
    again = lloydmax.Recipe.load(recipe.data())
    assert again.data() == recipe.data() and len(again.asked_outputs.named) == 3
