"""Batch norm folded: the outputs stay, the structure can be redone, what cannot be folded is left alone."""

from __future__ import annotations

import copy
import pickle

import lloydmax
import pytest
import torch
import torchvision
from batch_norms import difference, shuffled
from conftest import SmallNet
from lloydmax import demo
from lloydmax.network.folding import Folded, fold_batch_norms, fold_structure, folded
from torch import Tensor, nn


def test_the_demo_network_on_its_silhouettes() -> None:
    model = demo.network()
    student = copy.deepcopy(model)
    pairs = fold_batch_norms(student)
    assert len(pairs) == 15 and pairs[0] == ("conv1", "bn1") and set(folded(student)) == set(pairs)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in student.modules())
    assert difference(model, student, demo.silhouettes()[::50]) < 1e-5


def test_mobilenet() -> None:
    torch.manual_seed(0)
    model = shuffled(torchvision.models.mobilenet_v2(num_classes=10))
    student = copy.deepcopy(model)
    assert len(fold_batch_norms(student)) == 52
    assert difference(model, student, torch.randn(2, 3, 64, 64)) < 1e-4


@pytest.mark.slow
def test_efficientnet_on_photos() -> None:
    from ao_models import efficientnet, photos

    model = efficientnet()
    student = copy.deepcopy(model)
    assert len(fold_batch_norms(student)) == 49
    assert difference(model, student, photos(4, 224)) < 1e-4


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "layer", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear"]
)
def test_every_kind_of_layer(layer: str, bias: bool) -> None:
    torch.manual_seed(0)
    axes = int(layer[-2]) if layer.endswith("d") else 0
    norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes](6)
    made = nn.Linear(4, 6, bias=bias) if not axes else getattr(nn, layer)(4, 6, 3, groups=2, bias=bias)
    model = nn.Sequential(made, norm)
    x = torch.randn(8, 4, *([5] * axes))
    for _ in range(3):
        model(x)
    model.eval()
    student = copy.deepcopy(model)
    assert fold_batch_norms(student) == [("0", "1")]
    assert difference(model, student, x) < 1e-5


def test_no_affine_no_statistics_and_dead_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
    )
    shuffled(model)
    with torch.no_grad():
        model[4].weight[1] = 0
        model[5].running_var[1] = 0
        model[5].weight[2] = 0
    student = copy.deepcopy(model)
    assert fold_batch_norms(student) == [("0", "1"), ("4", "5")]
    assert isinstance(student[3], nn.BatchNorm2d)
    assert difference(model, student, torch.randn(4, 3, 5, 5)) < 1e-5


def test_values_that_the_dtype_cannot_hold_are_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half().eval()
    with torch.no_grad():
        model[1].running_var.fill_(0)
        model[1].eps, model[1].running_mean[:] = 1e-12, 1
    before = copy.deepcopy(model.state_dict())
    assert fold_batch_norms(model) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_norms_that_read_something_else_are_left_alone() -> None:
    class Acting(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(self.norm(self.a(x))))

    for model in (
        nn.Sequential(nn.Conv2d(3, 4, 1), Acting(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        Twice(),
    ):
        assert fold_batch_norms(model.eval()) == []


def test_the_placeholder_copies_pickles_and_scripts(small_net: SmallNet) -> None:
    fold_batch_norms(small_net)
    for twin in (copy.deepcopy(small_net), pickle.loads(pickle.dumps(small_net))):
        assert folded(twin) == folded(small_net) == [("stem", "bn1"), ("padded", "bn2")]
        assert isinstance(twin.bn1, Folded)
    assert torch.jit.script(Folded("stem"))(torch.ones(2)).tolist() == [1, 1]
    assert small_net.stem.bias.requires_grad


def test_the_structure_is_redone_on_a_fresh_model(small_net: SmallNet, pictures: Tensor) -> None:
    fold_batch_norms(small_net)
    fresh = SmallNet().double()
    fold_structure(fresh, folded(small_net))
    assert fresh.stem.bias.dtype == torch.float64
    fresh.load_state_dict(small_net.state_dict())
    assert difference(small_net, fresh.float().eval(), pictures) == 0
    fold_structure(fresh, folded(small_net))
    assert folded(fresh) == folded(small_net)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("stem", "bn7"), "a module 'bn7', which SmallNet does not have"),
        (("head.1", "bn1"), "head.1 is a ReLU: it cannot have taken in bn1"),
        (("stem", "depthwise"), "depthwise was a batch norm folded into stem, but is a Conv2d"),
    ],
)
def test_names_that_do_not_fit(pair: tuple[str, str], message: str) -> None:
    model = SmallNet()
    with pytest.raises(lloydmax.CheckpointError, match=message):
        fold_structure(model, [("stem", "bn1"), pair])
    assert isinstance(model.bn1, nn.BatchNorm2d)


def test_the_step(small_net: SmallNet, pictures: Tensor) -> None:
    student = copy.deepcopy(small_net)
    found = lloydmax.run_step("fold_batch_norm", student, small_net, pictures)
    assert found.pop("difference") < 1e-5 and found == {"folded": 2, "left": 0}
    assert lloydmax.run_step("fold_batch_norm", copy.deepcopy(small_net), small_net, None) == {"folded": 2, "left": 0}
    with pytest.raises(lloydmax.RecoveryError, match="nothing to fold in SmallNet: it has no batch norm"):
        lloydmax.run_step("fold_batch_norm", student, small_net, None)
    lonely = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))
    with pytest.raises(lloydmax.RecoveryError, match="none of its 1 batch norms is the only consumer"):
        lloydmax.run_step("fold_batch_norm", lonely, lonely, None)


def test_a_norm_over_another_axis_is_noticed() -> None:
    """After a linear layer, batch norm of (N, T, F) normalizes T; told apart from F only where they differ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).eval()
    with torch.no_grad():
        model[1].weight.uniform_(0.1, 3)
    with pytest.raises(lloydmax.RecoveryError, match="changed the outputs of Sequential by .*"):
        lloydmax.run_step("fold_batch_norm", copy.deepcopy(model), model, torch.randn(8, 6, 4))
