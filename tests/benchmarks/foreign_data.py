"""What unlabelled data are worth: sets of another domain, synthesized images, views and weights of samples.

    python tests/benchmarks/foreign_data.py [--folder DIR] [--seeds N] [--tables sets,views,weights]

The demo's network at its 2-bit recipe, recovered in a few steps (re-normalization, then 40 steps of 64 inputs) on 500
inputs of each set (200 where synthesized); accuracy, and KL divergence from the teacher, are those on 2,500 test
pictures of Fashion-MNIST; "in-domain" are the other 2,500. For every set: its fitness, told before any training, and
whether the order by fitness is the order by what recovery reaches. Views are tried where inputs are few, 100. Every
cell leaves one small file in the folder, so that a killed run goes on. Sets that are not installed are left out.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import torch
from lloydmax import demo
from lloydmax.fitting.fit import fit
from lloydmax.hooks.events import Events
from lloydmax.recovery.preparation import prepare
from lloydmax.report import environment
from lloydmax.teacher.agreement import divergence
from published.cells import Cell, Store, interval, markdown
from published.pictures import FOREIGN, MissingPictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SAMPLES, FEW, TESTED = 500, 100, 2500
STEPS: dict[str, Any] = {"steps": 40, "batch_size": 64, "optimizer": "adam", "lr": 1e-3, "held_out": 0.0}
SYNTHESIZED: dict[str, dict[str, Any]] = {
    "synthesized": {},
    "synthesized, no classes": {"classes": 0.0},
    "synthesized, ZeroQ": {"classes": 0.0, "total_variation": 0.0},
}
SYNTHESIS: dict[str, Any] = {"count": 200, "steps": 100, "batch_size": 100}
VIEWS: dict[str, dict[str, Any]] = {
    "none": {},
    "flip": {"augment": ["flip"]},
    "crop": {"augment": ["crop"]},
    "resized_crop": {"augment": ["resized_crop"]},
    "color": {"augment": ["color"]},
    "mixup 1": {"mixup": 1.0},
    "cutmix 1": {"cutmix": 1.0},
    "flip, resized_crop, cutmix 1": {"augment": ["flip", "resized_crop"], "cutmix": 1.0},
}
WEIGHTS = (-1.0, 0.0, 1.0, 2.0)
ON = ("silhouettes", "photos")
"""Sets on which views and weights are tried."""


@cache
def teacher() -> nn.Module:
    return demo.network()


@cache
def student() -> nn.Module:
    """The 2-bit student before any recovery."""
    plan = lloydmax.plan(teacher(), "demo")
    made = copy.deepcopy(teacher())
    prepare(made, plan, fit(teacher(), plan, None, Events()))
    return made


@cache
def tested() -> tuple[Tensor, Tensor]:
    images, labels = demo.test_set()
    return images[:TESTED], labels[:TESTED]


@cache
def inputs(name: str, folder: Path) -> Tensor:
    """All inputs of a set, normalized ``(N, 1, 28, 28)``."""
    if name == "in-domain":
        return demo.test_set()[0][TESTED:]
    if name == "silhouettes":
        return demo.silhouettes()
    if name == "noise":
        return torch.randn(SAMPLES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    if name in SYNTHESIZED:
        path = folder / f"{name.replace(' ', '_')}.safetensors"
        if not path.exists():
            started = time.process_time()
            images = lloydmax.synthesize(teacher(), size=28, **SYNTHESIS, **SYNTHESIZED[name])
            temporary = path.with_suffix(".part")
            save_file({"images": images}, temporary, {"seconds": f"{time.process_time() - started:.1f}"})
            temporary.replace(path)
        return load_file(path)["images"]
    return demo.normalized(torch.from_numpy(FOREIGN[name]().copy())[:, None])


def drawn(name: str, seed: int, folder: Path, count: int = SAMPLES) -> Tensor:
    found = inputs(name, folder)
    return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count]]


@cache
def taught() -> Tensor:
    """The teacher's logits on the test pictures."""
    return logits(teacher())


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    parts = [part.contiguous(memory_format=torch.channels_last) for part in tested()[0].split(500)]
    return torch.cat([model(part) for part in parts])


def measured(model: nn.Module) -> dict[str, float]:
    found = logits(model)
    right = (found.argmax(1) == tested()[1]).double().mean()
    return {"accuracy": float(right), "kl": float(divergence(found, taught(), 1))}


