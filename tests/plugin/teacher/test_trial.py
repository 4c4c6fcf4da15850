"""What a trial of two tiny batches tells: the batch axis, the structure of the outputs, and data that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from lloydmax import Cache, DataError, RecoveryError
from lloydmax.data import BatchSource, unlabelled
from lloydmax.data.batch import Batch
from lloydmax.network.outputs import AskedOutputs, Leaf
from lloydmax.teacher import trial as trials
from lloydmax.teacher.kept import Targets, TeacherOutputs
from lloydmax.teacher.trial import trial, tried
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Given(nn.Module):
    """One linear layer, whose output is made into something."""

    def __init__(self, make: Callable[[Tensor], Any], inputs: int = 4) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(inputs, 6), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


class TimeFirst(nn.Module):
    """A recurrent network in the layout that torch prefers; its samples come first all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        found, state = self.recurrent(x.transpose(0, 1))
        return self.head(found), state


def leaves(model: nn.Module, data: Any, asked: Any = None) -> list[tuple[tuple[Any, ...], int | None]]:
    outputs = trial(model.eval(), unlabelled(data, model), asked)
    return [(leaf.path, leaf.samples) for leaf in outputs.leaves]


@pytest.mark.parametrize("length", [2, 3, 7, 64])
def test_the_batch_axis_is_the_one_that_changes(length: int) -> None:
    torch.manual_seed(0)
    net, x = TimeFirst().eval(), torch.randn(64, length, 4)
    assert leaves(net, x) == [((0,), 1), ((1, 0), 1), ((1, 1), 1)]
    source = unlabelled(x, net)
    targets = Targets(net, source, torch.arange(64))
    assert targets.kept
    some = torch.tensor([5, 63, 0])
    batch = next(source.batches(3, some))[1]
    with torch.no_grad():
        scores, (hidden, _) = net(x[some])
    found = targets.of(some, batch)
    assert torch.allclose(found[0], scores.transpose(0, 1), atol=1e-6)
    assert torch.allclose(found[1], hidden.transpose(0, 1), atol=1e-6)


def test_a_recurrent_layer_itself() -> None:
    net = nn.LSTM(4, 6, batch_first=True)
    assert leaves(net, torch.randn(8, 5, 4)) == [((0,), 0), ((1, 0), 1), ((1, 1), 1)]


@pytest.mark.parametrize(
    ("make", "expected", "repeat"),
    [
        (lambda y: (y.mean(), y), [((1,), 0)], True),
        (lambda y: {"y": y, "table": torch.ones(6), "sure": y > 0}, [(("y",), 0)], True),
        (lambda y: y.T, [((), 1)], True),
        (lambda y: y @ y.T, [((), 0)], False),
        (lambda y: y.flatten(), [((), 0)], False),
        (lambda y: (y, y[:, None][y.sum(1) > 9]), [((0,), 0)], True),
        (lambda y: y.mean(), [((), None)], False),
        (lambda y: {"y": y, "each": list(y)}, [(("y",), 0)], True),
        (lambda y: torch.view_as_complex(y.unflatten(1, (3, 2))), [((), 0)], True),
    ],
)
def test_what_counts_has_an_entry_for_each_sample(make: Any, expected: list[Any], repeat: bool) -> None:
    net, x = Given(make).eval(), torch.randn(16, 4)
    assert leaves(net, x) == expected
    outputs = trial(net, unlabelled(x, net))
    assert outputs.repeat is repeat
    source = unlabelled(x, net)
    assert (TeacherOutputs.keep(net, source, torch.arange(16), outputs) is not None) is repeat


@pytest.mark.parametrize("make", [list, lambda y: [{"boxes": row.expand(3, 6)} for row in y]])
def test_an_entry_for_each_sample_in_a_list_is_refused(make: Any) -> None:
    with pytest.raises(RecoveryError, match="an entry for each sample.*lloydmax.compress.model.backbone.*'output'"):
        leaves(Given(make), torch.randn(8, 4))


def test_one_sample_is_enough() -> None:
    assert leaves(TimeFirst(), torch.randn(1, 3, 4))[0] == ((0,), 1)
    ragged = BatchSource([Batch((torch.randn(1, 3, 4),)), Batch((torch.randn(1, 2, 4),))], "lists")
    assert trial(TimeFirst().eval(), ragged).leaves[0] == Leaf((0,), 1)


