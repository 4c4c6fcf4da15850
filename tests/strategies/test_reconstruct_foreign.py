"""Reconstruction of what is no convolution and no linear layer of PyTorch, of tied heads, and of wide layers."""

from __future__ import annotations

from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from foreign_layers import Conv1D
from lloydmax_strategies.reconstruction.gram import NotPlain
from lloydmax_strategies.reconstruction.operands import operands
from torch import Tensor, nn

STEP = {"step": "reconstruct", "samples": 96, "batch_size": 40}


def correlated(*shape: int) -> Tensor:
    """Positive inputs whose neighbours are alike."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return torch.relu(x + x.roll(1, -1) + x.roll(2, -1) + 0.5)


class Experts(nn.Module):
    """Each token goes to one of four experts, none to the last one; their matrices are used in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, flat = way, way == "flat"
        self.up = nn.Parameter(torch.randn((4 * 20, 16) if flat else (4, 20, 16)) * 0.2)
        down = {"flat": (4 * 20, 12), "linear": (4, 12, 20)}.get(way, (4, 20, 12))
        self.down = nn.Parameter(torch.randn(down) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 16)
        chosen = (flat[:, 0] > 0.7).long() + (flat[:, 1] > 0.7).long()
        result = flat.new_zeros(len(flat), 12)
        for expert in range(4):
            result[chosen == expert] = self.applied(flat[chosen == expert], expert)
        return result.view(*x.shape[:-1], 12)

    def applied(self, x: Tensor, expert: int) -> Tensor:
        raise NotImplementedError


class Rows(Experts):
    def applied(self, x: Tensor, expert: int) -> Tensor:
        return F.linear(x, self.up[expert]).relu() @ self.down[expert]


class Linear(Experts):
    def applied(self, x: Tensor, expert: int) -> Tensor:
        return F.linear(F.linear(x, self.up[expert]).relu(), self.down[expert])


class Flat(Experts):
    def applied(self, x: Tensor, expert: int) -> Tensor:
        hidden = (x @ self.up.view(4, 20, 16)[expert].t()).relu()
        return hidden @ self.down.view(4, 20, 12)[expert]


class All(Experts):
    """Every expert sees every token."""

    def forward(self, x: Tensor) -> Tensor:
        return self.every(x.reshape(-1, 16)).mean(0).view(*x.shape[:-1], 12)

    def every(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Bmm(All):
    def every(self, x: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(x.expand(4, -1, -1), self.up.transpose(1, 2)).relu(), self.down)


class Einsum(All):
    def every(self, x: Tensor) -> Tensor:
        return torch.einsum("enf,efo->eno", torch.einsum("nd,efd->enf", x, self.up).relu(), self.down)


WAYS = {"rows": Rows, "linear": Linear, "flat": Flat, "bmm": Bmm, "einsum": Einsum}


def experts(way: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(WAYS[way](way)).eval()


def run(model: nn.Module, x: Any, granularity: str = "tensor", **more: Any) -> tuple[lloydmax.Result, dict[str, Any]]:
    """Few centroids for all layers, reconstructed, and what the step said."""
    options = {key: more.pop(key) for key in ("columns", "samples") if key in more}
    centroids = 64 if "bits" in more else 4
    rule = {"layers": "all", "centroids": centroids, "granularity": granularity}
    made = {"quantize": [rule], "trainable": ["all"], **more}
    result = lloydmax.compress(model, made | {"recover": [STEP | options]}, x, progress=False)
    return result, dict(result.report.recovery[-1])


def came_closer(result: lloydmax.Result) -> bool:
    before, after = (stage.agreement for stage in result.report.stages[-2:])
    assert before is not None and after is not None
    return after.mse < 0.9 * before.mse


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:10"])
@pytest.mark.parametrize("way", WAYS)
def test_experts_come_closer(way: str, granularity: str) -> None:
    result, said = run(experts(way), correlated(96, 5, 16), granularity)
    assert said["layers"] == 2 and not said["skipped"] and said["error"] < said["error_before"]
    assert came_closer(result)


def test_experts_that_see_no_token_keep_their_codes() -> None:
    model = experts("rows")
    result, _ = run(model, correlated(96, 5, 16), "channel")
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "granularity": "channel"}]}
    fitted = lloydmax.codebooks(lloydmax.compress(model, recipe, progress=False).model)
    for name, book in lloydmax.codebooks(result.model).items():
        assert torch.equal(book.codes[3], fitted[name].codes[3])
        assert all(not torch.equal(book.codes[expert], fitted[name].codes[expert]) for expert in range(3))


