"""Loading is all or nothing: a model that a file could not be loaded into, or only half, is as it was."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Counting(nn.Module):
    """Extra state, a tied parameter, a buffer that no file keeps, hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6)
        self.second.weight = self.first.weight
        self.rnn, self.seen = nn.GRU(6, 5), {"steps": [0]}
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("mask", torch.ones(6), persistent=False)
        self.first.bias.requires_grad_(False)
        self.first.register_forward_hook(lambda *_: None)

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.seen["steps"][0]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen["steps"][0] = state["steps"]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rnn(self.norm(self.first(x) + self.second(x)))[0]
        return found


def folding() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def computed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3))


def wrapped() -> nn.Module:
    return nn.DataParallel(nn.Sequential(nn.DataParallel(nn.Linear(4, 4)), nn.Linear(4, 3)))


def meta() -> nn.Module:
    with torch.device("meta"):
        model = Counting()
    model.mask = torch.ones(6)
    return model


ALL: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 4}]}
FOLD = ALL | {"recover": [{"step": "fold_batch_norm"}]}


def everything(model: nn.Module) -> list[Any]:
    """All that a caller can see of a model."""
    state: list[Any] = []
    for name, module in model.named_modules(remove_duplicate=False):
        held = {key: dict(value) if isinstance(value, dict) else value for key, value in vars(module).items()}
        plain = {key: repr(value) if isinstance(value, (list, set)) else None for key, value in held.items()}
        state.append((name, id(module), type(module), plain))
        state.append(
            [(k, [(key, id(item)) for key, item in v.items()]) for k, v in held.items() if isinstance(v, dict)]
        )
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                value = None if tensor.is_meta else tensor.detach().reshape(-1).view(torch.uint8).tolist()
                state.append((id(tensor), tensor.shape, tensor.requires_grad, tensor.grad, tensor.device, value))
    return [*state, repr(getattr(model, "seen", None))]


def interrupted(load: Callable[[], Any], point: int, error: BaseException) -> bool:
    """Run something, and raise at a numbered call of any Python function in it; whether that ended it."""
    counter, raised = itertools.count(), []

    def tracing(frame: Any, event: str, _: Any) -> Any:
        if not raised and event == "call" and next(counter) == point:
            raised.append(frame)
            raise error
        return tracing

    before = sys.gettrace()
    sys.settrace(tracing)
    try:
        load()
        return False
    except BaseException as found:
        assert raised, found
        return True
    finally:
        sys.settrace(before)


def points(load: Callable[[], Any]) -> int:
    """How many calls there are."""
    count = itertools.count()
    before = sys.gettrace()

    def tracing(frame: Any, event: str, _: Any) -> Any:
        if event == "call":
            next(count)
        return tracing

    sys.settrace(tracing)
    try:
        load()
    finally:
        sys.settrace(before)
    return next(count)


KINDS = {
    "plain": (Counting, ALL),
    "folded": (folding, FOLD),
    "computed": (computed, ALL),
    "wrapped": (wrapped, ALL),
    "meta": (meta, ALL),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_load_changes_nothing(kind: str, tmp_path: Path) -> None:
    build, recipe = KINDS[kind]
    path = tmp_path / "small.safetensors"
    whole = Counting() if kind == "meta" else build()
    if isinstance(whole, Counting):
        whole.seen = {"steps": [7]}
    lloydmax.compress(whole, recipe, progress=False).save(path)
    lloydmax.load(path, build())
    count = points(lambda: lloydmax.load(path, build()))
    hit = 0
    for point in range(0, count, max(1, count // 40)):
        model = build().train()
        before = everything(model)
        error = KeyboardInterrupt() if point % 2 else MemoryError()
        if interrupted(lambda model=model: lloydmax.load(path, model), point, error):
            hit += 1
            assert everything(model) == before, point
    assert hit > 20
