"""Which unlabelled data to give, and how many: what ``recipe_for`` makes of each set.

    python tests/benchmarks/choosing_data.py [--bits 2.5] [--effort 0] [--counts 8 32 128] [--folder DIR]
                                              [--sets NAME,NAME] [--done]

The demo's ResNet for clothes in grey, 28 x 28, compressed by what ``lloydmax compress --bits`` runs, with 8 to 128
inputs of each set. "Clothes" is the network's own domain: half of the test pictures; accuracy and agreement are on the
other half, 2,500 pictures. Every cell leaves one small file in the folder, so that a run goes on where it ended. Sets
that are not installed are left out.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax import demo
from lloydmax.report import environment
from published.cells import Cell, Store, markdown
from published.pictures import FOREIGN, MissingPictures
from torch import Tensor

COUNTS = (8, 32, 128)
HELD = 2500


@cache
def tested() -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, their classes, and the original's answers."""
    pictures, classes = (part[HELD:] for part in demo.test_set())
    with torch.no_grad():
        return pictures, classes, demo.network()(pictures).argmax(1)


def like(pictures: Tensor) -> Tensor:
    """Noise with the mean and deviation of every pixel, drawn independently."""
    return pictures.mean(0) + pictures.std(0) * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))


def packaged(name: str) -> Tensor:
    """Pictures of a package, as the network takes them."""
    return demo.normalized(torch.from_numpy(FOREIGN[name]().copy())[:, None])


SETS: dict[str, Callable[[], Tensor]] = {
    "clothes (own domain)": lambda: demo.test_set()[0][:HELD],
    "silhouettes of animals": demo.silhouettes,
    "handwritten digits": partial(packaged, "digits"),
    "capital letters": partial(packaged, "letters"),
    "grey crops of photos": partial(packaged, "photos"),
    "one picture, turned and shifted": lambda: views(demo.test_set()[0][0]),
    "noise with the statistics of clothes": lambda: like(demo.test_set()[0][:HELD]),
    "white noise": lambda: torch.randn(512, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
    "made by `lloydmax.synthesize`": lambda: lloydmax.synthesize(demo.network(), 128, 28),
}


def views(picture: Tensor) -> Tensor:
    """512 rolls and quarter turns of one picture."""
    random = torch.Generator().manual_seed(0)
    shifts = torch.randint(-8, 9, (512, 2), generator=random).tolist()
    return torch.stack([picture.roll(tuple(s), (1, 2)).rot90(n % 4, (1, 2)) for n, s in enumerate(shifts)])


def measured(data: Tensor | None, bits: float, effort: float) -> dict[str, Any]:
    """Accuracy, agreement and bits of the file."""
    model = demo.network()
    recipe = lloydmax.recipe_for(model, bits=bits, data=data, effort=effort)
    result = lloydmax.compress(model, recipe, data, progress=False)
    pictures, classes, answers = tested()
    with torch.no_grad():
        found = result.model(pictures).argmax(1)
    return {
        "accuracy": float((found == classes).float().mean()),
        "agreement": float((found == answers).float().mean()),
        "bits": result.report.bits,
    }


def cell(name: str, count: int, bits: float, effort: float) -> Cell:
    """The experiment with so many inputs of a set."""

    def run() -> dict[str, Any]:
        data = SETS[name]()
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
        return measured(data[order[:count]], bits, effort)

    return Cell("data", {"set": name.replace("/", " "), "count": count, "bits": bits, "effort": effort}, run)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("choosing-data"))
    parser.add_argument("--bits", type=float, default=2.5)
    parser.add_argument("--effort", type=float, default=0.0)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--sets", help="comma-separated beginnings of names")
    parser.add_argument("--done", action="store_true", help="print what the folder has, run nothing")
    asked = parser.parse_args()
    store = Store(asked.folder)

    def told(one: Cell) -> str:
        if asked.done and not store.done(one):
            return "-"
        found = store.load([one]).found[0] if store.done(one) else store.run(one)
        return f"{100 * found['figures']['accuracy']:.1f} / {100 * found['figures']['agreement']:.1f}"

    warnings.simplefilter("ignore")
    rows = []
    for name in SETS:
        if asked.sets and not name.startswith(tuple(asked.sets.split(","))):
            continue
        try:
            rows.append([name, *(told(cell(name, count, asked.bits, asked.effort)) for count in asked.counts)])
        except MissingPictures as missing:
            print(f"{name}: {missing}")
    nothing = Cell("data", {"set": "none", "count": 0, "bits": asked.bits, "effort": asked.effort},
                   partial(measured, None, asked.bits, asked.effort))  # fmt: skip
    rows.append(["none", told(nothing), *["" for _ in asked.counts[1:]]])
    pictures, classes, answers = tested()
    print(f"The original: {100 * float((answers == classes).float().mean()):.1f} % on {len(pictures):,} pictures")
    heads = ["accuracy / agreement (%) with", *(f"{count} inputs" for count in asked.counts)]
    print(markdown(f"{asked.bits:g} bits a weight, effort {asked.effort:g}", heads, rows))
    print(", ".join(f"{name} {value}" for name, value in environment().items()))


if __name__ == "__main__":
    main()