def test_few_experts_at_a_time_are_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(96, 5, 16)
    whole, _ = run(experts("rows"), x, "channel")
    monkeypatch.setattr("lloydmax_strategies.reconstruct._MEMORY", 8 * 20**2)
    parts, _ = run(experts("rows"), x, "channel")
    for name, book in lloydmax.codebooks(whole.model).items():
        assert torch.equal(lloydmax.codebooks(parts.model)[name].codes, book.codes)


@pytest.mark.parametrize("bits", [None, 6.0])
@pytest.mark.parametrize("columns", [4096, 20])
def test_transposed_linear_layers(columns: int, bits: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(48, 32), nn.ReLU(), Conv1D(32, 24)).eval()
    more: dict[str, Any] = {} if bits is None else {"bits": bits, "storage": {"codes": "entropy"}}
    result, said = run(model, correlated(96, 3, 48), columns=columns, **more)
    assert said["layers"] == 2 and not said["skipped"] and said["error"] < 0.8 * said["error_before"]
    assert came_closer(result) and bool((result.model[0].bias != 0).any())


@pytest.mark.parametrize("kind", ["linear", "convolution", "no bias"])
def test_blocks_of_inputs_make_up_for_the_errors_of_those_before(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(10, 16, 9) if kind == "convolution" else nn.Linear(90, 16, bias=kind == "linear")
    x = correlated(96, 10, 30) if kind == "convolution" else correlated(96, 4, 90).cumsum(-1) / 9
    model = nn.Sequential(layer).eval()
    errors = {width: run(model, x, columns=width)[1] for width in (4096, 45, 10)}
    assert all(one["layers"] == 1 for one in errors.values())
    assert errors[45]["error_before"] == pytest.approx(errors[4096]["error_before"], rel=1e-3)
    assert max(errors[45]["error"], errors[10]["error"]) < 0.7 * errors[45]["error_before"]
    assert errors[45]["error"] < 1.1 * errors[4096]["error"] + 0.1 * errors[45]["error_before"]


class Tied(nn.Module):
    """A head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(300, 24), nn.Linear(24, 24), nn.Linear(24, 300, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids) + self.mix(self.embed(ids).cumsum(1)).relu())


@pytest.mark.parametrize("columns", [4096, 10])
@pytest.mark.parametrize("bits", [None, 4.0])
def test_both_uses_of_a_tied_head_count(columns: int, bits: float | None) -> None:
    torch.manual_seed(0)
    model, ids = Tied().eval(), torch.randint(0, 40, (96, 12), generator=torch.Generator().manual_seed(0))
    more: dict[str, Any] = {} if bits is None else {"bits": bits, "storage": {"codes": "entropy"}}
    result, said = run(model, ids, columns=columns, **more)
    assert said["layers"] == 2 and not said["skipped"] and said["error"] < said["error_before"]
    assert result.model.embed.weight.equal(result.model.head.weight) and came_closer(result)


class TwiceEmbedded(Tied):
    """The same table once more, in a module that nothing calls, as T5 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(300, 24)
        self.shared.weight = self.embed.weight


def test_an_embedding_that_is_tied_and_never_called() -> None:
    torch.manual_seed(0)
    model, ids = TwiceEmbedded().eval(), torch.randint(0, 40, (96, 12), generator=torch.Generator().manual_seed(0))
    said = run(model, ids)[1]
    assert said["layers"] == 2 and not said["skipped"]


class Odd(nn.Module):
    """Does more with its weight than to multiply by it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + (x @ (self.w / self.w.norm()))


def test_a_weight_with_another_use_stays() -> None:
    model = nn.Sequential(Odd(), nn.Linear(16, 8)).eval()
    said = run(model, correlated(96, 24))[1]
    assert said["layers"] == 1 and said["skipped"] == ["0.w"]


def test_what_grouped_products_multiply() -> None:
    if not hasattr(F, "grouped_mm"):
        return
    x, weight = torch.randn(10, 16), torch.randn(3, 16, 32)
    ends = torch.tensor([4, 4, 10], dtype=torch.int32)
    found = operands(lambda: F.grouped_mm(x, weight, offs=ends), weight, 2, 3)
    assert [where.start for where, _ in found] == [0, 1, 2] and [rows.shape[1] for _, rows in found] == [4, 0, 6]
    assert torch.equal(torch.cat([rows[0] for _, rows in found]), x)
    with pytest.raises(NotPlain):
        operands(lambda: x @ weight[0, :, :7], weight, 2, 3)
    with pytest.raises(NotPlain):
        operands(lambda: None, weight, 2, 3)
