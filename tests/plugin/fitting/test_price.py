"""The recipe's bits: the file has that size, and no bit would be better spent in another layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import BudgetError, RecipeError, demo
from lloydmax.fitting.candidates import chosen
from lloydmax.fitting.price import _border, _sum
from lloydmax.hooks.registry import make
from lloydmax.integrations.torch_ao import apply_recipe
from lloydmax.plan.plan import PlannedParameter
from torch import Tensor, nn

STORAGE = {"floats": "float16", "codes": "entropy"}


def recipe(bits: float, **rule: Any) -> dict[str, Any]:
    """All layers at so many bits."""
    rules = [{"layers": "all", "centroids": 256, **rule}]
    return {"version": 1, "bits": bits, "quantize": rules, "storage": STORAGE}


@pytest.mark.parametrize("bits", [2.0, 3.3, 5.0])
def test_the_file_has_the_size_that_was_asked_for(bits: float, tmp_path: Path) -> None:
    model = demo.network()
    count = sum(p.numel() for p in model.parameters())
    planned = lloydmax.plan(model, recipe(bits))
    result = lloydmax.compress(model, recipe(bits), progress=False)
    size = result.save(tmp_path / "a.safetensors")
    assert size == (tmp_path / "a.safetensors").stat().st_size
    assert 0.985 * bits * count / 8 < size <= 1.002 * bits * count / 8
    assert planned.predicted_bytes == round(bits * count / 8)
    other = lloydmax.load(tmp_path / "a.safetensors", demo.network())
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(other(x), result.model(x))


class Unequal(nn.Module):
    """Two layers of the same weights, the second of which hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet = nn.Linear(64, 64), nn.Linear(64, 64)
        nn.init.normal_(self.loud.weight, std=0.07)
        self.quiet.load_state_dict(self.loud.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """The first layer's outputs, and a hundredth of the second's."""
        both: Tensor = self.loud(x) + 0.01 * self.quiet(x.flip(1))
        return both


@pytest.mark.parametrize("kinds", [("fisher", "fisher"), ("fisher", None), (None, "fisher")])
def test_the_importance_moves_bits_to_where_they_matter(kinds: tuple[str | None, ...]) -> None:
    torch.manual_seed(0)
    model, data = Unequal(), torch.randn(64, 64)
    rules = [
        {"layers": [name], "centroids": 256} | ({"importance": kind} if kind else {})
        for name, kind in zip(("loud", "quiet"), kinds, strict=True)
    ]
    results = [
        lloydmax.compress(model, recipe(4) | {"quantize": given}, data, progress=False).model
        for given in ([{"layers": "all", "centroids": 256}], rules)
    ]
    plain, weighed = (lloydmax.codebooks(result) for result in results)
    assert abs(plain["loud.weight"].entropy - plain["quiet.weight"].entropy) < 0.05
    if all(kinds):
        assert weighed["loud.weight"].entropy > weighed["quiet.weight"].entropy + 2
        errors = [float((result(data) - model(data)).detach().square().mean()) for result in results]
        assert errors[1] < errors[0] / 4
    else:
        assert abs(weighed["loud.weight"].entropy - weighed["quiet.weight"].entropy) < 0.05


@pytest.mark.parametrize("ratio", [8.0, 1000.0])
def test_a_bit_is_worth_the_importance_to_the_power_of_two_thirds(ratio: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 96, bias=False), nn.Linear(96, 96, bias=False))
    model.load_state_dict({"0.weight": model[0].weight, "1.weight": model[0].weight})
    plan = lloydmax.plan(model, recipe(7))

    def fitted(tried: lloydmax.Plan) -> dict[str, lloydmax.Codebook]:
        return {
            name: make("quantizer", p.quantizer, p.options).fit(model.get_parameter(name).detach())
            for name, p in tried.parameters.items()
        }

    importances = {name: torch.full((96, 96), value) for name, value in (("0.weight", 1.0), ("1.weight", ratio))}

    def rate(p: PlannedParameter) -> Any:
        return make("quantizer", p.quantizer, p.options).rate(model.get_parameter(p.name).detach())

    found = chosen(model, plan, dict(importances), fitted, rate).plan.parameters
    prices = [found[name].options.price for name in importances]
    assert prices[0] / prices[1] == pytest.approx(ratio ** (2 / 3), rel=0.02), "a bit costs less where it matters more"


