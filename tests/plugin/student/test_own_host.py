"""The int8 host of plain PyTorch: what ``torch.ao.quantization``'s FX gives, on kernels of its own."""

from __future__ import annotations

import copy
import io
from functools import partial
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from lloydmax.student.held import remember
from lloydmax.student.int8 import hosts
from lloydmax.student.int8.own.layers import IntegerLayer
from lloydmax.student.layers import CodebookLayer
from torch import Tensor, nn

UNIFORM = {"layers": "all", "quantizer": "uniform", "granularity": "channel"}


def recipe(host: str, *rules: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"quantize": [UNIFORM, *rules], "activations": {"samples": 32, "host": host, **settings}}


class Branches(nn.Module):
    """Sums with and without ReLU, constants, gates, joins, pools, layers that are used twice, and floats in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.d, self.again, self.free = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.relu, self.drop, self.prelu = nn.ReLU(inplace=True), nn.Dropout(0.1), nn.PReLU()
        self.fc, self.norm, self.last = nn.Linear(8, 10), nn.LayerNorm(10), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.relu(self.a(x))
        x = F.relu(self.b(x) + self.c(x)) + 1.0
        x = x * torch.sigmoid(F.adaptive_avg_pool2d(x * 0.5, 1))
        x = self.d(torch.cat([x, F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)], 1))
        x = F.hardswish(self.free(x))
        x = self.prelu(F.gelu(self.again(self.again(x))))
        one, other = x.chunk(2, 1)
        x = F.dropout(self.drop(torch.cat([other, one], 1).mean((2, 3))), 0.5, self.training)
        x = self.norm(self.fc(x.view(x.size(0), -1)))
        x = torch.tanh(self.last(F.relu(x)))
        return x, F.softmax(x, 1)


class Attention(nn.Module):
    """Products of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight = (torch.matmul(self.q(x), self.k(x).transpose(1, 2)) * 0.25).softmax(-1)
        return self.o(F.gelu(x + torch.matmul(weight, self.v(x)))).mean(1)


