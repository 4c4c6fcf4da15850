"""Inputs made for a model without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import DataError
from lloydmax.extend import Recovery
from lloydmax.network.batch_norm import Moments
from lloydmax.teacher import made as made_inputs
from lloydmax.teacher.asking import Wanted
from lloydmax.teacher.made import sources
from lloydmax_strategies.reconstruct import Reconstruct
from lloydmax_strategies.renormalize import Renormalize
from torch import Tensor, nn


def values(model: nn.Module, wanted: Wanted, example: object = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    made, other = (next(iter(found.batches(10_000)))[1] for found in sources(model, wanted, example, seed))
    return made.args[0], other.args[0]


def test_two_kinds_are_made_the_same_for_the_same_seed(small_net: SmallNet) -> None:
    wanted = Wanted(16, shape=(3, 20, 20))
    first = sources(small_net, wanted)
    made, other = (next(iter(found.batches(100)))[1].args[0] for found in first)
    assert made.shape == (16, 3, 20, 20) and other.shape == (8, 3, 20, 20)
    again, anew = values(small_net, wanted), values(small_net, wanted, seed=1)
    assert torch.equal(made, again[0]) and torch.equal(other, again[1])
    assert not torch.equal(made, anew[0]) and not torch.equal(made[:8], other)
    described = [source.describe() for source in first]
    assert ["natural" in text for text in described] == [True, False] and "made without data" in described[0]


def test_the_first_batch_norm_tells_means_and_mixture_of_the_channels(small_net: SmallNet) -> None:
    generator = torch.Generator().manual_seed(0)
    bright = torch.tensor([90.0, 120.0, 150.0])[:, None, None]
    x = bright + 40 * torch.randn(64, 1, 20, 20, generator=generator) + torch.randn(64, 3, 20, 20, generator=generator)
    small_net.bn1.momentum = 1.0
    with torch.no_grad():
        small_net.train()(x)
    made = values(small_net.eval(), Wanted(16, shape=(3, 20, 20)))[0]
    found = Moments.of(made).mean_and_variance()
    assert bool(((found[0] - bright.flatten()).abs() < 20).all()) and bool((found[1].sqrt() < 120).all())
    assert torch.corrcoef(made.movedim(1, 0).flatten(1)).min() > 0.2


def test_matched_pictures_have_the_statistics_of_all_batch_norms(small_net: SmallNet) -> None:
    generator = torch.Generator().manual_seed(0)
    x = nn.functional.interpolate(torch.randn(256, 3, 5, 5, generator=generator), 20, mode="bilinear") + 0.5
    for norm in (small_net.bn1, small_net.bn2):
        norm.momentum = 1.0
    with torch.no_grad():
        small_net.train()(x)
    model = small_net.eval()
    found = {kind: sources(model, Wanted(32, kind, (3, 20, 20))) for kind in ("natural", "matched")}
    distances = {
        kind: [lloydmax.data_fitness(model, {"it": s})[0].distance for s in two] for kind, two in found.items()
    }
    assert all(ours < 0.5 * theirs for ours, theirs in zip(distances["matched"], distances["natural"], strict=True))
    assert [source.describe().split("(")[1].split(")")[0] for source in found["matched"]] == [
        "matched",
        "noise, matched",
    ]
    assert torch.equal(
        values(model, Wanted(32, "matched", (3, 20, 20)))[0], next(iter(found["matched"][0].batches(32)))[1].args[0]
    )


class Forward(torch.autograd.Function):
    """An operator without a backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()


