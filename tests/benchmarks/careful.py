"""How far codes should follow inputs that are made without data: options of ``reconstruct``, compared on networks.

    LLOYDMAX_ZOO=CHECKPOINTS python tests/benchmarks/careful.py [--networks a,b] [--bits 3] [--folder build/careful]

``recipe_for`` makes the recipe, without data; only damping and bias of its ``reconstruct`` are set. Networks, inputs
of the test and scores are those of the zoo; what is not there is passed over. Cells are kept in FOLDER. Prints
Markdown: the score with each of the options, every file of the same size.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import lloydmax
import torch
from published.cells import Cell, Store, markdown
from zoo.network import Loaded, Missing
from zoo.registry import NETWORKS

OPTIONS: list[tuple[float, bool]] = [(0.01, True), (0.01, False), (0.3, True), (0.3, False), (1.0, False)]
"""Damping, and whether biases take up mean errors."""
UNLIKE = ["keywords", "machines", "speaker", "voice"]
"""Networks whose inputs are neither words nor pictures in colours."""


def score(loaded: Loaded, bits: float, damping: float, bias: bool) -> dict[str, Any]:
    """What the options lead to."""
    recipe = lloydmax.recipe_for(loaded.model, bits).data()
    for step in recipe["recover"]:
        if step["step"] == "reconstruct":
            step |= {"damping": damping, "bias": bias}
    result = lloydmax.compress(loaded.model, recipe, progress=False)
    kept = [one.kept for one in result.report.tried if one.name == "reconstruct"]
    return {"score": loaded.measure(result.model), "bytes": result.report.bytes.file, "kept": kept == [True]}


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=UNLIKE)
    parser.add_argument("--bits", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path("build/careful"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store, rows = Store(given.folder), []
    for name in given.networks:
        try:
            loaded = NETWORKS[name].load()
        except Missing as missing:
            print(f"{name}: {missing}")
            continue
        row = [f"{name}, {NETWORKS[name].measure}"]
        for damping, bias in OPTIONS:
            key = {"network": name, "bits": given.bits, "damping": damping, "bias": bias}
            cell = Cell("careful", key, lambda d=damping, b=bias, it=loaded: score(it, given.bits, d, b))  # type: ignore[misc]
            figures = store.load([cell]).found[0]["figures"] if store.done(cell) else store.run(cell)["figures"]
            row.append(f"{figures['score']:.3f}" + ("" if figures["kept"] else " (undone)"))
        rows.append(row)
        print(rows[-1], flush=True)
    head = ["network, score", *(f"damping {damping:g}{', bias' if bias else ''}" for damping, bias in OPTIONS)]
    print(markdown(f"{given.bits:g} bits a weight, no data", head, rows))


if __name__ == "__main__":
    main()
