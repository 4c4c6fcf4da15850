"""Outputs that are large, as those of a large vocabulary: in parts, never all at once, with the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lloydmax
import pytest
import torch
from lloydmax.data import unlabelled
from lloydmax.network import outputs as reading
from lloydmax.network.outputs import Leaf, Outputs, in_parts
from lloydmax.teacher import kept
from lloydmax.teacher.agreement import Comparison
from lloydmax.teacher.fisher import fisher_draw
from lloydmax.teacher.judge import Judge
from lloydmax.teacher.kept import TeacherOutputs
from lloydmax.teacher.plausibility import doubts
from lloydmax.teacher.trial import trial
from torch import Tensor, nn


class Tokens(nn.Module):
    """A score of every token at every place."""

    def __init__(self, vocabulary: int = 50, width: int = 8) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.embedding(ids))


@pytest.fixture
def pair() -> tuple[Tokens, Tokens]:
    torch.manual_seed(0)
    return Tokens().eval(), Tokens().eval()


IDS = torch.randint(0, 50, (20, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("padded", [False, True])
def test_parts_compare_like_the_whole(
    pair: tuple[Tokens, Tokens], padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = pair
    mask = torch.ones(20, 7, dtype=torch.int64)
    mask[:, 4:] = 0 if padded else 1
    source = unlabelled({"ids": IDS, "attention_mask": mask}, teacher)
    whole = Comparison(teacher, source)
    expected, harm = whole.measure(student), Judge(whole).damage(student)
    monkeypatch.setattr(reading, "MOST_VALUES", 7 * 50 * 2)
    monkeypatch.setattr(reading, "_LARGE", 50 * 3)
    seen: list[int] = []
    teacher.register_forward_hook(lambda _, __, output: seen.append(len(output)))
    parts = Comparison(teacher, source)
    found = parts.measure(student)
    assert max(seen[3:]) <= 2, seen
    assert found.samples == 20 and found.top1 == expected.top1
    assert found.kl == pytest.approx(expected.kl, rel=1e-6) and found.mse == pytest.approx(expected.mse, rel=1e-9)
    assert found.damage == pytest.approx(expected.damage, rel=1e-6) and found.alike == pytest.approx(expected.alike)
    assert Judge(parts).damage(student).each == pytest.approx(harm.each, rel=1e-6)


@pytest.mark.parametrize("shape", [(6, 5, 30), (30, 30), (4, 30, 3, 2)])
def test_parts_draw_the_same_gradients(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def gradient() -> Tensor:
        loss = fisher_draw([scores], torch.Generator().manual_seed(2), [Leaf((), kind="classes")])
        return torch.autograd.grad(loss, scores)[0]

    expected = gradient()
    monkeypatch.setattr(reading, "_LARGE", 70)
    assert torch.equal(gradient(), expected)


def test_a_text_stays_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LARGE", 1)
    output = torch.randn(3, 4, 5)
    assert [len(part) for (part,) in in_parts(Leaf((), kind="text"), output)] == [1, 1, 1]
    assert [tuple(part.shape) for (part,) in in_parts(Leaf((), kind="classes"), output)] == [(1, 5)] * 12


def test_what_depends_on_its_batch_is_not_divided(pair: tuple[Tokens, Tokens], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", 1)
    source = unlabelled(IDS, pair[0])
    found = trial(pair[0], source)
    assert [len(indices) for indices, _ in found.batches(source, 8)] == [1] * 20
    assert [len(indices) for indices, _ in replace(found, repeat=False).batches(source, 8)] == [8, 8, 4]
    assert [len(indices) for indices, _ in Outputs(found.leaves).batches(source, 8)] == [8, 8, 4]


def test_too_large_outputs_are_computed_again(
    pair: tuple[Tokens, Tokens], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teacher, student = pair
    source = unlabelled(IDS, teacher)
    expected = Comparison(teacher, source).measure(student)
    found, order = trial(teacher, source), torch.arange(20)
    monkeypatch.setattr(kept, "LARGE", 0)
    monkeypatch.setattr(kept, "MEMORY_LIMIT", 0)
    sizes: list[int] = []
    room = TeacherOutputs._room

    def counted(self: TeacherOutputs, *given: object) -> Tensor:
        made = room(self, *given)  # type: ignore[arg-type]
        sizes.extend(path.stat().st_size for path in tmp_path.rglob("output*"))
        return made

    monkeypatch.setattr(TeacherOutputs, "_room", counted)
    on_disk = TeacherOutputs.keep(teacher, source, order, found, workdir=tmp_path)
    assert on_disk is not None and sizes == [IDS.numel() * 50 * 4]
    monkeypatch.setattr(kept, "MOST_KEPT", sizes[0] - 1)
    assert TeacherOutputs.keep(teacher, source, order, found, workdir=tmp_path) is None and len(sizes) == 1
    again = Comparison(teacher, source)
    assert not again.targets.kept and again.measure(student) == expected


def test_few_inputs_tell_doubts_where_outputs_are_large(
    pair: tuple[Tokens, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = unlabelled(IDS, pair[0])
    found = trial(pair[0], source)
    seen: list[int] = []
    pair[0].register_forward_hook(lambda _, __, output: seen.append(len(output)))
    expected = doubts(pair[0], source, None, found)
    monkeypatch.setattr(reading, "MOST_VALUES", 1)
    assert doubts(pair[0], source, None, found) == expected and seen == [20, 2]


MEMORY = """
import resource, torch
from lloydmax.data import unlabelled
from lloydmax.network.private import private
from lloydmax.teacher.agreement import Comparison
from lloydmax.teacher.judge import Judge
from lloydmax.teacher.kept import Targets
from lloydmax.teacher.plausibility import doubts
from lloydmax.teacher.trial import trial
from lloydmax_strategies.importances import Fisher
from test_large_outputs import Tokens

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.manual_seed(0)
teacher, student = private(Tokens(40_000)), private(Tokens(40_000))
ids = torch.randint(0, 40_000, (30, 64))
Comparison(private(Tokens()), unlabelled(ids % 50, private(Tokens()))).measure(private(Tokens()))
start = peak()
source = unlabelled(ids, teacher)
outputs = trial(teacher, source)
doubts(teacher, source, None, outputs)
comparison = Comparison(teacher, source, key=outputs)
assert comparison.targets.kept and comparison.targets._kept.bytes == 30 * 64 * 40_000 * 4
agreement, damage = comparison.measure(student), Judge(comparison).damage(student)
weights = [name for name, _ in teacher.named_parameters()]
Fisher(Fisher.Options()).measure(teacher, weights, source, outputs)
print(peak() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is told in the system's own way")
def test_memory_is_that_of_parts_not_of_all_outputs() -> None:
    """All outputs take 293 MiB, and what is made of them several times as much."""
    path = [*sys.path, str(Path(__file__).parent)]
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}{MEMORY}"],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 100, child.stdout


