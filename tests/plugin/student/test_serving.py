"""Models that run from packed codes: the same outputs, less memory, and nothing else changed."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from foreign_layers import Conv1D
from lloydmax import native
from lloydmax.errors import KernelError
from lloydmax.student.attachment import attach, finish, recode
from lloydmax.student.coded import CodedTensor
from lloydmax.student.layers import CodesHolder
from torch import Tensor, nn


class OwnLinear(nn.Linear):
    """A class that no codebook layer replaces."""


class OwnConv(nn.Conv2d):
    """Another."""


class Vision(nn.Module):
    """Every kind of convolution, a depthwise one, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 5, stride=2, padding=1)
        self.grouped = OwnConv(64, 128, (2, 3), padding="same", dilation=2, groups=2)
        self.depthwise = nn.Conv2d(128, 128, 6, padding=1, groups=128)
        self.point = nn.Conv2d(128, 64, 1)
        self.mirrored = nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect")
        self.series = nn.Conv1d(64, 30, 5, stride=2, padding=2)
        self.whole = nn.Conv2d(64, 16, (5, 5))
        self.turned = nn.ConvTranspose2d(16, 64, 4)
        self.last = OwnLinear(64, 70)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.mirrored(self.point(self.depthwise(self.grouped(self.first(x).relu()))).relu())
        series = self.series(x.flatten(2))
        return series, self.last(self.turned(self.whole(x)).mean((2, 3)))


