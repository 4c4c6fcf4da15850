"""Means and deviations of what layers compute, gates of recurrent layers included, agree with the original's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.student.attachment import attach
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import TensorDataset

INPUTS, STATES = 12, 20


class Heard(nn.Module):
    """Two recurrent layers, and a linear one."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.recurrent = kind(INPUTS, STATES, 2, **options)
        width = options.get("proj_size", STATES) * (2 if options.get("bidirectional") else 1)
        self.out = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.recurrent.batch_first else x.transpose(0, 1)
        y = self.recurrent(x)[0]
        return self.out(y if self.recurrent.batch_first else y.transpose(0, 1))


class HeardPacked(Heard):
    """The same of sequences of different lengths."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.out(pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1])[0])


class Stepped(nn.Module):
    """A cell in a loop, from a state that is not zero."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell, self.out = kind(INPUTS, STATES), nn.Linear(STATES, 7)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = torch.full((len(x), STATES), 0.5)
        state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for step in x.unbind(1):
            state = self.cell(step, hx=state)
        return self.out(state[0] if isinstance(state, tuple) else state)


class Attending(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(INPUTS, 2, batch_first=True, **options)
        self.out = nn.Linear(INPUTS, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x[:, :5], x[:, :5], need_weights=False)[0])


NETWORKS: dict[str, tuple[Any, bool]] = {
    "LSTM": (lambda: Heard(nn.LSTM, batch_first=True), False),
    "LSTM, both directions, packed": (lambda: HeardPacked(nn.LSTM, bidirectional=True, batch_first=True), True),
    "LSTM, projected": (lambda: Heard(nn.LSTM, proj_size=9), False),
    "GRU, both directions": (lambda: Heard(nn.GRU, bidirectional=True), False),
    "GRU, packed": (lambda: HeardPacked(nn.GRU, batch_first=True), True),
    "RNN": (lambda: Heard(nn.RNN, nonlinearity="relu", batch_first=True), False),
    "LSTM cell": (lambda: Stepped(nn.LSTMCell), False),
    "GRU cell": (lambda: Stepped(nn.GRUCell), False),
    "RNN cell": (lambda: Stepped(nn.RNNCell), False),
    "attention": (lambda: Attending(), False),
    "attention, sizes of its own": (lambda: Attending(kdim=INPUTS, vdim=INPUTS), False),
    "Transformer": (lambda: nn.TransformerEncoderLayer(INPUTS, 2, 24, batch_first=True), False),
}


def case(name: str) -> tuple[nn.Module, Any, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    make, packed = NETWORKS[name]
    model = make().eval()
    x = 0.3 * torch.randn(96, 9, INPUTS).cumsum(1) + torch.randn(INPUTS)
    if not packed:
        return model, x, (x,)
    lengths = torch.randint(2, 10, (96,))
    lengths[0] = 9
    return model, TensorDataset(x, lengths), (x, lengths)


def clustered(model: nn.Module, centroids: int, granularity: str = "tensor") -> nn.Module:
    student = copy.deepcopy(model)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            axis = 1 if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.ConvTranspose1d) else 0
            attach(student, name, lloydmax.fit_codebook(weight, centroids, granularity=granularity, axis=axis))
    return student