class Fixed(nn.Module):
    """Takes batches of 8 only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(8, 4))


def test_a_model_of_one_batch_size_is_taken_as_it_is() -> None:
    outputs = trial(Fixed(), unlabelled(torch.randn(8, 4), Fixed()))
    assert outputs.leaves == (Leaf((), 0),) and outputs.repeat


class Graph(nn.Module):
    """Nodes with edges between them: no node can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.layer(nodes).index_add(0, edges[0], nodes[edges[1]] @ self.layer.weight.T)


def test_a_batch_that_cannot_be_divided_is_taken_as_it_is() -> None:
    nodes, edges = torch.randn(90, 4), torch.tensor([[0, 89], [88, 5]])

    class Whole(BatchSource):
        def first(self, samples: int) -> Batch:
            return self._held[0]

    outputs = trial(Graph(), Whole([Batch((nodes, edges))], "a graph"))
    assert outputs.leaves == (Leaf(()),)


@pytest.mark.parametrize(
    ("classes", "said"), [(5, "classes: 5 is not an axis"), (0, "samples along axis 0"), (-4, "classes: -4")]
)
def test_an_axis_that_cannot_be_the_classes(classes: int, said: str) -> None:
    net = Given(lambda y: y)
    with pytest.raises(RecoveryError, match=said):
        trial(net, unlabelled(torch.randn(8, 3, 4), net), AskedOutputs(classes=classes))
    assert trial(net, unlabelled(torch.randn(8, 3, 4), net), AskedOutputs(classes=-2)).leaves[0].classes == 1


class Masked(nn.Module):
    """Takes a mask by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor | None = None) -> Tensor:
        return self.head(self.embed(input_ids) * attention_mask[..., None])


def test_the_mask_is_found_by_its_name() -> None:
    net, ids = Masked(), torch.randint(0, 20, (8, 5))
    named = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert trial(net, unlabelled(named, net)).mask == "attention_mask"
    assert trial(net, unlabelled([(ids, ids)], net)).mask == 1
    assert trial(net, unlabelled(named, net), AskedOutputs(mask=None)).mask is None
    assert trial(net, unlabelled(named, net), AskedOutputs(mask="input_ids")).mask == "input_ids"
    assert trial(net, unlabelled({**named, "decoder_input_ids": ids}, net)).mask is None
    with pytest.raises(RecoveryError, match="mask: 'padding'.*attention_mask, input_ids"):
        trial(net, unlabelled(named, net), AskedOutputs(mask="padding"))


class Noisy(nn.Module):
    """Draws from the global generator, and writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x += torch.randn(4)
        np.random.rand()
        return self.layer(x)


def test_a_trial_leaves_no_trace() -> None:
    net, x = Noisy().train(), torch.randn(8, 4)
    before, state = x.clone(), np.random.get_state()[1].copy()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(x), batch_size=4, generator=torch.Generator().manual_seed(0))
    source = unlabelled(loader, net)
    workers = source._loading["generator"].get_state()
    trial(net, source)
    trial(net, unlabelled(x, net))
    assert torch.equal(torch.rand(2), expected) and (np.random.get_state()[1] == state).all()
    assert torch.equal(x, before) and net.training and torch.equal(workers, source._loading["generator"].get_state())


def test_runs_share_a_trial_by_their_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    run = trials._run
    monkeypatch.setattr(trials, "_run", lambda *given: (calls.append(1), run(*given))[1])
    net, cache = Given(lambda y: y), Cache()
    source = unlabelled(torch.randn(8, 4), net)
    for _ in range(2):
        trial(net, source, cache=cache)
    assert len(calls) == 4, "two sizes, and 8 samples, 4 at once, that tell what the outputs are"
    trial(net, source, AskedOutputs(classes=None), cache)
    assert len(calls) == 8


