"""What outputs tell, found from their values: classes, independent scores, quantities, and several in one tensor."""

from __future__ import annotations

from collections.abc import Callable

import lloydmax
import pytest
import torch
from lloydmax import demo
from lloydmax.data import unlabelled
from lloydmax.network.kinds import Named, Place
from lloydmax.network.outputs import Leaf, class_axis
from lloydmax.teacher.agreement import differences
from lloydmax.teacher.fisher import fisher_draw
from lloydmax.teacher.kinds import kinds
from lloydmax.teacher.likeness import share, shared
from lloydmax.teacher.trial import trial
from torch import Tensor, nn

G = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    torch.manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=G)


def scores_of_classes(*shape: int, axis: int = -1) -> Tensor:
    """As cross-entropy leaves them: far apart, with a sum that does not move."""
    found = 4 * drawn(*shape)
    return found - found.mean(axis, keepdim=True)


def sparse(*shape: int) -> Tensor:
    return (3 * drawn(*shape) - 6).sigmoid()


ONE: dict[str, tuple[Tensor, str]] = {
    "logits": (scores_of_classes(32, 10), "classes"),
    "two classes": (scores_of_classes(32, 2), "classes"),
    "logits of tokens": (scores_of_classes(8, 20, 30), "classes"),
    "segmentation": (scores_of_classes(4, 5, 9, 9, axis=1), "classes"),
    "probabilities": (scores_of_classes(32, 10).softmax(1), "classes"),
    "logarithms of probabilities": (scores_of_classes(8, 20, 30).log_softmax(-1), "classes"),
    "labels that are independent": (sparse(32, 40), "scores"),
    "a mask": (sparse(4, 1, 16, 16), "scores"),
    "an embedding": (drawn(32, 64), "unclear"),
    "of length 1": (nn.functional.normalize(drawn(32, 64), dim=1), "values"),
    "of length 1, none below 0": (nn.functional.normalize(drawn(32, 64).relu(), dim=1), "values"),
    "pixels": (torch.rand(4, 3, 16, 16, generator=G), "values"),
    "offsets of anchors": (2 * drawn(8, 50, 4), "unclear"),
    "one number": (drawn(32, 1), "values"),
    "coordinates": (300 * drawn(32, 4), "unclear"),
    "the same for all": (torch.ones(32, 10) * torch.linspace(-1, 1, 10), "unclear"),
}


@pytest.mark.parametrize("name", ONE)
def test_one_kind(name: str) -> None:
    tensor, kind = ONE[name]
    (leaf,) = kinds(Leaf(()), tensor)
    assert leaf.kind == kind and leaf.part is None
    assert leaf.spread == pytest.approx(float(tensor.double().std(correction=0)), rel=1e-4)


def test_classes_along_another_axis() -> None:
    (leaf,) = kinds(Leaf(()), scores_of_classes(8, 12, 40, axis=1).softmax(1))
    assert (leaf.kind, leaf.classes, leaf.normal) == ("classes", 1, True)
    (leaf,) = kinds(Leaf((), samples=1), scores_of_classes(8, 12, 40, axis=1).softmax(1))
    assert leaf.classes == 0, "as the model returns it: (12, 8, 40)"


def test_what_is_asked_is_believed() -> None:
    tensor = 300 * drawn(32, 4)
    assert [leaf.kind for leaf in kinds(Leaf((), classes=1), tensor)] == ["classes"]
    assert [leaf.kind for leaf in kinds(Leaf((), classes=None), scores_of_classes(32, 10))] == ["values"]
    assert [leaf.kind for leaf in kinds(Leaf(()), drawn(8, 20, 99), {99})] == ["classes"], "of a vocabulary"


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("boxes", [lambda *s: 300 * drawn(*s).abs(), lambda *s: 20 * drawn(*s)])
def test_boxes_and_scores_in_one_tensor(axis: int, boxes: Callable[..., Tensor]) -> None:
    tensor = torch.cat([boxes(8, 4, 50), sparse(8, 18, 50)], 1)
    leaves = kinds(Leaf(()), tensor if axis == 1 else tensor.transpose(1, 2))
    assert [(leaf.part, leaf.kind) for leaf in leaves] == [((axis, 0, 4), "values"), ((axis, 4, 22), "scores")]
    assert all(leaf.classes is None for leaf in leaves)
    assert leaves[0].read(tensor if axis == 1 else tensor.transpose(1, 2)).numel() == 8 * 4 * 50
    assert str(leaves[1]) == f"output[{', '.join([':'] * axis + ['4:22'])}] scores (independent)"