def gap(student: nn.Module, teacher: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[float, float]:
    """Of mean outputs, and the mean squared one; of sequences of different lengths without what is after their ends."""
    with torch.no_grad():
        apart = student(*inputs) - teacher(*inputs)
    if len(inputs) == 2:
        apart = apart[torch.arange(apart.shape[1]) < inputs[1][:, None]]
    return float(apart.flatten(0, -2).mean(0).abs().max()), float(apart.square().mean())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("step", ["correct_bias", "match_moments"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_error_of_gates_and_attention_vanishes(name: str, step: str) -> None:
    model, data, inputs = case(name)
    student = clustered(model, 5)
    before, error = gap(student, model, inputs)
    options = {"relative": False} if step == "correct_bias" else {}
    found = lloydmax.run_step(step, student, model, data, batch_size=40, **options)
    after, left = gap(student, model, inputs)
    assert found["layers"] >= 2 and found["without_bias"] == []
    if name != "Transformer":  # its output is normalized
        assert after < 1e-5 < 1e-3 < before
    assert left < 0.75 * error


@pytest.mark.parametrize("name", ["LSTM, both directions, packed", "GRU, packed", "GRU cell"])
def test_gates_alone_make_it_better(name: str) -> None:
    model, data, inputs = case(name)
    student = copy.deepcopy(model)
    for leaf, weight in model.named_parameters():
        if weight.dim() > 1 and not leaf.startswith("out"):
            attach(student, leaf, lloydmax.fit_codebook(weight, 4))
    _, error = gap(student, model, inputs)
    lloydmax.run_step("correct_bias", student, model, data)
    _, left = gap(student, model, inputs)
    assert left < 0.9 * error


def test_the_candidate_of_a_gru_has_two_means() -> None:
    """One is times a gate: it goes into another bias."""
    model, data, _ = case("GRU cell")
    student = clustered(model, 5)
    before = copy.deepcopy(student.state_dict())
    lloydmax.run_step("correct_bias", student, model, data)
    moved = {name: (student.state_dict()[f"cell.{name}"] != before[f"cell.{name}"]) for name in ("bias_ih", "bias_hh")}
    assert bool(moved["bias_ih"].all())
    assert moved["bias_hh"].view(3, STATES).all(1).tolist() == [False, False, True]


def moments(model: nn.Module, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d))]
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, y: found.append(y.transpose(0, -1 if isinstance(layer, nn.Linear) else 1).flatten(1))
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [torch.stack([y.mean(1), y.std(1)]) for y in found]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_moments_of_layers_without_batch_norm_agree(granularity: str) -> None:
    """Depthwise, grouped, transposed and with no bias; with codebooks of channels, each of them."""
    torch.manual_seed(0)
    layers = [
        nn.ConvTranspose1d(8, 24, 3, groups=1 if granularity == "channel" else 4),
        nn.ReLU(),
        nn.Conv1d(24, 24, 3, groups=24, padding=1),
        nn.ReLU(),
        nn.Conv1d(24, 12, 1, bias=False),
        nn.ReLU(),
        nn.Conv1d(12, 7, 3),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(7, 5),
    ]
    model, x = nn.Sequential(*layers).eval(), torch.randn(64, 8, 20)
    student = clustered(model, 3, granularity)
    found = lloydmax.run_step("match_moments", student, model, x)
    assert found["layers"] == 5 and found["without_bias"] == ["4"]
    for number, (ours, theirs) in enumerate(zip(moments(student, x), moments(model, x), strict=True)):
        scale = theirs[1].mean()
        if number != 2:
            assert float((ours[0] - theirs[0]).abs().max()) < 1e-4 * scale
        if granularity == "channel":
            torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=0)
        else:
            assert float(ours[1].square().sum()) == pytest.approx(float(theirs[1].square().sum()), rel=1e-3)


