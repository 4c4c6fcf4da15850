"""Makes the demo's assets: trains the network on Fashion-MNIST, packs the weights and the pictures.

    python -m lloydmax.demo.make_assets --fashion DIR --animals FILE [--epochs 22]

``DIR`` holds the four gzipped IDX files of Fashion-MNIST (Debian's dataset-fashion-mnist installs them in
/usr/share/datasets/fashion-mnist), ``FILE`` is animal_data_version_3.gz of the PyPI package animal-mnist (install
it with --no-deps). Labels are used here, to train the network that the demo then compresses without any.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lloydmax.demo import ASSETS, normalized
from lloydmax.demo.network import DemoResNet

BATCH = 128
TEST_PICTURES = 5000


def idx(path: Path) -> np.ndarray:
    """An array in the gzipped IDX format of MNIST."""
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()


class _NumpyOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"{module}.{name} is not numpy's")
        return super().find_class(module, name)


def train(images: Tensor, labels: Tensor, epochs: int) -> DemoResNet:
    """SGD with Nesterov momentum, one-cycle learning rate, random flips and shifts by two pixels."""
    torch.manual_seed(0)
    network = DemoResNet().to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, total_steps=epochs * steps, pct_start=0.15, final_div_factor=1e3
    )
    for epoch in range(epochs):
        order, total = torch.randperm(len(images)), 0.0
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            inputs = normalized(_augmented(images[rows, None])).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(inputs), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {epochs}: loss {total / steps:.4f}", flush=True)
    return network.eval()


def _augmented(x: Tensor) -> Tensor:
    down, right = torch.randint(0, 5, (2,)).tolist()
    x = F.pad(x, (2, 2, 2, 2))[..., down : down + 28, right : right + 28]
    flipped = torch.rand(len(x)) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(-1), x)


def pack(name: str, array: np.ndarray) -> None:
    """Write an array as ``.npy.xz``."""
    with lzma.open(ASSETS / f"{name}.npy.xz", "wb", preset=9 | lzma.PRESET_EXTREME) as file:
        np.save(file, array)


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--animals", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--weights", type=Path, help="a state dict to pack, instead of training")
    arguments = parser.parse_args()
    ASSETS.mkdir(exist_ok=True)
    pack("test-images", idx(arguments.fashion / "t10k-images-idx3-ubyte.gz")[:TEST_PICTURES])
    pack("test-labels", idx(arguments.fashion / "t10k-labels-idx1-ubyte.gz")[:TEST_PICTURES])
    with gzip.open(arguments.animals) as file:
        pack("silhouettes", np.asarray(_NumpyOnly(file).load()).reshape(-1, 28, 28))
    if arguments.weights is not None:
        state = torch.load(arguments.weights, weights_only=True)
    else:
        images = torch.from_numpy(idx(arguments.fashion / "train-images-idx3-ubyte.gz"))
        labels = torch.from_numpy(idx(arguments.fashion / "train-labels-idx1-ubyte.gz")).long()
        state = train(images, labels, arguments.epochs).state_dict()
    halves = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in state.items()}
    save_file(halves, ASSETS / "network.safetensors")


if __name__ == "__main__":
    main()
