"""How much of a small network's score is chance: the same recipe under names of other lengths.

    LLOYDMAX_ZOO=FOLDER python tests/benchmarks/zoo/chance.py [--networks keywords] [--bits 2] [--names 7] [--blind]

The name stands in the file, so its length leaves a few bytes more or fewer for codes, and all codebooks come out a bit
different. Prints, for each name, what the inputs held out say of the codebooks before any step and after the last one,
and the damage (see ``points.py``) and the score on test inputs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import lloydmax
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo.points import damage
from zoo.registry import NETWORKS


def main(words: Sequence[str] | None = None) -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["keywords"])
    parser.add_argument("--bits", type=float, default=2.0)
    parser.add_argument("--names", type=int, default=7)
    parser.add_argument("--blind", action="store_true", help="without data")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    for network in given.networks:
        loaded = NETWORKS[network].load()
        data, effort = (None, 1.0) if given.blind else (loaded.inputs, 0.0)
        recipe = lloydmax.recipe_for(loaded.model, given.bits, data, effort).data()
        print(f"\n{network}, {given.bits:g} bits\n\n| name | held out: codebooks | steps | test | score | bytes |")
        print("|---|---|---|---|---|---|")
        for number in range(given.names):
            name = "k" * (1 + 3 * number)
            result = lloydmax.compress(loaded.model, recipe | {"name": name}, data, progress=False)
            first = next(one.damage for one in result.report.tried if one.what == "codebooks" and one.kept)
            last = [one.damage for one in result.report.tried if one.what == "step" and one.kept][-1:]
            told = f"{first:.2f} | {last[0] if last else first:.3f} | {damage(loaded, result.model):.3f}"
            score = loaded.measure(result.model)
            print(f"| {len(name)} letters | {told} | {score:.3f} | {result.report.bytes.file:,} |", flush=True)


if __name__ == "__main__":
    main()
