"""Ranking sets of unlabelled inputs: the distance of statistics, the use of classes, the command."""

from __future__ import annotations

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import DataError, demo
from torch import Tensor, nn


@pytest.fixture
def trained(small_net: SmallNet, pictures: Tensor) -> SmallNet:
    """A network whose batch norms keep the statistics of ``pictures``."""
    for module in small_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        small_net.train()(pictures)
    return small_net.eval()


def test_inputs_like_those_of_training_come_first(trained: SmallNet, pictures: Tensor) -> None:
    sets = {
        "shifted": pictures + 1,
        "blank": torch.zeros(40, 3, 12, 12),
        "own": torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(5)),
        "louder": 3 * pictures,
    }
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    found = lloydmax.data_fitness(trained, sets)
    assert found[0].name == "own" and found[0].distance < 0.01 < found[1].distance
    assert [fitness.distance for fitness in found] == sorted(fitness.distance for fitness in found)
    assert list(found[0].layers) == ["bn1", "bn2"] and {fitness.samples for fitness in found} == {200, 96, 40}
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    blank = next(fitness for fitness in found if fitness.name == "blank")
    assert blank.class_use == 0 and 0.2 <= blank.confidence <= 1
    assert lloydmax.data_fitness(trained, sets) == found, "the same again"


def test_batches_do_not_matter(trained: SmallNet, pictures: Tensor) -> None:
    (own,) = lloydmax.data_fitness(trained, {"own": pictures})
    assert own.distance < 1e-4, "96 pictures in batches of 64 are pooled to what one batch of all gave"


def test_a_real_teacher_tells_its_own_domain_from_others() -> None:
    sets = {
        "noise": torch.randn(128, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
        "silhouettes": demo.silhouettes()[::50],
        "clothes": demo.test_set()[0][:128],
    }
    found = lloydmax.data_fitness(demo.network(), sets, samples=128)
    assert [fitness.name for fitness in found] == ["clothes", "silhouettes", "noise"]
    assert found[0].distance < found[1].distance / 3 and found[1].distance < found[2].distance / 3
    assert found[0].class_use > found[1].class_use > found[2].class_use


def test_without_batch_norm_the_use_of_classes_decides(text_net: TextNet) -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = torch.full((32, 6), 3), torch.randint(50, (32, 6), generator=generator)
    found = lloydmax.data_fitness(text_net, {"one word": few, "all words": many})
    assert [fitness.name for fitness in found] == ["all words", "one word"]
    assert found[0].distance is None and found[0].layers == {} and found[0].class_use > found[1].class_use


def test_a_model_without_classes_is_ranked_by_its_statistics_alone(trained: SmallNet, pictures: Tensor) -> None:
    model = nn.Sequential(trained, nn.Linear(5, 1)).eval()
    found = lloydmax.data_fitness(model, {"far": pictures - 2, "own": pictures})
    assert [fitness.name for fitness in found] == ["own", "far"] and found[0].class_use is None


def test_mistakes_name_the_set(trained: SmallNet, pictures: Tensor) -> None:
    with pytest.raises(DataError, match="at least one set"):
        lloydmax.data_fitness(trained, {})
    with pytest.raises(DataError, match="empty one: .*empty"):
        lloydmax.data_fitness(trained, {"good": pictures, "empty one": pictures[:0]})


def test_without_classes_the_variety_of_the_outputs_decides() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    near = torch.randn(1, 8) + 0.01 * torch.randn(64, 8)
    found = lloydmax.data_fitness(net, {"near": near, "far": torch.randn(64, 8)}, kinds="values")
    assert [fitness.name for fitness in found] == ["far", "near"] and found[0].class_use is None
    assert found[1].variety < 0.1 < found[0].variety <= 1