class Volumes(nn.Module):
    """Convolutions over one and three axes, tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.line = nn.Embedding(20, 6), nn.Conv1d(6, 8, 3, stride=2)
        self.volume, self.head = nn.Conv3d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.relu(self.line(self.table(tokens).transpose(1, 2)))
        return self.head(F.relu(self.volume(x.reshape(x.size(0), 2, 4, 2, 2))).mean((2, 3, 4)))


SEED = torch.Generator().manual_seed(2)
NETS: dict[str, tuple[type[nn.Module], tuple[dict[str, Any], ...], Tensor]] = {
    "small": (SmallNet, ({"layers": "padded", "quantizer": "none"},), torch.randn(32, 3, 12, 12, generator=SEED)),
    "branches": (Branches, ({"layers": "c", "centroids": 7},), torch.randn(32, 3, 10, 10, generator=SEED)),
    "attention": (
        Attention,
        ({"layers": "v", "quantizer": "uniform", "bits": 5, "scheme": "asymmetric"},),
        torch.randn(32, 6, 16, generator=SEED),
    ),
    "volumes": (Volumes, ({"layers": "table", "quantizer": "none"},), torch.randint(0, 20, (32, 9), generator=SEED)),
}


@pytest.fixture(scope="module", params=NETS)
def made(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, dict[str, lloydmax.Result]]:
    kind, rules, x = NETS[request.param]
    torch.manual_seed(0)
    net = kind().eval()
    return net, x, {h: lloydmax.compress(net, recipe(h, *rules), x, progress=False) for h in ("fx", "own")}


def test_the_student_is_the_same_with_both_hosts(made: tuple[nn.Module, Tensor, dict[str, lloydmax.Result]]) -> None:
    _, _, results = made
    fx, own = results["fx"], results["own"]
    assert fx.model.activations == own.model.activations
    books = {host: lloydmax.codebooks(result.model) for host, result in results.items()}
    assert set(books["fx"]) == set(books["own"])
    for name, book in books["fx"].items():
        other = books["own"][name]
        assert torch.equal(book.codes, other.codes) and torch.equal(book.centroids, other.centroids)
    trained = [[stage.agreement for stage in result.report.stages if stage.agreement] for result in results.values()]
    assert trained[0][0] == trained[1][0]
    assert trained[1][-1].agreed >= trained[0][-1].agreed - 1 / 32
    assert trained[1][-1].mse < 1.3 * trained[1][0].mse, "the kernels compute something else than what was trained"


def test_a_file_of_fx_loads_where_fx_is_gone(
    made: tuple[nn.Module, Tensor, dict[str, lloydmax.Result]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, results = made
    fx, own = results["fx"], results["own"]
    for host, result in results.items():
        result.save(tmp_path / host)
        model = lloydmax.load(tmp_path / host, type(net)())
        with torch.no_grad():
            assert all(map(torch.equal, flat(model(x)), flat(result.model(x))))
    remembered = {**fx.plan.recipe.data(), "activations": {"samples": 32}}
    remember(fx.model, remembered, fx.plan.recipe.storage.model_dump())
    lloydmax.save(fx.model, tmp_path / "auto")
    monkeypatch.setattr(hosts, "_imported", partial(without_fx, hosts._imported))
    loaded = lloydmax.load(tmp_path / "auto", type(net)())
    with torch.no_grad():
        assert all(map(torch.equal, flat(loaded(x)), flat(own.model(x))))


def without_fx(imported: Any, name: str) -> Any:
    """A PyTorch that has no ``torch.ao.quantization``."""
    if name == "fx":
        raise lloydmax.IntegrationError("gone")
    return imported(name)


def flat(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Branches().eval()
    rules = {"layers": "c", "centroids": 7}, {**UNIFORM, "layers": "d", "scheme": "asymmetric"}
    made: nn.Module = lloydmax.compress(net, recipe("own", *rules), NETS["branches"][2], progress=False).model
    return made


def test_kernels_are_used_where_there_are_some(model: nn.Module) -> None:
    layers: dict[str, Any] = dict(model.network.named_modules())
    assert isinstance(layers["c"], CodebookLayer)
    kernels = {name: layer.kernel() is not None for name, layer in layers.items() if isinstance(layer, IntegerLayer)}
    assert kernels == {**dict.fromkeys(["a", "b", "again", "again_again_0", "fc", "last"], True), "d": False}


def test_copies_pickles_states_and_programs_give_the_same(model: nn.Module) -> None:
    x = NETS["branches"][2]
    with torch.no_grad():
        wanted = model(x)
        stored = io.BytesIO()
        torch.save(model, stored)
        stored.seek(0)
        read = torch.load(stored, weights_only=False)
        other = copy.deepcopy(model)
        for layer in (m for m in other.modules() if isinstance(m, IntegerLayer)):
            layer.integers.zero_()
            layer._apply(lambda tensor: tensor)
        assert not torch.equal(other(x)[0], wanted[0])
        other.load_state_dict(model.state_dict())
        for each in (copy.deepcopy(model), read, other):
            assert all(map(torch.equal, each(x), wanted))
        program = torch.export.export(model, (x,)).module()
        assert torch.allclose(program(x)[0], wanted[0], atol=0.05)


def test_what_only_this_host_takes() -> None:
    """Padding in words, and tables of tokens with codebooks."""
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 3)).eval()
    rules = {"layers": "0", "centroids": 6}
    found = lloydmax.compress(words, recipe("own", rules), torch.randint(0, 9, (32, 6)), progress=False)
    assert lloydmax.codebooks(found.model)["0.weight"].k == 6
    same = nn.Sequential(nn.Conv2d(3, 4, 2, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.randn(32, 3, 4, 4)
    model = lloydmax.compress(same, recipe("own"), x, progress=False).model
    with torch.no_grad():
        assert float((model(x) - same(x)).norm() / same(x).norm()) < 0.05


class Viewed(nn.Module):
    """The usual way to flatten, which has no strides for what kernels give in channels-last order."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.fc = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.c(x)), 2)
        return self.fc(x.view(x.size(0), -1))


@pytest.mark.parametrize("host", ["own", "fx"])
def test_views_of_what_kernels_give(host: str) -> None:
    torch.manual_seed(0)
    model, x = Viewed().eval(), torch.randn(32, 3, 10, 10)
    made = lloydmax.compress(model, recipe(host), x, progress=False).model
    with torch.no_grad():
        assert float((made(x) - model(x)).norm() / model(x).norm()) < 0.05
