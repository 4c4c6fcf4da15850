"""What weights should count where nothing tells what they do: priors of width and depth, compared on trained networks.

    LLOYDMAX_ZOO=CHECKPOINTS python tests/benchmarks/priors.py [--networks a,b] [--bits 3] [--folder build/priors]

A prior gives each weight of a layer with n weights, at the share d of the depth (0: first, 1: last), the energy
``n^-width * 2^(-depth d)``. Width 1 and depth 0 count each layer as a whole alike, width 0 all weights alike. All files
of a network have the same bytes. The damage is measured on the network's own test inputs; no data are used. Networks
and inputs are those of the zoo; what is not there is passed over. Cells are kept in FOLDER. Prints Markdown: the damage
of each prior as a share of that of the first one, for each network, and the geometric mean.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lloydmax
import torch
from lloydmax.data import unlabelled
from lloydmax.fitting import candidates
from lloydmax.fitting.price import Layer
from lloydmax.teacher.agreement import Comparison
from published.cells import Cell, Store, markdown
from zoo.network import Loaded, Missing
from zoo.registry import NETWORKS

PRIORS = [
    (1.0, 0.0),
    (0.75, 0.0),
    (0.5, 0.0),
    (0.25, 0.0),
    (0.0, 0.0),
    (1.0, 2.0),
    (1.0, -2.0),
    (0.5, 2.0),
    (0.5, -2.0),
]
"""Width and depth, the one before all others first."""
MOST = 64
"""Test inputs."""


def weighed(layers: Mapping[str, Layer], width: float, depth: float) -> dict[str, Layer]:
    """The layers with the energies of a prior."""
    last = max(1, len(layers) - 1)
    shares = {name: place / last for place, name in enumerate(layers)}
    return {name: layer.of(layer.weights**-width * 2 ** (-depth * shares[name])) for name, layer in layers.items()}


def damage(loaded: Loaded, bits: float, width: float, depth: float) -> dict[str, Any]:
    """What one prior does to a network."""

    def ways(layers: Mapping[str, Layer], plan: Any, blind: bool) -> Iterator[tuple[str, dict[str, Layer]]]:
        yield "prior", weighed(layers, width, depth)

    recipe = lloydmax.recipe_for(loaded.model, bits).data()
    plain = {key: value for key, value in recipe.items() if key not in ("synthesize", "keep")} | {"recover": []}
    plain["quantize"] = [{key: rule[key] for key in rule if key != "importance"} for rule in recipe["quantize"]]
    with patch.object(candidates, "_ways", ways):
        result = lloydmax.compress(loaded.model, plain, progress=False)
    source = unlabelled(loaded.test[:MOST], loaded.model)
    found = Comparison(loaded.model, source, MOST).measure(result.model)
    return {"damage": found.damage, "bytes": result.report.bytes.file, "score": loaded.measure(result.model)}


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--bits", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path("build/priors"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    store, rows = Store(given.folder), []
    logs: dict[tuple[float, float], list[float]] = {prior: [] for prior in PRIORS}
    for name in given.networks:
        try:
            loaded = NETWORKS[name].load()
        except Missing as missing:
            print(f"{name}: {missing}")
            continue
        found = {}
        for width, depth in PRIORS:
            key = {"network": name, "bits": given.bits, "width": width, "depth": depth}
            cell = Cell("priors", key, lambda w=width, d=depth, it=loaded: damage(it, given.bits, w, d))  # type: ignore[misc]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    figures = store.load([cell]).found[0]["figures"] if store.done(cell) else store.run(cell)["figures"]
                except lloydmax.LloydmaxError as refused:
                    print(f"{name}: {refused}")
                    break
            found[width, depth] = max(float(figures["damage"]), 1e-12)
        if len(found) < len(PRIORS):
            continue
        shares = {prior: found[prior] / found[PRIORS[0]] for prior in PRIORS}
        for prior, share in shares.items():
            logs[prior].append(math.log(share))
        rows.append([name, *(f"{share:.2f}" for share in shares.values())])
        print(rows[-1], flush=True)
    if rows:
        rows.append(["geometric mean", *(f"**{math.exp(statistics.fmean(values)):.2f}**" for values in logs.values())])
        head = ["network", *(f"width {width:g}, depth {depth:g}" for width, depth in PRIORS)]
        print(markdown(f"Damage at {given.bits:g} bits a weight, as a share of that of the first prior", head, rows))


if __name__ == "__main__":
    main()