def test_trained_networks() -> None:
    net, pictures = demo.network(), demo.test_set()[0][:32]
    for model in (net, nn.Sequential(net, nn.Softmax(1)), nn.Sequential(net, nn.LogSoftmax(1))):
        (leaf,) = trial(model, unlabelled(pictures, model)).leaves
        assert leaf.kind == "classes"


@pytest.mark.parametrize("name", ["logits", "probabilities", "labels that are independent", "coordinates"])
def test_fisher_is_the_curvature_of_the_difference(name: str) -> None:
    tensor = ONE[name][0]
    (leaf,) = kinds(Leaf(()), tensor)
    step = 0.1 * leaf.spread * drawn(*tensor.shape)
    if leaf.kind == "scores" or leaf.normal:
        step = 0.2 * drawn(*tensor.shape) * tensor * (1 - tensor)
    moved = float(differences(tensor + step, tensor, leaf).mean())
    generator, total = torch.Generator().manual_seed(1), 0.0
    for _ in range(600):
        held = tensor.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(fisher_draw([held], generator, [leaf]), held)
        total += float((gradient * step).sum(1).square().mean()) / 600
    assert total / 2 == pytest.approx(moved, rel=0.25)


class TwoHeads(nn.Module):
    """The second output is a hundred times as large as the first."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(16, 512), nn.Linear(16, 512), scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.scale * self.b(x)


def test_every_output_counts_by_its_own_spread() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    errors = []
    for scale in (0.01, 1.0, 100.0):
        torch.manual_seed(0)
        net = TwoHeads(scale).eval()
        recipe = lloydmax.recipe_for(net, bits=4, data=x, effort=0)
        model = lloydmax.compress(net, recipe, x, progress=False).model
        errors.append([float((s - t).square().sum() / t.square().sum()) for s, t in zip(model(x), net(x), strict=True)])
    assert errors[0] == pytest.approx(errors[1], rel=1e-2) and errors[2] == pytest.approx(errors[1], rel=1e-2)
    assert 0.5 < errors[1][0] / errors[1][1] < 2


def letters(*rows: str, alphabet: str = "_abcdefghij") -> Tensor:
    """Scores ``(N, T, 11)`` whose largest are these letters."""
    ids = torch.tensor([[alphabet.index(letter) for letter in row] for row in rows])
    return scores_of_classes(*ids.shape, len(alphabet)) + 40 * nn.functional.one_hot(ids, len(alphabet))


READ = letters("__a_bb__c_", "_d_d______", "a___b_j_i_", "__________")


@pytest.mark.parametrize("samples", [0, 1])
def test_text_between_blanks(samples: int) -> None:
    (leaf,) = kinds(Leaf((), samples=samples), READ)
    assert (leaf.kind, leaf.blank, leaf.classes) == ("text", 0, "auto")
    (leaf,) = kinds(Leaf(()), READ.flip(-1).log_softmax(-1))
    assert (leaf.kind, leaf.blank, leaf.normal) == ("text", 10, False)
    assert [leaf.kind for leaf in kinds(Leaf(()), letters("__aaaa____", "bbbbb_____"))] == ["classes"], "long runs"
    assert [leaf.kind for leaf in kinds(Leaf(()), READ, {50})] == ["classes"], "of tokens, one each"


def test_the_same_text() -> None:
    (leaf,) = kinds(Leaf(()), READ)
    other = letters("_a___b__cc", "__dd______", "a___b_j_i_", "_____a____")
    assert shared(other, READ, leaf) == (2.0, 4.0), "the second lost a letter, the fourth has one"
    (exact,) = kinds(Leaf(()), scores_of_classes(4, 10, 11), said=[Named(Place(""), "text")])
    assert exact.blank is None and shared(other, READ, exact) == (1.0, 4.0)


def test_what_is_alike() -> None:
    (leaf,) = kinds(Leaf(()), sparse(32, 40), said=[Named(Place(""), "scores")])
    teacher, student = torch.tensor([[0.9, 0.8, 0.1, 0.2]]), torch.tensor([[0.6, 0.4, 0.1, 0.7]])
    assert leaf.high == 0.5 and share(*shared(student, teacher, leaf)) == 0.5
    (leaf,) = kinds(Leaf(()), sparse(32, 40) / 4)
    assert leaf.high < 0.15, "half the largest one"
    assert share(*shared(torch.zeros(1, 4), torch.zeros(1, 4), leaf)) == 1.0, "nothing is high in either"
    (leaf,) = kinds(Leaf(()), 300 * drawn(32, 4))
    teacher = 300 * drawn(64, 4)
    moved = teacher + 0.1 * leaf.spread * drawn(64, 4)
    assert share(*shared(moved, teacher, leaf)) == pytest.approx(0.99, abs=0.003)
    assert share(*shared(moved * torch.nan, teacher, leaf)) == share(*shared(-5 * teacher, teacher, leaf)) == 0.0


def test_scores_before_a_sigmoid() -> None:
    """Nothing tells them from quantities, so a recipe has to."""
    scores = 3 * drawn(64, 40) - 6
    (found,) = kinds(Leaf(()), scores, said=[Named(Place(""), "scores")])
    (after,) = kinds(Leaf(()), scores.sigmoid())
    assert (found.kind, found.normal, after.normal) == ("scores", False, True)
    moved = scores + 0.3 * drawn(64, 40)
    ours, theirs = differences(moved, scores, found), differences(moved.sigmoid(), scores.sigmoid(), after)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert shared(moved, scores, found) == shared(moved.sigmoid(), scores.sigmoid(), after)


def test_one_of_many_scores_stands_out() -> None:
    """A classifier of many classes whose scores share a part that moves."""
    scores = drawn(32, 300) + 0.07 * drawn(32, 1)
    assert kinds(Leaf(()), 2 * scores)[0].kind == "unclear"
    scores[torch.arange(32), torch.randint(0, 300, (32,), generator=G)] += 8
    assert kinds(Leaf(()), 2 * scores)[0].kind == "classes"
    assert kinds(Leaf(()), -2 * scores)[0].kind == "unclear"


def test_objects_boxes_and_classes_at_every_place() -> None:
    tensor = torch.cat([sparse(8, 1, 6, 6), 20 * drawn(8, 4, 6, 6), 3 * scores_of_classes(8, 10, 6, 6, axis=1)], 1)
    tensor[:, 5:] = tensor[:, 5:].softmax(1)
    found = kinds(Leaf(()), tensor)
    assert [(leaf.part, leaf.kind) for leaf in found] == [
        ((1, 0, 1), "scores"), ((1, 1, 5), "values"), ((1, 5, 15), "classes")
    ]  # fmt: skip
    read = found[2].read(tensor)
    assert found[2].normal and class_axis(read) == 1 and torch.allclose(read.sum(1), torch.ones(8, 6, 6))
    (last,) = (leaf for leaf in kinds(Leaf(()), tensor.flatten(2)) if leaf.kind == "classes")
    read = last.read(tensor.flatten(2))
    assert read.shape == (8, 36, 10) and torch.allclose(read.sum(class_axis(read)), torch.ones(8, 36))


def test_channels_that_are_as_good_as_zero_are_no_parts() -> None:
    values = drawn(200, 1, 384) * 0.4
    values[:, :, 127] *= 1e-31
    values[:, :, 319] = 2e-8 * drawn(200, 1) - 1e-7
    (leaf,) = kinds(Leaf((0,)), values)
    assert leaf.part is None and leaf.spread > 0.3
