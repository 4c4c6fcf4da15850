"""Where adversarial alignment pays: foreign inputs that differ from a network's own by one known change.

    OMP_NUM_THREADS=1 python tests/benchmarks/domain_gaps.py [--networks digits,clothes] [--gaps ...] [--seeds N]

A network is compressed to ``CENTROIDS`` a layer and learns from the original's outputs on pictures of its own kind
that were changed (inverted, blurred ...), and on ``REFERENCES`` unlabelled pictures that were not. Rows have as many
steps of as many inputs each; the score is the accuracy on unchanged test pictures. *Both* is the ablation of *aligned*:
the same samples, the alignment's weight 0. ``digits`` is a small network that is trained here in some seconds;
``clothes`` is the demo's. Every cell leaves one small file in ``--folder``, so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import torch
import torch.nn.functional as F
from lloydmax import demo
from lloydmax.report import environment
from PIL import Image
from published.cells import Cell, Store, interval, markdown
from torch import Tensor, nn

REFERENCES, FOREIGN = 32, 500
CENTROIDS = {"digits": 3, "clothes": 3}
STEPS: dict[str, dict[str, Any]] = {
    "digits": {"steps": 300, "batch_size": 64},
    "clothes": {"steps": 60, "batch_size": 64},
}
TRAINING = {"loss": "kl", "optimizer": "adam", "lr": 1e-3, "relative_lr": True, "held_out": 0.0}
"""The last state is kept: few references tell too little of which state is best."""


@dataclass(frozen=True)
class Task:
    """A network and pictures of its own kind, grey, ``(N, 1, H, W)`` from 0 to 1.

    Attributes:
        model: the original.
        pictures: unlabelled.
        test: with labels ``(N,)``.
        prepare: pictures -> inputs.
    """

    model: nn.Module
    pictures: Tensor
    test: tuple[Tensor, Tensor]
    prepare: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of right answers on the test pictures."""
        right = [
            (model(self.prepare(x)).argmax(1) == y) for x, y in zip(*(t.split(500) for t in self.test), strict=True)
        ]
        return float(torch.cat(right).double().mean())


@cache
def digits() -> Task:
    """A convolutional network of 5 thousand weights for scikit-learn's digits of 8 x 8, trained on a third of them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    x, y = torch.from_numpy(found.images).float()[order, None] / 16, torch.from_numpy(found.target).long()[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.Conv2d(16, 24, 3)]
        blocks = [nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()) for layer in layers]
        model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(96, 10))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(30):
            for part in torch.randperm(600).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[part] - 0.3), y[part]).backward()
                optimizer.step()
    return Task(model.eval(), x[600 : 600 + FOREIGN + 100], (x[1200:], y[1200:]), lambda pictures: pictures - 0.3)


@cache
def clothes() -> Task:
    """The demo's network."""
    inputs, labels = demo.test_set()
    black, white = demo.normalized(torch.tensor([0, 255]))
    pictures = (inputs - black) / (white - black)
    return Task(
        demo.network(), pictures[3000:4000], (pictures[:3000], labels[:3000]), lambda x: black + (white - black) * x
    )


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "clothes": clothes}


def blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(F.avg_pool2d(F.pad(x, [1] * 4, "replicate"), 3, 1), [1] * 4, "replicate"), 3, 1)


def noisy(x: Tensor) -> Tensor:
    return (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def compressed(x: Tensor) -> Tensor:
    """As JPEG of a low quality."""

    def one(picture: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=8)
        return np.asarray(Image.open(file))

    pictures = (255 * x[:, 0]).byte().numpy()
    return torch.from_numpy(np.stack([one(picture) for picture in pictures])[:, None]).float() / 255


def drawn(x: Tensor) -> Tensor:
    """Outlines: the length of the gradient."""
    rows, columns = F.pad(x, [0, 0, 0, 1], "replicate").diff(dim=2), F.pad(x, [0, 1, 0, 0], "replicate").diff(dim=3)
    return (rows.square() + columns.square()).sqrt().clamp(0, 1)


GAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": lambda x: 1 - x,
    "pale": lambda x: 0.5 + 0.25 * x,
    "blurred": blurred,
    "noisy": noisy,
    "JPEG": compressed,
    "outlines": drawn,
}
ALIGN: dict[str, Any] = {"step": "align", "reference_held_out": 0.0}
WAYS: dict[str, dict[str, Any] | None] = {
    "before": None,
    "foreign": {"step": "distill"},
    "reference": {"step": "distill"},
    "both": ALIGN | {"weight": 0.0},
    "aligned, 0.1": ALIGN | {"weight": 0.1},
    "alternating, 0.001": ALIGN | {"weight": 0.001, "adversarial": "alternating"},
    "alternating, 0.01": ALIGN | {"weight": 0.01, "adversarial": "alternating"},
    "alternating, 0.1": ALIGN | {"weight": 0.1, "adversarial": "alternating"},
    "statistics": {"step": "align", "weight": 0.1},
    "own": {"step": "distill"},
}
"""Way -> its step. *foreign*: changed pictures alone; *reference*: the few unchanged ones alone; *statistics*: changed
ones, batch norms pulled to the original's; *own*: as many unchanged ones as there are changed ones in the others."""


