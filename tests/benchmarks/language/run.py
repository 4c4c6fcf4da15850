"""Language models at equal size: lloydmax, and what others do with weights.

    python tests/benchmarks/language/train.py llama && python tests/benchmarks/language/train.py gpt2
    python tests/benchmarks/language/run.py [--models llama,gpt2] [--methods lloydmax,GPTQ] [--folder build/language]
        [--seconds 240]

Resumable: each run leaves one small file in FOLDER, and with ``--seconds`` no more are begun after that time. Every
method may use the same 128 sequences of 128 tokens (others 64 of them), and is measured on 128 held out: KL divergence
from the original in nats a token, and perplexity; MiniLM by the squared error of its vectors as a share of their
spread. Bits are those of the whole file (lloydmax: as written), for each parameter. Prints Markdown; the last columns
say what lloydmax does at the same bits, on the line through the logarithms of its runs, and how many times less it is.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lloydmax
import torch
from published.cells import Cell, Store, markdown

from language.models import NAMES, Subject, subject
from language.peers import SETTINGS, quantized, why_not

OURS = ("effort 0", "no data", "effort 0.1")
BITS = (2.3, 3.3, 4.3)
_BESIDE = 0.4
"""Bits beside our runs up to which the line through them is followed."""


def ours(subject: Subject, way: str, bits: float) -> dict[str, Any]:
    """``lloydmax.recipe_for`` as it comes."""
    effort = 0.0 if way == "no data" else float(way.split()[1])
    data = None if way == "no data" else subject.data
    recipe = lloydmax.recipe_for(subject.model, bits, data, effort)
    result = lloydmax.compress(subject.model, recipe, data, progress=False)
    weights = sum(p.numel() for p in subject.model.parameters())
    return {"bits": 8 * result.report.bytes.file / weights} | subject.measure(result.model)


def cells(name: str, found: Subject, methods: Sequence[str]) -> tuple[list[Cell], list[Cell]]:
    """Our runs, and the others'."""
    mine = [
        Cell(f"language-{name}", {"method": f"lloydmax, {way}", "bits": bits}, lambda w=way, b=bits: ours(found, w, b))
        for way in OURS
        for bits in BITS
        if not methods or "lloydmax" in methods or way in methods
    ]

    def others(setting: Any) -> dict[str, Any]:
        student, bits = quantized(found, setting)
        return {"bits": bits} | found.measure(student)

    theirs = [
        Cell(f"language-{name}", {"method": str(setting)}, lambda s=setting: others(s))
        for setting in SETTINGS
        if (not methods or setting.method in methods) and why_not(setting, found) is None
    ]
    return mine, theirs


def at(points: Sequence[tuple[float, float]], bits: float) -> float:
    """The damage at so many bits, on the line through the logarithms of the points; NaN far from them."""
    known = sorted(points)
    if len(known) < 2 or not known[0][0] - _BESIDE <= bits <= known[-1][0] + _BESIDE:
        return math.nan
    (few, more), (many, less) = next((pair for pair in pairwise(known) if bits <= pair[1][0]), known[-2:])
    along = (bits - few) / (many - few)
    return math.exp((1 - along) * math.log(more) + along * math.log(less))


def table(name: str, found: Subject, store: Store, mine: list[Cell], theirs: list[Cell]) -> str:
    """All that is done, by bits."""
    damage, second = found.damage, "ppl" if found.language else "cosine"
    done = [(cell["key"]["method"], cell["figures"]) for cell in store.load([*mine, *theirs]).found]
    points = {
        way: [(figures["bits"], figures[damage]) for method, figures in done if method == f"lloydmax, {way}"]
        for way in OURS
        if way != "no data"
    }
    rows = []
    for method, figures in sorted(done, key=lambda one: one[1]["bits"]):
        row = [method, f"{figures['bits']:.2f}", f"{figures[second]:.4g}", f"{figures[damage]:.2g}"]
        for way in points:
            same = at(points[way], figures["bits"])
            known = not method.startswith("lloydmax") and not math.isnan(same)
            row.append(f"{same:.2g} ({figures[damage] / same:.1f})" if known else "-")
        rows.append(row)
    return markdown(name, ["method", "bits", second, damage, *points], rows)


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=[])
    parser.add_argument("--folder", type=Path, default=Path("build/language"))
    parser.add_argument("--seconds", type=float, default=math.inf)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store, stop = Store(given.folder / "cells"), time.monotonic() + given.seconds
    for name in given.models:
        found = subject(name, given.folder)
        mine, theirs = cells(name, found, given.methods)
        for cell in [*mine, *theirs]:
            if not store.done(cell) and time.monotonic() < stop:
                figures = store.run(cell)
                print(cell.name, figures["figures"], f"{figures['seconds']:.0f} s", flush=True)
        print(table(name, found, store, *cells(name, found, [])))


if __name__ == "__main__":
    main()
