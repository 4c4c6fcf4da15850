"""What weights of a language model should count where nothing tells what they do: priors compared at equal bytes.

    python tests/benchmarks/language/blind.py [--models llama,minilm] [--bits 2.3] [--folder build/language]

Energies of a weight: ``usual`` of models without tables (each parameter as a whole, the first four times as much as the
last), all weights ``alike``, those of tables of tokens 4 or 16 times as much, and ``usual`` with tables that count as
if they were as large as the median of the others. No data, no recovery. Prints one line for each.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lloydmax
import torch
from lloydmax.fitting import candidates
from lloydmax.fitting.price import Layer

from language.models import subject

PRIORS = ("usual", "alike", "tables 4", "tables 16", "usual, tables as the median")


def weighed(layers: Mapping[str, Layer], tables: set[str], prior: str) -> dict[str, Layer]:
    """The layers with the energies of a prior."""
    if not prior.startswith("usual"):
        more = 1.0 if prior == "alike" else float(prior.split()[1])
        return {name: layer.of(more if name in tables else 1.0) for name, layer in layers.items()}
    median = statistics.median(layer.weights for name, layer in layers.items() if name not in tables)
    found = {}
    for place, (name, layer) in enumerate(layers.items()):
        count = median if name in tables and prior.endswith("median") else layer.weights
        found[name] = layer.of(2 ** (-2 * place / max(1, len(layers) - 1)) / count)
    return found


def main() -> None:
    """Print a line for each prior."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=["llama", "minilm"])
    parser.add_argument("--bits", type=float, default=2.3)
    parser.add_argument("--folder", type=Path, default=Path("build/language"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in given.models:
        found = subject(name, given.folder)
        recipe = lloydmax.recipe_for(found.model, given.bits).data()
        plain = {key: recipe[key] for key in recipe if key not in ("synthesize", "keep")} | {"recover": []}
        plain["quantize"] = [{key: rule[key] for key in rule if key != "importance"} for rule in recipe["quantize"]]
        planned = lloydmax.plan(found.model, plain).parameters
        tables = {parameter for parameter, p in planned.items() if p.layer == "Embedding"}
        for prior in PRIORS:

            def ways(layers: Any, plan: Any, blind: bool, prior: str = prior) -> Iterator[tuple[str, dict[str, Layer]]]:
                yield prior, weighed(layers, tables, prior)  # noqa: B023 - called at once

            with patch.object(candidates, "_ways", ways):
                result = lloydmax.compress(found.model, plain, progress=False)
            print(name, prior, {key: round(value, 4) for key, value in found.measure(result.model).items()}, flush=True)


if __name__ == "__main__":
    main()
