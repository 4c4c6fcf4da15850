"""The private tree of a model: what it shares with the caller's, and what it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable

import lloydmax
import pytest
import torch
from lloydmax.network.private import SMALL, bare, private, unwrapped
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel


class Odd(nn.Module):
    """Tensors in every kind of place; a list and a method that lead back to a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.also = [self.layer]
        self.call = self.layer.forward
        self.plain = (self.layer.weight * 2).sum(0)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.randn(SMALL, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.also[0](x) + self.call(x) + self.plain + self.table[:4, 0]


def test_memory_is_shared_and_nothing_else_is() -> None:
    model = Odd().train()
    model.layer.register_forward_hook(lambda *_: None)
    mine = private(model)
    assert mine.layer.weight.data_ptr() == model.layer.weight.data_ptr()
    assert mine.table.data_ptr() == model.table.data_ptr()
    assert mine.plain.data_ptr() == model.plain.data_ptr()
    assert mine.layer.weight is not model.layer.weight and mine.also[0] is mine.layer
    assert mine.call.__self__ is mine.layer
    assert len(mine.layer._forward_hooks) == 1 and not any(module.training for module in mine.modules())
    mine.layer.weight.requires_grad_(False)
    mine.layer.register_forward_pre_hook(lambda *_: None)
    mine(torch.ones(1, 4))
    assert all(module.training for module in model.modules()) and model.layer.weight.requires_grad
    assert not model.layer._forward_pre_hooks and model.steps == 0
    assert private(mine) is mine


def test_tied_parameters_stay_tied_and_inference_tensors_are_copied() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    mine = private(model)
    assert mine[0].weight is mine[1].weight and not mine[0].weight.is_inference()
    mine[0].weight.requires_grad_(True)
    assert torch.equal(mine[0].weight, model[0].weight)


def _compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [nn.DataParallel, _compiled, AveragedModel, checkpoint_wrapper]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_are_seen_through_wherever_they_are(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2))
    names, x = set(model.state_dict()), torch.randn(3, 4)
    expected = model(x)
    assert unwrapped(wrap(model)).state_dict().keys() == names
    inner = nn.Sequential(model[0], wrap(nn.Sequential(wrap(model[1][0]), model[1][1])), model[2])
    mine = private(wrap(inner))
    assert set(mine.state_dict()) == names and torch.equal(mine(x), expected)
    assert unwrapped(inner[1]) is not inner[1] and unwrapped(mine[1]) is mine[1], "the caller's keeps its wrappers"


def test_a_bare_model_has_no_wrappers_inside() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Sequential(nn.DataParallel(nn.Linear(4, 4)))))
    assert bare(nn.DataParallel(model)) is model
    assert set(model.state_dict()) == {"0.0.weight", "0.0.bias"}


def _meta() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4, device="meta")))


def _locked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    model[1].lock = threading.Lock()
    return model


def _scripted() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "named"),
    [(_meta, r"^1\.0\.weight is on the meta device"), (_locked, r"^1\.lock \(lock\)"), (_scripted, "^1 is a Script")],
)
def test_what_cannot_be_used_is_named_before_any_work(make: Callable[[], nn.Module], named: str) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4}]}
    for call in (
        lambda: lloydmax.compress(make(), recipe, progress=False),
        lambda: lloydmax.plan(make(), recipe),
        lambda: lloydmax.recipe_for(make()),
        lambda: lloydmax.search(make(), recipe, torch.randn(8, 4), {"bits": 2}),
        lambda: lloydmax.data_fitness(make(), {"data": torch.randn(8, 4)}),
    ):
        with pytest.raises(lloydmax.ModelError, match=named):
            call()


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_is_compressed_saved_and_loaded_by_its_bare_names(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: object
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(64, 4)
    step = {"step": "distill", "steps": 3}
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "trainable": ["all"], "recover": [step]}
    result = lloydmax.compress(wrap(model), recipe, x, progress=False)
    assert set(lloydmax.codebooks(result.model)) == {"0.weight", "2.weight"}
    result.save(f"{tmp_path}/model.safetensors")
    fresh = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    for architecture in (fresh, wrap(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)))):
        assert torch.equal(lloydmax.load(f"{tmp_path}/model.safetensors", architecture)(x), result.model(x))
