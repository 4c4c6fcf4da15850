"""What a run will take is told before its work, and memory is kept within a limit."""

from __future__ import annotations

from typing import Any

import lloydmax
import pytest
import torch
from conftest import SmallNet
from lloydmax import RecoveryError, hookimpl
from lloydmax.data import unlabelled
from lloydmax.network.outputs import AskedOutputs
from lloydmax.network.private import private
from lloydmax.recovery import expected
from lloydmax.runtime.memory import in_use
from lloydmax.teacher.cost import cost, held
from lloydmax.teacher.trial import trial
from torch import Tensor, nn

STEP = {"step": "distill", "steps": 2, "batch_size": 16, "loss": "kl", "held_out": 0.0}
RECIPE: dict[str, Any] = {"quantize": [{"layers": "all", "centroids": 4}], "recover": [STEP], "trainable": ["all"]}


class Ear:
    """Hears what a run will take."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    @hookimpl
    def lloydmax_expected(self, seconds: float, bytes: int) -> None:
        """Once."""
        self.told.append((seconds, bytes))


def test_a_run_tells_what_it_will_take(small_net: SmallNet, pictures: Tensor) -> None:
    ear = Ear()
    before = {name: tensor.clone() for name, tensor in small_net.state_dict().items()}
    free = lloydmax.compress(small_net, RECIPE, pictures, progress=False)
    heard = lloydmax.compress(small_net, RECIPE, pictures, progress=False, listeners=[ear])
    ((seconds, size),) = ear.told
    assert 0 < seconds < 60 and 2**24 < size < 2**34
    for (name, one), other in zip(free.model.state_dict().items(), heard.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert all(torch.equal(before[name], tensor) for name, tensor in small_net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in small_net.parameters())


def test_what_an_input_holds_grows_with_the_network(pictures: Tensor) -> None:
    held = []
    for layers in (1, 3):
        net = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh()) for _ in range(layers)])
        model = private(net)
        source = unlabelled(pictures, model)
        held.append(cost(model, source, trial(model, source, AskedOutputs())).held)
    assert held[1] >= 2 * held[0] > 0


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.5}])
def test_batches_come_in_parts_that_fit(
    small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch, mixed: dict[str, Any]
) -> None:
    model = private(small_net)
    source = unlabelled(pictures, model)
    each = int(1.15 * cost(model, source, trial(model, source, AskedOutputs())).held)
    monkeypatch.setattr(expected, "in_use", lambda device: 0)
    beside = 40 * sum(p.numel() for p in small_net.parameters())
    recipe = RECIPE | {"recover": [STEP | mixed]}
    whole = lloydmax.compress(small_net, recipe, pictures, progress=False)
    rows: set[int] = set()
    small_net.head.register_forward_hook(lambda _, __, out: rows.add(len(out)) if torch.is_grad_enabled() else None)
    parts = lloydmax.compress(small_net, recipe, pictures, progress=False, max_memory=beside + 5 * each)
    assert STEP["batch_size"] not in rows and 4 in rows
    one, other = (found.report.recovery[0]["loss"] for found in (whole, parts))
    assert one == pytest.approx(other, rel=0.5 if mixed else 1e-3)
    with pytest.raises(RecoveryError, match=r"max_memory: .* do not do: about .* needed even for one input"):
        lloydmax.compress(small_net, recipe, pictures, progress=False, max_memory=beside + each - 1)


def test_memory_in_use() -> None:
    before = in_use(torch.device("cpu"))
    held = torch.ones(2**25)
    assert 2**26 < in_use(torch.device("cpu")) - before < 2**29 and held[0] == 1


def test_batches_fit_the_machine_where_no_limit_is_given(
    small_net: SmallNet, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = private(small_net)
    source = unlabelled(pictures, model)
    each = int(1.15 * held(model, source, trial(model, source, AskedOutputs())))
    beside = 40 * sum(p.numel() for p in small_net.parameters())
    rows: set[int] = set()
    small_net.head.register_forward_hook(lambda _, __, out: rows.add(len(out)) if torch.is_grad_enabled() else None)
    runs = []
    for there in (None, beside + 64 * each + 1, beside + 5 * each, 1):
        monkeypatch.setattr(expected, "there_is", lambda device, there=there: there and int(there / 0.7) + 1)
        rows.clear()
        runs.append((lloydmax.compress(small_net, RECIPE, pictures, progress=False), set(rows)))
    (one, free), (other, enough), (_, few), (_, none) = runs
    assert enough - {1} == free and max(free) == STEP["batch_size"]
    assert max(few) == 4 and max(none) == 1
    for (name, mine), other_one in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other_one), name
