"""Images made from batch-norm statistics."""

from __future__ import annotations

import copy

import lloydmax
import pytest
import torch
from conftest import SmallNet, TextNet
from lloydmax import DataError
from lloydmax.hooks.hookspecs import hookimpl
from torch import Tensor, nn


@pytest.fixture
def teacher(small_net: SmallNet) -> SmallNet:
    """Its statistics are those of smooth, bright pictures."""
    generator = torch.Generator().manual_seed(3)
    x = nn.functional.interpolate(torch.randn(256, 3, 4, 4, generator=generator), 12, mode="bilinear") + 0.5
    for module in small_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        small_net.train()(x)
    return small_net.eval()


def fitness(teacher: nn.Module, images: Tensor) -> lloydmax.Fitness:
    return lloydmax.data_fitness(teacher, {"images": images})[0]


def test_the_images_have_the_statistics_and_the_classes(teacher: SmallNet) -> None:
    noise = fitness(teacher, torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    images = lloydmax.synthesize(teacher, 64, 12, steps=60, batch_size=64)
    assert images.shape == (64, 3, 12, 12) and images.dtype == torch.float32 and images.device.type == "cpu"
    made = fitness(teacher, images)
    assert made.distance < 0.3 * noise.distance and made.class_use > noise.class_use
    smooth = lloydmax.synthesize(teacher, 64, 12, steps=60, batch_size=64, total_variation=1.0)
    assert smooth.diff(dim=-1).abs().mean() < images.diff(dim=-1).abs().mean()


def test_the_same_arguments_give_the_same_images_and_touch_nothing(teacher: SmallNet) -> None:
    teacher.train()
    before, state = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    steps: list[tuple[str, int, int]] = []

    class Listener:
        @hookimpl
        def lloydmax_step(self, step: str, index: int, total: int) -> None:
            steps.append((step, index, total))

    one = lloydmax.synthesize(teacher, 5, 12, steps=3, batch_size=3, seed=1, listeners=[Listener()])
    with torch.no_grad():
        two = lloydmax.synthesize(teacher, 5, shape=(3, 12, 12), steps=3, batch_size=3, seed=1)
    assert torch.equal(one, two) and not torch.equal(one, lloydmax.synthesize(teacher, 5, 12, steps=3, batch_size=3))
    assert steps == [("synthesize", index, 6) for index in range(1, 7)]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items()) and teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_classes_and_another_dtype(teacher: SmallNet) -> None:
    bare = nn.Sequential(teacher.stem, teacher.bn1).to(torch.bfloat16)
    images = lloydmax.synthesize(bare, 4, 8, steps=2)
    assert images.shape == (4, 3, 8, 8) and images.dtype == torch.float32


def test_mistakes(teacher: SmallNet, text_net: TextNet) -> None:
    with pytest.raises(DataError, match="TextNet has no batch norm"):
        lloydmax.synthesize(text_net, 4, 8)
    with pytest.raises(DataError, match="size=224"):
        lloydmax.synthesize(teacher, 4)
    with pytest.raises(DataError, match=r"\(channels, height, width\), not \(3, 8\)"):
        lloydmax.synthesize(teacher, 4, shape=(3, 8))
    with pytest.raises(DataError, match="at least 1"):
        lloydmax.synthesize(teacher, 0, 8)
    with pytest.raises(DataError, match="not 4, 0, 32"):
        lloydmax.synthesize(teacher, 4, 8, steps=0, batch_size=32)
    with pytest.raises(DataError, match="batch_size 2: not 4, 5, 1"):
        lloydmax.synthesize(teacher, 4, 8, steps=5, batch_size=1)