def one(network: str, gap: str, way: str, seed: int) -> dict[str, Any]:
    """Accuracy of a student."""
    task, step = TASKS[network](), WAYS[way]
    order = torch.randperm(len(task.pictures), generator=torch.Generator().manual_seed(seed))
    own, others = task.pictures[order[:REFERENCES]], task.pictures[order[REFERENCES : REFERENCES + FOREIGN]]
    foreign = GAPS[gap](others)
    data = {"reference": own, "own": others}.get(way, foreign)
    reference = own if step is not None and step["step"] == "align" and way != "statistics" else None
    recipe = {
        "version": 1,
        "quantize": [{"layers": "all", "centroids": CENTROIDS[network]}],
        "trainable": ["all"],
        "recover": [] if step is None else [step | TRAINING | STEPS[network]],
    }
    given = {} if step is None else {"data": task.prepare(data)}
    given |= {} if reference is None else {"reference_data": task.prepare(reference)}
    began = time.process_time()
    result = lloydmax.compress(task.model, recipe, **given, seed=seed, progress=False)
    told = result.report.recovery[0] if result.report.recovery else {}
    sure = {"discriminator": told["loss_discriminator"]} if "loss_discriminator" in told else {}
    return sure | {"accuracy": task.accuracy(result.model), "compression": time.process_time() - began}


def cells(networks: Sequence[str], gaps: Sequence[str], seeds: int) -> Iterator[Cell]:
    """All runs."""
    for seed in range(seeds):
        for network in networks:
            for gap in gaps:
                for way in WAYS:
                    key = {"network": network, "gap": gap, "way": way, "seed": seed}
                    yield Cell("gaps", key, partial(one, network, gap, way, seed))


def table(found: Sequence[dict[str, Any]], network: str) -> str:
    """Accuracy of each way, gap by gap; the last row is the discriminator's loss at the end, the median over gaps: 0.69
    where it cannot tell the domains apart, 0 where it is sure."""
    mine = [cell for cell in found if cell["key"]["network"] == network]

    def values(way: str, figure: str, gap: str | None = None) -> list[float]:
        cells = [cell for cell in mine if cell["key"]["way"] == way and gap in (None, cell["key"]["gap"])]
        return [cell["figures"][figure] for cell in cells if figure in cell["figures"]]

    rows = []
    for gap in GAPS:
        each = [[100 * value for value in values(way, "accuracy", gap)] for way in WAYS]
        if any(each):
            rows.append([gap, *(interval(one, "{:.1f}") if one else "-" for one in each)])
    sure = [values(way, "discriminator") for way in WAYS]
    rows.append(["discriminator", *(f"{statistics.median(one):.1g}" if one else "" for one in sure)])
    task = TASKS[network]()
    title = f"{network}, {CENTROIDS[network]} centroids a layer: original {100 * task.accuracy(task.model):.1f} %"
    return markdown(title, ["gap", *WAYS], rows)


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(TASKS))
    parser.add_argument("--gaps", type=lambda text: text.split(","), default=list(GAPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/gaps"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    store, planned = Store(given.folder), list(cells(given.networks, given.gaps, given.seeds))
    for cell in planned:
        if not store.done(cell):
            figures = store.run(cell)["figures"]
            print(f"{cell.name}: {100 * figures['accuracy']:.2f} %", flush=True)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    found = list(store.load(planned).found)
    for network in given.networks:
        print(table(found, network))


if __name__ == "__main__":
    main()