def test_every_source_is_tried() -> None:
    net = Given(lambda y: y)
    good, bad = unlabelled(torch.randn(8, 4), net), unlabelled(torch.randn(8, 5), net)
    assert tried(net, (None, None), AskedOutputs()) is None
    found = tried(net, (good, None), AskedOutputs())
    assert found is not None and found.leaves == (Leaf(()),)
    with pytest.raises(DataError, match="5"):
        tried(net, (good, bad), AskedOutputs())


class Squeezed(nn.Module):
    """A head whose only value is squeezed out, and with it the batch of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze()


@pytest.mark.parametrize("samples", [33, 65, 1])
@pytest.mark.parametrize("step", [{"step": "distill", "epochs": 1}, {"step": "correct_bias"}])
def test_a_batch_of_one_keeps_its_axis(samples: int, step: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, x = Squeezed().eval(), torch.randn(samples, 4)
    recipe = {"quantize": [{"layers": "all", "centroids": 2}], "trainable": ["all"], "recover": [step]}
    agreement = lloydmax.compress(net, recipe, x, progress=False).report.stages[-1].agreement
    assert agreement is not None and agreement.samples == samples and agreement.mse >= 0
    source = unlabelled(x, net)
    outputs = trial(net, source)
    assert [tensor.shape for tensor in outputs.read(net(x[:1]), Batch((x[:1],)))] == [(1,)]
    kept = TeacherOutputs.keep(net, source, torch.arange(samples), outputs)
    assert kept is not None and kept.rows(torch.tensor([0]), x.device)[0].shape == (1,)


def test_pictures_of_one_sample_keep_their_axis() -> None:
    net = Given(lambda y: y[:, :, None].squeeze(0)).eval()
    (leaf,) = trial(net, unlabelled(torch.randn(8, 4), net)).leaves
    assert leaf.read(torch.zeros(6, 1), one=True).shape == (1, 6, 1)
    assert leaf.read(torch.zeros(6, 1)).shape == (6, 1)


class Halving(nn.Module):
    """A model of sequences whose output is in one of several shapes."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.layer, self.shape = nn.Linear(4, 5), shape

    def forward(self, x: Tensor, lens: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.layer(x)
        return {"as it is": y, "halved": y[:, ::2], "flat": y.flatten(0, 1), "pooled": y.mean(1)}[self.shape]


@pytest.mark.parametrize(
    ("shape", "lens", "said"),
    [
        ("as it is", torch.full((8,), 6), r"'lens' has shape \(3,\), and the outputs that count are \(3, 6, 5\)"),
        ("halved", torch.ones(8, 6), r"'lens' has shape \(3, 6\), and the outputs that count are \(3, 3, 5\)"),
        ("flat", torch.ones(8, 6), r"'lens' has shape \(3, 6\), and the outputs that count are \(18, 5\)"),
        ("as it is", -torch.ones(8, 6), r"has shape \(3, 6\) and negative values"),
    ],
)
def test_a_named_mask_that_does_not_fit_is_refused(shape: str, lens: Tensor, said: str) -> None:
    net, x = Halving(shape).eval(), torch.randn(8, 6, 4)
    with pytest.raises(RecoveryError, match=said):
        trial(net, unlabelled({"x": x, "lens": lens}, net), AskedOutputs(mask="lens"))


@pytest.mark.parametrize("shape", ["as it is", "halved", "flat", "pooled"])
def test_the_mask_that_is_taken_by_itself_need_not_fit(shape: str) -> None:
    net = Halving(shape).eval()
    source = unlabelled({"x": torch.randn(8, 6, 4), "attention_mask": torch.ones(8, 6)}, net)
    assert trial(net, source).mask == "attention_mask"


@pytest.mark.parametrize(
    ("model", "shape", "places", "enough"),
    [
        (nn.Linear(6, 5), (40, 6), 1, 40),
        (nn.Linear(6, 5), (40, 10, 6), 5, 32),
        (nn.Conv2d(3, 2, 3), (40, 3, 12, 12), 100, 16),
    ],
)
def test_where_outputs_have_many_places_few_samples_are_enough(
    model: nn.Module, shape: tuple[int, ...], places: int, enough: int
) -> None:
    found, order = trial(model, unlabelled(torch.randn(shape), model)), torch.arange(40).flip(0)
    assert found.places == places and torch.equal(found.enough(order, 160), order[:enough])
