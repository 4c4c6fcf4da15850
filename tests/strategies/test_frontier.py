"""The frontier: what is read is what a pass from the inputs gives, and every layer runs twice, not once a layer."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax.data import unlabelled
from lloydmax.runtime.modes import evaluating
from lloydmax_strategies.frontier import Frontier
from lloydmax_strategies.tap import forward_order, read
from torch import Tensor, nn


class Residual(nn.Module):
    """Adds in place, shares one layer between two places, takes an option."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.relu(self.first(x))
        y = self.shared(x)
        y += x
        y = self.relu(self.shared(y)) * scale
        return self.last(y.view(y.shape[0], y.shape[1], -1).mean(2))


class Branching(Residual):
    """Cannot be traced."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x if float(x.sum()) < 1e9 else -x, scale)


def all_read(model: nn.Module, x: Tensor, how: str, memory: float = 1e9) -> tuple[dict[str, list[Tensor]], int]:
    """Every output of every layer, each shifted once it is read, and how often the first layer ran."""
    source, order, runs = unlabelled(x, model), torch.arange(len(x)), []
    found: dict[str, list[Tensor]] = {}
    layers = {m: n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    with evaluating(model):
        calls = forward_order(model, list(layers), source, order[:2])
        frontier = Frontier(model, source, order, 40, memory)
        next(iter(calls)).register_forward_hook(lambda *_: runs.append(1))
        for module, count in calls.items():
            if how == "frontier":
                outputs = frontier.read(module, what="output", calls=count)
            else:
                outputs = read(model, module, source, order, 40, what="output", calls=count)
            found[layers[module]] = list(outputs)
            bias = module.bias if module.bias is not None else module.weight
            bias.add_(0.5)
    return found, len(runs)


@pytest.mark.parametrize("kind", [SmallNet, Residual, Branching])
@pytest.mark.parametrize("memory", [1e9, 2e5, 0])
def test_what_is_read_is_what_a_pass_gives(kind: type[nn.Module], memory: float, pictures: Tensor) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    expected, plain = all_read(copy.deepcopy(model), pictures, "read")
    found, runs = all_read(model, pictures, "frontier", memory)
    assert found.keys() == expected.keys()
    for name, outputs in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(found[name], outputs, strict=True)), name
    assert runs <= plain
    if kind is SmallNet:
        assert runs == {1e9: 2 * 3, 2e5: 12, 0: 5 * 3}[memory], "three batches, to read and to go on"


def test_what_is_written_to_later_is_read_as_it_was(pictures: Tensor) -> None:
    torch.manual_seed(0)
    model, heard = Residual().eval(), []
    with evaluating(model):
        hook = model.shared.register_forward_hook(lambda _, __, result: heard.append(result.clone()))
        model(pictures)
        hook.remove()
        found = list(
            read(model, model.shared, unlabelled(pictures, model), torch.arange(96), 96, what="output", calls=2)
        )
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, heard, strict=True))


def test_arguments_that_were_not_traced_are_run_as_they_are(pictures: Tensor) -> None:
    torch.manual_seed(0)
    model, order = Residual().eval(), torch.arange(96)
    with evaluating(model):
        source = unlabelled([{"x": part, "scale": 3.0} for part in pictures.split(48)], model)
        assert Frontier(model, unlabelled(pictures, model), order, 48).traced
        found = list(Frontier(model, source, order, 48).read(model.last))
        expected = torch.cat([_before_last(model, part) for part in pictures.split(48)])
    assert torch.allclose(torch.cat(found), expected, atol=1e-6)


def _before_last(model: Residual, x: Tensor) -> Tensor:
    heard: list[Tensor] = []
    handle = model.last.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    model(x, 3.0)
    handle.remove()
    return heard[0]


def test_a_layer_inside_a_module_with_parameters_of_its_own(text_net: TextNet) -> None:
    tokens = torch.randint(0, 50, (30, 7), generator=torch.Generator().manual_seed(0))
    source, order = unlabelled(tokens, text_net), torch.arange(30)
    with evaluating(text_net):
        found = list(Frontier(text_net, source, order, 10).read(text_net.norm))
        expected = list(read(text_net, text_net.norm, source, order, 10))
    assert torch.equal(torch.cat(found), torch.cat(expected))


@pytest.mark.parametrize("kind", [SmallNet, Residual])
def test_of_a_model_that_stays_every_layer_runs_once(kind: type[nn.Module], pictures: Tensor) -> None:
    torch.manual_seed(0)
    model, runs = kind().eval(), []
    source, order = unlabelled(pictures, model), torch.arange(len(pictures))
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    with evaluating(model):
        calls = {layer: n for layer, n in forward_order(model, layers, source, order[:2]).items() if n == 1}
        expected = {layer: list(read(model, layer, source, order, 40, what="output")) for layer in calls}
        frontier = Frontier(model, source, order, 40, still=True)
        hooks = [layer.register_forward_hook(lambda layer, *_: runs.append(layer)) for layer in calls]
        found = {layer: [y.clone() for y in frontier.read(layer, what="output")] for layer in calls}
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(a, b) for layer in calls for a, b in zip(found[layer], expected[layer], strict=True))
    assert all(runs.count(layer) == len(expected[layer]) for layer in calls)


def test_a_layer_that_is_shared_is_read_on_the_way(pictures: Tensor) -> None:
    torch.manual_seed(0)
    model, runs = Residual().eval(), []
    source, order = unlabelled(pictures, model), torch.arange(len(pictures))
    with evaluating(model):
        frontier = Frontier(model, source, order, len(order))
        list(frontier.read(model.first))
        model.first.register_forward_hook(lambda *_: runs.append(1))
        found = list(frontier.read(model.shared, calls=2))
        model.shared.weight.mul_(0.5)
        last = list(frontier.read(model.last))
        again = list(read(model, model.last, source, order, len(order)))
    assert len(found) == 2 and torch.equal(last[0], again[0])
    assert len(runs) == 2, "once from the first layer on, once more from the inputs, by which it was checked"


class Blocks(nn.Module):
    """Cannot be traced; its blocks take what the model makes of the inputs, and write into what they get."""

    def __init__(self, skips: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.skips = nn.Linear(12, 8), skips
        self.blocks = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}) for _ in range(5))
        for block in self.blocks:
            block.forward = partial(self.block, block)  # type: ignore[method-assign]
        self.outer = nn.Linear(8, 3)

    @staticmethod
    def block(block: nn.ModuleDict, x: Tensor, scale: Tensor) -> tuple[Tensor, str]:
        y = block["b"](block["a"](x).relu()) * scale
        x += y
        return x, "state"

    def forward(self, pictures: Tensor) -> Tensor:
        rows = pictures[:, 0].flatten(1)[:, :12]
        scale = rows.abs().amax(1, keepdim=True) if float(rows.sum()) < 1e9 else rows[:, :1]
        x, before = self.inner(rows), 0.0
        for block in self.blocks:
            given = x.clone()
            x, _ = block(x, scale)
            x, before = (x + before if self.skips else x), given
        return self.outer(x)


@pytest.mark.parametrize(("skips", "memory", "runs"), [(False, 1e9, 10), (False, 100, 22), (True, 1e9, 22)])
def test_a_row_of_blocks_is_passed_over_where_that_changes_nothing(
    skips: bool, memory: float, runs: int, pictures: Tensor
) -> None:
    of_frontier, plain = Blocks(skips), Blocks(skips)
    ran: list[int] = []
    found = {}
    for how, model in {"frontier": of_frontier, "read": plain}.items():
        if how == "frontier":
            model.blocks[1]["a"].register_forward_hook(lambda *_: ran.append(1))
        found[how], _ = all_read(model, pictures[:80], how, memory)
    for name, outputs in found["read"].items():
        assert all(map(torch.equal, outputs, found["frontier"][name])), name
    assert len(ran) == runs