def recovered(data: Tensor, seed: int, **options: Any) -> dict[str, Any]:
    """A student, recovered, and measured."""
    model = copy.deepcopy(student())
    lloydmax.renormalize(model, data, teacher(), relative=True, samples=SAMPLES, seed=seed)
    before = measured(model)["accuracy"]
    started = time.process_time()
    lloydmax.distill(model, teacher(), data, **STEPS, **options, seed=seed)
    seconds = time.process_time() - started
    return {"renormalized": before, "seconds": seconds, **measured(model)}


def of_set(name: str, seed: int, folder: Path) -> dict[str, Any]:
    data = drawn(name, seed, folder)
    (fitness,) = lloydmax.data_fitness(teacher(), {name: data}, seed=seed)
    return fitness.to_dict() | recovered(data, seed)


def with_options(name: str, seed: int, folder: Path, count: int, options: dict[str, Any]) -> dict[str, Any]:
    return recovered(drawn(name, seed, folder, count), seed, **options)


def cells(seeds: int, folder: Path, tables: Sequence[str]) -> Iterator[Cell]:
    for seed in range(seeds):
        if "sets" in tables:
            for name in ("in-domain", *FOREIGN, "noise", *SYNTHESIZED):
                yield Cell("sets", {"set": name, "seed": seed}, partial(of_set, name, seed, folder))
        weights = {f"confidence {e:g}": {"confidence": e} for e in WEIGHTS}
        for table, variants, count in (("views", VIEWS, FEW), ("weights", weights, SAMPLES)):
            for name in ON if table in tables else ():
                for label, options in variants.items():
                    run: Callable[[], dict[str, Any]] = partial(with_options, name, seed, folder, count, options)
                    yield Cell(table, {"set": name, "options": label, "seed": seed}, run)


def ranks(values: Sequence[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/foreign"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tables", default="sets,views,weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store, tables = Store(arguments.folder), arguments.tables.split(",")
    planned = list(cells(arguments.seeds, arguments.folder, tables))
    for cell in planned:
        if store.done(cell):
            continue
        try:
            figures = store.run(cell)["figures"]
        except MissingPictures as error:
            print(f"{cell.name}: {error}", flush=True)
            continue
        print(f"{cell.name}: {100 * figures['accuracy']:.2f} %, KL {figures['kl']:.4f}", flush=True)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    for table in tables:
        found = list(store.load([cell for cell in planned if cell.table == table]).found)
        print(sets_table(found) if table == "sets" else options_table(table, found))


def sets_table(found: list[dict[str, Any]]) -> str:
    columns = ("distance", "class_use", "confidence", "renormalized", "accuracy", "kl")
    means = {}
    for name in dict.fromkeys(cell["key"]["set"] for cell in found):
        figures = [cell["figures"] for cell in found if cell["key"]["set"] == name]
        means[name] = {key: statistics.fmean(f[key] for f in figures) for key in columns}
    rows = [
        [
            name,
            f"{m['distance']:.4f}",
            *(f"{100 * m[key]:.0f} %" for key in ("class_use", "confidence")),
            *(f"{100 * m[key]:.2f} %" for key in ("renormalized", "accuracy")),
            f"{m['kl']:.4f}",
        ]
        for name, m in sorted(means.items(), key=lambda item: item[1]["distance"])
    ]
    head = ["set", "distance", "class use", "confidence", "re-normalized", "distilled", "KL (nats)"]
    lines = [markdown("Sets, best fitness first", head, rows)]
    for reached in ("kl", "accuracy"):
        for key in ("distance", "class_use", "confidence"):
            pairs = [[m[reached] for m in means.values()], [m[key] for m in means.values()]]
            rho = np.corrcoef(*map(ranks, pairs))[0, 1]
            lines.append(f"Spearman of {key} with the {reached} reached: {rho:+.2f} over {len(means)} sets.")
    return "\n".join(lines) + "\n"


def options_table(table: str, found: list[dict[str, Any]]) -> str:
    rows = []
    for label in dict.fromkeys(cell["key"]["options"] for cell in found):
        row, seconds = [label], []
        for name in ON:
            figures = [c["figures"] for c in found if c["key"]["options"] == label and c["key"]["set"] == name]
            accuracy = interval([100 * f["accuracy"] for f in figures])
            row.append(f"{accuracy} %, {interval([f['kl'] for f in figures], '{:.4f}')}" if figures else "-")
            seconds += [f["seconds"] for f in figures]
        rows.append([*row, f"{statistics.fmean(seconds):.1f} s"])
    return markdown(f"{table.capitalize()} (accuracy, KL)", ["options", *ON, "CPU of distill"], rows)


if __name__ == "__main__":
    main()