class Language(nn.Module):
    """A tied head, and GPT-2's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(90, 64, padding_idx=0)
        self.middle = Conv1D(64, 96)
        self.back = nn.Linear(96, 64, bias=False)
        self.head = nn.Linear(64, 90, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.head(self.back(self.middle(self.words(tokens)).relu())),)


def made(model: nn.Module, k: int = 16, granularity: str = "channel") -> nn.Module:
    for name, parameter in list(model.named_parameters()):
        if parameter.dim() > 1:
            axis = int(isinstance(model.get_submodule(name.rpartition(".")[0]), (Conv1D, nn.ConvTranspose2d)))
            attach(model, name, lloydmax.fit_codebook(parameter, k, granularity, axis=axis))
    return finish(model).eval()


def off(found: Any, wanted: Any) -> float:
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True))


def packed(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, CodesHolder) and part.planes is not None]


CASES = [(Vision, 16, "channel"), (Vision, 5, "tensor"), (Language, 8, "group:7")]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    kind, k, granularity = request.param
    torch.manual_seed(0)
    model = made(kind(), k, granularity)
    return model, torch.randn(2, 3, 19, 19) if kind is Vision else torch.randint(0, 90, (2, 7))


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "most"), [("codes", 2e-6), ("codes-fast", 1e-3)])
def test_models_run_from_their_codes(case: tuple[nn.Module, Tensor], kernel: Any, most: float, tmp_path: Path) -> None:
    net, x = copy.deepcopy(case[0]), case[1]
    wanted, state = net(x), copy.deepcopy(net.state_dict())
    lloydmax.save(net, tmp_path / "plain.safetensors")
    lloydmax.set_kernel(net, kernel)
    found = net(x)
    assert off(found, wanted) <= most
    assert len(packed(net)) == (7 if isinstance(net, Vision) else 3), "all but the depthwise and the transposed one"
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    lloydmax.save(net, tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    other = copy.deepcopy(net)
    assert off(other(x), found) == 0 and packed(other) == packed(net)
    net.load_state_dict(state)
    assert off(net(x), found) == 0 and packed(net) == packed(other)
    assert off(lloydmax.set_kernel(net, None)(x), wanted) == 0 and not packed(net)


def test_gradients_go_the_plain_way(case: tuple[nn.Module, Tensor]) -> None:
    net = lloydmax.set_kernel(copy.deepcopy(case[0]), "codes")
    if isinstance(net, Vision):
        inputs = [case[1].clone().requires_grad_() for _ in range(2)]
        for one, leaf in zip((net, case[0]), inputs, strict=True):
            one(leaf)[0].sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES[::2], indirect=True, ids=str)
def test_programs_hold_the_operators(case: tuple[nn.Module, Tensor]) -> None:
    net, x = lloydmax.set_kernel(copy.deepcopy(case[0]), "codes"), case[1]
    wanted = net(x)
    assert off(torch.compile(net, backend="eager", fullgraph=True)(x), wanted) < 1e-6
    program = torch.export.export(net, (x,))
    assert sum("lloydmax" in str(node.target) for node in program.graph.nodes) >= 4
    assert off(program.module()(x), wanted) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert off(torch.jit.trace(net, x, check_trace=False)(x), wanted) < 2e-6


@torch.no_grad()
def test_pickles_are_packed_and_changes_are_seen() -> None:
    net, x = made(nn.Sequential(nn.Linear(128, 64)), 16), torch.randn(1, 128)
    size = len(pickle.dumps(net))
    lloydmax.set_kernel(net, "codes")
    assert len(pickle.dumps(net)) < size - 3000 and torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
    weight = net[0].codebooks["weight"]
    before = net(x) - net[0].bias
    weight.centroids.mul_(2)
    torch.testing.assert_close(net(x) - net[0].bias, 2 * before)
    codes = weight.codes.flip(0)
    recode(net, "0.weight", codes)
    assert torch.equal(weight.codes, codes)
    torch.testing.assert_close(net(x), nn.functional.linear(x, net[0].weight, net[0].bias))
    assert off([net.double()(x.double()).float()], [lloydmax.set_kernel(net.float(), "codes")(x)]) < 1e-6


@torch.no_grad()
def test_tied_weights_share_one_copy() -> None:
    net = lloydmax.set_kernel(made(Language(), 8, "tensor"), "codes")
    assert net.words.codebooks["weight"] is net.head.codebooks["weight"]
    found = lloydmax.codebooks(net)
    assert found["words.weight"].codes is found["head.weight"].codes
    assert isinstance(net.middle.weight, CodedTensor)
    assert net.words(torch.tensor(3)).shape == (64,) and net.words(torch.empty(0, 2, dtype=torch.int32)).shape == (
        0,
        2,
        64,
    )
    with pytest.raises(IndexError):
        net.words(torch.tensor([90]))
    with pytest.raises(RuntimeError, match="Long, Int"):
        net.words(torch.tensor([1.5]))
    assert copy.deepcopy(net).to("meta")(torch.zeros(1, 3, dtype=torch.int64, device="meta"))[0].shape == (1, 3, 90)


@torch.no_grad()
def test_integers_are_refused_where_the_data_shows_that_they_are_off() -> None:
    torch.manual_seed(0)
    net = made(nn.Sequential(nn.Linear(256, 64), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)), 16, "tensor")
    table = net[3].codebooks["weight"].centroids
    table[-1] *= 3000  # a code that is used once leaves no bits for the others
    codes = net[3].codebooks["weight"].codes
    codes[codes == 15] = 14
    net.train()
    with pytest.warns(UserWarning, match=r"3\.weight \(.*'codes-fast' exceeds 1e-03 .*'codes'"):
        lloydmax.set_kernel(net, "codes-fast", torch.randn(20, 256))
    assert [net[place].codebooks["weight"].kernel for place in (0, 1, 3)] == ["codes-fast", "codes-fast", "codes"]
    assert net.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lloydmax.set_kernel(net[:2], "codes-fast", torch.randn(20, 256))
    lloydmax.set_kernel(net, "codes")
    with pytest.raises(RuntimeError, match="shapes"):
        lloydmax.set_kernel(net, "codes-fast", torch.randn(20, 255))
    assert [net[place].codebooks["weight"].kernel for place in (0, 1, 3)] == ["codes"] * 3


def test_what_runs_from_no_codes() -> None:
    for model in (nn.Linear(16, 16), nn.ConvTranspose2d(64, 64, 3), nn.Conv2d(256, 256, 5, groups=256)):
        with pytest.raises(KernelError, match=r"serves none of the . finished layers .* at least 4,096 weights"):
            lloydmax.set_kernel(made(nn.Sequential(model)), "codes")
    vectors = nn.Sequential(nn.Linear(128, 64))
    attach(vectors, "0.weight", lloydmax.fit_codebook(vectors[0].weight, 8, block=4))
    with pytest.raises(KernelError, match="a code for each"):
        lloydmax.set_kernel(finish(vectors), "codes")


@torch.no_grad()
def test_without_the_core_it_decodes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = made(nn.Sequential(nn.Conv1d(32, 64, 3), nn.Flatten(), nn.Linear(512, 8))), torch.randn(2, 32, 10)
    wanted = net(x)
    monkeypatch.setattr("lloydmax.native.running.active", lambda: False)
    monkeypatch.setattr(native, "active", lambda: False)
    with pytest.warns(UserWarning, match="native core was not built"):
        lloydmax.set_kernel(net, "codes-fast")
    assert off([net(x)], [wanted]) < 1e-6 and len(packed(net)) == 2


def test_exports_are_plain(tmp_path: Path) -> None:
    net = lloydmax.set_kernel(made(nn.Sequential(nn.Linear(128, 64))), "codes")
    lloydmax.export(net, tmp_path / "a.pt2", example_inputs=torch.randn(2, 128))
    program = torch.export.load(tmp_path / "a.pt2")
    assert not any("lloydmax" in str(node.target) for node in program.graph.nodes) and packed(net)