class Steps(nn.Module):
    """Whole numbers."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x)


@pytest.mark.parametrize(
    "after",
    [
        [nn.ReLU()],
        [nn.BatchNorm2d(4), Steps(Forward.apply), nn.BatchNorm2d(4)],
        [Steps(lambda x: x.detach().round()), nn.BatchNorm2d(4)],
    ],
    ids=["no batch norm", "no backward pass", "no gradients"],
)
def test_what_cannot_be_matched_is_natural(after: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *after).eval()
    kinds = ("natural", "matched", "written")
    natural, *others = (values(model, Wanted(4, kind, (3, 12, 12)))[0] for kind in kinds)
    assert all(torch.equal(natural, other) for other in others)


def test_without_batch_norm_examples_or_the_first_layer_tell_the_scale() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    made = values(model, Wanted(16), 7 + 3 * torch.randn(4, 3, 12, 12))[0]
    assert made.shape == (16, 3, 12, 12) and abs(made.mean() - 7) < 1 and abs(made.std() - 3) < 1
    with torch.no_grad():
        model[0].weight /= 200
    bytes_of = values(model, Wanted(16))[0]
    assert bytes_of.min() >= 0 and 100 < bytes_of.mean() < 155
    lstm = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        lstm[0].weight *= 50
        assert 0.2 < (lstm[0](values(lstm, Wanted(16))[0]) - lstm[0].bias).std() < 1.5


def test_examples_tell_each_coefficient_and_the_recipe_has_it() -> None:
    scale, mean = torch.tensor([20.0, 3.0, 1.0, 0.3]), torch.tensor([-40.0, 0.0, 2.0, 0.0])
    model = nn.Sequential(
        nn.Conv2d(1, 16, (10, 4)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 64)
    )
    examples = mean + scale * torch.randn(2, 1, 49, 4, generator=torch.Generator().manual_seed(0))
    recipe = lloydmax.recipe_for(model, 6, example_inputs=examples)
    told = recipe.data()["synthesize"]
    assert len(told["means"]) == len(told["deviations"]) == 4 and "mean" not in told
    assert recipe.synthesize is not None
    for made in values(model, recipe.synthesize.given()):
        found = made.movedim(3, 0).flatten(1)
        assert bool(((found.mean(1) - mean).abs() < scale).all())
        assert bool(((found.std(1) / scale).log().abs() < 0.4).all())


def test_examples_that_only_show_the_shape_do_no_harm() -> None:
    """A network for values far from 0 and large, with an example of plain noise."""
    torch.manual_seed(0)
    mean = 30 + 5 * torch.randn(24)
    model = nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 8))
    with torch.no_grad():
        model[0].weight /= 10
        model[0].bias.copy_(-model[0].weight @ mean)
    without = values(model, Wanted(16, shape=(24,)))[0]
    assert torch.equal(values(model, Wanted(16), torch.randn(2, 24) / 100)[0], without)
    real = values(model, Wanted(16), mean + 4 * torch.randn(8, 24))[0]
    assert not torch.equal(real, without) and (real.mean(0) - mean).abs().mean() < 4


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"means": [0.0, 1.0]}, "'means' and 'deviations' are given together"),
        ({"means": [0.0, 1.0], "deviations": [1.0]}, "'means' has 2 numbers, as no axis of 'shape' has places"),
        ({"means": [0.0, 1.0, 2.0], "deviations": [1.0, 2.0]}, "'deviations' has 2 numbers: give 1, or 3"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(small_net: SmallNet, told: dict[str, object], said: str) -> None:
    recipe = lloydmax.recipe_for(small_net, 6).data()
    with pytest.raises(lloydmax.RecipeError, match=said):
        lloydmax.Recipe.load(recipe | {"synthesize": {"shape": [3, 12, 12]} | told})


def test_biases_of_the_first_layer_tell_the_mean() -> None:
    torch.manual_seed(0)
    mean = 20 + 3 * torch.randn(24)
    table = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 4))
    colour = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 2, 3))
    plain = values(table, Wanted(16))[0].mean(0)
    with torch.no_grad():  # as a folded batch norm leaves them
        table[0].bias.copy_(-table[0].weight @ mean + 0.1 * torch.randn(64))
        colour[0].bias.copy_(-0.45 * colour[0].weight.sum((1, 2, 3)) + 0.01 * torch.randn(64))
    told = values(table, Wanted(16))[0].median(0).values
    assert (
        plain.abs().max() < 5
        and (told - mean).square().mean() < 4
        and torch.corrcoef(torch.stack([told, mean]))[0, 1] > 0.5
    )
    bright = values(colour, Wanted(16, shape=(3, 16, 16)))[0]
    assert bright.min() >= 0 and bright.max() <= 1


def test_kinds_of_inputs_that_a_network_does_not_stand_are_not_made() -> None:
    class Steep(nn.Module):
        """Wild where its inputs are below 0."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = (
                self.last(self.first(x.relu()).tanh()) + 1e3 * torch.sin(1e4 * self.first(-x.clamp(max=0)))[..., :4]
            )
            return found

    made, other = values(Steep().eval(), Wanted(16, shape=(9, 12)))
    assert made.min() >= 0 and other.min() >= 0
    assert values(nn.Linear(12, 4), Wanted(16, shape=(9, 12)))[0].min() < 0


