"""The teachers of the evidence: the published families at 32 x 32, trained with labels on Fashion-MNIST.

    python tests/benchmarks/published/teachers.py [--folder DIR] [--only NAME ...]

The families keep their layers (13 convolutions and three linear layers in VGG-16, 53 convolutions and one linear
layer in ResNet-50, 52 and one in MobileNet-v2); their channels are scaled so that each trains in well under an hour
on two cores. VGG-16's linear layers hold 84 % of its weights, as in the original (86 %). A trained teacher is kept
in the folder and not trained again.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import MobileNetV2, mobilenet_v2
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import VGG, cfgs, make_layers

FOLDER = Path("build/published")
FASHION = Path("/usr/share/datasets/fashion-mnist")
BATCH = 128


def vgg16(batch_norm: bool) -> VGG:
    """VGG-16 (Simonyan & Zisserman 2015, column D) with a quarter of the channels and linear layers of 2,048."""
    config: list[str | int] = [size if isinstance(size, str) else size // 4 for size in cfgs["D"]]
    model = VGG(make_layers(config, batch_norm=batch_norm), num_classes=10, init_weights=False)
    model.features[0] = nn.Conv2d(1, 16, 3, padding=1)
    model.avgpool = nn.Identity()
    model.classifier = nn.Sequential(
        nn.Linear(128, 2048),
        nn.ReLU(True),
        nn.Dropout(0.2),
        nn.Linear(2048, 2048),
        nn.ReLU(True),
        nn.Dropout(0.2),
        nn.Linear(2048, 10),
    )
    return _initialized(model)


class QuarterResNet50(ResNet):
    """ResNet-50 (He et al. 2016) with a quarter of the bottleneck channels and the 3 x 3 stem for small pictures."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=10)
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(512, 10)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        return super()._make_layer(block, planes // 4, blocks, stride, dilate)


def half_mobilenet_v2() -> MobileNetV2:
    """MobileNet-v2 (Sandler et al. 2018) with half of the channels and a stem of stride 1."""
    model = mobilenet_v2(width_mult=0.5, num_classes=10)
    stem = model.features[0][0]
    model.features[0][0] = nn.Conv2d(1, stem.out_channels, 3, padding=1, bias=False)
    return model


def _initialized(model: VGG) -> VGG:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.classifier[-1].weight, 0, 0.01)
    return model


TEACHERS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "vgg16": (lambda: vgg16(False), 12, 0.02),
    "mobilenet_v2": (half_mobilenet_v2, 5, 0.2),
    "resnet50": (QuarterResNet50, 7, 0.2),
    "vgg16_bn": (lambda: vgg16(True), 10, 0.1),
}
"""Name -> (architecture, epochs, peak learning rate)."""


def fashion(part: str = "t10k", folder: Path = FASHION) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST: uint8 pictures ``(N, 1, 28, 28)`` and labels; ``part`` is ``train`` or ``t10k``."""
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        path = folder / f"{part}-{kind}-ubyte.gz"
        if not path.exists():
            raise SystemExit(f"{path} is missing; on Debian: apt-get install dataset-fashion-mnist")
        raw = gzip.decompress(path.read_bytes())
        shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
        arrays.append(torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()))
    return arrays[0][:, None], arrays[1].long()


def normalized(pictures: Tensor) -> Tensor:
    """uint8 ``(N, 1, 28, 28)`` -> float32 ``(N, 1, 32, 32)``, normalized with Fashion-MNIST's mean and deviation."""
    x = F.pad(pictures.float() / 255, (2, 2, 2, 2))
    return (x - 0.2860) / 0.3530


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Top-1 accuracy of a model in evaluation mode, in float32."""
    right = 0
    device = next(iter((*model.parameters(), *model.buffers())), torch.empty(0)).device
    for start in range(0, len(pictures), batch):
        x = normalized(pictures[start : start + batch]).to(device, memory_format=torch.channels_last)
        right += int((model(x).argmax(1).cpu() == labels[start : start + batch]).sum())
    return right / len(pictures)


def train(name: str, pictures: Tensor, labels: Tensor, epochs: int | None = None, device: str = "cpu") -> nn.Module:
    """SGD with Nesterov momentum, one-cycle learning rate, random flips and shifts by up to two pixels."""
    make, usual, lr = TEACHERS[name]
    torch.manual_seed(0)
    model = make().to(device, memory_format=torch.channels_last)
    pictures, labels = pictures.to(device), labels.to(device)
    bfloat16 = device != "cpu" or name != "mobilenet_v2"  # depthwise convolutions are slower in it on CPUs
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    steps, epochs = len(pictures) // BATCH, epochs or usual
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=epochs * steps, pct_start=0.25, final_div_factor=1e3
    )
    for epoch in range(epochs):
        order = torch.randperm(len(pictures)).to(device)
        total, started = torch.zeros((), device=device), time.perf_counter()
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            inputs = _augmented(normalized(pictures[rows])).contiguous(memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(model(inputs).float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        seconds = time.perf_counter() - started
        print(f"{name} epoch {epoch + 1} of {epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)
    return model.eval()


def _augmented(x: Tensor) -> Tensor:
    down, right = torch.randint(-2, 3, (2,)).tolist()
    x = torch.roll(x, (down, right), (2, 3))
    flipped = (torch.rand(len(x)) < 0.5).to(x.device)
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def teacher(name: str, folder: Path = FOLDER) -> nn.Module:
    """A trained teacher from the folder, in evaluation mode.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    path = folder / "teachers" / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}; run: python tests/benchmarks/published/teachers.py --only {name}")
    model = TEACHERS[name][0]()
    model.load_state_dict(load_file(path))
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--only", nargs="*", choices=list(TEACHERS), default=list(TEACHERS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    (arguments.folder / "teachers").mkdir(parents=True, exist_ok=True)
    test = fashion("t10k", arguments.fashion)
    for name in arguments.only:
        path = arguments.folder / "teachers" / f"{name}.safetensors"
        if not path.exists():
            model = train(name, *fashion("train", arguments.fashion), arguments.epochs, arguments.device)
            temporary = path.with_suffix(".part")
            save_file({key: value.cpu().contiguous() for key, value in model.state_dict().items()}, temporary)
            temporary.replace(path)
        model = teacher(name, arguments.folder)
        count = sum(p.numel() for p in model.parameters())
        print(f"{name}: {count:,} parameters, test accuracy {100 * accuracy(model, *test):.2f} %", flush=True)


if __name__ == "__main__":
    main()
