"""The traced graph: pairs and chains of real architectures, and what must not be taken for one."""

from __future__ import annotations

import copy
import gc
import weakref

import lloydmax
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import PaddedConv, SmallNet
from lloydmax import demo
from lloydmax.network.channels import is_linear_layer
from lloydmax.network.graph import Link, chains, conv_bn_pairs, trace
from torch import Tensor, nn


def links_of(model: nn.Module) -> list[tuple[str, str, str]]:
    return [(link.first, link.second, link.activation) for link in chains(model)[0]]


@pytest.mark.parametrize(
    ("name", "norms", "links"),
    [("resnet18", 20, 0), ("resnet50", 53, 0), ("mobilenet_v2", 52, 0), ("vgg16", 0, 15), ("vgg16_bn", 13, 2)],
)
def test_architectures(name: str, norms: int, links: int) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    assert len(conv_bn_pairs(model)) == norms
    found = chains(model)[0]
    assert len(found) == links
    if name == "vgg16":
        assert found[12] == Link("features.28", "classifier.0", "relu", columns=49, pointwise=False)


def test_the_model_is_not_changed() -> None:
    class Remembers(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            return super().forward(x)

    model = Remembers().train()
    state, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    trace(model)
    assert not hasattr(model, "last") and all(module.training for module in modules)
    assert list(model.modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_layers_with_a_forward_of_their_own_are_tried_out() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight / self.weight.std((1, 2, 3), keepdim=True), self.bias)

    class Unbiased(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight)

    assert is_linear_layer(PaddedConv(4, 4, 3, groups=2)) and is_linear_layer(nn.ConvTranspose2d(4, 6, 3, groups=2))
    assert not is_linear_layer(Standardized(4, 4, 3)) and not is_linear_layer(Unbiased(4, 4))
    assert not is_linear_layer(nn.LazyLinear(3)) and not is_linear_layer(nn.ReLU())


class Shapes(nn.Module):
    """One way from a convolution with 6 channels to a linear layer with ``inputs``."""

    def __init__(self, way: str, inputs: int = 6) -> None:
        super().__init__()
        self.conv, self.fc, self.way = nn.Conv2d(3, 6, 1), nn.Linear(inputs, 2), way

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        match self.way:
            case "flatten":
                x = x.flatten(1)
            case "view":
                x = F.leaky_relu(x).view(x.size(0), -1)
            case "mixed":
                x = x.view(-1, 6)
            case "permuted":
                x = x.permute(0, 2, 3, 1)
            case "mean":
                x = torch.clamp(x, 0, 4).mean([2, 3])
            case "mean of one axis":
                x = x.mean(3).flatten(1)
            case "pool":
                x = F.adaptive_avg_pool2d(F.dropout(x, training=self.training), 1).reshape(x.shape[0], -1)
            case "twice":
                x = (x * x).mean((2, 3))
            case "read by another":
                x = x.mean((2, 3)) + x.amax((2, 3))
            case "weight used elsewhere":
                return self.fc(x.mean((2, 3))) * self.conv.weight.norm()
        return self.fc(x)


@pytest.mark.parametrize(
    ("way", "inputs", "link"),
    [
        ("flatten", 24, Link("conv", "fc", columns=4, pointwise=False)),
        ("view", 24, Link("conv", "fc", "leaky", columns=4, pointwise=False)),
        ("mean", 6, Link("conv", "fc", "relu6", ceiling=4, pointwise=False)),
        ("pool", 6, Link("conv", "fc", pointwise=False)),
        ("mixed", 6, "view"),
        ("permuted", 6, "permute"),
        ("mean of one axis", 12, "mean"),
        ("twice", 6, "mul"),
        ("read by another", 6, "2 consumers"),
        ("weight used elsewhere", 6, None),
    ],
)
def test_ways_from_one_layer_to_the_next(way: str, inputs: int, link: Link | str | None) -> None:
    links, ends = chains(Shapes(way, inputs).eval())
    assert links == [link] if isinstance(link, Link) else (not links and ends.get("conv") == link)


def test_layers_that_are_tied_shared_or_called_twice_are_left_alone() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert len(links_of(tied)) == 2
    tied[4].weight = tied[2].weight
    assert links_of(tied) == []
    again = nn.Linear(4, 4)
    assert links_of(nn.Sequential(nn.Linear(4, 4), again, nn.ReLU(), again)) == []
    held = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    lloydmax.student.attachment.attach(held, "0.weight", lloydmax.fit_codebook(held[0].weight, 2))
    assert links_of(held) == []


def test_only_clips_from_zero_that_come_first_are_allowed() -> None:
    def between(*modules: nn.Module) -> list[tuple[str, str, str]]:
        return links_of(nn.Sequential(nn.Conv2d(3, 4, 1), *modules, nn.Conv2d(4, 4, 1)))

    assert [kind for _, _, kind in between(nn.ReLU6(), nn.MaxPool2d(2))] == ["relu6"]
    assert [kind for _, _, kind in between(nn.PReLU(4), nn.ReflectionPad2d(1))] == ["leaky"]
    for modules in ([nn.AvgPool2d(2), nn.ReLU6()], [nn.Hardtanh()], [nn.SiLU()], [nn.BatchNorm2d(4)], [nn.Softmax(1)]):
        assert between(*modules) == []
    assert between(nn.MaxPool1d(2)) == []


def test_what_cannot_be_traced_is_said() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else x

    with pytest.raises(lloydmax.RecoveryError, match="Decides cannot be traced: .*branch"):
        trace(Decides())


def test_modules_that_cannot_be_traced_through_become_single_nodes() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Branches(), nn.Conv2d(4, 4, 1))
    assert conv_bn_pairs(model) == [("0", "1")]
    assert chains(model) == ([], {"0": "BatchNorm2d 1", "3": "the output"})


def test_optional_arguments_keep_their_defaults() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
            x = self.a(x)
            if mask is not None:
                x = x * mask
            return self.b(x.relu())

    assert links_of(Optional()) == [("a", "b", "relu")]


def test_the_demo_network() -> None:
    model = demo.network()
    assert len(conv_bn_pairs(model)) == 15
    assert links_of(model) == []


def test_graph_modules_are_traced() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    assert conv_bn_pairs(torch.fx.symbolic_trace(layers)) == [("0", "1")]


class _Second(nn.Module):
    """Traced at the second try: a module inside decides by values."""

    class _Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x * self.scale) if x.sum() > 0 else x

    def __init__(self) -> None:
        super().__init__()
        self.inner = self._Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_try_that_failed_keeps_nothing_of_its_callers() -> None:
    def call() -> weakref.ref[Tensor]:
        held = torch.ones(3)
        trace(_Second())
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()