class Spells(nn.Module):
    """A decoder, which is given what it said."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.said = nn.Linear(INPUTS, STATES), nn.Embedding(7, INPUTS)
        self.cell, self.out = nn.GRUCell(INPUTS, STATES), nn.Linear(STATES, 7)

    def forward(self, x: Tensor) -> Tensor:
        state, said, found = self.start(x), torch.zeros(len(x), dtype=torch.long), []
        for _ in range(8):
            state = self.cell(self.said(said), state)
            found.append(self.out(state))
            said = found[-1].argmax(1)
        return torch.stack(found, 1)


def test_a_decoder_that_says_something_else_is_compared_on_its_own_words() -> None:
    torch.manual_seed(0)
    model, x = Spells().eval(), torch.randn(64, INPUTS)
    with torch.no_grad():
        model.out.weight *= 8
    student = copy.deepcopy(model)
    for name in ("cell.weight_ih", "cell.weight_hh", "out.weight"):
        attach(student, name, lloydmax.fit_codebook(model.get_parameter(name), 512))  # nearly as they were
    with torch.no_grad():
        student.said.weight.copy_(student.said.weight.roll(1, 0))
        assert float((student(x).argmax(2) != model(x).argmax(2)).double().mean()) > 0.3
    lloydmax.run_step("match_moments", student, model, x)
    for name in ("cell.bias_ih", "cell.bias_hh", "out.bias"):
        moved = (student.get_parameter(name) - model.get_parameter(name)).abs().max()
        assert float(moved) < 1e-2, name


def test_files_hold_what_it_made(tmp_path: Path) -> None:
    model, data, inputs = case("GRU, both directions")
    layers = {"layers": ["recurrent"], "centroids": 4}
    leaves = [name for name, weight in model.recurrent.named_parameters() if weight.dim() > 1]
    rules = [{"layers": ["out"], "centroids": 4}, *({**layers, "parameter": leaf} for leaf in leaves)]
    recipe = {"quantize": rules, "recover": [{"step": "match_moments"}]}
    result = lloydmax.compress(model, recipe, data=data, progress=False)
    assert result.report.stages[-1].agreement.mse < result.report.stages[1].agreement.mse
    result.save(tmp_path / "small.safetensors")
    loaded = lloydmax.load(tmp_path / "small.safetensors", copy.deepcopy(model))
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), result.model(*inputs))
    again = lloydmax.compress(model, recipe, data=data, progress=False)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "small.safetensors").read_bytes()


def test_tied_weights_keep_their_scale() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    model[2].weight = model[0].weight
    student = copy.deepcopy(model)
    attach(student, "0.weight", lloydmax.fit_codebook(model[0].weight, 3))
    before = student[0].weight.detach().clone()
    lloydmax.run_step("match_moments", student, model, torch.randn(64, 8))
    assert torch.equal(student[0].weight, before)


def test_layers_that_own_no_bias_are_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8)).eval()
    student, x = clustered(model, 3), torch.randn(64, 8)
    assert lloydmax.run_step("correct_bias", student, model, x)["without_bias"] == ["0"]


class Standardized(nn.Conv2d):
    """Of whose weight only the direction counts."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def test_what_a_factor_would_not_scale_is_only_shifted() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Standardized(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(64, 3, 8, 8)
    recipe = {"version": 1, "quantize": [{"layers": "all", "centroids": 3}], "recover": []}
    student = lloydmax.compress(net, recipe, x, progress=False).model
    before = next(iter(lloydmax.codebooks(student).values())).centroids.clone()
    lloydmax.run_step("match_moments", student, net, x)
    wanted, found = (model[0](x).mean((0, 2, 3)) for model in (net, student))
    assert torch.equal(next(iter(lloydmax.codebooks(student).values())).centroids, before)
    assert torch.allclose(wanted, found, atol=1e-4)


@pytest.mark.parametrize(("rows", "samples"), [(None, 38), (640, 20), (64, 16)])
def test_many_places_need_fewer_samples(rows: int | None, samples: int) -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 40, 1)).eval(),
        torch.randn(38, 3, 32),
    )
    steps = [{"step": step, "rows": rows} for step in ("match_moments", "correct_bias")]
    recipe = {"quantize": [{"layers": "all", "centroids": 3}], "recover": steps}
    found = lloydmax.compress(model, recipe, x, progress=False).report.recovery
    assert [figures["samples"] for figures in found] == [samples, samples]


class Routed(nn.Module):
    """Every input goes through one of two layers; which, a third one says."""

    def __init__(self) -> None:
        super().__init__()
        self.says, self.layers = nn.Linear(6, 2), nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        where, y = self.says(x).argmax(1), torch.zeros_like(x)
        for number, layer in enumerate(self.layers):
            if bool((chosen := where == number).any()):
                y[chosen] = layer(x[chosen])
        return y


@pytest.mark.parametrize("batch_size", [1, 64])
def test_layers_may_see_other_inputs_than_in_the_original(batch_size: int) -> None:
    torch.manual_seed(0)
    model, x = Routed().eval(), torch.randn(64, 6)
    step = {"step": "match_moments", "batch_size": batch_size}
    rule = {"layers": "all", "centroids": 2}
    result = lloydmax.compress(model, {"quantize": [rule], "recover": [step]}, x, progress=False)
    with torch.no_grad():
        routes, own = ((one.says(x).argmax(1) == 0).sum() for one in (model, result.model))
    assert routes != own and "match_moments" in [stage.name for stage in result.report.stages] + ["match_moments"]
    assert all(bool(torch.isfinite(p).all()) for p in result.model.parameters())
