"""Steps stay where they help; the student is bit for bit as it was where they did harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import Report, hookimpl
from lloydmax.extend import Recovery
from lloydmax.hooks import registry
from lloydmax.recovery.keeping import Keeping
from lloydmax.teacher.agreement import Agreement, Comparison
from lloydmax.teacher.judge import Damage
from pydantic import BaseModel
from torch import Tensor


class Shove:
    """Adds to every bias."""

    needs_data = False

    class Options(BaseModel):
        """How much."""

        by: float = 0.0

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, recovery: Recovery) -> dict[str, Any]:
        """Add."""
        with torch.no_grad():
            for name, parameter in recovery.student.named_parameters():
                if name.endswith("bias"):
                    parameter += self.options.by
        return {}


class Shoves:
    """A plugin."""

    @hookimpl
    def lloydmax_recovery_steps(self) -> dict[str, type]:
        """The step."""
        return {"shove": Shove}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The step is known."""
    plugin = Shoves()
    registry.register(plugin)
    yield
    registry.unregister(plugin)


def compressed(model: SmallNet, pictures: Tensor, keep: str, *by: float, **more: Any) -> lloydmax.Result:
    """With a shove for each."""
    steps = [{"step": "shove", "by": one} for one in by]
    recipe = {"quantize": [{"layers": "all", "centroids": 16}], "recover": steps, "keep": keep}
    return lloydmax.compress(model, recipe, pictures, progress=False, **more)


def biases(result: lloydmax.Result) -> list[Tensor]:
    """All of them."""
    return [value for name, value in result.model.state_dict().items() if name.endswith("bias")]


def test_a_step_that_does_harm_is_undone(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    plain = compressed(small_net, pictures, "best")
    result = compressed(small_net, pictures, "best", 5.0)
    assert all(torch.equal(one, other) for one, other in zip(biases(result), biases(plain), strict=True))
    (told,) = result.report.tried
    assert (told.what, told.name, told.kept) == ("step", "shove", False) and told.damage > 0
    assert "shove" in str(result.report) and "held out" in (result.report.measured_on or "")
    result.report.to_json(tmp_path / "report.json")
    assert Report.from_json(tmp_path / "report.json").tried == result.report.tried


def test_a_step_that_helps_stays(small_net: SmallNet, pictures: Tensor) -> None:
    result = compressed(small_net, pictures, "best", 5.0, -0.0)
    assert [told.kept for told in result.report.tried] == [False, False], "nothing changed is nothing gained"


def test_a_recipe_by_hand_does_what_it_says(small_net: SmallNet, pictures: Tensor) -> None:
    with pytest.warns(UserWarning, match="moved the outputs away"):
        result = compressed(small_net, pictures, "all", 5.0)
    plain = compressed(small_net, pictures, "all")
    assert all(torch.allclose(one, other + 5) for one, other in zip(biases(result), biases(plain), strict=True))
    assert result.report.tried == []


def test_a_run_that_goes_on_ends_in_the_same(small_net: SmallNet, pictures: Tensor, tmp_path: Path) -> None:
    results = [compressed(small_net, pictures, "best", 5.0, workdir=tmp_path) for _ in range(2)]
    assert results[0].report.tried == results[1].report.tried
    assert all(torch.equal(one, other) for one, other in zip(*map(biases, results), strict=True))


def test_an_unknown_word_is_refused_with_its_line(small_net: SmallNet) -> None:
    with pytest.raises(lloydmax.RecipeError, match=r"recipe:2: keep: must be"):
        lloydmax.plan(small_net, "quantize: [{layers: all}]\nkeep: some\n")


@pytest.mark.parametrize(("left", "runs"), [(1e-9, 0), (1e-3, 1)])
def test_where_nothing_can_be_won_back_no_step_runs(small_net: SmallNet, left: float, runs: int) -> None:
    class Judging:
        def measured(self, student: Any) -> Any:
            return student

        def of(self, agreement: Any) -> Damage:
            return Damage((left, left / 2))

    done: list[dict[str, Any]] = []
    figures = Keeping(Judging()).run(small_net, lambda: done.append({"loss": 1.0}) or done[-1])  # type: ignore[arg-type, func-returns-value]
    assert len(done) == runs and figures["damage"] == figures["damage_before"] and not figures["kept"]


def test_what_agrees_is_measured_once_between_two_steps(
    small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[bool] = []
    measure = Comparison.measure

    def counted(self: Comparison, *args: Any, **options: Any) -> Agreement:
        measured.append(True)
        return measure(self, *args, **options)

    monkeypatch.setattr(Comparison, "measure", counted)
    result = compressed(small_net, pictures, "best", 5.0, 0.0)
    assert len(measured) == 4, "the codebooks, each step, and what is finished"
    first, undone = (stage.agreement for stage in result.report.stages[1:3])
    assert first == undone is not None and [told.kept for told in result.report.tried] == [False, False]