def test_gradients_of_the_caller_stay(pair: tuple[Tokens, Tokens]) -> None:
    from lloydmax_strategies.importances import Fisher

    teacher = pair[0]
    mine = torch.ones_like(teacher.head.bias)
    teacher.head.bias.grad = mine
    source = unlabelled(IDS, teacher)
    Fisher(Fisher.Options()).measure(teacher, ["head.weight", "head.bias"], source, trial(teacher, source))
    assert teacher.head.bias.grad is mine and teacher.head.weight.grad is None


def test_a_recipe_runs_with_large_outputs(pair: tuple[Tokens, Tokens], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", 7 * 50 * 2)
    monkeypatch.setattr(reading, "_LARGE", 50 * 3)
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "importance": "fisher"}], "keep": "best"}
    result = lloydmax.compress(pair[0], recipe, IDS, progress=False)
    assert result.report.stages[-1].agreement is not None


@pytest.mark.parametrize("options", [{}, {"codes": "learn"}, {"loss": "kl", "features": 1.0}, {"clip": 0.1}])
def test_training_in_parts_is_training(
    pair: tuple[Tokens, Tokens], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"layers": "all", "centroids": 4}
    step = {"step": "distill", "steps": 4, "batch_size": 10, "held_out": 0.2, "optimizer": "sgd"} | options
    recipe = {"quantize": [rule], "trainable": ["all"], "recover": [step]}

    def trained() -> tuple[Tensor, float]:
        result = lloydmax.compress(pair[0], recipe, IDS, progress=False)
        return result.model(IDS), result.report.recovery[0]["loss"]

    expected, loss = trained()
    seen: list[int] = []
    monkeypatch.setattr(reading, "MOST_VALUES", 7 * 50 * 3)
    forward = Tokens.forward
    monkeypatch.setattr(Tokens, "forward", lambda self, ids: (seen.append(len(ids)), forward(self, ids))[1])
    found, again = trained()
    assert again == pytest.approx(loss, rel=1e-3) and torch.allclose(found, expected, atol=1e-4), options
    assert sorted(seen)[-4] <= 3, seen  # but for the trial of what the outputs are


@pytest.mark.parametrize("step", ["match_moments", "reconstruct"])
def test_steps_run_few_samples_at_once(pair: tuple[Tokens, Tokens], step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [{"step": step}]}
    expected = lloydmax.compress(pair[0], recipe, IDS, progress=False).model(IDS)
    monkeypatch.setattr(reading, "MOST_VALUES", 7 * 50 * 3)
    seen: list[int] = []
    head = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: (seen.append(len(x)), head(self, x))[1])
    found = lloydmax.compress(pair[0], recipe, IDS, progress=False).model(IDS)
    assert torch.allclose(found, expected, atol=1e-4)
    assert sorted(seen)[-2] <= 3, seen  # but for the trial of what the outputs are