def test_waves_have_both_signs_and_frames_have_silence() -> None:
    waves = values(nn.Conv1d(1, 4, 9), Wanted(16, shape=(1, 512)))[0]
    assert all(bool((one < 0).any()) for one in waves)
    frames = values(nn.GRU(12, 8, batch_first=True), Wanted(16, shape=(32, 12)))[0]
    silent = [one for one in frames if bool((one >= 0).all())]
    assert len(silent) >= 8 and any(float(one.median()) < 0.1 * float(one.std()) for one in silent)


def test_numbers_are_made_and_large_samples_are_few(text_net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = values(text_net, Wanted(16), seed=3)[0]
    assert numbers.dtype == torch.int64 and len(numbers) == 16
    monkeypatch.setattr(made_inputs, "MOST_VALUES", 3 * 300)
    assert len(sources(nn.Conv2d(3, 1, 1), Wanted(64, shape=(3, 10, 10)))[0]) == 3


def test_what_no_inputs_can_be_made_for_is_told() -> None:
    class Odd(nn.Module):
        def forward(self, mask: Tensor, other: Tensor) -> Tensor:
            return mask + other

    with pytest.raises(DataError, match=r"no inputs can be made for Odd.*example_inputs"):
        sources(Odd(), Wanted())


def test_the_agreement_says_that_it_was_measured_on_made_inputs(small_net: SmallNet) -> None:
    recipe = lloydmax.recipe_for(small_net, 6).data()
    recipe["synthesize"] |= {"samples": 8, "shape": [3, 12, 12]}
    first, again = (lloydmax.compress(small_net, recipe, progress=False) for _ in range(2))
    assert (first.report.measured_on or "").startswith("4 samples made without data (noise, matched)")
    assert first.report.stages[-1].agreement is not None and first.report.recovery[0]["samples"] == 8
    pairs = zip(*(lloydmax.codebooks(found.model).values() for found in (first, again)), strict=True)
    assert all(torch.equal(one.codes, other.codes) for one, other in pairs)
    given = lloydmax.compress(small_net, recipe, torch.randn(6, 3, 12, 12), progress=False)
    assert "made" not in (given.report.measured_on or "")


def test_a_shape_that_does_not_fit_is_told_with_its_line(small_net: SmallNet) -> None:
    recipe = lloydmax.recipe_for(small_net, 6).data()
    recipe["synthesize"] = {"shape": [7, 12, 12]}
    with pytest.raises(DataError, match=r"synthesize: no inputs can be made for SmallNet"):
        lloydmax.compress(small_net, recipe, progress=False)
    with pytest.raises(lloydmax.RecipeError, match="'below' is of an input of a 'shape'"):
        lloydmax.Recipe.load(recipe | {"synthesize": {"below": 4}})


def test_codebooks_are_compared_with_the_steps_that_do_not_train(
    small_net: SmallNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made inputs tell little of codebooks alone; even grids and k-means, whose bits have no price, only settle."""
    recipe = lloydmax.recipe_for(small_net, 6).data()
    recipe["synthesize"] |= {"samples": 8, "shape": [3, 12, 12]}
    ran: dict[type, list[nn.Module]] = {Renormalize: [], Reconstruct: []}
    for step, students in ran.items():

        def run(self: Any, recovery: Recovery, students: Any = students, run: Any = step.run) -> Any:
            students.append(recovery.student)
            return run(self, recovery)

        monkeypatch.setattr(step, "run", run)
    tried = lloydmax.compress(small_net, recipe, progress=False).report.tried
    compared = [one for one in tried if one.what == "codebooks"]
    priced = [one for one in compared if "channel" not in one.name]
    assert len(ran[Reconstruct]) == len({id(student) for student in ran[Reconstruct]}) == len(priced) + 1 > 3
    assert len(ran[Renormalize]) == len(compared) + len(priced) + 1, "the last is the step itself"


def test_data_tell_enough_of_codebooks_that_are_settled(
    small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, ran = lloydmax.recipe_for(small_net, 6, pictures, effort=0), list[nn.Module]()
    run = Reconstruct.run
    monkeypatch.setattr(Reconstruct, "run", lambda step, recovery: ran.append(recovery.student) or run(step, recovery))
    lloydmax.compress(small_net, recipe, pictures, progress=False)
    assert len(ran) == 1