def test_without_importance_large_layers_get_fewer_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.Linear(512, 64), nn.Linear(64, 16))
    held = lloydmax.codebooks(lloydmax.compress(model, recipe(3), progress=False).model)
    assert held["2.weight"].entropy > max(held["0.weight"].entropy, held["1.weight"].entropy) + 1.5


def test_no_layer_loses_all_its_bits() -> None:
    held = lloydmax.codebooks(lloydmax.compress(demo.network(), recipe(0.9), progress=False).model)
    assert min(codebook.entropy for codebook in held.values()) > 0.2


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        lloydmax.compress(demo.network(), recipe(3), progress=False).save(file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_too_few_bits_are_refused(small_net: SmallNet) -> None:
    with pytest.raises(BudgetError, match="bits.*0.5 bits a weight.*give more bits"):
        lloydmax.compress(small_net, recipe(0.5), progress=False)


def test_a_broken_weight_is_named() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        model[1].weight[3, 3] = torch.nan
    with pytest.warns(UserWarning, match=r"1\.weight stays as it is: 1 of its 4,096 values are NaN"):
        result = lloydmax.compress(model, recipe(20), progress=False)
    assert set(lloydmax.codebooks(result.model)) == {"0.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage": {"codes": "packed"}}, "bits: needs codes of no fixed width"),
        ({"quantize": [{"layers": "all", "quantizer": "uniform", "bits": 4}]}, "use kmeans, granularity tensor"),
        ({"quantize": [{"layers": "all", "granularity": "channel"}]}, "use kmeans, granularity tensor"),
        ({"quantize": [{"layers": "all", "price": 0.1}]}, "no 'price'"),
        ({"bits": 0}, "bits"),
        ({"activations": {"bits": 8}}, "leave 'activations' out"),
    ],
)
def test_a_recipe_that_cannot_be_priced_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        lloydmax.Recipe.load(recipe(4) | change)


def test_layers_that_are_kept_count_in_the_size() -> None:
    model = demo.network()
    made = recipe(6)
    made["quantize"].append({"layers": "fc", "quantizer": "none"})
    result = lloydmax.compress(model, made, progress=False)
    count = sum(p.numel() for p in model.parameters())
    assert "fc.weight" not in lloydmax.codebooks(result.model)
    assert 0.98 * 6 * count / 8 < result.report.bytes.file <= 1.002 * 6 * count / 8


def test_what_has_no_file_to_aim_at_refuses(small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(RecipeError, match="a sweep or search.*cannot aim at the size of a file"):
        lloydmax.sweep(small_net, recipe(20), pictures, progress=False)
    with pytest.raises(RecipeError, match=r"torch\.ao\.quantization cannot aim"):
        apply_recipe(None, recipe(20), small_net)


def test_without_any_inputs_the_first_of_equal_layers_gets_more_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
    found = lloydmax.codebooks(lloydmax.compress(model, recipe(4), progress=False).model)
    first, middle, last = (found[f"{place}.weight"].entropy for place in range(3))
    assert first > middle + 0.3 and middle > last + 0.3


@pytest.mark.parametrize("near", [-100, -9, 0, 17, 40, 63, 100])
def test_the_border_is_found_from_anywhere_and_by_few_questions_nearby(near: int) -> None:
    for place in range(-8, 64):
        asked: list[int] = []
        assert _border(-8, 64, near, lambda h, p=place, a=asked: a.append(h) or h <= p) == (place, place + 1)  # type: ignore[misc]
        assert len(asked) <= (4 if abs(place - near) <= 1 else 16)


def test_a_sum_ends_where_it_is_too_large() -> None:
    seen: list[float] = []
    assert _sum((seen.append(one) or one for one in (1.0, 2.0, 4.0, 8.0)), 2.5) == 3.0  # type: ignore[func-returns-value]
    assert seen == [1.0, 2.0] and _sum(iter([1.0, 1.0]), 2.0) == 2.0


class Tokens(nn.Module):
    """A large table, one layer, and a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer, self.head = nn.Embedding(300, 32), nn.Linear(32, 32), nn.Linear(32, 300)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(self.table(ids)))
        return found


def test_without_inputs_tables_of_tokens_and_heads_get_more_bits_than_others() -> None:
    rules = [{"layers": ["table", "layer", "head"], "centroids": 256}]
    result = lloydmax.compress(Tokens(), recipe(4) | {"quantize": rules}, progress=False)
    found = lloydmax.codebooks(result.model)
    assert found["table.weight"].entropy > found["layer.weight"].entropy + 1
    assert abs(found["table.weight"].entropy - found["head.weight"].entropy) < 0.5
