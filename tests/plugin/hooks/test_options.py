"""Options against their models: numbers are numbers, whoever wrote the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from lloydmax import Codebook, Recipe, RecipeError, hookimpl
from lloydmax.extend import register, unregister
from lloydmax.hooks import registry
from lloydmax.hooks.options import Refused, accepted
from pydantic import BaseModel, BeforeValidator, Field
from torch import Tensor


class Part(BaseModel):
    """A section."""

    share: float = 0.5
    names: dict[str, float] = {}


class Options(BaseModel):
    """Of a plugin whose author thought of nothing."""

    centroids: int = 4
    strength: float = 1.0
    limit: float = float("inf")
    percent: Annotated[
        float, BeforeValidator(lambda given: float(given[:-1]) / 100 if str(given)[-1:] == "%" else given)
    ] = 0.0
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    either: int | str = 1
    sizes: list[float] = []
    pair: tuple[int, float] = (1, 1.0)
    part: Part = Part()
    odd: float = Field(default=0.0, alias="type")


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({"strength": "inf"}, ("strength",), "must be a number, got the text 'inf'"),
        (
            {"strength": "1e3"},
            ("strength",),
            "must be a number, got the text '1e3': write it as a number, without quotes",
        ),
        ({"centroids": "16"}, ("centroids",), "must be a number, got the text '16'"),
        ({"centroids": "1e3"}, ("centroids",), "must be a number, got the text '1e3'"),
        ({"centroids": True}, ("centroids",), "must be a number, got True"),
        ({"strength": False}, ("strength",), "must be a number, got False"),
        ({"strength": float("nan")}, ("strength",), "must be a finite number, got nan"),
        ({"fast": "yes"}, ("fast",), "must be true or false, got the text 'yes'"),
        ({"sizes": [1, "2"]}, ("sizes", 1), "must be a number, got the text '2'"),
        ({"sizes": [1, float("-inf")]}, ("sizes", 1), "must be a finite number, got -inf"),
        ({"pair": [1, "nan"]}, ("pair", 1), "must be a number, got the text 'nan'"),
        ({"part": {"share": "0.5"}}, ("part", "share"), "must be a number, got the text '0.5'"),
        ({"part": {"names": {"a": True}}}, ("part", "names", "a"), "must be a number, got True"),
        ({"type": "1"}, ("type",), "must be a number, got the text '1'"),
        ({"either": True}, ("either",), "must be a number, got True"),
    ],
)
def test_nothing_is_read_as_a_number_that_is_none(given: dict[str, Any], where: tuple[Any, ...], said: str) -> None:
    with pytest.raises(Refused) as refused:
        accepted(Options, given)
    ((place, text),) = refused.value.problems
    assert place == where and said in text


def test_what_a_model_reads_on_purpose_it_may_read() -> None:
    found = accepted(Options, {"percent": "50%", "centroids": 16.0, "strength": 2, "fast": 1, "either": "16"})
    assert (found.percent, found.centroids, found.strength, found.fast, found.either) == (0.5, 16, 2.0, True, "16")
    assert found.limit == float("inf"), "a default is the author's"


class Plugin:
    """A quantizer with these options."""

    class Quantizer:
        Options = Options

        def __init__(self, options: Options) -> None:
            self.options = options

        def fit(self, weight: Tensor, *, importance: Tensor | None = None, axis: int = 0) -> Codebook:
            raise NotImplementedError

    @hookimpl
    def lloydmax_quantizers(self) -> dict[str, type]:
        return {"careless": self.Quantizer}


def test_options_of_plugins_are_looked_at_alike() -> None:
    plugin = Plugin()
    register(plugin)
    try:
        rule = "name: x\nquantize:\n- layers: all\n  quantizer: careless\n  {}\n"
        for text, said in (
            ("strength: .inf", "recipe:5: quantize[1].strength: must be a finite number"),
            ("strength: 'inf'", "recipe:5: quantize[1].strength: must be a number"),
            ("strength: [1, 'nan']", "recipe:5: quantize[1].strength[2]: must be a number"),
            ("part: {share: yes}", "recipe:5: quantize[1].part.share: must be a number, got True"),
        ):
            with pytest.raises(RecipeError) as error:
                Recipe.load(rule.format(text))
            assert str(error.value).startswith(said)
        with pytest.raises(RecipeError, match="quantizer 'careless': strength: must be a finite number"):
            registry.make("quantizer", "careless", {"strength": float("inf")}, RecipeError)
        with pytest.raises(RecipeError, match="quantizer 'careless': strength: must be a"):
            registry.make("quantizer", "careless", {"strength": 10**5000}, RecipeError)
    finally:
        unregister(plugin)
