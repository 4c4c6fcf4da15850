"""Inputs made without data: pictures that match the statistics of batch norms against noise that is like pictures.

    LLOYDMAX_ZOO=CHECKPOINTS python tests/benchmarks/synthesis.py [--networks a,b] [--bits 2.3] [--count 64]

For networks of the zoo with batch norms: CPU seconds to make the pictures, and the score of the network that is
compressed with them as data, without training, at the same bytes. Then without data, as ``recipe_for`` does it, with
either kind of pictures: CPU seconds of all. EfficientNet-Lite0 is tested on 384 crops of photographs, not on the 100 of
the zoo. Cells are kept in FOLDER. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax.teacher import made
from lloydmax.teacher.asking import Wanted
from published.cells import Cell, Store, markdown
from torch import Tensor
from zoo import inputs, scores
from zoo.network import Loaded, Missing, against
from zoo.registry import NETWORKS

Make = Callable[[Loaded, int], Tensor]


def noise(loaded: Loaded, count: int) -> Tensor:
    """As the recipe's ``synthesize`` makes ``kind: natural``."""
    source, _ = made.sources(loaded.model, Wanted(samples=count), loaded.inputs[:8])
    return next(iter(source.batches(count)))[1].args[0]


def matched(loaded: Loaded, count: int, **options: Any) -> Tensor:
    """As :func:`lloydmax.synthesize` makes them."""
    return lloydmax.synthesize(loaded.model, count, shape=tuple(loaded.inputs.shape[1:]), **options)


KINDS: dict[str, Make] = {
    "noise like pictures": noise,
    "4 steps": partial(matched, steps=4),
    "8 steps": matched,
    "16 steps": partial(matched, steps=16),
    "8 steps, of a class each, smooth": partial(matched, classes=0.1, total_variation=0.01),
    "real inputs": lambda loaded, count: loaded.inputs[:count],
}


def load(name: str) -> Loaded:
    """A network of the zoo."""
    found = NETWORKS[name].load()
    if name != "efficientnet":
        return found
    return against(found.model, found.inputs, inputs.crops(384, (160, 160), True) * 2 - 1, scores.same_class)


def without(loaded: Loaded, kind: str, count: int, bits: float, seed: int) -> dict[str, Any]:
    """What a recipe without data gives whose inputs are of this kind, and what it costs."""
    recipe = lloydmax.recipe_for(loaded.model, bits).data()
    recipe["synthesize"] |= {"kind": kind, "samples": count}
    start = time.process_time()
    result = lloydmax.compress(loaded.model, recipe, progress=False, seed=seed)
    seconds = time.process_time() - start
    return {"seconds": seconds, "score": loaded.measure(result.model), "bytes": result.report.bytes.file}


def figures(loaded: Loaded, make: Make, count: int, bits: float) -> dict[str, Any]:
    """What one kind of data costs, and what it is good for."""
    start = time.process_time()
    data = make(loaded, count)
    seconds = time.process_time() - start
    recipe = lloydmax.recipe_for(loaded.model, bits, data=data, effort=0)
    result = lloydmax.compress(loaded.model, recipe, data, progress=False)
    return {"seconds": seconds, "score": loaded.measure(result.model), "bytes": result.report.bytes.file}


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["clothes", "efficientnet"])
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=None)
    parser.add_argument("--bits", type=float, default=2.3)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of what is made without data")
    parser.add_argument("--folder", type=Path, default=Path("build/synthesis"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    store, rows = Store(given.folder), []
    for name in given.networks:
        try:
            loaded = load(name)
        except Missing as missing:
            print(f"{name}: {missing}")
            continue
        ways = {kind: partial(figures, loaded, make, given.count, given.bits) for kind, make in KINDS.items()}
        for kind in ("natural", "matched"):
            ways[f"no data, `{kind}`"] = partial(without, loaded, kind, given.count, given.bits, given.seed)
        for number, (kind, run) in enumerate(ways.items()):
            if given.kinds is not None and str(number) not in given.kinds:
                continue
            key = {"network": name, "kind": kind, "count": given.count, "bits": given.bits, "seed": given.seed}
            cell = Cell("synthesis", key, run)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = store.load([cell]).found[0]["figures"] if store.done(cell) else store.run(cell)["figures"]
            rows.append([name, kind, f"{found['seconds']:.0f}", f"{found['score']:.3f}", f"{found['bytes']:,}"])
            print(rows[-1], flush=True)
    print(markdown(f"{given.count} inputs, {given.bits:g} bits", ["network", "data", "CPU s", "score", "bytes"], rows))


if __name__ == "__main__":
    main()
